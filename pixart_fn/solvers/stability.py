"""Where a solver draws noise: what becomes of the errors of x0 on a grid, and the warning where they grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import rng
from ..process.notes import warn
from ..types import Array, Denoiser, Grid, Key, Solver, SolverState, StepInfo


def spread(rho: float) -> float:
    """The standard deviation of x0 given x_t, where that of the data is 1: what x0 errs by, but for a factor.

    Args:
        rho: σ/α, at least 0.
    Returns:
        ρ/√(1 + ρ²), within [0, 1).
    """
    return rho / math.hypot(1.0, rho)


def error_beyond_x0(solver: Solver, grid: Grid, start: int) -> float:
    """How far x at the end gets from the last x0 where each x0 errs by its `spread`.

    Errors are taken for independent of x, and for alike at near nodes: they correlate by e^{-(Δλ/0.25)²/2}. Then x_end
    = c x + Σ_j c_j x0_j; the c_j are found by a denoiser that gives another unit vector at each call. A solver that
    ends with x0 itself has the error 0.

    Args:
        solver: linear in x and in what the denoiser gives, with at most four evaluations per step.
        grid: S steps.
        start: the first step.
    Returns:
        The error's standard deviation, in that of the data.
    """
    rhos: list[float] = []
    noisy = grid.sigma > 0
    node_rhos = grid.sigma[noisy] / grid.alpha[noisy]

    def unit(x: Array, t: float) -> Array:
        rhos.append(float(np.interp(-t, -grid.t[noisy], node_rhos)))
        return np.eye(1, x.shape[1], len(rhos) - 1)

    def run(denoise: Denoiser) -> NDArray[np.float64]:
        state = solver.init(np.zeros((1, 4 * len(grid.t))))
        for i in range(start, len(grid.t) - 1):
            state, _ = solver.step(rng.key(0), denoise, grid, i, state)
        end: NDArray[np.float64] = state.x[0]
        return end

    c = (run(unit) - run(lambda x, t: np.zeros_like(x)))[: len(rhos)]  # without the noise that is added
    c[-1] -= 1
    lam, errors = -np.log(rhos), c * [spread(rho) for rho in rhos]
    return math.sqrt(max(0.0, float(errors @ np.exp(-0.5 * ((lam[:, None] - lam) / 0.25) ** 2) @ errors)))


def warns_of_errors(solver: Solver, name: str, instead: str) -> Solver:
    """Let a solver of the predicted ε warn where errors of x0 grow to more than 0.6 of the data's deviation.

    It never returns an x0: it goes to σ = 0 along ε = (x - α x0)/σ with weights of alternating signs, so that an error
    of x0 is divided by ρ and multiplied by a step in ρ.

    Args:
        solver: a multistep or a predictor-corrector method.
        name: what the warning calls it.
        instead: what the warning says to take.
    Returns:
        The same solver, with a warning at the first step.
    """

    def complaint(grid: Grid, i: int, state: Any) -> str:
        error = 0.0 if state.past else error_beyond_x0(solver, grid, i)
        if error <= 0.6:
            return ""
        return (
            f"{name} may draw noise on this grid: where each predicted x0 errs by as much as the noise hides, the "
            f"picture errs by {error:.2g} times the data's standard deviation; take {instead}"
        )

    return warns(solver, complaint)


def warns(solver: Solver, complaint: Callable[[Grid, int, Any], str]) -> Solver:
    """Let a solver warn on a grid that its method can't serve.

    Args:
        solver: any.
        complaint: (grid, step, state) → the sentence; "" where all is well.
    Returns:
        The same solver, with the warning before a step.
    """

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: Any) -> tuple[SolverState, StepInfo]:
        if grid.alpha[i] > 0 and grid.sigma[i] > grid.sigma[-1] and (sentence := complaint(grid, i, state)):
            warn(sentence, stacklevel=4)  # at the line that iterates
        return solver.step(key, denoise, grid, i, state)

    return solver._replace(step=step)
