"""Initial weights: whether a leaf's numbers are as normal, and as independent, as their count lets them show."""

from __future__ import annotations

from itertools import combinations

import numpy as np

SIGMAS = 5
"""Standard errors within which a statistic must be."""


def assert_normal(name: str, leaf: np.ndarray, std: float) -> None:
    """Mean 0, this standard deviation, and the kurtosis of a normal, within the standard errors of n numbers."""
    x, n = leaf.astype(np.float64).ravel() / std, leaf.size
    assert abs(x.mean()) < SIGMAS / n**0.5, name
    assert abs(x.var() - 1) < SIGMAS * (2 / n) ** 0.5, (name, x.std())
    assert abs((x**4).mean() - 3) < SIGMAS * (96 / n) ** 0.5, name


def assert_different(leaves: dict[str, np.ndarray]) -> None:
    """No two random leaves begin with the same numbers, up to their scales."""
    random = {name: leaf.ravel()[:32] for name, leaf in leaves.items() if leaf.size >= 32 and leaf.std() > 0}
    for (a, x), (b, y) in combinations(random.items(), 2):
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.9, (a, b)
