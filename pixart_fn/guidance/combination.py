"""How the conditional and the unconditional x0 are combined, in the space that a method is defined in. B pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from ..schedule import Schedule, convert
from ..types import Array
from .formulas import adaptive_projected, combine, shape_of, zero_star
from .kinds import Projected, ZeroStar

Combination: TypeAlias = Callable[[Array, float, Array, Array, float | Sequence[float] | Array], Array]
"""(x_t, t, conditional x0, unconditional x0, w) → x0."""


class Running(NamedTuple):
    """What momentum remembers of the last time at which it was evaluated."""

    t: float
    value: Array
    """The running difference at t."""
    before: Running | None
    """The same of the time before, which is None at the first."""


NEAR = 1e-6
"""Times that are this close are one: some methods come back to a time by way of its λ, which rounds it."""


def combination(method: Projected | ZeroStar | None, schedule: Schedule | None) -> Combination:
    """Make what combines the branches by a method; one with momentum is made anew for each denoiser.

    Args:
        method: of a Guidance.
        schedule: gives the velocity, which a ZeroStar needs.
    Returns:
        A Combination.
    """
    if isinstance(method, Projected):
        return _projected(method)
    if isinstance(method, ZeroStar):
        return lambda x, t, c, u, w: in_space("v", schedule, x, t, lambda a, b: zero_star(a, b, w), c, u)
    return lambda x, t, conditional, unconditional, w: combine(conditional, unconditional, w)


def in_space(
    space: str,
    schedule: Schedule | None,
    x: Array,
    t: float,
    f: Callable[[Array, Array], Array],
    first: Array,
    second: Array,
) -> Array:
    """Apply a function of two x0 to them as another parameterisation; without a schedule to x0 itself.

    Args:
        space: "epsilon", "x0" or "v".
        schedule: gives α and σ; None leaves x0 as it is.
        x: x_t.
        t: its time.
        f: two values of that space → one.
        first: x0.
        second: another x0.
    Returns:
        x0.
    """
    if schedule is None:
        return f(first, second)
    alpha, sigma = schedule.alpha(float(t)), schedule.sigma(float(t))
    a, b = (convert(x0, x, alpha, sigma, "x0", space) for x0 in (first, second))
    return convert(f(a, b), x, alpha, sigma, space, "x0")


def _projected(method: Projected) -> Combination:
    last: Running | None = None

    def combined(
        x: Array, t: float, conditional: Array, unconditional: Array, w: float | Sequence[float] | Array
    ) -> Array:
        nonlocal last
        before = _before(last, t, conditional)
        options = {"eta": method.eta, "threshold": method.threshold, "momentum": method.momentum}
        running = None if before is None else before.value
        x0, value = adaptive_projected(conditional, unconditional, w, **options, running=running)
        kept = Running(t, value, None if before is None else before._replace(before=None))
        last = kept if method.momentum else None
        return x0

    return combined


def _before(last: Running | None, t: float, x0: Array) -> Running | None:
    """What is remembered of the time before t: nothing where another sampling begins.

    Methods evaluate a time twice, or step back a little, as `heun(churn)` does; they don't come back to the last time
    but one, so that a sampling which begins there or above is another one. A step that `dpm_adaptive` tries again looks
    the same.
    """
    if last is None or shape_of(x0) != shape_of(last.value):
        return None
    if t < last.t - NEAR:
        return last
    return last.before if last.before is not None and t < last.before.t - NEAR else None
