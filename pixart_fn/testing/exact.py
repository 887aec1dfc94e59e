"""Data whose perfect denoiser is known, and for normal data where the ODE leads from any x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..checks import as_numbers, check_number, check_type, check_whole, is_number, kind, shown
from ..public import public, public_class
from ..schedule import Schedule, check_grid, check_schedule
from ..types import Array, Grid, NumPyArray

_RANGE = Schedule(np.exp((np.arange(1001.0) - 500) / 120))
"""λ(t) = (500 - t)/120, straight in t, so that a grid that is even in λ is even in t too."""


@public_class
@dataclass(frozen=True)
class Constant:
    """The perfect denoiser of one data point: x0 is the same whatever x and t are.

    Args:
        x0: the number that each number of x0 is.
    Raises:
        TypeError, ValueError: x0 isn't a finite number.
    """

    x0: float

    def __post_init__(self) -> None:
        check_number("x0", self.x0)

    def __call__(self, x: Array, t: float) -> Array:
        return 0.0 * x + self.x0


@public_class
@dataclass(frozen=True, eq=False)
class Gaussian:
    """The perfect denoiser of normal data: E[x0 | x_t] where each number of x0 is from N(mean, std²).

    x0 = mean + α std²/(α² std² + σ²) · (x_t - α mean).

    Args:
        mean: a number, or an array that broadcasts against x and has its dtype.
        std: the standard deviation, above 0, a number or such an array.
        schedule: gives α and σ at t.
    Raises:
        TypeError: an argument isn't such a number, array or Schedule.
        ValueError: std isn't above 0, or a number isn't finite.
    """

    mean: float | NumPyArray
    std: float | NumPyArray
    schedule: Schedule = field(repr=False)

    def __post_init__(self) -> None:
        _check_normal(self.mean, self.std)
        check_schedule(self.schedule)

    def __call__(self, x: Array, t: float) -> Array:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)


@public_class
@dataclass(frozen=True, eq=False)
class TwoPoints:
    """The perfect denoiser of two data points, ±at in each number: x0 = at · tanh(α at x_t/σ²), which is curved in x.

    Args:
        at: where the two points are, above 0.
        schedule: gives α and σ at t.
    Raises:
        TypeError: at isn't a number, or schedule isn't a Schedule.
        ValueError: at isn't finite and above 0.
    """

    at: float
    schedule: Schedule = field(repr=False)

    def __post_init__(self) -> None:
        check_number("at", self.at, 0, above=True)
        check_schedule(self.schedule)

    def __call__(self, x: NumPyArray, t: float) -> NumPyArray:
        inner = (self.schedule.alpha(t) * self.at / self.schedule.sigma(t) ** 2) * x
        x0: NumPyArray = self.at * np.tanh(inner)
        return x0


@public
def exact_gaussian(
    x: NumPyArray, grid: Grid, mean: float | NumPyArray = 0.0, std: float | NumPyArray = 1.0
) -> NDArray[np.float64]:
    """Follow the probability-flow ODE of normal data exactly: x stays as many standard deviations from the mean.

    At a node the data N(mean, std²) are N(α mean, α² std² + σ²) (arXiv:2206.00364, app. B).

    Args:
        x: the sample at the first node, (B, …), an array of real numbers.
        grid: S steps.
        mean: of the data, a number or an array that broadcasts against x.
        std: their standard deviation, above 0, a number or an array that broadcasts against x.
    Returns:
        x at each node, float64 (S + 1, B, …).
    Raises:
        TypeError: an argument has another type.
        ValueError: it isn't a grid to sample on, std isn't above 0, or mean or std doesn't broadcast against x.
    """
    check_grid(grid)
    check_type("x", x, np.ndarray, "a NumPy array")
    if x.dtype.kind not in "fiu":
        raise TypeError(f"x must hold real numbers, got {x.dtype}")
    _check_normal(mean, std)
    for name, value in (("mean", mean), ("std", std)):
        _check_broadcasts(name, value, x)
    alpha, sigma = (nodes.reshape(-1, *[1] * x.ndim) for nodes in (grid.alpha, grid.sigma))
    center, spread = alpha * mean, np.hypot(alpha * std, sigma)
    path: NDArray[np.float64] = center + spread / spread[0] * (x - center[0])
    return path


@public
def lambda_grid(steps: int, lengths: Sequence[float] = (1.0,)) -> Grid:
    """Make a grid from λ = -2.5 to 2.5, where t is 800 to 200: errors fall there as a method's order says.

    Args:
        steps: S, from 1 to 1 000 000.
        lengths: what the lengths of the steps in λ, and in t too, are proportional to, each from 0.1 to 10; they are
            repeated until there are S. (1,) makes even steps, and (1, 2) steps of which every second is twice as long.
    Returns:
        The grid of S steps, with its schedule.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_whole("steps", steps, 1, 10**6)
    parts = as_numbers("lengths", lengths)
    if not ((parts >= 0.1) & (parts <= 10)).all():
        raise ValueError(f"lengths must be from 0.1 to 10, got {shown(lengths)}")
    done = np.cumsum(np.resize(parts, steps))
    t: NDArray[np.float64] = 800.0 - 600.0 * np.append(0.0, done / done[-1])
    return Grid(t, _RANGE.alpha(t), _RANGE.sigma(t), _RANGE)


def _check_normal(mean: float | NumPyArray, std: float | NumPyArray) -> None:
    for name, value in (("mean", mean), ("std", std)):
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            if not np.isfinite(value).all() or (name == "std" and not np.all(value > 0)):
                raise ValueError(f"{name} must be finite numbers{' above 0' * (name == 'std')}, got {kind(value)}")
        elif is_number(value):
            check_number(name, value, 0 if name == "std" else None, above=name == "std")
        else:
            raise TypeError(f"{name} must be a number or an array of floating-point numbers, got {kind(value)}")


def _check_broadcasts(name: str, value: float | NumPyArray, x: NumPyArray) -> None:
    shape = np.shape(value)
    fits = len(shape) <= x.ndim and all(n in (1, m) for n, m in zip(shape[::-1], x.shape[::-1], strict=False))
    if not fits:
        raise ValueError(f"{name} must broadcast against x of shape {x.shape}, got an array of shape {shape}")
