"""Masks: 1, or white, where a picture is drawn anew. B masks, H/W pixel and h/w latent size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..backend.arrays import as_numpy
from ..checks import check_option, kind
from ..params import Params
from ..public import public
from ..request import Picture, check_params, factor
from ..types import Array

DOWNSCALES = ("nearest", "any")


@public
def latent_mask(
    params: Params, mask: Picture | Array | Sequence[Picture | Array], downscale: str = "nearest"
) -> NDArray[np.float32]:
    """Scale a mask of pixels down to latents.

    Args:
        params: from `load`.
        mask: as `inpaint` takes it.
        downscale: "nearest" takes the upper left pixel of each latent's square, as diffusers does; with "any", a latent
            is drawn anew where any pixel of its square is.
    Returns:
        float32 (B, 1, h, w) of 0 and 1.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or a mask has no latent to draw anew.
    """
    check_params(params)
    return scaled(pixel_mask(mask), factor(params), downscale)


def scaled(mask: NDArray[np.bool_], f: int, downscale: str) -> NDArray[np.float32]:
    """Scale checked masks (B, H, W) down by a factor; see `latent_mask`."""
    check_option("downscale", downscale, DOWNSCALES)
    B, H, W = mask.shape
    if H % f or W % f:
        raise ValueError(f"mask must have sides that {f} divides, the pixels of a latent, got {H} x {W}")
    squares = mask.reshape(B, H // f, f, W // f, f)
    nearest = downscale == "nearest"
    small: NDArray[np.bool_] = squares[:, :, 0, :, 0] if nearest else np.any(squares, axis=(2, 4))
    if not np.any(small, axis=(1, 2)).all():
        raise ValueError(
            "mask must be white (at least 0.5) where the picture is drawn anew, and one is nowhere so in the latents; "
            "downscale='any' keeps what is smaller than a latent, and an array of uint8 goes to 255"
        )
    return small[:, np.newaxis].astype(np.float32)


def pixel_mask(mask: Picture | Array | Sequence[Picture | Array]) -> NDArray[np.bool_]:
    """Return masks as truth values (B, H, W): whether a pixel is at least half white."""
    if isinstance(mask, Sequence) and not isinstance(mask, str) and len(mask):
        parts = [_one(each) for each in mask]
        if any(part.shape != parts[0].shape or part.ndim != 2 for part in parts):
            raise ValueError(f"mask must be masks (H, W) of the same size, got {[part.shape for part in parts]}")
        return np.stack(parts)
    one = _one(mask)
    one = one[np.newaxis] if one.ndim == 2 else one
    if one.ndim != 3 or 0 in one.shape:
        raise ValueError(f"mask must have the shape (H, W) or (B, H, W), got {one.shape}")
    return one


def _one(mask: object) -> NDArray[np.bool_]:
    if isinstance(mask, Image.Image):
        if mask.mode not in ("L", "1", "RGB"):
            raise ValueError(f"mask must be grey (L), black and white (1) or RGB, got {mask.mode}")
        mask = np.asarray(mask.convert("L"))
    elif hasattr(mask, "asnumpy"):
        mask = as_numpy(mask)
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"mask must be a picture of PIL, an array or a list of these, got {kind(mask)}")
    if mask.dtype != np.uint8 and mask.dtype.kind not in "fb":
        raise TypeError(f"mask must be uint8, floating-point numbers or truth values, got {mask.dtype}")
    values = mask.astype(np.float32) / (255 if mask.dtype == np.uint8 else 1)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"mask must be within [0, 1], or uint8, got {values.min():g} … {values.max():g}")
    return values >= 0.5
