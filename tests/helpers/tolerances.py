"""How close is close, by dtype: one table. A test that needs another number says why beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

RELATIVE = {
    "float64": 1e-12,
    "float32": 1e-6,
    "float16": 2e-3,
    "bfloat16": 2e-2,
}
"""‖ours - theirs‖ / ‖theirs‖: a few hundred times the dtype's rounding for short chains of arithmetic, ten times for
float32, whose bound is the one that the samplers are held to."""


def relative_error(ours: Any, theirs: Any) -> float:
    """‖ours - theirs‖ / ‖theirs‖ in float64; infinite where the shapes differ or something isn't finite."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    distance, size = np.linalg.norm(ours - theirs), np.linalg.norm(theirs)
    return float(distance / size) if size else float(distance)


def assert_close(ours: Any, theirs: Any, tolerance: float | None = None) -> None:
    """Relative error at most `tolerance`, by default the table's for the dtype of ours."""
    ours = np.asarray(ours)
    limit = RELATIVE[ours.dtype.name] if tolerance is None else tolerance
    error = relative_error(ours, theirs)
    assert error <= limit, f"relative error {error:.2e} > {limit:.0e}"
