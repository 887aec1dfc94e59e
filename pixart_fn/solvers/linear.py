"""The step that most solvers share: the next x is linear in x, in the x0 predicted so far, and in fresh noise.

    x_{i+1} = a · x_i + Σ_j b_j · x0_{i-j} + s · ε_i

A solver is then a table: a function from (grid, i, how many x0 are known) to the row (a, b, s).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .. import rng
from ..types import Array, Denoiser, Grid, Key, Solver, SolverState, StepInfo


class Row(NamedTuple):
    """Coefficients of one step, float64: of x, of each x0 from the newest back, of the noise."""

    a: float
    b: tuple[float, ...]
    s: float = 0.0


def multistep(order: int, row: Callable[[Grid, int, int], Row]) -> Solver:
    """Make a solver from its table.

    Args:
        order: how many x0 a row may use; the solver remembers order - 1 of them.
        row: (grid, i, known) → Row with at most `known` entries in b; known is 1 at the first step of a run.
    """

    def init(x: Array) -> SolverState:
        return SolverState(x)

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: SolverState) -> tuple[SolverState, StepInfo]:
        t = float(grid.t[i])
        x0 = denoise(state.x, t)
        known = (x0, *state.history)
        a, b, s = row(grid, i, len(known))
        # float(): a NumPy float64 scalar would lift float32 arrays, and turn Tensors into arrays.
        x = float(a) * state.x
        for weight, value in zip(b, known, strict=False):
            x = x + float(weight) * value
        if s:
            x = x + float(s) * rng.normal_like(rng.fold_in(key, i), x)
        info = StepInfo(x, x0, t, float(grid.alpha[i]), float(grid.sigma[i]), evaluations=1)
        return SolverState(x, known[: order - 1]), info

    return Solver(init, step)
