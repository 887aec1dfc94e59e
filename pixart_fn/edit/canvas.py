"""Pictures larger than the model draws, window by window: panoramas, and pictures that go on beyond their edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..checks import check_whole
from ..params import Params
from ..pipeline import Part
from ..public import public
from ..request import Picture, check_params, factor, picture_size, texts
from ..solvers.config import Wrap
from ..types import Array, Key
from .denoisers import windows
from .drawing import Change, draw, drawing
from .options import Options, Windowed, filled, takes
from .pictures import inpaint, sources
from .sizes import check_window

if TYPE_CHECKING:
    from typing_extensions import Unpack


@public
@takes(Windowed)
def panorama(
    params: Params,
    prompt: str | Sequence[str],
    key: Key,
    height: int,
    width: int,
    *,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    **options: Unpack[Windowed],
) -> Picture | Part:
    """Draw pictures larger than the model draws, in windows that agree where they overlap (arXiv:2302.08113).

    Args:
        params: from `load`.
        prompt: one prompt or several.
        key: one key (2,), which is split for several pictures, or (B, 2) with one key per picture.
        height: the picture's height in pixels, a multiple of the patch.
        width: the picture's width in pixels, likewise.
        window: (height, width) in pixels, or one number for both, that the model draws at once, multiples of the patch;
            None takes the model's own size. Where it is larger than the picture, it is cut to that.
        stride: from one window to the next in pixels, a multiple of a latent's, likewise; None takes half of the
            window. A smaller one joins the windows more closely and takes longer.
        **options: as in `image_to_image`, without controls.
    Returns:
        As from `generate`. Where one window holds the picture, it is what `generate` draws.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above; or a stage's result isn't finite.
        MemoryError: one picture doesn't fit into memory.
    """
    check_params(params)
    prompts, canvas = texts("prompt", prompt), picture_size(params, height, width)
    size, step = check_window(params, _own(params) if window is None else window, stride, canvas)
    plan = drawing(params, prompts, key, size, canvas, filled(Windowed, options))

    def wrap(rows: slice, clip: Wrap) -> Wrap:
        if step is None:
            return clip
        own = size[0] // factor(params), size[1] // factor(params)
        return lambda denoise: clip(windows(denoise, own, step))

    return draw(plan, None, Change(wrap=wrap), isinstance(prompt, str))


@public
@takes(Options)
def outpaint(
    params: Params,
    pictures: Picture | Array | Sequence[Picture | Array],
    prompt: str | Sequence[str],
    key: Key,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    paste: bool = True,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    **options: Unpack[Options],
) -> Picture | Part:
    """Draw what lies beyond the edges of a picture: `inpaint` on a larger canvas.

    Args:
        params: from `load`, with a VAE.
        pictures: as `encode_image` takes them; one picture for all prompts, or one for each.
        prompt: one prompt for all pictures, or one for each.
        key: one key (2,), which is split for several results, or (B, 2) with one key per result.
        left: how many pixels to add there, at least 0 and a multiple of a latent's; one of the four is above 0.
        right: likewise.
        top: likewise.
        bottom: likewise.
        paste: whether the pixels of the picture are its own; otherwise they have gone through the VAE.
        window: as in `inpaint`, but None takes the model's own size.
        stride: as in `inpaint`.
        **options: as in `image_to_image`.
    Returns:
        As from `image_to_image`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above; or a stage's result isn't finite.
        MemoryError: one picture doesn't fit into memory.
    """
    source, added = sources(params, pictures, prompt), {"left": left, "right": right, "top": top, "bottom": bottom}
    f = factor(params)
    for name, side in added.items():
        check_whole(name, side, 0, 2**14)
        if side % f:
            raise ValueError(f"{name} must be divisible by {f}, the pixels of a latent, got {side}")
    if not any(added.values()):
        raise ValueError("one of left, right, top and bottom must be above 0, or there is nothing to draw")
    picture_size(params, source.size[0] + top + bottom, source.size[1] + left + right)
    room = (top, bottom), (left, right)
    x = source.pixels.asnumpy()
    large = np.pad(x, ((0, 0), *room, (0, 0)), "edge")  # the encoder sees beyond the picture's own edge
    mask = np.pad(np.zeros(x.shape[1:3], bool), room, constant_values=True)
    given = large[0] if source.alone else large
    window = _own(params) if window is None else window
    return inpaint(params, given, mask, prompt, key, paste=paste, window=window, stride=stride, **options)


def _own(params: Params) -> int:
    """Return the side in pixels that the model draws."""
    return factor(params) * params.config.transformer.sample_size
