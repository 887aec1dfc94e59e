"""Which training times, or which values of ρ = σ/α, a grid visits."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..checks import check_number, check_option, check_switch, check_whole
from .noise import MOST, Schedule, check_schedule

SPACINGS = ("linspace", "leading", "trailing")

AYS = {
    "sd": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}
"""The eleven nodes of ten steps, as values of ρ, that the authors of Align Your Steps found for each model."""


def timesteps(
    schedule: Schedule,
    steps: int,
    spacing: str = "linspace",
    *,
    offset: int = 0,
    skip_zero: bool = True,
    whole: bool = True,
    lam_min: float = -np.inf,
) -> NDArray[np.int64] | NDArray[np.float64]:
    """Choose the training times at which to evaluate the model (arXiv:2305.08891, table 2), as diffusers does.

    One step is an exception: it is the noisiest time, whatever the spacing, so that it turns pure noise into x0.
    diffusers starts its one step of "linspace" or "leading" at t = 0, the offset or T/2 and takes the noise that it is
    given for a nearly clean x_t, which it returns.

    Args:
        schedule: with T training times.
        steps: S, at least 1.
        spacing: "linspace" holds the last training time, "leading" multiples of ⌊T/S⌋, "trailing" starts at T - 1
            and goes down by T/S.
        offset: added to the times of "leading", at least 0.
        skip_zero: lay out S + 1 times and leave t = 0 away, as DPM-Solver does, rather than S with t = 0, as DDIM and
            DDPM do; "trailing" is the same in both.
        whole: round the times of "linspace". PixArt's own DPM-Solver takes 999 - 49.95 k, which is `whole=False`, with
            a grid that ends at "sigma_min".
        lam_min: leave out the times whose λ is lower ("trailing" then has fewer than S).
    Returns:
        int64 (S,), falling; float64 where `whole` is False.
    Raises:
        ValueError: steps is under 1 or over the number of times that there are, the spacing is unknown, no time has
            that λ, or the offset leads out of the training times.
        TypeError: an argument has the wrong type.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear())
        >>> px.schedule.timesteps(schedule, 4, "trailing")
        array([999, 749, 499, 249])
    """
    check_schedule(schedule)
    check_option("timestep_spacing", spacing, SPACINGS)
    check_whole("offset (steps_offset)", offset, 0)
    check_switch("skip_zero", skip_zero)
    check_switch("whole", whole)
    check_number("lam_min", lam_min, -math.inf, schedule.lam(0))
    limit = int(np.count_nonzero(-np.log(schedule.rhos) >= lam_min))
    check_whole(f"steps of {spacing} spacing", steps, 1, schedule.steps if spacing == "trailing" else limit - skip_zero)
    if steps == 1:
        times = np.array([limit - 1])
    elif spacing == "trailing":
        falling = np.arange(limit, 0, -schedule.steps / steps).round()
        times = falling[falling > 0] - 1
    else:
        n = steps + skip_zero
        rising = np.arange(n) * (limit // n) + offset if spacing == "leading" else np.linspace(0, limit - 1, n)
        times = (rising.round() if whole else rising)[int(skip_zero) :][::-1]
    if not 0 <= times[-1] <= times[0] < schedule.steps:
        raise ValueError(
            f"offset (steps_offset) must keep the times within [0, {schedule.steps - 1}]; "
            f"with {offset}, {steps} steps go from {times[0]} to {times[-1]}"
        )
    return times.astype(np.int64) if whole else times.astype(np.float64)


def karras(
    schedule: Schedule, steps: int, *, power: float = 7.0, first: float | None = None, last: float | None = None
) -> NDArray[np.float64]:
    """Choose values of ρ whose power-th root falls linearly (EDM, arXiv:2206.00364, eq. 5).

    Args:
        schedule: gives the range.
        steps: S, at least 1.
        power: the exponent, above 0; the paper calls it ρ.
        first: the largest ρ; None takes that of t = T - 1.
        last: the smallest ρ, above 0; None takes that of t = 0.
    Returns:
        float64 (S,), falling, for `rho_grid`.
    Raises:
        ValueError: an argument is outside its range, or ρ doesn't fall from first to last.
        TypeError: steps is no whole number, or another argument no number.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear())
        >>> px.schedule.karras(schedule, 4).round(2).tolist()
        [157.41, 21.11, 1.25, 0.01]
    """
    check_number("power", power, 0, above=True)
    first, last = _range(schedule, steps, first, last)
    ramp = np.linspace(0, 1, steps)
    try:
        high, low = first ** (1 / power), last ** (1 / power)
    except OverflowError:
        raise ValueError(f"power must be larger, as σ/α to the power 1/{power:g} is beyond a float") from None
    rhos: NDArray[np.float64] = (high + ramp * (low - high)) ** power
    return rhos


def uniform_lambda(
    schedule: Schedule, steps: int, *, first: float | None = None, last: float | None = None
) -> NDArray[np.float64]:
    """Choose values of ρ that fall exponentially, so that λ rises linearly (arXiv:2206.00927, sec. 3.4).

    Args:
        schedule: gives the range.
        steps: S, at least 1.
        first: the largest ρ; None takes that of t = T - 1.
        last: the smallest ρ, above 0; None takes that of t = 0.
    Returns:
        float64 (S,), falling, for `rho_grid`.
    Raises:
        ValueError: steps is under 1, or ρ doesn't fall from first to last.
        TypeError: steps is no whole number, or another argument no number.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear())
        >>> px.schedule.uniform_lambda(schedule, 4).round(2).tolist()
        [157.41, 6.28, 0.25, 0.01]
    """
    return np.geomspace(*_range(schedule, steps, first, last), steps)


def beta(
    schedule: Schedule,
    steps: int,
    *,
    a: float = 0.6,
    b: float = 0.6,
    first: float | None = None,
    last: float | None = None,
) -> NDArray[np.float64]:
    """Choose values of ρ at quantiles of a beta distribution, denser at both ends (arXiv:2407.12173).

    Args:
        schedule: gives the range.
        steps: S, at least 1.
        a: the distribution's first shape parameter, above 0.
        b: the distribution's second shape parameter, above 0.
        first: the largest ρ; None takes that of t = T - 1.
        last: the smallest ρ, above 0; None takes that of t = 0.
    Returns:
        float64 (S,), falling, for `rho_grid`.
    Raises:
        ValueError: an argument is outside its range, or ρ doesn't fall from first to last.
        TypeError: steps is no whole number, or another argument no number.
    """
    from scipy.special import betaincinv  # MindSpore's own dependency, half a second to import

    check_number("a", a, 0, above=True)
    check_number("b", b, 0, above=True)
    first, last = _range(schedule, steps, first, last)
    rhos: NDArray[np.float64] = last + (first - last) * betaincinv(a, b, 1 - np.linspace(0, 1, steps))
    return rhos


def ays(
    schedule: Schedule, steps: int, table: str = "sd", *, first: float | None = None, last: float | None = None
) -> NDArray[np.float64]:
    """Choose values of ρ that were optimised for few steps (Align Your Steps, arXiv:2404.14507).

    The tables are of ten steps; for another number log ρ is interpolated linearly between their nodes, as the authors
    do. A table was found for the latents of one VAE: "sd" for that of Stable Diffusion 1.5, which PixArt-α has too, and
    "sdxl" for that of SDXL, which PixArt-Σ has too. Both models' schedule goes from ρ = 14.615 to 0.029. For another
    one log ρ is stretched from that range to its own, since nodes left where they are would be too few at its ends:
    PixArt's linear β begins at ρ = 157, and its first step would then go down to 6.5.

    Args:
        schedule: gives the range.
        steps: S, at least 1.
        table: "sd" or "sdxl".
        first: the largest ρ; None takes that of t = T - 1. With 14.615 and last=0.029 the nodes are the table's own.
        last: the smallest ρ, above 0, for which the node after the S values stands; None takes that of t = 0.
    Returns:
        float64 (S,), falling, for `rho_grid`.
    Raises:
        ValueError: there is no such table, an argument is outside its range, or ρ doesn't fall from first to last.
        TypeError: steps is no whole number, or another argument no number.
    """
    check_option("table", table, tuple(AYS))
    first, last = _range(schedule, steps, first, last)
    nodes = np.log(AYS[table])
    log = np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(nodes)), nodes)[:-1]
    rhos: NDArray[np.float64] = last * (first / last) ** ((log - nodes[-1]) / (nodes[0] - nodes[-1]))
    rhos[0] = first  # which rounding may have moved out of the schedule
    return rhos


def _range(schedule: Schedule, steps: int, first: float | None, last: float | None) -> tuple[float, float]:
    first = float(check_schedule(schedule).rhos[-1]) if first is None else first
    last = float(schedule.rhos[0]) if last is None else last
    check_number("first (the largest σ/α)", first, 0, math.inf)
    check_number("last (the smallest σ/α)", last, 0, math.inf)
    check_whole("steps", steps, 1, MOST)
    if not 0 < last < first < np.inf:
        raise ValueError(f"σ/α must fall from a finite first to a positive last, got {first} … {last}")
    return first, last
