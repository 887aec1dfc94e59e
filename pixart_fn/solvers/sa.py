"""SA-Solver (arXiv:2309.05019): stochastic Adams methods with as much noise as τ(t) says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..checks import check_number, check_option, check_whole
from ..types import Grid, Solver
from .exponential import first_order, line, polynomial
from .linear import Row, lam, maker, predictor_corrector, warns_of_errors


def middle_noise(t: float) -> float:
    """τ = 1 within 200 … 800 and 0 outside: what SA-Solver's authors take for PixArt."""
    return 1.0 if 200 <= t <= 800 else 0.0


@maker
def sa_solver(
    predictor_order: int = 2,
    corrector_order: int = 2,
    tau: float | Callable[[float], float] = middle_noise,
    of: str = "x0",
    lower_order_final: bool = True,
) -> Solver:
    """SA-Solver: stochastic Adams-Bashforth predictor, Adams-Moulton corrector with the noise of the step it corrects.

    In second order and in x0 the slope's weight is that of a constant kernel, h²/2 (1 + τ²), as in the authors' code.

    Args:
        predictor_order, corrector_order: 1 to 3 and 1 to 4: values at the nodes behind, and those with the new one.
        tau: how much noise, a number or a function of t in training-time units; 0 is the ODE, 1 the reverse SDE.
        of: what is integrated, the predicted "x0" or "noise".
        lower_order_final: end with orders …, 2, 1.
    Raises:
        ValueError: an order or of is not one of these.
    """
    check_whole("predictor_order", predictor_order, 1, 3)
    check_whole("corrector_order", corrector_order, 1, 4)
    if not callable(tau):
        check_number("tau", tau, 0)
    check_option("of (algorithm_type)", of, ("x0", "noise"))

    def tau_at(grid: Grid, i: int) -> float:
        return float(tau(float(grid.t[i])) if callable(tau) else tau)

    def through(grid: Grid, start: int, nodes: list[int]) -> Row:
        tau, at = tau_at(grid, start), lam(grid)
        if len(nodes) != 2 or of == "noise":
            return polynomial(grid, start, start + 1, nodes, of, tau)
        first, h, distance = (
            first_order(grid, start, start + 1, of, tau),
            at[start + 1] - at[start],
            at[nodes[0]] - at[nodes[1]],
        )
        if h == 0 or not np.isfinite(h):
            return first
        row = line(first, grid.alpha[start + 1] * (1 + tau**2) * h * h / 2, distance)
        return row if nodes[0] == start else row._replace(b=(row.b[0] - first.b[0], row.b[1] + first.b[0]))

    def predict(grid: Grid, i: int, known: int) -> Row:
        left = len(grid.t) - 1 - i if lower_order_final else predictor_order
        return through(grid, i, [i - j for j in range(min(predictor_order, known, left))])

    def correct(grid: Grid, i: int, past: int) -> Row:
        left = len(grid.t) - i + 1 if lower_order_final else corrector_order
        return through(grid, i - 1, [i - j for j in range(min(corrector_order, past + 1, left))])

    solver = predictor_corrector(predict, correct, max(predictor_order, corrector_order - 1), of)
    return solver if of == "x0" else warns_of_errors(solver, "sa_solver(of='noise')", "sa_solver()")
