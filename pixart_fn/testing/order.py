"""The order of convergence of a solver, measured against the exact solution for normal data."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from .. import rng
from ..checks import check_switch, check_whole, kind, shown
from ..public import public
from ..sample import iterate
from ..solvers import named
from ..types import (
    Array,
    Denoiser,
    Grid,
    Key,
    NumPyArray,
    Solver,
    SolverState,
    StepInfo,
    VarianceDenoiser,
    VarianceSolver,
)
from .exact import Gaussian, exact_gaussian, lambda_grid

STEPS = (30, 60, 120)
"""Whole groups of two and of three steps, for the methods that have such groups."""
LENGTHS = (1.0, 2.0)
"""Steps of two lengths, since a formula that takes them for equal has its order on even grids alone."""
MEAN = 0.3
STDS = np.array([0.25, 0.5, 1.0, 2.0])
"""Several, because the error for one of them may pass through zero between two numbers of steps."""
ROUNDING = 1e-11
_PATCH = threading.Lock()


class Convergence(NamedTuple):
    """How the error of a solver falls with the number of steps.

    Args:
        steps: the numbers of steps.
        errors: the error after so many: ‖x - exact x‖ for four kinds of data, and for a stochastic solver that of their
            means and of their variances, relative to the exact ones.
        evaluations: how often the denoiser was called with so many steps.
        order: p of error ∝ steps^-p between the last two errors that are above rounding; inf where none is, and NaN
            where an error isn't finite.
    """

    steps: tuple[int, ...]
    errors: tuple[float, ...]
    evaluations: tuple[int, ...]
    order: float


@public
def convergence(
    solver: Solver | str,
    steps: Sequence[int] = STEPS,
    *,
    stochastic: bool = False,
    lengths: Sequence[float] = LENGTHS,
) -> Convergence:
    """Measure a solver's order of convergence on `lambda_grid`, where the data are normal and the denoiser is perfect.

    A deterministic solver is compared with `exact_gaussian`, and its first three steps start from the exact x: what a
    multistep method loses in its first steps, before it has its order, would otherwise hide an order above 2. A
    stochastic one is compared in mean and variance (its weak order), without sampling: a number is followed as a vector
    of its mean and its part of each draw, for which `px.rng.normal` gives unit vectors to this thread meanwhile.

    Args:
        solver: a Solver, or the name of one in `px.solvers`. It is linear in x and in the noise where denoise is, and a
            stochastic one draws with `px.rng.normal` or `px.rng.normal_like`, at most four times per step.
        steps: at least two rising numbers of steps from 4 to 10 000, of which each should be a multiple of 6 so that
            methods with groups of steps have whole ones.
        stochastic: whether the solver draws noise.
        lengths: of the steps, as `lambda_grid` takes them; (1,) for a method that presumes even steps.
    Returns:
        The Convergence.
    Raises:
        TypeError: an argument has the wrong type, or the solver returns something else than a step does.
        ValueError: no solver has that name, steps or lengths aren't such numbers, or a stochastic solver draws
            otherwise.
    """
    solver = named(solver)
    check_switch("stochastic", stochastic)
    counts = _checked(steps)
    grids = [lambda_grid(count, lengths) for count in counts]
    measure = _weak_error if stochastic else _error
    errors, evaluations = zip(*(measure(solver, grid) for grid in grids), strict=True)
    return Convergence(counts, errors, evaluations, _order(counts, errors))


def taken_by(solver: Solver, denoise: Denoiser) -> Denoiser | VarianceDenoiser:
    """The denoiser as a solver takes it: for a VarianceSolver, with the variance of the posterior."""
    if not isinstance(solver, VarianceSolver):
        return denoise

    def both(x: Array, t: float) -> tuple[Array, Array]:
        return denoise(x, t), 0.0 * x - 1.0

    return both


def _checked(steps: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(steps, (tuple, list)) or len(steps) < 2:
        raise TypeError(f"steps must be a list of at least two whole numbers, got {shown(steps)}")
    for count in steps:
        check_whole("each of steps", count, 4, 10_000)
    if not all(a < b for a, b in pairwise(steps)):
        raise ValueError(f"steps must rise, got {shown(steps)}")
    return tuple(map(int, steps))


def _error(solver: Solver, grid: Grid) -> tuple[float, int]:
    start = MEAN + np.array([[1.4, -0.7, 0.3, 0.6]])
    path = exact_gaussian(start, grid, MEAN, STDS)
    denoise, key = taken_by(solver, _perfect(grid, MEAN, STDS)), rng.key(0)
    infos = [next(iterate(key, denoise, solver, grid, start))]
    for i in (1, 2):
        infos.append(next(iterate(key, denoise, solver, grid, _at(infos[-1], path[i]), start=i)))
    infos.extend(iterate(key, denoise, solver, grid, _at(infos[-1], path[3]), start=3))
    return float(np.linalg.norm(infos[-1].x - path[-1])), sum(info.evaluations for info in infos)


def _at(info: StepInfo, x: NDArray[np.float64]) -> SolverState:
    """The state after a step, with another x."""
    state = info.state
    if not isinstance(state, tuple) or not hasattr(state, "_replace"):
        raise TypeError(f"the state of a solver must be a NamedTuple whose field x is the sample, got {kind(state)}")
    moved: SolverState = state._replace(x=x)
    return moved


def _perfect(grid: Grid, mean: float | NumPyArray, stds: NumPyArray) -> Gaussian:
    assert grid.schedule is not None  # as lambda_grid says
    return Gaussian(mean, stds, grid.schedule)


def _weak_error(solver: Solver, grid: Grid) -> tuple[float, int]:
    """The error of mean and variance, where x is (1, kinds of data, the mean and a part of the start and each draw)."""
    size = 2 + 4 * (len(grid.t) - 1)
    stds, axes = STDS[:, None], np.eye(2, size)
    means, spreads = grid.alpha * MEAN, np.hypot(grid.alpha * stds, grid.sigma)
    denoise = taken_by(solver, _perfect(grid, MEAN * axes[0], stds))
    x, evaluations = (means[0] * axes[0] + spreads[:, :1] * axes[1])[None], 0
    with _unit_draws(size):
        for info in iterate(rng.key(0), denoise, solver, grid, x):
            x, evaluations = info.x, evaluations + info.evaluations
    variance = np.sum(x[0, :, 1:] ** 2, axis=1) / spreads[:, -1] ** 2
    return float(np.linalg.norm([*(x[0, :, 0] - means[-1]), *(variance - 1)])), evaluations


@contextmanager
def _unit_draws(size: int) -> Iterator[None]:
    """Let this thread draw another unit vector with each key, where it draws vectors of that size."""
    real, thread, drawn = rng.normal, threading.get_ident(), dict[bytes, int]()

    def normal(key: Key, shape: Sequence[int]) -> NDArray[np.float32]:
        if threading.get_ident() != thread or tuple(shape[-1:]) != (size,):
            return real(key, shape)
        number = 2 + drawn.setdefault(key.tobytes(), len(drawn))
        if number >= size:
            raise ValueError("a stochastic solver must draw at most four times per step")
        unit = np.zeros(tuple(shape), np.float32)
        unit[..., number] = 1
        return unit

    with _PATCH, mock.patch.object(rng, "normal", normal):
        yield


def _order(steps: Sequence[int], errors: Sequence[float]) -> float:
    if not np.isfinite(errors).all():
        return math.nan
    above = [i for i, error in enumerate(errors) if error > ROUNDING]
    if not above:
        return math.inf
    end = max(1, above[-1])
    fall = errors[end - 1] / max(errors[end], ROUNDING)
    return math.log(fall) / math.log(steps[end] / steps[end - 1])
