"""Sampling: the only loop over the nodes of a grid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .checks import check_function, check_whole, kind
from .process.lock import lock
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
    """Sample one step at a time, so that the caller can show progress or previews, or stop early.

    Args:
        key: one key (2,), or (B, 2) with one key per picture. The noise of step i comes from `fold_in(key, i)`;
            deterministic solvers use none.
        denoise: (x_t, t) → x0; for `solvers.ddpm("learned_range")`, (x_t, t) → (x0, variance).
        solver: a Solver, or the name of one in `px.solvers`.
        grid: S + 1 nodes from noisy to clean.
        x: the sample at the first node, (B, …), which is α x0 + σ ε, and nearly ε where the grid starts at pure noise.
            Or the `state` of a StepInfo of the same solver, to go on from there.
        start: the first step to take, within 0 … S. To go on after i steps, give i.
    Yields:
        One StepInfo for each of the S - start steps.
    Raises:
        TypeError: an argument has the wrong type, or a result of denoise or of the solver has; only
            `solvers.ddpm("learned_range")` takes a VarianceDenoiser.
        ValueError: start is outside 0 … S, no solver has that name, or a result of denoise has another shape than x.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear())
        >>> grid, noise = px.schedule.grid(schedule, [999, 500]), px.rng.normal(px.key(0), (1, 4, 8, 8))
        >>> [info.t for info in px.iterate(px.key(0), lambda x, t: 0.9 * x, "ddim", grid, noise)]
        [999.0, 500.0]
    """
    solver = named(solver)
    check_grid(grid)
    check_function("denoise", denoise, "x, t")
    if isinstance(x, StepInfo):
        raise TypeError("x is a StepInfo; go on from its state: iterate(…, x=info.state, start=i)")
    if not isinstance(x, SolverState) and not hasattr(x, "shape"):
        raise TypeError(f"x must be an array, a Tensor or a SolverState, got {kind(x)}")
    check_whole("start", start, 0, len(grid.t) - 1)
    for check in () if isinstance(x, SolverState) else solver.checks:
        check(grid, x)
    with lock():
        state = x if isinstance(x, SolverState) else solver.init(x)
    if not isinstance(state, SolverState):
        wanted = "a NamedTuple whose field x is the sample"
        raise TypeError(f"init of {_name(solver)} must return {wanted}, got {kind(state)}")
    if isinstance(solver.init, type) and not isinstance(state, solver.init):
        own, other = solver.init.__name__, type(x).__name__
        raise TypeError(f"x is a {other}, the state of another method; {solver!r} goes on from a {own}")
    return _iterate(key, _checked(denoise, solver), solver, grid, state, start)


def _checked(denoise: Denoiser | VarianceDenoiser, solver: Solver) -> Denoiser:
    """Check that x0, and for a VarianceSolver the variance, are of x's kind and shape in each call."""

    def check(x: Array, t: float) -> Array:
        result = denoise(x, t)
        learned = isinstance(result, tuple) and len(result) == 2
        if learned and not isinstance(solver, VarianceSolver):
            raise TypeError(
                "denoise gives (x0, variance), which only px.solvers.ddpm('learned_range') takes; "
                f"{_name(solver)} takes a Denoiser, (x_t, t) → x0"
            )
        for name, part in zip(("x0", "variance"), result if learned else (result,), strict=False):
            if isinstance(x, np.ndarray) != isinstance(part, np.ndarray) or not hasattr(part, "shape"):
                raise TypeError(f"denoise must give {kind(x)}, as x is, got {kind(part)}")
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
        with lock():
            result = solver.step(key, denoise, grid, i, state)
        _check_step(solver, result)
        state, info = result
        yield info._replace(state=state)


def _check_step(solver: Solver, result: object) -> None:
    """Raise a TypeError where a step returned other than (state, StepInfo)."""
    pair = result if isinstance(result, tuple) and len(result) == 2 else (None, None)
    if isinstance(pair[0], SolverState) and isinstance(pair[1], StepInfo):
        return
    got = f"({', '.join(map(kind, result))})" if type(result) is tuple else kind(result)
    wanted = "(state, StepInfo), where the state is a NamedTuple whose field x is the sample"
    raise TypeError(f"step of {_name(solver)} must return {wanted}; got {got}")


def _name(solver: Solver) -> str:
    """What a sentence calls a solver, which has no name where no `maker` made it."""
    return solver.name or "the solver"


@public
def sample(key: Key, denoise: Denoiser | VarianceDenoiser, solver: Solver | str, grid: Grid, x: Array) -> Array:
    """Sample from the first node of a grid to its last.

    Args:
        key: one key (2,), or (B, 2) with one key per picture. The noise of step i comes from `fold_in(key, i)`;
            deterministic solvers use none.
        denoise: (x_t, t) → x0; for `solvers.ddpm("learned_range")`, (x_t, t) → (x0, variance).
        solver: a Solver, or the name of one in `px.solvers`.
        grid: S + 1 nodes from noisy to clean.
        x: the sample at the first node, (B, …).
    Returns:
        The sample at the last node, of the shape of x.
    Raises:
        TypeError: an argument has the wrong type, or a result of denoise or of the solver has; only
            `solvers.ddpm("learned_range")` takes a VarianceDenoiser.
        ValueError: no solver has that name, or a result of denoise has another shape than x.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear())
        >>> grid, noise = px.schedule.grid(schedule, [999, 500]), px.rng.normal(px.key(0), (1, 4, 8, 8))
        >>> x = px.sample(px.key(0), lambda x, t: np.ones_like(x), "ddim", grid, noise)  # the data are all ones
        >>> bool(np.allclose(x, 1))
        True
    """
    for info in iterate(key, denoise, solver, grid, x):
        x = info.x
    return x
