"""The sizes of windows in pixels."""

from __future__ import annotations

from ..models import sizes
from ..params import Params
from ..request import factor
from .denoisers import pair


def check_window(
    params: Params,
    window: int | tuple[int, int] | None,
    stride: int | tuple[int, int] | None,
    canvas: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Check a window and a stride in pixels.

    Args:
        params: from `load`, already checked.
        window: as in `inpaint`.
        stride: as in `inpaint`.
        canvas: (height, width) in pixels, already checked.
    Returns:
        (height, width) in pixels that the model draws at once, and the stride in latents, or None where one window is
        everything.
    Raises:
        TypeError: window or stride is neither whole numbers nor None.
        ValueError: one isn't of whole latents or patches, or the stride is larger than the window.
    """
    f = factor(params)
    if window is None:
        if stride is not None:
            raise ValueError("stride is from one window to the next, so it needs window")
        return canvas, None
    high, wide = pair("window", window, None)
    multiple = f * params.config.transformer.patch_size
    for side in (high, wide):
        if side % multiple:
            raise ValueError(f"window must be divisible by {multiple}, got {high} x {wide}")
    sizes.check(high, wide, multiple)
    size = min(high, canvas[0]), min(wide, canvas[1])
    step = (_half(high, f), _half(wide, f)) if stride is None else pair("stride", stride, (high, wide))
    if step[0] % f or step[1] % f:
        raise ValueError(f"stride must be divisible by {f}, the pixels of a latent, got {step[0]} x {step[1]}")
    return size, None if size == canvas else (step[0] // f, step[1] // f)


def _half(side: int, f: int) -> int:
    return max(f, side // 2 // f * f)
