"""SA-Solver (arXiv:2309.05019): stochastic Adams methods with as much noise as τ(t) says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..checks import check_function, check_number, check_option, check_switch, check_whole
from ..types import Array, Grid, Solver
from .exponential import first_order, line, polynomial
from .linear import INTEGRANDS, Row, forward_only, lambdas, maker, predictor_corrector
from .stability import warns_of_errors


def middle_noise(t: float) -> float:
    """Return how much noise to add at t: noise in the middle only, as SA-Solver's authors do for PixArt.

    Args:
        t: in training-time units.
    Returns:
        τ = 1 within 200 … 800 and 0 outside.
    """
    return 1.0 if 200 <= t <= 800 else 0.0


@dataclass(frozen=True)
class _Noise:
    """τ as a function of the grid's nodes; called with a grid and x, it raises where τ can't be or the grid goes back
    where noise is added."""

    tau: float | Callable[[float], float]

    def __call__(self, grid: Grid, x: Array) -> None:
        for i in range(len(grid.t) - 1):
            if self.at(grid, i):
                forward_only(grid, i)

    def at(self, grid: Grid, i: int) -> float:
        """τ at a node, checked."""
        if not callable(self.tau):
            return float(self.tau)
        value = self.tau(float(grid.t[i]))
        check_number(f"tau at t = {grid.t[i]:g}", value, 0, MOST_NOISE)
        return float(value)


MOST_NOISE = 100.0
"""τ at most."""


@maker
def sa_solver(
    predictor_order: int = 2,
    corrector_order: int = 2,
    tau: float | Callable[[float], float] = middle_noise,
    integrand: str = "x0",
    lower_order_final: bool = True,
) -> Solver:
    """SA-Solver (arXiv:2309.05019, algorithm 1): a stochastic Adams-Bashforth predictor and Adams-Moulton corrector.

    The corrector takes the noise of the step that it corrects. In second order and in x0 the slope's weight is that of
    a constant kernel, h²/2 (1 + τ²), as in the authors' code.

    Args:
        predictor_order: how many values at the nodes behind are used, 1 to 3.
        corrector_order: how many values are used, with the one at the new node, 1 to 4.
        tau: how much noise, a number within [0, 100] or a function of t in training-time units that gives one; 0 is
            the ODE, 1 the reverse SDE.
        integrand: what is integrated, the predicted "x0" or "epsilon".
        lower_order_final: end with orders …, 2, 1.
    Returns:
        The solver, with one evaluation per step.
    Raises:
        TypeError: an option has the wrong type.
        ValueError: an order, tau or integrand is not one of these.
    """
    check_whole("predictor_order", predictor_order, 1, 3)
    check_whole("corrector_order", corrector_order, 1, 4)
    if callable(tau):
        check_function("tau", tau, "t")
    else:
        check_number("tau", tau, 0, MOST_NOISE)
    check_switch("lower_order_final", lower_order_final)
    noise = _Noise(tau)
    check_option("integrand (algorithm_type)", integrand, INTEGRANDS)

    def through(grid: Grid, start: int, nodes: list[int]) -> Row:
        share = noise.at(grid, start)
        if len(nodes) != 2 or integrand == "epsilon":
            return polynomial(grid, start, start + 1, nodes, integrand, share)
        first, lam = first_order(grid, start, start + 1, integrand, share), lambdas(grid)
        h, distance = lam[start + 1] - lam[start], lam[nodes[0]] - lam[nodes[1]]
        if h == 0 or not np.isfinite(h):
            return first
        row = line(first, grid.alpha[start + 1] * (1 + share**2) * h * h / 2, distance)
        return row if nodes[0] == start else row._replace(b=(row.b[0] - first.b[0], row.b[1] + first.b[0]))

    def predict(grid: Grid, i: int, known: int) -> Row:
        left = len(grid.t) - 1 - i if lower_order_final else predictor_order
        return through(grid, i, [i - j for j in range(min(predictor_order, known, left))])

    def correct(grid: Grid, i: int, past: int) -> Row | None:
        left = len(grid.t) - i + 1 if lower_order_final else corrector_order
        return through(grid, i - 1, [i - j for j in range(min(corrector_order, past + 1, left))])

    solver = predictor_corrector(predict, correct, max(predictor_order, corrector_order - 1), integrand)
    solver = solver._replace(checks=(*solver.checks, noise))
    return solver if integrand == "x0" else warns_of_errors(solver, "sa_solver(integrand='epsilon')", "sa_solver()")
