"""The only sampling loop."""

from __future__ import annotations

from collections.abc import Iterator

from .types import Array, Denoiser, Grid, Key, Solver, SolverState, StepInfo


def iterate(
    key: Key, denoise: Denoiser, solver: Solver, grid: Grid, x: Array | SolverState, *, start: int = 0
) -> Iterator[StepInfo]:
    """Sample a step at a time: progress, previews and early stopping are the caller's loop.

    Args:
        key: the noise of step i comes from `fold_in(key, i)`; unused by deterministic solvers.
        denoise: (x_t, t) → x0.
        solver: how to go from node to node.
        grid: S + 1 nodes from noisy to clean.
        x: the sample at the first node, (B, …): α x0 + σ ε, which is nearly ε where the grid starts at pure noise. Or
            the `state` of a StepInfo, to go on from there.
        start: the first step to take; after the i-th StepInfo it is i.
    Yields:
        S - start times, what the step saw and the x that it reached.
    """
    state = x if isinstance(x, SolverState) else solver.init(x)
    for i in range(start, len(grid.t) - 1):
        state, info = solver.step(key, denoise, grid, i, state)
        yield info._replace(state=state)


def sample(key: Key, denoise: Denoiser, solver: Solver, grid: Grid, x: Array) -> Array:
    """Go through the whole grid and return x at its last node; the arguments are those of `iterate`."""
    for info in iterate(key, denoise, solver, grid, x):
        x = info.x
    return x
