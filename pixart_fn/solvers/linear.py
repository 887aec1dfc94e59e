"""The steps that most solvers share: the next x is linear in x, in what the model said so far, and in fresh noise.

    x_{i+1} = a · x_i + Σ_j b_j · m_{i-j} + s · ε_i

with m the predicted x0, or the predicted noise. A solver is then a table: a function from (grid, i, how many m are
known) to the row (a, b, s).
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple, ParamSpec

import numpy as np

from .. import rng
from ..types import Array, Denoiser, Grid, Key, Solver, SolverState, StepInfo

Options = ParamSpec("Options")


def maker(make: Callable[Options, Solver]) -> Callable[Options, Solver]:
    """Let the solvers that a function makes be named by the call, for example `heun(churn=40)`."""

    @functools.wraps(make)
    def call(*args: Options.args, **options: Options.kwargs) -> Solver:
        said = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in options.items())])
        return make(*args, **options)._replace(name=f"{make.__name__}({said})")

    return call


class Row(NamedTuple):
    """Coefficients of one step, float64: of x, of each m from the newest back, of the noise."""

    a: float
    b: tuple[float, ...]
    s: float = 0.0


Table = Callable[[Grid, int, int], Row]
"""(grid, i, known) → the row from node i to i + 1; b has at most `known` entries, and known is 1 at the first step."""


def combine(row: Row, x: Array, known: tuple[Array, ...], key: Key, i: int) -> Array:
    """Apply a row; the noise of step i is that of `fold_in(key, i)`."""
    a, b, s = row
    # float(): a NumPy float64 scalar would lift float32 arrays, and turn Tensors into arrays.
    x = float(a) * x
    for weight, value in zip(b, known, strict=False):
        x = x + float(weight) * value
    if s:
        x = x + float(s) * rng.normal_like(rng.fold_in(key, i), x)
    return x


def noise(x: Array, x0: Array, alpha: float, sigma: float) -> Array:
    """ε of x = α x0 + σ ε."""
    if alpha == 0:
        raise ValueError(
            "a solver of the predicted noise can't start at α = 0, where x holds nothing else; dpmpp_2m can"
        )
    if sigma == 0:
        raise ValueError("there is no noise to predict at σ = 0; schedule.reverse makes grids that start above it")
    return (x - float(alpha) * x0) / float(sigma)


def report(grid: Grid, i: int, x: Array, x0: Array, evaluations: int = 1) -> StepInfo:
    """What step i saw."""
    return StepInfo(x, x0, float(grid.t[i]), float(grid.alpha[i]), float(grid.sigma[i]), evaluations)


def multistep(order: int, row: Table, of: str = "x0") -> Solver:
    """Make a solver from its table.

    Args:
        order: how many m a row may use; the solver remembers order - 1 of them.
        row: the table.
        of: what m is, "x0" or "noise".
    """

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: SolverState) -> tuple[SolverState, StepInfo]:
        x0 = denoise(state.x, float(grid.t[i]))
        known = (_said(of, state.x, x0, grid, i), *state.history)
        x = combine(row(grid, i, len(known)), state.x, known, key, i)
        return SolverState(x, known[: order - 1]), report(grid, i, x, x0)

    return Solver(SolverState, step)


def singlestep(order_at: Callable[[Grid, int], int], row: Callable[[Grid, int, int], Row], of: str = "x0") -> Solver:
    """Make a solver whose steps restart from the first node of their group, as Runge-Kutta's stages do.

    Args:
        order_at: (grid, i) → 1 where node i starts a group, 2 and 3 at the nodes after it.
        row: (grid, i, order) → the row from node i - order + 1 to i + 1, of that node's x.
        of: what m is, "x0" or "noise".
    """

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: SolverState) -> tuple[SolverState, StepInfo]:
        x0 = denoise(state.x, float(grid.t[i]))
        said, history = _said(of, state.x, x0, grid, i), state.history
        order = min(order_at(grid, i), max(1, len(history)))
        start, *stages = history if order > 1 else (state.x,)
        known = (said, *stages)
        x = combine(row(grid, i, order), start, known, key, i)
        return SolverState(x, (start, *known)), report(grid, i, x, x0)

    return Solver(SolverState, step)


def predictor_corrector(
    predict: Table, correct: Callable[[Grid, int, int], Row | None], order: int, of: str = "x0"
) -> Solver:
    """Make a solver that corrects each x with what the model says there, before it predicts the next: one evaluation.

    Args:
        predict: the table from node i to i + 1.
        correct: (grid, i, past) → the row from node i - 1 to i, whose b starts with the m at node i and goes on with
            `past` earlier ones; None leaves x as predicted.
        order: how many m from before node i a row may use.
        of: what m is, "x0" or "noise".
    """

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: SolverState) -> tuple[SolverState, StepInfo]:
        x, (last, *past) = state.x, state.history or (None,)
        x0 = denoise(x, float(grid.t[i]))
        known = (_said(of, x, x0, grid, i), *past)
        row = correct(grid, i, len(past)) if past else None
        if row is not None:
            x = combine(row, last, known, key, i - 1)  # with the noise of the step that led here
        following = combine(predict(grid, i, len(known)), x, known, key, i)
        return SolverState(following, (x, *known[:order])), report(grid, i, following, x0)

    return Solver(SolverState, step)


def spread(rho: float) -> float:
    """The standard deviation of x0 given x_t, where that of the data is 1: what x0 errs by, but for a factor."""
    return rho / math.hypot(1.0, rho)


def error_beyond_x0(solver: Solver, grid: Grid, start: int) -> float:
    """How far x at the end gets from the last x0 where each x0 errs by its `spread`, in the data's standard deviations.

    Errors are taken for independent of x, and for alike at near nodes: they correlate by e^{-(Δλ/0.25)²/2}. Then x_end
    = c x + Σ_j c_j x0_j; the c_j are found by saying a unit vector of its own for each x0. A solver that ends with x0
    itself has the error 0.
    """
    at: list[float] = []
    noisy = grid.sigma > 0
    rho = grid.sigma[noisy] / grid.alpha[noisy]

    def unit(x: Array, t: float) -> Array:
        at.append(float(np.interp(-t, -grid.t[noisy], rho)))
        return np.eye(1, x.shape[1], len(at) - 1)

    def run(denoise: Denoiser) -> np.ndarray:
        state = SolverState(np.zeros((1, 4 * len(grid.t))))  # no solver here asks more than four times a step
        for i in range(start, len(grid.t) - 1):
            state, _ = solver.step(rng.key(0), denoise, grid, i, state)
        return state.x[0]

    c = (run(unit) - run(lambda x, t: np.zeros_like(x)))[: len(at)]  # without the noise that is added
    c[-1] -= 1
    lam, errors = -np.log(at), c * [spread(each) for each in at]
    return math.sqrt(max(0.0, errors @ np.exp(-0.5 * ((lam[:, None] - lam) / 0.25) ** 2) @ errors))


def warns_of_errors(solver: Solver, name: str, instead: str) -> Solver:
    """A solver of the predicted noise, with a warning where errors of x0 grow to more than 0.6 of the data's deviation.

    It never returns an x0: it goes to σ = 0 along noises ε = (x - α x0)/σ with weights of alternating signs, so that an
    error of x0 is divided by ρ and multiplied by a step in ρ.
    """

    def complain(grid: Grid, i: int) -> str:
        error = error_beyond_x0(solver, grid, i)
        if error <= 0.6:
            return ""
        return (
            f"{name} may draw noise on this grid: where each predicted x0 errs by as much as the noise hides, the "
            f"picture errs by {error:.2g} times the data's standard deviation; take {instead}"
        )

    return warns(solver, complain)


def warns(solver: Solver, complaint: Callable[[Grid, int], str]) -> Solver:
    """The solver, with a warning where it starts on a grid that its method can't serve.

    Args:
        complaint: (grid, first step) → the sentence; "" where all is well.
    """

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: SolverState) -> tuple[SolverState, StepInfo]:
        if not state.history and grid.alpha[i] > 0 and grid.sigma[i] > grid.sigma[-1] and (said := complaint(grid, i)):
            warnings.warn(said, stacklevel=4)  # at the line that iterates
        return solver.step(key, denoise, grid, i, state)

    return solver._replace(step=step)


def forward_only(grid: Grid, i: int) -> None:
    """Raise where a step that adds noise would go from clean to noisy."""
    if grid.alpha[i] > grid.alpha[i + 1]:
        raise ValueError("a solver that adds noise can't go back from clean to noisy; ddim() and dpmpp_2m() can")


def span(grid: Grid, i: int) -> tuple[float, float, float, float]:
    """(α_i, σ_i, α_{i+1}, σ_{i+1})."""
    return float(grid.alpha[i]), float(grid.sigma[i]), float(grid.alpha[i + 1]), float(grid.sigma[i + 1])


def lam(grid: Grid) -> np.ndarray:
    """λ at every node, ∞ at σ = 0 and -∞ at α = 0."""
    with np.errstate(divide="ignore"):
        return np.log(grid.alpha) - np.log(grid.sigma)


def _said(of: str, x: Array, x0: Array, grid: Grid, i: int) -> Array:
    return x0 if of == "x0" else noise(x, x0, grid.alpha[i], grid.sigma[i])
