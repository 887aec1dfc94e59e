"""The steps that most solvers share: the next x is linear in x, in what the model predicted so far, and in new noise.

    x_{i+1} = a · x_i + Σ_j b_j · m_{i-j} + s · ε_i

with m the predicted x0, or the predicted ε. A solver is then a function from (grid, i, how many m are known) to the
coefficients (a, b, s).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import rng
from ..checks import check_function, check_option, check_whole
from ..types import Array, Denoiser, Grid, Key, Solver, SolverState, StepInfo
from .maker import maker as maker
from .states import CorrectorState as CorrectorState
from .states import EpsilonCorrectorState, EpsilonSinglestepState
from .states import EpsilonMultistepState as EpsilonMultistepState
from .states import MultistepState as MultistepState
from .states import OneStepState as OneStepState
from .states import SinglestepState as SinglestepState

INTEGRANDS = ("x0", "epsilon")
"""What m is."""


class Row(NamedTuple):
    """Coefficients of one step, float64: of x, of each m from the newest back, of the noise."""

    a: float
    b: tuple[float, ...]
    s: float = 0.0


def combine(row: Row, x: Array, known: tuple[Array, ...], key: Key, i: int) -> Array:
    """Compute a · x + Σ b_j m_j + s ε.

    Args:
        row: the coefficients.
        x: the sample, (B, …).
        known: each m from the newest back, of the shape of x; at least as many as row.b.
        key: the noise ε is that of `fold_in(key, i)`.
        i: the step.
    Returns:
        The next sample, of the shape and dtype of x.
    """
    a, b, s = row
    # float(): a NumPy float64 scalar would lift float32 arrays, and turn Tensors into arrays.
    x = float(a) * x
    for weight, value in zip(b, known, strict=False):
        x = x + float(weight) * value
    return add_noise(x, s, key, i)


def add_noise(x: Array, scale: float, key: Key, i: int) -> Array:
    """Add the noise of a step.

    Args:
        x: the sample, (B, …).
        scale: the standard deviation of the noise; 0 leaves x as it is.
        key: the noise is that of `fold_in(key, i)`.
        i: the step.
    Returns:
        x + scale · ε, of the shape and dtype of x.
    """
    return x + float(scale) * rng.normal_like(rng.fold_in(key, i), x) if scale else x


def epsilon(x: Array, x0: Array, alpha: float, sigma: float) -> Array:
    """The ε of x = α x0 + σ ε.

    Args:
        x: the sample, (B, …).
        x0: what the model predicts there, of the shape of x.
        alpha: α at the time of x.
        sigma: σ at the time of x.
    Returns:
        (x - α x0)/σ.
    Raises:
        ValueError: α or σ is 0, where no ε follows from x0.
    """
    _check_noise(alpha, sigma)
    return (x - float(alpha) * x0) / float(sigma)


def _check_noise(alpha: float, sigma: float) -> None:
    if alpha == 0:
        raise ValueError(
            "a solver of the predicted noise can't start at α = 0, where x holds nothing else; dpmpp_2m can"
        )
    if sigma == 0:
        raise ValueError("there is no noise to predict at σ = 0; schedule.reverse makes grids that start above it")


def report(grid: Grid, i: int, x: Array, x0: Array, evaluations: int = 1) -> StepInfo:
    """Say what step i saw.

    Args:
        grid: S steps.
        i: the step, 0 … S - 1.
        x: the sample at node i + 1.
        x0: what the denoiser gave at the step's first evaluation, which for most methods is at node i.
        evaluations: how often the denoiser was called.
    Returns:
        The StepInfo, without the state, which `iterate` adds.
    """
    return StepInfo(x, x0, float(grid.t[i]), float(grid.alpha[i]), float(grid.sigma[i]), evaluations)


def multistep(order: int, row: Callable[[Grid, int, int], Row], integrand: str = "x0") -> Solver:
    """Make a solver whose steps use the predictions at the nodes before: x_{i+1} = a x_i + Σ_j b_j m_{i-j} + s ε.

    m_i is what the model predicts at node i: x0, or the ε that follows from it. A Row holds the coefficients (a, b, s)
    of one step: b[0] belongs to m_i, which is the newest, b[1] to m_{i-1}, and so on.

    Args:
        order: how many m a row may use; the solver remembers order - 1 of them.
        row: (grid, i, known) → the Row from node i to i + 1, with at most `known` numbers in b. `known` is 1 at the
            first step and order later on.
        integrand: what m is, "x0" or "epsilon".
    Returns:
        The solver.
    Raises:
        TypeError: order isn't a whole number, or row no function of so many arguments.
        ValueError: integrand is neither, or order is under 1.
    """
    check_option("integrand", integrand, INTEGRANDS)
    check_whole("order", order, 1)
    check_function("row", row, "grid, i, known")
    remember = MultistepState if integrand == "x0" else EpsilonMultistepState

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: Any) -> tuple[SolverState, StepInfo]:
        x0 = denoise(state.x, float(grid.t[i]))
        known = (_predicted(integrand, state.x, x0, grid, i), *state.past)
        x = combine(row(grid, i, len(known)), state.x, known, key, i)
        return remember(x, known[: order - 1]), report(grid, i, x, x0)

    return Solver(remember, step, checks=CHECKS[integrand])


def singlestep(
    order_at: Callable[[Grid, int], int], row: Callable[[Grid, int, int], Row], integrand: str = "x0"
) -> Solver:
    """Make a solver whose steps restart from the first node k of their group: x_{i+1} = a x_k + Σ_j b_j m_{i-j} + s ε.

    The nodes of a group are the stages of a Runge-Kutta method. m_i is what the model predicts at node i: x0, or the ε
    that follows from it. A Row holds the coefficients (a, b, s) of one step: b[0] belongs to m_i, which is the newest,
    and the last b to m_k.

    Args:
        order_at: (grid, i) → 1 where node i starts a group, 2 and 3 at the nodes after it.
        row: (grid, i, order) → the Row from node k = i - order + 1 to node i + 1, with at most `order` numbers in b.
        integrand: what m is, "x0" or "epsilon".
    Returns:
        The solver.
    Raises:
        TypeError: order_at or row isn't a function of so many arguments.
        ValueError: integrand is neither.
    """
    check_option("integrand", integrand, INTEGRANDS)
    check_function("order_at", order_at, "grid, i")
    check_function("row", row, "grid, i, order")
    remember = SinglestepState if integrand == "x0" else EpsilonSinglestepState

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: Any) -> tuple[SolverState, StepInfo]:
        x0 = denoise(state.x, float(grid.t[i]))
        order = min(order_at(grid, i), len(state.past) + 1)
        start, past = (state.x, ()) if order == 1 or state.start is None else (state.start, state.past)
        known = (_predicted(integrand, state.x, x0, grid, i), *past)
        x = combine(row(grid, i, order), start, known, key, i)
        return remember(x, start, known), report(grid, i, x, x0)

    return Solver(remember, step, checks=CHECKS[integrand])


def predictor_corrector(
    predict: Callable[[Grid, int, int], Row],
    correct: Callable[[Grid, int, int], Row | None],
    order: int,
    integrand: str = "x0",
) -> Solver:
    """Make a solver that corrects each x with what the model predicts there, at one evaluation per step.

    At node i it first corrects x_i = a x_{i-1} + Σ_j b_j m_{i-j} + s ε, with the noise that led there, and then
    predicts x_{i+1} = a x_i + Σ_j b_j m_{i-j} + s ε. m_i is what the model predicts at node i, before x_i is
    corrected: x0, or the ε that follows from it. A Row holds the coefficients (a, b, s) of either: b[0] belongs to m_i,
    which is the newest, b[1] to m_{i-1}, and so on.

    Args:
        predict: (grid, i, known) → the Row from node i to i + 1, with at most `known` numbers in b.
        correct: (grid, i, past) → the Row from node i - 1 to i, with at most 1 + `past` numbers in b; None leaves x as
            predicted.
        order: how many m from before node i a row may use.
        integrand: what m is, "x0" or "epsilon".
    Returns:
        The solver.
    Raises:
        TypeError: order isn't a whole number, or predict or correct no function of so many arguments.
        ValueError: integrand is neither, or order is under 1.
    """
    check_option("integrand", integrand, INTEGRANDS)
    check_whole("order", order, 1)
    check_function("predict", predict, "grid, i, known")
    check_function("correct", correct, "grid, i, past")
    remember = CorrectorState if integrand == "x0" else EpsilonCorrectorState

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: Any) -> tuple[SolverState, StepInfo]:
        x = state.x
        x0 = denoise(x, float(grid.t[i]))
        known = (_predicted(integrand, x, x0, grid, i), *state.past)
        row = correct(grid, i, len(state.past)) if state.past else None
        if row is not None and state.corrected is not None:
            x = combine(row, state.corrected, known, key, i - 1)  # with the noise of the step that led here
        following = combine(predict(grid, i, len(known)), x, known, key, i)
        return remember(following, x, known[:order]), report(grid, i, following, x0)

    return Solver(remember, step, checks=CHECKS[integrand])


def noisy_start(grid: Grid, x: Array) -> None:
    """Raise a ValueError where the first node holds no signal or no noise, so that no ε follows from x0."""
    _check_noise(grid.alpha[0], grid.sigma[0])


def noisy_to_clean(grid: Grid, x: Array) -> None:
    """Raise a ValueError where a step goes from clean to noisy, which one that adds noise can't."""
    for i in range(len(grid.t) - 1):
        forward_only(grid, i)


CHECKS = {"x0": (), "epsilon": (noisy_start,)}
"""The checks of a solver of each integrand."""


def adds_noise(solver: Solver) -> Solver:
    """Let a solver refuse grids that go from clean to noisy before its first step.

    Args:
        solver: any.
    Returns:
        The same solver, with that check.
    """
    return solver._replace(checks=(*solver.checks, noisy_to_clean))


def forward_only(grid: Grid, i: int) -> None:
    """Make sure that a step that adds noise doesn't go from clean to noisy.

    Args:
        grid: S steps.
        i: the step, 0 … S - 1.
    Raises:
        ValueError: it does.
    """
    if grid.alpha[i] > grid.alpha[i + 1]:
        raise ValueError("a solver that adds noise can't go back from clean to noisy; ddim() and dpmpp_2m() can")


def span(grid: Grid, i: int) -> tuple[float, float, float, float]:
    """The ends of a step.

    Args:
        grid: S steps.
        i: the step, 0 … S - 1.
    Returns:
        (α_i, σ_i, α_{i+1}, σ_{i+1}).
    """
    return float(grid.alpha[i]), float(grid.sigma[i]), float(grid.alpha[i + 1]), float(grid.sigma[i + 1])


def lambdas(grid: Grid) -> NDArray[np.float64]:
    """λ = log(α/σ) at every node.

    Args:
        grid: S steps.
    Returns:
        float64 (S + 1,), ∞ at σ = 0 and -∞ at α = 0.
    """
    with np.errstate(divide="ignore"):
        lam: NDArray[np.float64] = np.log(grid.alpha) - np.log(grid.sigma)
    return lam


def _predicted(integrand: str, x: Array, x0: Array, grid: Grid, i: int) -> Array:
    return x0 if integrand == "x0" else epsilon(x, x0, grid.alpha[i], grid.sigma[i])
