"""UniPC (arXiv:2302.04867): a corrector that costs no evaluation, around multistep DPM-Solver++."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..checks import check_option, check_whole
from ..types import Grid, Solver
from .exponential import first_order, line, polynomial
from .linear import Row, lam, maker, predictor_corrector, warns_of_errors

VARIANTS = ("bh1", "bh2")


@maker
def unipc(
    order: int = 2,
    variant: str = "bh2",
    of: str = "x0",
    lower_order_final: bool = True,
    disable_corrector: Collection[int] = (),
) -> Solver:
    """UniPC-p: predictor of order p, and a corrector of order p + 1 through the value at the node that it corrects.

    Where the weights solve the order conditions (eq. 11) they are those of the exact integral, whatever B(h) is; B(h)
    matters only where one weight is simply 1/2: a predictor of order 2, a corrector of order 1.

    Args:
        order: p, 1 to 3.
        variant: B(h) = h ("bh1") or e^h - 1 ("bh2").
        of: what is integrated, the predicted "x0" or "noise".
        lower_order_final: end with orders …, 2, 1.
        disable_corrector: the steps of the whole grid, before `schedule.truncate`, after which x stays as predicted.
    Raises:
        ValueError: order, variant or of is not one of these.
    """
    check_whole("order (solver_order)", order, 1, 3)
    check_option("variant (solver_type)", variant, VARIANTS)
    check_option("of (predict_x0)", of, ("x0", "noise"))

    def order_at(grid: Grid, i: int, known: int) -> int:
        left = len(grid.t) - 1 - i
        return min(order, known, left) if lower_order_final else min(order, known)

    def half(grid: Grid, start: int, end: int) -> float:
        """B(h)/2 with the sign and the scale of a first-order weight."""
        b, at = first_order(grid, start, end, of).b[0], lam(grid)
        if variant == "bh2":
            return 0.5 * b
        return 0.5 * (at[end] - at[start]) * (grid.alpha[end] if of == "x0" else -grid.sigma[end])

    def predict(grid: Grid, i: int, known: int) -> Row:
        k, at = order_at(grid, i, known), lam(grid)
        if k == 2:
            first, h = first_order(grid, i, i + 1, of), at[i + 1] - at[i]
            return line(first, half(grid, i, i + 1) * h, at[i] - at[i - 1]) if np.isfinite(h) else first
        return polynomial(grid, i, i + 1, [i - j for j in range(k)], of)

    def correct(grid: Grid, i: int, past: int) -> Row | None:
        k, start = order_at(grid, i - 1, past), i - 1
        if grid.skipped + start in disable_corrector:
            return None
        first = first_order(grid, start, i, of)
        if k == 1:
            c = half(grid, start, i)
            return first._replace(b=(c, first.b[0] - c)) if np.isfinite(c) else first._replace(b=(0.0, *first.b))
        return polynomial(grid, start, i, [i, *(start - j for j in range(k))], of)

    solver = predictor_corrector(predict, correct, order, of)
    return solver if of == "x0" else warns_of_errors(solver, "unipc(of='noise')", "unipc()")
