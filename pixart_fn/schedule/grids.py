"""Grids: the nodes that a solver visits, made of times or of ρ = σ/α, cut short or reversed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..checks import as_numbers, check_option, check_whole, is_number, kind, shown
from ..types import Grid, NumPyArray
from .noise import Schedule, check_schedule

FINALS = ("zero", "sigma_min")


def grid(schedule: Schedule, timesteps: Sequence[float] | NumPyArray, *, final: str = "zero") -> Grid:
    """Make the grid that visits the given times and then t = 0.

    Args:
        schedule: gives α and σ.
        timesteps: (S,), falling within [0, T - 1], integer or not; `timesteps` makes the usual ones.
        final: "zero" ends at (α, σ) = (1, 0), "sigma_min" at the schedule's own t = 0.
    Returns:
        The grid, with S + 1 nodes.
    Raises:
        ValueError: there is no time, the times don't fall strictly within [0, T - 1], or final is neither.
        TypeError: schedule isn't a Schedule, or timesteps no list of numbers.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear())
        >>> px.schedule.grid(schedule, [999, 500])
        Grid(2 steps, t 999 → 0, σ/α 157.4 → 0)
    """
    check_option("final", final, FINALS)
    check_schedule(schedule)
    t = as_numbers("timesteps", timesteps)
    if not np.all(np.diff(t) < 0):
        raise ValueError(f"timesteps must fall strictly, got {shown(t.tolist())}")
    zero = final == "zero"
    return Grid(
        t=np.append(t, 0.0),
        alpha=np.append(schedule.alpha(t), 1.0 if zero else schedule.alpha(0.0)),
        sigma=np.append(schedule.sigma(t), 0.0 if zero else schedule.sigma(0.0)),
        schedule=schedule,
    )


def rho_grid(schedule: Schedule, rhos: Sequence[float] | NumPyArray, *, final: str = "zero") -> Grid:
    """Make the grid that visits given ρ = σ/α: those of `karras`, `uniform_lambda`, `beta`, `ays`, or any.

    Args:
        schedule: gives the time of each ρ.
        rhos: (S,), falling strictly, within the schedule's own.
        final: "zero" ends at (α, σ) = (1, 0), "sigma_min" at the schedule's own t = 0.
    Returns:
        The grid, with S + 1 nodes.
    Raises:
        ValueError: the values don't fall strictly, the schedule has no such ρ, or final is neither.
        TypeError: schedule isn't a Schedule, or rhos no list of numbers.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear())
        >>> px.schedule.rho_grid(schedule, [10, 1])
        Grid(2 steps, t 673.665 → 0, σ/α 10 → 0)
    """
    rhos = as_numbers("rhos (σ/α)", rhos)
    if not np.all(np.diff(rhos) < 0) or not rhos[-1] > 0:
        got = shown(rhos.tolist())
        raise ValueError(f"rhos (σ/α) must be a list of positive numbers that fall strictly, got {got}")
    return grid(schedule, check_schedule(schedule).time(-np.log(rhos)), final=final)


def check_grid(grid: Grid) -> None:
    """Make sure that it is a grid that can be sampled on.

    Args:
        grid: what should be one.
    Raises:
        TypeError: it isn't a Grid.
        ValueError: its nodes aren't three float arrays of one length of at least 2, with α² + σ² = 1, that go from
            noisy to clean or all the other way.
    """
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a Grid, as schedule.grid(schedule, timesteps) makes; got {kind(grid)}")
    shapes = [nodes.shape if isinstance(nodes, np.ndarray) else kind(nodes) for nodes in grid[:3]]
    if not isinstance(shapes[0], tuple) or not shapes[0] or shapes != [(len(grid.t),)] * 3:
        raise ValueError(f"t, alpha and sigma of a grid must be arrays of one length, got shapes {shapes}")
    if len(grid.t) < 2 or any(nodes.dtype.kind != "f" for nodes in grid[:3]):
        raise ValueError(f"a grid must have two nodes at least, of floating-point numbers, got {len(grid.t)} nodes")
    if not np.allclose(grid.alpha**2 + grid.sigma**2, 1, rtol=0, atol=1e-6) or not np.isfinite(grid.t).all():
        raise ValueError("the nodes of a grid must be finite, with α² + σ² = 1; schedule.grid makes such grids")
    steps = np.diff(grid.sigma)
    if not (np.all(steps <= 0) or np.all(steps >= 0)):
        raise ValueError("the nodes of a grid must go from noisy to clean, or all of them the other way")
    if not (grid.schedule is None or hasattr(grid.schedule, "time")):
        raise TypeError(f"schedule of a grid must be a Schedule or None, got {kind(grid.schedule)}")
    check_whole("skipped of a grid", grid.skipped, 0)


def truncate(grid: Grid, strength: float) -> Grid:
    """Keep the last ⌊strength · S⌋ steps: image-to-image begins there, at x = alpha[0] · x0 + sigma[0] · ε.

    Args:
        grid: S steps.
        strength: within (0, 1]; 1 keeps everything.
    Returns:
        The rest of the grid, which knows how many steps were `skipped`.
    Raises:
        ValueError: strength is outside (0, 1] or leaves no step.
        TypeError: grid isn't a Grid, or strength isn't a number.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear())
        >>> px.schedule.truncate(px.schedule.grid(schedule, [999, 750, 500, 250]), 0.5)
        Grid(2 of 4 steps, t 500 → 0, σ/α 3.443 → 0)
    """
    check_grid(grid)
    steps = len(grid.t) - 1
    if not is_number(strength):
        raise TypeError(f"strength must be a number, got {kind(strength)}")
    keep = int(steps * strength + 1e-9) if 0 < strength <= 1 else 0  # 50 · 0.58 is 28.999…96 in floating point
    if keep == 0:
        raise ValueError(f"strength must be within [1/{steps}, 1] for {steps} steps, got {shown(strength)}")
    first = steps - keep
    t, alpha, sigma = (nodes[first:] for nodes in grid[:3])
    return Grid(t, alpha, sigma, grid.schedule, grid.skipped + first)


def reverse(grid: Grid) -> Grid:
    """Turn a grid round: any deterministic solver then finds the noise that leads to a picture (inversion).

    That noise has the standard deviation 1 as far as the model is exact: what it leaves of the picture at the first
    node, z - x0, counts as noise there and is carried along, so that it may be larger or smaller. A node with σ = 0
    holds no noise to predict, so the schedule's t = 0 stands for it.

    Args:
        grid: S steps, from `grid` or `rho_grid`.
    Returns:
        The same nodes from clean to noisy.
    Raises:
        ValueError: the grid ends at σ = 0 and doesn't know its schedule.
        TypeError: it isn't a Grid.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear())
        >>> px.schedule.reverse(px.schedule.grid(schedule, [999, 500]))
        Grid(2 steps, t 0 → 999, σ/α 0.01 → 157.4)
    """
    check_grid(grid)
    t, alpha, sigma = (nodes[::-1].copy() for nodes in grid[:3])
    if sigma[0] == 0:
        if grid.schedule is None:
            raise ValueError(
                "a grid that ends at σ = 0 needs its schedule to be reversed; schedule.grid makes such grids"
            )
        if t[1] == 0:
            t, alpha, sigma = t[1:], alpha[1:], sigma[1:]
        else:
            alpha[0], sigma[0] = grid.schedule.alpha(0.0), grid.schedule.sigma(0.0)
    return Grid(t, alpha, sigma, grid.schedule)
