"""The only sampling loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .checks import check_whole, kind
from .public import public
from .schedule import check_grid
from .solvers import named
from .types import Array, Denoiser, Grid, Key, Solver, SolverState, StepInfo, VarianceDenoiser, VarianceSolver


@public
def iterate(
    key: Key,
    denoise: Denoiser | VarianceDenoiser,
    solver: Solver | str,
    grid: Grid,
    x: Array | SolverState,
    *,
    start: int = 0,
) -> Iterator[StepInfo]:
    """Sample a step at a time: progress, previews and early stopping are the caller's loop.

    Args:
        key: the noise of step i comes from `fold_in(key, i)`; unused by deterministic solvers.
        denoise: (x_t, t) → x0; for `solvers.ddpm("learned_range")`, (x_t, t) → (x0, variance).
        solver: how to go from node to node, or the name of one.
        grid: S + 1 nodes from noisy to clean.
        x: the sample at the first node, (B, …): α x0 + σ ε, which is nearly ε where the grid starts at pure noise; or
            the `state` of a StepInfo of the same solver, to go on from there.
        start: the first step to take, within 0 … S; after the i-th StepInfo it is i.
    Yields:
        S - start times, what the step saw and the x that it reached.
    Raises:
        TypeError: an argument is of another type.
        ValueError: start is outside 0 … S, no solver has that name, or a result of denoise has another shape than x.
    """
    solver = named(solver)
    check_grid(grid)
    if not callable(denoise):
        raise TypeError(f"denoise must be a function (x_t, t) → x0, got {kind(denoise)}")
    if isinstance(x, StepInfo):
        raise TypeError("x is a StepInfo; go on from its state: iterate(…, x=info.state, start=i)")
    if not isinstance(x, SolverState) and not hasattr(x, "shape"):
        raise TypeError(f"x must be an array, a Tensor or a SolverState, got {kind(x)}")
    check_whole("start", start, 0, len(grid.t) - 1)
    state = x if isinstance(x, SolverState) else solver.init(x)
    if isinstance(solver.init, type) and not isinstance(state, solver.init):
        own, other = solver.init.__name__, type(x).__name__
        raise TypeError(f"x is the {other} of another method than {solver!r}, which goes on from its own {own}")
    return _iterate(key, _checked(denoise, solver), solver, grid, state, start)


def _checked(denoise: Denoiser | VarianceDenoiser, solver: Solver) -> Denoiser:
    """The denoiser, whose results must be of x's kind and shape: x0, and for a VarianceSolver the variance too."""

    def check(x: Array, t: float) -> Array:
        result = denoise(x, t)
        both = isinstance(solver, VarianceSolver) and isinstance(result, tuple) and len(result) == 2
        for name, part in zip(("x0", "variance"), result if both else (result,), strict=False):
            if isinstance(x, np.ndarray) != isinstance(part, np.ndarray) or not hasattr(part, "shape"):
                raise TypeError(f"denoise must give what x is, {kind(x)}, got {kind(part)}")
            if tuple(part.shape) != tuple(x.shape):
                raise ValueError(
                    f"denoise must give {name} of the shape {tuple(x.shape)} of x, got {tuple(part.shape)}"
                )
        return result

    return check


def _iterate(
    key: Key, denoise: Denoiser, solver: Solver, grid: Grid, state: SolverState, start: int
) -> Iterator[StepInfo]:
    for i in range(start, len(grid.t) - 1):
        state, info = solver.step(key, denoise, grid, i, state)
        yield info._replace(state=state)


@public
def sample(key: Key, denoise: Denoiser | VarianceDenoiser, solver: Solver | str, grid: Grid, x: Array) -> Array:
    """Go through the whole grid.

    Args:
        key: the noise of step i comes from `fold_in(key, i)`; unused by deterministic solvers.
        denoise: (x_t, t) → x0; for `solvers.ddpm("learned_range")`, (x_t, t) → (x0, variance).
        solver: how to go from node to node, or the name of one.
        grid: S + 1 nodes from noisy to clean.
        x: the sample at the first node, (B, …).
    Returns:
        x at the last node, of the shape of x.
    Raises:
        TypeError: an argument is of another type.
        ValueError: no solver has that name, or a result of denoise has another shape than x.
    """
    for info in iterate(key, denoise, solver, grid, x):
        x = info.x
    return x
