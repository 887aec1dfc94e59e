"""From β to a noise schedule, and from one parameterisation to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..checks import as_numbers, check_function, check_number, check_option, check_type, check_whole, is_number, kind
from ..types import Array, NumPyArray

Time = TypeVar("Time", float, NumPyArray)

PREDICTIONS = ("epsilon", "x0", "v")
"""What a model may predict; files say "sample" and "v_prediction" for the last two."""

MOST = 1_000_000
"""Times at most, so that a mistyped number is a sentence rather than an array that fills the memory."""


def linear(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> NDArray[np.float64]:
    """Make β that rises linearly, which PixArt was trained with (DDPM, arXiv:2006.11239, sec. 4).

    Args:
        steps: T, the number of training times, at least 1.
        start: β of the first step, within (0, 1).
        end: β of the last step, within (0, 1).
    Returns:
        float64 (T,), for `from_betas`.
    Raises:
        TypeError, ValueError: an argument isn't as described above, or end is below start.
    Example:
        >>> px.schedule.linear()[:2].round(5)
        array([0.0001 , 0.00012])
    """
    _check_rise(steps, start, end)
    return np.linspace(start, end, steps)


def scaled_linear(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> NDArray[np.float64]:
    """Make β whose square root rises linearly (latent diffusion, arXiv:2112.10752).

    Args:
        steps: T, the number of training times, at least 1.
        start: β of the first step, within (0, 1).
        end: β of the last step, within (0, 1).
    Returns:
        float64 (T,), for `from_betas`.
    Raises:
        TypeError, ValueError: an argument isn't as described above, or end is below start.
    """
    _check_rise(steps, start, end)
    betas: NDArray[np.float64] = np.linspace(start**0.5, end**0.5, steps) ** 2
    return betas


def squaredcos_cap_v2(steps: int = 1000) -> NDArray[np.float64]:
    """Make β of ᾱ(u) = cos²(π/2 · (u + 0.008)/1.008), at most 0.999 (improved DDPM, arXiv:2102.09672, eq. 17).

    Args:
        steps: T, the number of training times, at least 1; u is t/T.
    Returns:
        float64 (T,), for `from_betas`.
    Raises:
        TypeError, ValueError: steps isn't such a number.
    """
    check_whole("steps", steps, 1, MOST)
    alpha_bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: NDArray[np.float64] = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return betas


def _check_rise(steps: int, start: float, end: float) -> None:
    check_whole("steps", steps, 1, MOST)
    check_number("start (beta_start)", start, 0, 1, above=True)
    check_number("end (beta_end)", end, start, 1)
    if end == 1:
        raise ValueError("start and end of β must be below 1, got 1")


def _same(t: float) -> float:
    return t


@dataclass(frozen=True, eq=False)
class Schedule:
    """How much signal and noise x_t holds, and what the model that was trained on it predicts.

    Between the training times ρ = σ/α is linear in t, which is how diffusers interpolates. Two schedules are equal
    where their fields are.

    Args:
        rhos: float64 (T,), ρ at t = 0 … T - 1, rising; the last may be infinite (zero terminal SNR).
        prediction: what the model predicts, "epsilon", "x0" or "v".
        model_time: t → the time that the model is given; diffusers rounds it where it lays a grid out in ρ.
    Raises:
        TypeError: a field has the wrong type.
        ValueError: ρ is negative, NaN or falls, or the prediction is not one of the three.
    """

    rhos: NDArray[np.float64]
    prediction: str = "epsilon"
    model_time: Callable[[float], float] = _same

    def __post_init__(self) -> None:
        if not isinstance(self.rhos, np.ndarray) or self.rhos.dtype != np.float64 or self.rhos.ndim != 1:
            raise TypeError(f"rhos must be a float64 array of one axis, got {kind(self.rhos)}")
        rising = self.rhos[1:-1] >= self.rhos[:-2]  # the last may be lower, as `zero_terminal_snr` can set it
        if not 1 <= len(self.rhos) <= MOST or not np.all(self.rhos >= 0) or not rising.all():
            raise ValueError(f"rhos must be 1 to {MOST} numbers of at least 0 that rise; from_betas makes them")
        check_option("prediction", self.prediction, PREDICTIONS)
        check_function("model_time", self.model_time, "t")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        own, others = ((each.prediction, each.model_time) for each in (self, other))
        return own == others and np.array_equal(self.rhos, other.rhos)

    def __hash__(self) -> int:
        return hash((len(self.rhos), self.prediction))

    def __repr__(self) -> str:
        """How many times there are, what the model predicts, and λ from noise to data."""
        with np.errstate(divide="ignore"):
            low, high = -np.log(self.rhos[[-1, 0]])
        return f"Schedule({self.steps} times, {self.prediction}, λ {low:.2f} … {high:.2f})"

    @property
    def steps(self) -> int:
        """T, the number of training times."""
        return len(self.rhos)

    def alpha(self, t: Time) -> Time:
        """The factor of the signal, α = √ᾱ.

        Args:
            t: a number or an array, within [0, T - 1].
        Returns:
            α at t: a float for a number, float64 of its shape for an array.
        Raises:
            ValueError: t is outside [0, T - 1].
        """
        return _like(t, 1 / np.hypot(1, self.rho(_array("t", t))))

    def sigma(self, t: Time) -> Time:
        """The standard deviation of the noise, σ = √(1 - ᾱ).

        Args:
            t: a number or an array, within [0, T - 1].
        Returns:
            σ at t: a float for a number, float64 of its shape for an array.
        Raises:
            ValueError: t is outside [0, T - 1].
        """
        return _like(t, 1 / np.hypot(1, 1 / self.rho(_array("t", t))))

    def lam(self, t: Time) -> Time:
        """Half the logarithm of the signal-to-noise ratio, λ = log(α/σ).

        Args:
            t: a number or an array, within [0, T - 1].
        Returns:
            λ at t: a float for a number, float64 of its shape for an array.
        Raises:
            ValueError: t is outside [0, T - 1].
        """
        return _like(t, -np.log(self.rho(_array("t", t))))

    def rho(self, t: Time) -> Time:
        """The noise relative to the signal, ρ = σ/α.

        Args:
            t: a number or an array, within [0, T - 1].
        Returns:
            ρ at t: a float for a number, float64 of its shape for an array.
        Raises:
            ValueError: t is outside [0, T - 1].
        """
        times = _array("t", t)
        outside = np.logical_not((times >= 0) & (times <= self.steps - 1))
        if np.any(outside):
            raise ValueError(f"t must be within [0, {self.steps - 1}], got {times[outside].flat[0]:g}")
        return _like(t, np.asarray(np.interp(times, np.arange(self.steps), self.rhos)))

    def time(self, lam: Time) -> Time:
        """The t at which λ is what is given: the inverse of `lam`.

        Args:
            lam: a number or an array, within λ(T - 1) … λ(0).
        Returns:
            t: a float for a number, float64 of its shape for an array.
        Raises:
            ValueError: the schedule has no such λ.
        """
        with np.errstate(over="ignore"):
            rho = np.exp(-_array("lam (λ)", lam))
        low, high = self.rhos[0], self.rhos[-1]
        outside = np.logical_not((rho >= low * (1 - 1e-9)) & (rho <= high * (1 + 1e-9)))
        if np.any(outside):
            got = np.asarray(lam)[outside].flat[0]
            raise ValueError(f"λ must be within [{-np.log(high):.6g}, {-np.log(low):.6g}], got {got:.6g}")
        return _like(lam, np.interp(rho, self.rhos, np.arange(self.steps)))


def from_betas(betas: Sequence[float] | NumPyArray, prediction: str = "epsilon") -> Schedule:
    """Make the schedule of the Markov chain whose t-th step adds noise of variance β_t: ᾱ_t = ∏ (1 - β).

    This is DDPM's forward process (arXiv:2006.11239, eq. 4).

    Args:
        betas: (T,), each within (0, 1).
        prediction: what the model predicts, "epsilon", "x0" or "v".
    Returns:
        The schedule, with T training times.
    Raises:
        TypeError: betas is no list of numbers.
        ValueError: a β is outside (0, 1), or the prediction is not one of the three.
    Example:
        >>> px.schedule.from_betas(px.schedule.linear())
        Schedule(1000 times, epsilon, λ -5.06 … 4.61)
    """
    betas = as_numbers("betas", betas)
    inside = (betas > 0) & (betas < 1)
    if not inside.all() or len(betas) > MOST:
        got = f"{len(betas)} numbers" if inside.all() else f"{betas[~inside][0]:g}"
        raise ValueError(f"betas must be a list of numbers within (0, 1), at most {MOST} of them, got {got}")
    check_option("prediction", prediction, PREDICTIONS)
    # 1 - ᾱ loses half its digits at t = 0; the logarithm keeps them.
    return Schedule(_frozen(np.sqrt(np.expm1(-np.cumsum(np.log1p(-betas))))), prediction)


def check_schedule(schedule: Schedule) -> Schedule:
    """Return the schedule, or raise a TypeError where it isn't a Schedule."""
    check_type("schedule", schedule, Schedule, "a Schedule, as schedule.from_betas makes")
    return schedule


def zero_terminal_snr(schedule: Schedule, alpha_bar: float = 0.0) -> Schedule:
    """Shift and scale √ᾱ so that x_{T-1} is pure noise and x_0 stays as it is (arXiv:2305.08891, algorithm 1).

    Args:
        schedule: to rescale. Its model must predict v or x0, because ε says nothing about pure noise.
        alpha_bar: what ᾱ(T - 1) is set to afterwards, within [0, 1]; diffusers takes 2⁻²⁴ for solvers that divide by α.
    Returns:
        The schedule with other ρ, and with the same prediction.
    Raises:
        ValueError: alpha_bar is outside [0, 1] or above the schedule's ᾱ(T - 1), or there is one time alone.
        TypeError: an argument has the wrong type.
    Example:
        >>> schedule = px.schedule.from_betas(px.schedule.linear(), "v")
        >>> float(px.schedule.zero_terminal_snr(schedule).sigma(999))
        1.0
    """
    check_number("alpha_bar", alpha_bar, 0, 1)
    root = 1 / np.hypot(1, check_schedule(schedule).rhos)
    if alpha_bar**0.5 > root[-1]:
        raise ValueError(f"alpha_bar must be at most ᾱ(T - 1), which is {root[-1] ** 2:g}, got {alpha_bar!r}")
    if not root[0] > root[-1]:
        raise ValueError(f"schedule must have two times with different ᾱ at least, got {schedule!r}")
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    root[-1] = alpha_bar**0.5
    with np.errstate(divide="ignore"):
        return replace(schedule, rhos=_frozen(np.sqrt((1 - root) * (1 + root)) / root))


def convert(value: Array, x: Array, alpha: float, sigma: float, source: str, target: str) -> Array:
    """Turn one parameterisation into another, at x = α x0 + σ ε and v = α ε - σ x0 (arXiv:2202.00512, app. D).

    Args:
        value: what is predicted, of the shape of x.
        x: x_t, a Tensor or an array.
        alpha: α at the time of x, with α² + σ² = 1.
        sigma: σ at the time of x.
        source: what value is, "epsilon", "x0" or "v".
        target: what to turn it into, "epsilon", "x0" or "v".
    Returns:
        The target, of the shape of x.
    Raises:
        TypeError: value or x is no array or Tensor, or alpha or sigma no number.
        ValueError: source or target is not one of the three, alpha or sigma is outside [0, 1], the shapes differ, or
            the target doesn't follow there: x0 and v from ε at α = 0, ε and v from x0 at σ = 0.
    Example:
        >>> x0, eps = np.array([1.0]), np.array([0.5])
        >>> x = 0.8 * x0 + 0.6 * eps
        >>> px.schedule.convert(eps, x, 0.8, 0.6, "epsilon", "x0")
        array([1.])
    """
    check_option("source", source, PREDICTIONS)
    check_option("target", target, PREDICTIONS)
    check_number("alpha", alpha, 0, 1)
    check_number("sigma", sigma, 0, 1)
    for name, each in (("value", value), ("x", x)):
        if not hasattr(each, "shape"):
            raise TypeError(f"{name} must be an array or a Tensor, got {kind(each)}")
    if tuple(value.shape) != tuple(x.shape):
        raise ValueError(f"value must have the shape {tuple(x.shape)} of x, got {tuple(value.shape)}")
    if source == target:
        return value
    if "v" not in (source, target):
        known, other = (sigma, alpha) if source == "epsilon" else (alpha, sigma)
        if other == 0:
            raise ValueError(f"{target} doesn't follow from {source} at α = {alpha:g}, σ = {sigma:g}; predict v there")
        return (x - known * value) / other
    if target == "x0":
        return alpha * x - sigma * value
    if target == "epsilon":
        return sigma * x + alpha * value
    if source == "x0":
        if sigma == 0:
            raise ValueError("v doesn't follow from x0 at σ = 0")
        return (alpha * x - value) / sigma
    if alpha == 0:
        raise ValueError("v doesn't follow from ε at α = 0")
    return (value - sigma * x) / alpha


def _frozen(array: NDArray[np.float64]) -> NDArray[np.float64]:
    array.setflags(write=False)
    return array


def _array(name: str, t: Time) -> NumPyArray:
    """A number, or an array of numbers, as an array."""
    if not (is_number(t) or (isinstance(t, np.ndarray) and t.dtype.kind in "fiu")):
        raise TypeError(f"{name} must be a number or an array of numbers, got {kind(t)}")
    try:
        return np.asarray(t, np.float64)
    except OverflowError:
        raise ValueError(f"{name} must be at most 1.8e308 in size, as a float is, got a larger whole number") from None


def _like(t: Time, value: NDArray[np.float64]) -> Time:
    """A Python float for a number: a NumPy scalar times a Tensor is not a Tensor."""
    return value if isinstance(t, np.ndarray) else float(value)
