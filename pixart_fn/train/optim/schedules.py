"""Learning rates and other numbers as functions of the step, from 0."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...checks import check_number, check_whole
from ...public import public

__all__ = ["constant", "warmup_constant", "warmup_cosine", "warmup_linear", "warmup_stable_decay"]

Schedule = Callable[[int], float]


@public
def constant(value: float) -> Schedule:
    """Make the schedule of one value.

    Args:
        value: at every step, at least 0.
    Returns:
        step, from 0 → value.
    Raises:
        TypeError, ValueError: the value isn't such a number.
    """
    check_number("value", value, 0)
    return lambda step: value


@public
def warmup_constant(peak: float, warmup: int) -> Schedule:
    """Make a value that rises linearly and stays, as PixArt was trained with.

    Args:
        peak: of the flat part, at least 0.
        warmup: steps of the rise, at least 1; the first step has peak / warmup.
    Returns:
        step, from 0 → value.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("peak", peak, 0)
    check_whole("warmup", warmup, 1)
    return lambda step: peak * _rise(step, warmup)


@public
def warmup_linear(peak: float, steps: int, warmup: int = 100, end: float = 0.0) -> Schedule:
    """Make a value that rises linearly, and then falls linearly until the last step.

    Args:
        peak: between the two, at least 0.
        steps: of the whole run, at least 0; later steps have `end`.
        warmup: steps of the rise, at least 1; the first step has peak / warmup.
        end: the share of the peak that is left after `steps`, within [0, 1].
    Returns:
        step, from 0 → value.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    _check(peak, steps, warmup, end)
    return lambda step: peak * _rise(step, warmup) * (1 - (1 - end) * _progress(step, steps, warmup))


@public
def warmup_cosine(peak: float, steps: int, warmup: int = 100, end: float = 0.0) -> Schedule:
    """Make a value that rises linearly, and then falls as half a cosine until the last step (arXiv:1608.03983).

    Args:
        peak: between the two, at least 0.
        steps: of the whole run, at least 0; later steps have `end`.
        warmup: steps of the rise, at least 1; the first step has peak / warmup.
        end: the share of the peak that is left after `steps`, within [0, 1].
    Returns:
        step, from 0 → value.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    _check(peak, steps, warmup, end)

    def value(step: int) -> float:
        fall = (1 - math.cos(math.pi * _progress(step, steps, warmup))) / 2
        return peak * _rise(step, warmup) * (1 - (1 - end) * fall)

    return value


@public
def warmup_stable_decay(peak: float, steps: int, warmup: int = 100, decay: float = 0.25) -> Schedule:
    """Make a value that rises linearly, stays, and falls linearly to 1 % (arXiv:2404.06395, sec. 4.2).

    Longer runs share the flat part, so a run can be stopped early or prolonged.

    Args:
        peak: of the flat part, at least 0.
        steps: of the whole run, at least 0.
        warmup: steps of the rise, at least 1; the first step has peak / warmup.
        decay: the share of the steps over which the value falls, within (0, 1].
    Returns:
        step, from 0 → value.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    _check(peak, steps, warmup, 0.0)
    check_number("decay", decay, 0, 1, above=True)

    def value(step: int) -> float:
        down = min(1.0, max(0.01, (steps - step) / max(1.0, decay * steps)))
        return peak * _rise(step, warmup) * down

    return value


def _check(peak: float, steps: int, warmup: int, end: float) -> None:
    check_number("peak", peak, 0)
    check_whole("steps", steps, 0)
    check_whole("warmup", warmup, 1)
    check_number("end", end, 0, 1)


def _rise(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup)


def _progress(step: int, steps: int, warmup: int) -> float:
    """How much of the way from the end of the rise to the last step is gone."""
    return min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
