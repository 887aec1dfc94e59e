"""UniPC (arXiv:2302.04867): a corrector that costs no evaluation, around multistep DPM-Solver++."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..checks import check_option, check_switch, check_whole, kind
from ..types import Grid, Solver
from .exponential import first_order, line, polynomial
from .linear import INTEGRANDS, Row, lambdas, maker, predictor_corrector
from .stability import warns_of_errors

VARIANTS = ("bh1", "bh2")


@maker
def unipc(
    order: int = 2,
    variant: str = "bh2",
    integrand: str = "x0",
    lower_order_final: bool = True,
    disable_corrector: Collection[int] = (),
) -> Solver:
    """UniPC-p (arXiv:2302.04867, algorithms 1 and 2): a predictor of order p, and a corrector of order p + 1.

    The whole has order p + 1 where lower_order_final is False; the lower orders at the end bring it down to 2.

    Where the weights solve the order conditions (eq. 11) they are those of the exact integral, whatever B(h) is; B(h)
    matters only where one weight is simply 1/2: a predictor of order 2, a corrector of order 1.

    Args:
        order: p, 1 to 3.
        variant: B(h) = h ("bh1") or e^h - 1 ("bh2").
        integrand: what is integrated, the predicted "x0" or "epsilon".
        lower_order_final: end with orders …, 2, 1.
        disable_corrector: the steps of the whole grid, before `schedule.truncate`, after which x stays as predicted.
    Returns:
        The solver, with one evaluation per step.
    Raises:
        TypeError: an option has the wrong type.
        ValueError: order, variant or integrand is not one of these, or a step of disable_corrector is below 0.
    """
    check_whole("order (solver_order)", order, 1, 3)
    check_option("variant (solver_type)", variant, VARIANTS)
    check_option("integrand (predict_x0)", integrand, INTEGRANDS)
    check_switch("lower_order_final", lower_order_final)
    if isinstance(disable_corrector, str) or not isinstance(disable_corrector, Collection):
        raise TypeError(f"disable_corrector must be a list of steps, got {kind(disable_corrector)}")
    for skipped in disable_corrector:
        check_whole("a step of disable_corrector", skipped, 0)

    def order_at(grid: Grid, i: int, known: int) -> int:
        left = len(grid.t) - 1 - i
        return min(order, known, left) if lower_order_final else min(order, known)

    def predict(grid: Grid, i: int, known: int) -> Row:
        k, lam = order_at(grid, i, known), lambdas(grid)
        if k != 2:
            return polynomial(grid, i, i + 1, [i - j for j in range(k)], integrand)
        first, h = first_order(grid, i, i + 1, integrand), lam[i + 1] - lam[i]
        if not np.isfinite(h):
            return first
        return line(first, _half(grid, i, i + 1, variant, integrand) * h, lam[i] - lam[i - 1])

    def correct(grid: Grid, i: int, past: int) -> Row | None:
        k, start = order_at(grid, i - 1, past), i - 1
        if grid.skipped + start in disable_corrector:
            return None
        if k != 1:
            return polynomial(grid, start, i, [i, *(start - j for j in range(k))], integrand)
        first, c = first_order(grid, start, i, integrand), _half(grid, start, i, variant, integrand)
        return first._replace(b=(c, first.b[0] - c) if np.isfinite(c) else (0.0, *first.b))

    solver = predictor_corrector(predict, correct, order, integrand)
    return solver if integrand == "x0" else warns_of_errors(solver, "unipc(integrand='epsilon')", "unipc()")


def _half(grid: Grid, start: int, end: int, variant: str, integrand: str) -> float:
    """B(h)/2 with the sign and the scale of a first-order weight."""
    b, lam = first_order(grid, start, end, integrand).b[0], lambdas(grid)
    if variant == "bh2":
        return 0.5 * b
    half: float = 0.5 * (lam[end] - lam[start]) * (grid.alpha[end] if integrand == "x0" else -grid.sigma[end])
    return half
