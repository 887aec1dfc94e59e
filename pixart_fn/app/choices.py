"""What the page offers for a checkpoint: sizes by aspect ratio, and the checkpoint's own steps and guidance."""

from __future__ import annotations

import math

from ..models import sizes
from ..params import Params
from ..request import factor

RATIOS = ((16, 9), (3, 2), (4, 3), (5, 4), (1, 1), (4, 5), (3, 4), (2, 3), (9, 16))
"""Width to height, where a checkpoint has no table of sizes."""


def offered(params: Params, pixels: int) -> list[tuple[int, int]]:
    """Return the sizes that the page offers.

    Args:
        params: from `load`.
        pixels: the most pixels of a picture.
    Returns:
        (height, width) in pixels, from the widest to the tallest: those that the checkpoint was trained at, or else
        one for each of RATIOS with about as many pixels as the checkpoint's square.
    Raises:
        ValueError: each of them has more pixels than that.
    """
    side = params.config.transformer.sample_size * factor(params)
    table = sizes.BINS.get(side) or _shapes(side, factor(params) * params.config.transformer.patch_size)
    small = [(h, w) for h, w in table if h * w <= pixels]
    if not small:
        least = min(h * w for h, w in table)
        raise ValueError(f"limits.pixels must be at least {least} for this model, got {pixels}")
    return small


def own(params: Params, table: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the size of those offered that is nearest to the checkpoint's square."""
    return min(table, key=lambda size: abs(math.log(size[0] / size[1])))


def label(size: tuple[int, int]) -> str:
    """Return how the page names a size (height, width): width first, as pictures are usually named."""
    height, width = size
    form = "square" if height == width else "wide" if width > height else "tall"
    ratio = max(height, width) / min(height, width)
    return f"{width} × {height}, {form}" + ("" if height == width else f" {ratio:.2f} : 1")


def _shapes(side: int, multiple: int) -> tuple[tuple[int, int], ...]:
    def near(length: float) -> int:
        return max(multiple, round(length / multiple) * multiple)

    every = [(near(side * math.sqrt(h / w)), near(side * math.sqrt(w / h))) for w, h in RATIOS]
    return tuple(dict.fromkeys(every))
