"""Pictures from pictures: image-to-image is another start, and inpainting is a denoiser that knows the outside too.

B results, K pictures, C latent channels, h/w latent and H/W pixel size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from PIL import Image

from .. import rng
from ..checks import check_number, check_switch
from ..params import Params
from ..pipeline import Part
from ..process.lock import lock
from ..public import public
from ..request import Picture, check_params, factor, picture_size, pixels, texts, vae_config
from ..solvers.config import Wrap, same
from ..stages import encode_image
from ..types import Array, Key, NumPyArray
from .denoisers import masked, windows
from .drawing import Change, Drawing, draw, drawing
from .masks import pixel_mask, scaled
from .options import Options, filled, takes
from .sizes import check_window

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Source(NamedTuple):
    """The pictures (K, H, W, 3), the prompts, one for each, and whether one prompt and one picture were given alone."""

    pixels: Tensor
    prompts: list[str]
    alone: bool

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])


@public
@takes(Options)
def image_to_image(
    params: Params,
    pictures: Picture | Array | Sequence[Picture | Array],
    prompt: str | Sequence[str],
    key: Key,
    *,
    strength: float = 0.6,
    **options: Unpack[Options],
) -> Picture | Part:
    """Add noise to pictures and draw from there (SDEdit, arXiv:2108.01073).

    Of S steps, the last ⌊strength · S⌋ are taken. They start from x = α z + σ ε, where z is the picture's latents, ε
    the key's noise, and α and σ are those of the first of these steps.

    Args:
        params: from `load`, with a VAE.
        pictures: as `encode_image` takes them; one picture for all prompts, or one for each.
        prompt: one prompt for all pictures, or one for each.
        key: one key (2,), which is split for several results, or (B, 2) with one key per result.
        strength: within [0, 1]. With 0 nothing is sampled: the picture is only encoded and decoded. With 1 nothing of
            the picture is left: the start is the noise from which `generate` starts with the key.
        **options: negative_prompt, steps, guidance, solver, grid (the whole grid), images_per_prompt, controls,
            output, clean, tokens, tile, check, memory, on_step and progress, as `generate` takes them.
    Returns:
        As from `generate`: one PIL picture for one picture, one prompt as a string, and images_per_prompt=1, and
        otherwise a list; or an array or a Tensor.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or strength is so small that it leaves no step; or a stage's
            result isn't finite.
        MemoryError: one picture doesn't fit into memory.
    """
    source = sources(params, pictures, prompt)
    check_number("strength", strength, 0, 1)
    size = picture_size(params, *source.size)
    plan = drawing(params, source.prompts, key, size, size, filled(Options, options), strength)
    z = latents(plan, source)
    start = z if strength == 0 else None if strength == 1 else noised(plan, z)
    return draw(plan, start, Change(), source.alone)


@public
@takes(Options)
def inpaint(
    params: Params,
    pictures: Picture | Array | Sequence[Picture | Array],
    mask: Picture | Array | Sequence[Picture | Array],
    prompt: str | Sequence[str],
    key: Key,
    *,
    strength: float = 1.0,
    paste: bool = True,
    downscale: str = "nearest",
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    **options: Unpack[Options],
) -> Picture | Part:
    """Draw a part of a picture anew, and leave the rest as it is.

    The denoiser gives the picture's own latents outside the mask (`masked`). So the solver keeps them at α z + σ ε, and
    at the end they are the picture's own.

    Args:
        params: from `load`, with a VAE.
        pictures: as `encode_image` takes them; one picture for all prompts, or one for each.
        mask: white where the picture is drawn anew: a PIL picture (L, 1 or RGB); an array (H, W) or (B, H, W) of uint8,
            of floats in [0, 1] or of truth values; or a list of these. At least half white counts as white. There is
            one for all pictures, or one for each.
        prompt: one prompt for all pictures, or one for each.
        key: one key (2,), which is split for several results, or (B, 2) with one key per result.
        strength: within [0, 1], as in `image_to_image`; with 1 nothing of the picture is left inside the mask.
        paste: whether the pixels outside the mask are the picture's own; otherwise they were encoded and decoded by the
            VAE. It has no effect on output "latents".
        downscale: which latents are drawn anew, "nearest" or "any", as in `latent_mask`.
        window: (height, width) in pixels, or one number for both, of the windows in which a larger picture is drawn
            (`windows`); None draws in one piece.
        stride: from one window to the next in pixels, likewise; None takes half of the window.
        **options: as in `image_to_image`; there are no controls where there are several windows.
    Returns:
        As from `image_to_image`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or no latent is drawn anew; or a stage's result isn't finite.
        MemoryError: one picture doesn't fit into memory.
    """
    source, white = sources(params, pictures, prompt), pixel_mask(mask)
    check_number("strength", strength, 0, 1)
    check_switch("paste", paste)
    canvas = picture_size(params, *source.size)
    if white.shape[1:] != canvas or len(white) not in (1, len(source.prompts)):
        wanted = f"the size of the pictures, {canvas[0]} x {canvas[1]}, and there must be one or {len(source.prompts)}"
        raise ValueError(f"mask must have {wanted}, got shape {white.shape}")
    small = scaled(white, factor(params), downscale)
    size, step = check_window(params, window, stride, canvas)
    if step is not None and options.get("controls") is not None:
        raise ValueError(f"controls are for a picture in one window, and {canvas[0]} x {canvas[1]} takes several")
    plan = drawing(params, source.prompts, key, size, canvas, filled(Options, options), strength)
    z, m, white = latents(plan, source), _rows(plan, small), _rows(plan, white)
    start = z
    if strength > 0:
        noise = rng.normal(plan.plan.keys, plan.plan.shape)
        start = np.where(m > 0, noise, noised(plan, z)) if strength == 1 else noised(plan, z)
    own = size[0] // factor(params), size[1] // factor(params)
    seen: Wrap = same if step is None else lambda denoise: windows(denoise, own, step)
    pasted = (white, _rows(plan, source.pixels.asnumpy())) if paste else None
    return draw(plan, start, _outside(z, m, seen, pasted), source.alone)


def _outside(
    z: NDArray[np.float32],
    m: NDArray[np.float32],
    seen: Wrap,
    pasted: tuple[NDArray[np.bool_], NDArray[np.float32]] | None,
) -> Change:
    """Return what keeps the latents z outside the mask m, and the pixels outside another, of a denoiser in windows."""

    def wrap(rows: slice, clip: Wrap) -> Wrap:
        return lambda denoise: masked(clip(seen(denoise)), z[rows], m[rows])

    def mixed(rows: slice, x: Tensor) -> Tensor:
        return Tensor.from_numpy(np.where(m[rows] > 0, x.asnumpy(), z[rows]))

    def pixels(rows: slice, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
        return drawn if pasted is None else np.where(pasted[0][rows, ..., np.newaxis], drawn, pasted[1][rows])

    return Change(wrap=wrap, latents=mixed, pixels=pixels)


def sources(
    params: Params, pictures: Picture | Array | Sequence[Picture | Array], prompt: str | Sequence[str]
) -> Source:
    """Check the params, the pictures and the prompts, and return one prompt for each picture, or for its results."""
    check_params(params)
    vae_config(params)
    x, prompts = pixels(pictures), texts("prompt", prompt)
    single = isinstance(pictures, Image.Image) or getattr(pictures, "ndim", 0) == 3
    prompts = prompts * len(x) if len(prompts) == 1 else prompts
    if len(x) not in (1, len(prompts)):
        raise ValueError(f"pictures must be one, or one for each prompt ({len(prompts)}), got {len(x)}")
    return Source(x, prompts, isinstance(prompt, str) and single)


def latents(plan: Drawing, source: Source) -> NDArray[np.float32]:
    """Return the latents of the picture of each result, (B, C, h, w)."""
    o = plan.options
    z = encode_image(plan.params, source.pixels, check=o["check"], memory=o["memory"])
    with lock():
        return _rows(plan, z.asnumpy())


def noised(plan: Drawing, z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return α z + σ ε at the first node of the grid, with the noise of each result's key."""
    alpha, sigma = float(plan.plan.grid.alpha[0]), float(plan.plan.grid.sigma[0])
    return alpha * z + sigma * rng.normal(plan.plan.keys, plan.plan.shape)


def _rows(plan: Drawing, each: NumPyArray) -> NumPyArray:
    """Return what belongs to each result, of one for all or of one for each prompt."""
    of_each: NumPyArray = each[np.arange(len(plan.plan.keys)) // plan.options["images_per_prompt"] % len(each)]
    return of_each
