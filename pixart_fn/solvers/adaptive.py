"""DPM-Solver with steps of its own choice (arXiv:2206.00927, app. C): error control between the nodes of a grid."""

from __future__ import annotations

import math

import numpy as np

from ..checks import check_number, check_whole
from ..types import Array, Denoiser, Grid, Key, Solver, SolverState, StepInfo
from .euler import Point, ask, between, move, node
from .linear import maker, report

SHORTEST = 1e-9
"""In λ: a step under this is none in float64."""


@maker
def dpm_adaptive(order: int = 3, rtol: float = 0.05, atol: float = 0.0078, first: float = 0.05) -> Solver:
    """DPM-Solver-23 (or -12): each stretch of the grid in as few steps as the tolerances allow.

    A step's error is the difference between the orders; its norm over a picture is held under max(atol, rtol·|x|). A
    grid of one step leaves every choice to the solver. It takes one picture at a time, as its steps would otherwise
    depend on the rest of the batch.

    Args:
        order: 3 or 2.
        rtol, atol: relative and absolute tolerance, each at least 0 and one above.
        first: the length in λ of the first step.
    Raises:
        ValueError: an argument is outside its range; at the first step, there are several pictures.
    """
    check_whole("order", order, 2, 3)
    check_number("rtol", rtol, 0)
    check_number("atol", atol, 0)
    check_number("first", first, 0, above=True)
    if rtol + atol == 0:
        raise ValueError("one of rtol and atol must be above 0, got 0 for both")

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: SolverState) -> tuple[SolverState, StepInfo]:
        if len(state.x) != 1:
            raise ValueError(
                f"dpm_adaptive draws one picture at a time, got {len(state.x)}; it picks its steps by the error"
            )
        here, end, x = node(grid, i), node(grid, i + 1), state.x
        to_zero = end.rho == 0
        if to_zero:
            end = between(grid, 0.0)
        h = state.history[0] if state.history else first
        x0 = said = None
        evaluations, previous = 0, x
        while here.rho > end.rho * (1 + 1e-12):
            left = math.log(here.rho / end.rho)
            length = min(h, left)
            there = between(grid, end.rho if length == left else here.rho * math.exp(-length))
            if said is None:
                said, eps = ask(denoise, x, here)
                evaluations += 1
            x0 = said if x0 is None else x0
            low, high = _pair(denoise, grid, x, eps, here, there, order)
            evaluations += order - 1
            error = _error(low, high, previous, rtol, atol)
            if not math.isfinite(error) or h < SHORTEST:
                raise ValueError(
                    f"dpm_adaptive can't go on at t = {here.t:g}: the error is {error:g} in a step of {length:.3g}; "
                    "either the model's x0 isn't finite, or rtol and atol are too small"
                )
            if error <= 1:
                previous, x, here, said = low, high, there, None
            if error <= 1 and length == left and h > left:
                continue  # a step that was cut short says nothing about the next
            h = length * min(10.0, 0.9 * max(error, 1e-10) ** (-1 / order))
        if x0 is None or to_zero:
            last = denoise(x, here.t)
            x0, evaluations = last if x0 is None else x0, evaluations + 1
            x = last if to_zero else x
        return SolverState(x, (h,)), report(grid, i, x, x0, evaluations)

    return Solver(SolverState, step)


def _pair(denoise: Denoiser, grid: Grid, x: Array, eps: Array, here: Point, there: Point, order: int) -> tuple:
    """The result of order - 1 and that of order, from the same evaluations (DPM-Solver-12 and -23)."""
    h = math.log(here.rho / there.rho)

    def inner(part: float) -> Point:
        return between(grid, here.rho * math.exp(-part * h))

    def drift(to: Point) -> float:
        return -to.alpha * (here.rho - to.rho)  # -σ (e^h - 1)

    if order == 2:
        middle = inner(0.5)
        other = ask(denoise, move(x, eps, here, middle.rho, middle.alpha), middle)[1]
        low = move(x, eps, here, there.rho, there.alpha)
        return low, low + drift(there) * (other - eps)
    one, two = inner(1 / 3), inner(2 / 3)
    early = ask(denoise, move(x, eps, here, one.rho, one.alpha), one)[1]
    low = move(x, eps, here, there.rho, there.alpha) + (drift(there) * 1.5) * (early - eps)
    curve = _curve(2 / 3 * h)
    u = move(x, eps, here, two.rho, two.alpha) + (-two.alpha * two.rho * 2 * curve) * (early - eps)
    late = ask(denoise, u, two)[1]
    high = move(x, eps, here, there.rho, there.alpha) + (-there.alpha * there.rho * 1.5 * _curve(h)) * (late - eps)
    return low, high


def _curve(h: float) -> float:
    """(e^h - 1)/h - 1."""
    return math.expm1(h) / h - 1


def _error(low: Array, high: Array, previous: Array, rtol: float, atol: float) -> float:
    low, high, previous = (
        np.asarray(a if isinstance(a, np.ndarray) else a.asnumpy(), float) for a in (low, high, previous)
    )
    allowed = np.maximum(atol, rtol * np.maximum(np.abs(low), np.abs(previous)))
    return float(np.sqrt(np.mean(((high - low) / allowed) ** 2)))
