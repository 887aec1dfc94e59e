"""Places at the nodes of a grid and between them, and straight lines from one to another in (x/α, σ/α).

In these variables the ODE is dx̃/dρ = ε (EDM, arXiv:2206.00364, sec. 4).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..types import Array, Denoiser, Grid
from .linear import epsilon


class Point(NamedTuple):
    """A node, or a place between nodes: t, α and ρ = σ/α."""

    t: float
    alpha: float
    rho: float


def signal_at_start(grid: Grid, x: Array) -> None:
    """Raise a ValueError where α is 0 at the first node, so that ρ is infinite."""
    node(grid, 0)


def knows_schedule(grid: Grid, x: Array) -> None:
    """Raise a ValueError where a grid doesn't know its schedule, which a solver that looks between nodes needs."""
    between(grid, 1.0)


def node(grid: Grid, i: int) -> Point:
    """The i-th node of a grid.

    Args:
        grid: S steps.
        i: 0 … S.
    Returns:
        Its t, α and ρ.
    Raises:
        ValueError: α is 0 there, so that ρ is infinite.
    """
    alpha = float(grid.alpha[i])
    if alpha == 0:
        raise ValueError("σ/α is infinite at α = 0, which this solver can't start from; dpmpp_2m can")
    return Point(float(grid.t[i]), alpha, float(grid.sigma[i]) / alpha)


def between(grid: Grid, rho: float) -> Point:
    """The place with a given ρ, or the nearest that the schedule has.

    Args:
        grid: with its schedule.
        rho: σ/α, at least 0.
    Returns:
        Its t, α and ρ.
    Raises:
        ValueError: the grid doesn't know its schedule.
    """
    if grid.schedule is None:
        raise ValueError(
            "this solver looks between nodes, so the grid needs its schedule: schedule.grid makes such grids"
        )
    rho = min(max(rho, float(grid.schedule.rhos[0])), float(grid.schedule.rhos[-1]))
    return Point(grid.schedule.time(-math.log(rho)), 1 / math.hypot(1, rho), rho)


def predictions(denoise: Denoiser, x: Array, point: Point) -> tuple[Array, Array]:
    """What the model predicts at a place, as x0 and as ε.

    Args:
        denoise: (x_t, t) → x0.
        x: the sample at that place, (B, …).
        point: the place.
    Returns:
        (x0, ε), each of the shape of x.
    """
    x0 = denoise(x, point.t)
    return x0, epsilon(x, x0, point.alpha, point.alpha * point.rho)


def move(x: Array, eps: Array, start: Point, end: Point) -> Array:
    """Go along the straight line of one ε: x̃ + (ρ' - ρ) ε, as x = α' x̃.

    Args:
        x: the sample at `start`, (B, …).
        eps: ε of any place, of the shape of x.
        start: from where.
        end: to where.
    Returns:
        The sample at `end`, of the shape of x.
    """
    return (end.alpha / start.alpha) * x + (end.alpha * (end.rho - start.rho)) * eps


def move_by_x0(x: Array, x0: Array, start: Point, end: Point) -> Array:
    """Go along the ε of x itself, where most of x/α cancels: DDIM's step (arXiv:2010.02502, eq. 12).

    Args:
        x: the sample at `start`, (B, …).
        x0: what the model predicts there, of the shape of x.
        start: from where.
        end: to where.
    Returns:
        The sample at `end`, of the shape of x.
    """
    a = end.alpha * end.rho / (start.alpha * start.rho)
    return a * x + (end.alpha - a * start.alpha) * x0
