"""DPM-Solver with steps of its own choice (arXiv:2206.00927, app. C): error control between the nodes of a grid."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..checks import check_number, check_whole
from ..types import Array, Denoiser, Grid, Key, Solver, StepInfo, summary
from .linear import maker, report
from .points import Point, between, knows_schedule, move, node, predictions, signal_at_start

SHORTEST = 1e-9
"""In λ: a step under this is none in float64."""


class AdaptiveState(NamedTuple):
    """The sample, and how long in λ the next step tries to be; None before the first one."""

    x: Array
    length: float | None = None

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)


class Tolerance(NamedTuple):
    """The higher order of the two that are compared, and the relative and the absolute tolerance."""

    order: int
    rtol: float
    atol: float


class Stretch(NamedTuple):
    """How a stretch between two nodes went: the sample and the place reached, the next step's length, x0 at the start
    (None where there was no way to go), and evaluations."""

    x: Array
    here: Point
    length: float
    x0: Array | None
    evaluations: int


@maker
def dpm_adaptive(order: int = 3, rtol: float = 0.05, atol: float = 0.0078, first: float = 0.05) -> Solver:
    """DPM-Solver-23 or -12 (arXiv:2206.00927, app. C): each stretch of the grid in as few steps as tolerances allow.

    A step's error is the difference between the orders; its norm over a picture is held under max(atol, rtol·|x|). A
    grid of one step leaves every choice to the solver. It takes one picture at a time, as its steps would otherwise
    depend on the rest of the batch.

    Args:
        order: the higher of the two orders, 3 or 2.
        rtol: relative tolerance, at least 0.
        atol: absolute tolerance, at least 0, and above 0 where rtol is 0.
        first: the length in λ of the first step, above 0.
    Returns:
        The solver.
    Raises:
        ValueError: an argument is outside its range; at the first step, there are several pictures, or the grid goes
            from clean to noisy.
    """
    check_whole("order", order, 2, 3)
    check_number("rtol", rtol, 0)
    check_number("atol", atol, 0)
    check_number("first", first, 0, above=True)
    if rtol + atol == 0:
        raise ValueError("one of rtol and atol must be above 0, got 0 for both")
    tolerance = Tolerance(order, rtol, atol)

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: AdaptiveState) -> tuple[AdaptiveState, StepInfo]:
        _one_picture(grid, state.x)
        here, end = node(grid, i), node(grid, i + 1)
        to_zero = end.rho == 0
        if to_zero:
            end = between(grid, 0.0)
        length = first if state.length is None else state.length
        stretch = _stretch(denoise, grid, state.x, here, end, length, tolerance)
        x, x0, evaluations = stretch.x, stretch.x0, stretch.evaluations
        if x0 is None or to_zero:
            last = denoise(x, stretch.here.t)
            x0, evaluations = last if x0 is None else x0, evaluations + 1
            x = last if to_zero else x
        return AdaptiveState(x, stretch.length), report(grid, i, x, x0, evaluations)

    return Solver(AdaptiveState, step, checks=(_falls, _one_picture, signal_at_start, knows_schedule))


def _falls(grid: Grid, x: Array) -> None:
    if grid.alpha[0] > grid.alpha[-1]:
        raise ValueError("dpm_adaptive goes from noisy to clean alone, and this grid goes back; heun goes both ways")


def _one_picture(grid: Grid, x: Array) -> None:
    if len(x) != 1:
        raise ValueError(f"dpm_adaptive draws one picture at a time, got {len(x)}; it picks its steps by the error")


def _stretch(
    denoise: Denoiser, grid: Grid, x: Array, here: Point, end: Point, length: float, tolerance: Tolerance
) -> Stretch:
    """From one place to another in steps whose errors the tolerance allows."""
    previous, first, eps, evaluations = x, None, None, 0
    while here.rho > end.rho * (1 + 1e-12):
        left = math.log(here.rho / end.rho)
        h = min(length, left)
        there = between(grid, end.rho if h == left else here.rho * math.exp(-h))
        if eps is None:
            x0, eps = predictions(denoise, x, here)
            first, evaluations = x0 if first is None else first, evaluations + 1
        low, high = _pair(denoise, grid, x, eps, here, there, tolerance.order)
        evaluations += tolerance.order - 1
        error = _error(low, high, previous, tolerance)
        if not math.isfinite(error) or length < SHORTEST:
            raise ValueError(
                f"dpm_adaptive can't go on at t = {here.t:g}: the error is {error:g} in a step of {h:.3g}; "
                "either the model's x0 isn't finite, or rtol and atol are too small"
            )
        if error <= 1:
            previous, x, here, eps = low, high, there, None
        if error > 1 or length <= left:  # a step that was cut short says nothing about the next
            length = h * min(10.0, 0.9 * max(error, 1e-10) ** (-1 / tolerance.order))
    return Stretch(x, here, length, first, evaluations)


def _pair(
    denoise: Denoiser, grid: Grid, x: Array, eps: Array, here: Point, there: Point, order: int
) -> tuple[Array, Array]:
    """The result of order - 1 and that of order, from the same evaluations (DPM-Solver-12 and -23)."""
    h = math.log(here.rho / there.rho)

    def inner(part: float) -> Point:
        return between(grid, here.rho * math.exp(-part * h))

    def drift(to: Point) -> float:
        return -to.alpha * (here.rho - to.rho)  # -σ (e^h - 1)

    if order == 2:
        middle = inner(0.5)
        other = predictions(denoise, move(x, eps, here, middle), middle)[1]
        low = move(x, eps, here, there)
        return low, low + drift(there) * (other - eps)
    one, two = inner(1 / 3), inner(2 / 3)
    early = predictions(denoise, move(x, eps, here, one), one)[1]
    low = move(x, eps, here, there) + (drift(there) * 1.5) * (early - eps)
    curve = _curve(2 / 3 * h)
    u = move(x, eps, here, two) + (-two.alpha * two.rho * 2 * curve) * (early - eps)
    late = predictions(denoise, u, two)[1]
    high = move(x, eps, here, there) + (-there.alpha * there.rho * 1.5 * _curve(h)) * (late - eps)
    return low, high


def _curve(h: float) -> float:
    """(e^h - 1)/h - 1."""
    return math.expm1(h) / h - 1


def _error(low: Array, high: Array, previous: Array, tolerance: Tolerance) -> float:
    low, high, previous = (
        np.asarray(a if isinstance(a, np.ndarray) else a.asnumpy(), float) for a in (low, high, previous)
    )
    allowed = np.maximum(tolerance.atol, tolerance.rtol * np.maximum(np.abs(low), np.abs(previous)))
    return float(np.sqrt(np.mean(((high - low) / allowed) ** 2)))
