"""Sizes of pictures: which ones a model was trained at, which it can draw, and how to get from one to another.

B batch, H/W height and width in pixels, C channels.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..checks import shown

LARGEST = 2**14
"""Pixels of a side: four times the longest that a released model was trained at."""

Table: TypeAlias = tuple[tuple[int, int], ...]
"""(height, width) in pixels of every size that a model was trained at, from the widest picture to the tallest."""

# The released models share one list of shapes, all of about 256 cells, in cells of base / 16 pixels: (height, width).
_SHAPES: Table = (
    *((8, 32), (8, 31), (8, 30), (8, 29), (9, 28), (9, 27), (9, 26), (10, 25), (10, 24), (11, 23)),
    *((11, 22), (11, 21), (12, 21), (12, 20), (13, 19), (13, 18), (14, 18), (14, 17), (15, 17), (15, 16)),
    *((16, 16), (16, 15), (17, 15), (17, 14), (18, 14), (18, 13), (19, 13), (20, 12), (21, 12), (22, 11)),
    *((23, 11), (24, 10), (25, 10), (26, 9), (27, 9), (28, 9), (29, 8), (30, 8), (31, 8), (32, 8)),
)
_ONLY_2048: frozenset[tuple[int, int]] = frozenset({(8, 31), (8, 30), (26, 9), (28, 9), (29, 8), (30, 8), (31, 8)})


def _table(base: int) -> Table:
    cell = base // 16
    return tuple((h * cell, w * cell) for h, w in _SHAPES if base == 2048 or (h, w) not in _ONLY_2048)


BINS: dict[int, Table] = {base: _table(base) for base in (256, 512, 1024, 2048)}
"""The tables of the released models (multi-scale training of PixArt-α and PixArt-Σ) by the side of their square."""


def bin_for(sample_size: int, factor: int = 8) -> Table | None:
    """The sizes that a released model with this configuration was trained at, or None where there is no such model.

    Args:
        sample_size: the transformer's `sample_size`, the side of its square latents.
        factor: pixels per latent along a side; 8 in every released VAE.
    Returns:
        The table, or None.
    """
    return BINS.get(sample_size * factor)


def nearest_bin(height: int, width: int, table: Table) -> tuple[int, int]:
    """The size in the table whose aspect ratio, rounded to two digits, is nearest to height / width.

    The rounding is the released models' own (their tables are keyed by it) and decides which neighbour is nearer; of
    two equally near the wider wins.

    Args:
        height: pixels, positive.
        width: pixels, positive.
        table: what `bin_for` returned.
    Returns:
        (height, width) in pixels.
    """
    return min(table, key=lambda size: abs(round(size[0] / size[1], 2) - height / width))


def check(height: int, width: int, multiple: int) -> None:
    """Reject a size that the model can't draw, naming the nearest that it can.

    Args:
        height: pixels.
        width: pixels.
        multiple: pixels per patch along a side: the VAE's factor × the transformer's patch size.
    Raises:
        TypeError: a side isn't an integer.
        ValueError: a side isn't positive, isn't divisible by `multiple` or is over LARGEST.
    """
    for name, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, (int, np.integer)):
            raise TypeError(f"{name} must be an integer, got {shown(side)}")
        if side < 1:
            raise ValueError(f"{name} must be positive, got {shown(int(side))}; nearest: {multiple}")
        if side > LARGEST:
            raise ValueError(f"{name} must be at most {LARGEST} pixels, got {shown(int(side))}")
        if side % multiple:
            below = side - side % multiple
            nearest = f"{below}, {below + multiple}" if below else f"{multiple}"
            raise ValueError(f"{name} must be divisible by {multiple}, got {side}; nearest: {nearest}")


def resize_and_crop(images: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Scale pictures until they cover height × width, keeping their shape, and cut the middle out.

    Bilinear between pixel centres without antialiasing: torch's interpolate(mode="bilinear", align_corners=False).

    Args:
        images: (B, H, W, C), any range.
        height: pixels, positive.
        width: pixels, positive.
    Returns:
        (B, height, width, C), float32, in the range of `images`.
    Raises:
        ValueError: images hasn't four axes.
    """
    if images.ndim != 4:
        raise ValueError(f"images must have the shape (B, H, W, C), got {images.shape}")
    images = np.asarray(images, np.float32)
    h, w = images.shape[1:3]
    ratio = max(height / h, width / w)
    return _resize(_resize(images, 1, h * ratio, height), 2, w * ratio, width)


def _resize(images: NDArray[np.float32], axis: int, resized: float, kept: int) -> NDArray[np.float32]:
    """Scale one axis to int(resized) and keep the middle `kept` of it."""
    side = images.shape[axis]
    if side == int(resized) == kept:
        return images
    # h · (height / h) can round to just under height; int() would then lose the last row
    total = max(int(resized), kept)
    start = (total - kept) // 2
    # rounded to float32 where torch rounds: at 2048 pixels a position's last bit is 1e-4 of a pixel
    scale = float(np.float32(side / total))
    position = np.maximum((np.arange(start, start + kept) + 0.5) * scale - 0.5, 0).astype(np.float32)
    low = position.astype(np.intp)
    high = np.minimum(low + 1, side - 1)
    weight = (position - low.astype(np.float32)).reshape([-1 if i == axis else 1 for i in range(4)])
    below, above = images.take(low, axis), images.take(high, axis)
    return np.asarray(below * (1 - weight) + above * weight, np.float32)
