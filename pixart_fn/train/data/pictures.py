"""Pictures of any kind as a user sees them: upright, in RGB, over white, and of one size."""

from __future__ import annotations

import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ...types import NumPyArray

LARGEST = 2**28
"""Bytes of a picture's file at most."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def decode(content: bytes) -> Image.Image:
    """Decode a picture: turned as its EXIF orientation says, 8 bits, transparency over white, the first frame.

    Numbers of 16 bits are divided by 257, and floats are taken to be in [0, 1]. Profiles of colour are ignored, as the
    released models' training did.

    Args:
        content: of the file.
    Returns:
        An RGB picture.
    Raises:
        ValueError: Pillow can't read it; the sentence is the same for the same content.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            return _rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise ValueError("it is no picture that Pillow can read") from None
    except Exception as error:  # a damaged file makes Pillow raise whatever it stumbles over
        said = re.sub(r"0x[0-9a-f]+", "…", " ".join(str(error).split()))
        raise ValueError(f"Pillow can't read it ({said or type(error).__name__})") from error


def fit(picture: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Scale a picture until it covers height × width, keeping its shape, and cut the middle out.

    Bicubic with antialiasing, as the authors' multi-scale training does.

    Args:
        picture: RGB.
        height: pixels, positive.
        width: pixels, positive.
    Returns:
        uint8 (height, width, 3).
    """
    return np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # Pillow has cut grey of 16 bits off at 255 when it converted it
        return _grey(np.asarray(picture).astype(np.float64) / 257)
    if picture.mode == "F":
        return _grey(np.asarray(picture).astype(np.float64) * 255)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _grey(values: NumPyArray) -> Image.Image:
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
