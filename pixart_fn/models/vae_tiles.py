"""A function of pictures applied to overlapping squares and blended: bounded memory for pictures of any size.

B batch, C and D channels in and out, H/W height and width. The result isn't that of one piece, whose group norms see
the whole picture; it is that of diffusers' tiled VAE.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from mindspore import Tensor, ops

OVERLAP = Fraction(1, 4)
"""Share of a tile that the next one covers too."""


def apply(f: Callable[[Tensor], Tensor], x: Tensor, tile: int, ratio: Fraction) -> Tensor:
    """Apply f to tiles of x and blend their overlaps linearly from one tile to the next.

    Args:
        f: (B, C, h, w) → (B, D, ratio · h, ratio · w).
        x: (B, C, H, W).
        tile: side of a tile in x; a quarter of it is a whole number, here and times `ratio`.
        ratio: the sides of f's output over those of its input.
    Returns:
        (B, D, ratio · H, ratio · W).
    """
    step, blend = int(tile * (1 - OVERLAP)), int(tile * ratio * OVERLAP)
    keep = int(tile * ratio) - blend
    H, W = x.shape[2:]
    above: list[Tensor] = []
    lines = []
    for top in range(0, H, step):
        row: list[Tensor] = []
        for i, left in enumerate(range(0, W, step)):
            y = f(x[:, :, top : top + tile, left : left + tile])
            if above:
                y = _blend(above[i], y, blend, 2)
            if row:
                y = _blend(row[-1], y, blend, 3)
            row.append(y)
        lines.append(ops.cat([y[:, :, :keep, :keep] for y in row], 3))
        above = row
    return ops.cat(lines, 2)


def _blend(before: Tensor, after: Tensor, extent: int, axis: int) -> Tensor:
    """`after`, whose first `extent` rows or columns grow out of the last ones of `before`."""
    extent = min(before.shape[axis], after.shape[axis], extent)
    weight = (np.arange(extent, dtype=np.float32) / np.float32(extent)).reshape((-1, 1) if axis == 2 else (1, -1))
    share = Tensor.from_numpy(np.ascontiguousarray(weight))
    n = before.shape[axis]
    mixed = _part(before, axis, n - extent, n) * (1 - share) + _part(after, axis, 0, extent) * share
    n = after.shape[axis]
    return mixed if extent == n else ops.cat((mixed, _part(after, axis, extent, n)), axis)


def _part(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return x[(slice(None),) * axis + (slice(start, stop),)]
