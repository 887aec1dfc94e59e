"""From β to a noise schedule to a grid, in NumPy float64 on the host.

Everything is variance preserving: x_t = α(t) x0 + σ(t) ε with α² + σ² = 1, λ = log(α/σ), and ρ = σ/α, the σ of the
EDM papers. Time counts training steps, t = 0 … T - 1, and may be fractional.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from .checks import check_number, check_whole, is_number, kind
from .checks import check_option as check_option
from .types import Array, Grid

Time = TypeVar("Time", float, np.ndarray)

PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("linspace", "leading", "trailing")
FINALS = ("zero", "sigma_min")


def linear(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """β rising linearly (DDPM, arXiv:2006.11239, sec. 4): what PixArt is trained with."""
    return np.linspace(start, end, steps)


def scaled_linear(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """√β rising linearly (latent diffusion, arXiv:2112.10752)."""
    return np.linspace(start**0.5, end**0.5, steps) ** 2


def squaredcos_cap_v2(steps: int = 1000) -> np.ndarray:
    """β of ᾱ(u) = cos²(π/2 · (u + 0.008)/1.008), at most 0.999 (improved DDPM, arXiv:2102.09672, eq. 17)."""
    alpha_bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def _same(t: float) -> float:
    return t


@dataclass(frozen=True, eq=False)
class Schedule:
    """How much signal and noise x_t holds, and what the model that was trained on it predicts.

    Between the training times ρ = σ/α is linear in t, which is how diffusers interpolates.

    Args:
        ratio: float64 (T,), ρ at t = 0 … T - 1, rising; the last may be infinite (zero terminal SNR).
        prediction: "epsilon", "sample" (x0) or "v_prediction".
        told: t → the time that the model is told; diffusers rounds it where it lays a grid out in σ.
    """

    ratio: np.ndarray
    prediction: str = "epsilon"
    told: Callable[[float], float] = _same

    def __repr__(self) -> str:
        """How many times, what the model predicts, and λ from noise to data."""
        with np.errstate(divide="ignore"):
            low, high = -np.log(self.ratio[[-1, 0]])
        return f"Schedule({self.steps} times, {self.prediction}, λ {low:.2f} … {high:.2f})"

    @property
    def steps(self) -> int:
        """T, the number of training times."""
        return len(self.ratio)

    def alpha(self, t: Time) -> Time:
        """The signal's factor √ᾱ at t, a number or an array within [0, T - 1]."""
        return _like(t, 1 / np.hypot(1, self.rho(np.asarray(t))))

    def sigma(self, t: Time) -> Time:
        """The noise's standard deviation √(1 - ᾱ) at t, a number or an array within [0, T - 1]."""
        return _like(t, 1 / np.hypot(1, 1 / self.rho(np.asarray(t))))

    def lam(self, t: Time) -> Time:
        """Half the logarithm of the signal-to-noise ratio at t, a number or an array within [0, T - 1]."""
        return _like(t, -np.log(self.rho(np.asarray(t))))

    def rho(self, t: Time) -> Time:
        """σ/α at t, a number or an array within [0, T - 1]."""
        outside = np.logical_not((np.asarray(t) >= 0) & (np.asarray(t) <= self.steps - 1))
        if np.any(outside):
            raise ValueError(f"t must be within [0, {self.steps - 1}], got {np.asarray(t)[outside].flat[0]}")
        return _like(t, np.interp(t, np.arange(self.steps), self.ratio))

    def time(self, lam: Time) -> Time:
        """The t at which `lam` is what is given: its inverse, a number or an array."""
        rho = np.exp(-np.asarray(lam, np.float64))
        low, high = self.ratio[0], self.ratio[-1]
        outside = np.logical_not((rho >= low * (1 - 1e-9)) & (rho <= high * (1 + 1e-9)))
        if np.any(outside):
            got = np.asarray(lam)[outside].flat[0]
            raise ValueError(f"λ must be within [{-np.log(high):.6g}, {-np.log(low):.6g}], got {got:.6g}")
        return _like(lam, np.interp(rho, self.ratio, np.arange(self.steps)))


def from_betas(betas: Sequence[float] | np.ndarray, prediction: str = "epsilon") -> Schedule:
    """Make the schedule of the Markov chain whose t-th step adds noise of variance β_t: ᾱ_t = ∏ (1 - β).

    Args:
        betas: (T,), each within (0, 1).
        prediction: what the model predicts: "epsilon", "sample" or "v_prediction".
    Raises:
        ValueError: a β is outside (0, 1), or the prediction is not one of the three.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) == 0 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(f"betas must be a list of numbers within (0, 1), got {betas}")
    check_option("prediction (prediction_type)", prediction, PREDICTIONS)
    # 1 - ᾱ loses half its digits at t = 0; the logarithm keeps them.
    return Schedule(_frozen(np.sqrt(np.expm1(-np.cumsum(np.log1p(-betas))))), prediction)


def _checked(schedule: Schedule) -> Schedule:
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be a Schedule, as schedule.from_betas makes; got {kind(schedule)}")
    return schedule


def zero_terminal_snr(schedule: Schedule, alpha_bar: float = 0.0) -> Schedule:
    """Shift and scale √ᾱ so that x_{T-1} is pure noise and x_0 stays as it is (arXiv:2305.08891, alg. 1).

    Args:
        schedule: to rescale. Its model must predict v or x0: from pure noise ε says nothing.
        alpha_bar: what ᾱ(T - 1) is set to afterwards; diffusers takes 2⁻²⁴ for solvers that divide by α.
    """
    check_number("alpha_bar", alpha_bar, 0, 1)
    root = 1 / np.hypot(1, _checked(schedule).ratio)
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    root[-1] = alpha_bar**0.5
    with np.errstate(divide="ignore"):
        return replace(schedule, ratio=_frozen(np.sqrt((1 - root) * (1 + root)) / root))


def convert(value: Array, x: Array, alpha: float, sigma: float, source: str, target: str) -> Array:
    """Turn one parameterisation into another, at x = α x0 + σ ε and v = α ε - σ x0 (arXiv:2202.00512, app. D).

    Args:
        value, x: arrays of one shape.
        alpha, sigma: of the time of x, with α² + σ² = 1.
        source, target: "epsilon", "sample" or "v_prediction".
    Raises:
        ValueError: one of them is none of these, or has no answer there: x0 from ε at α = 0, ε from x0 at σ = 0.
    """
    check_option("source", source, PREDICTIONS)
    check_option("target", target, PREDICTIONS)
    if source == target:
        return value
    if "v_prediction" not in (source, target):
        known, other = (sigma, alpha) if source == "epsilon" else (alpha, sigma)
        if other == 0:
            raise ValueError(f"{target} doesn't follow from {source} at α = {alpha:g}, σ = {sigma:g}; predict v there")
        return (x - known * value) / other
    if target == "sample":
        return alpha * x - sigma * value
    if target == "epsilon":
        return sigma * x + alpha * value
    if source == "sample":
        if sigma == 0:
            raise ValueError("v doesn't follow from x0 at σ = 0")
        return (alpha * x - value) / sigma
    if alpha == 0:
        raise ValueError("v doesn't follow from ε at α = 0")
    return (value - sigma * x) / alpha


def timesteps(
    schedule: Schedule,
    steps: int,
    spacing: str = "linspace",
    *,
    offset: int = 0,
    skip_zero: bool = True,
    whole: bool = True,
    lam_min: float = -np.inf,
) -> np.ndarray:
    """Choose the training times at which to evaluate the model (arXiv:2305.08891, table 2), as diffusers does.

    One step is an exception: it is the noisiest time, whatever the spacing, so that it turns pure noise into x0.
    diffusers starts its one step of "linspace" or "leading" at t = 0, the offset or T/2 and takes the noise that it is
    given for a nearly clean x_t, which it returns.

    Args:
        schedule: with T training times.
        steps: S, at least 1.
        spacing: "linspace" holds the last training time, "leading" multiples of ⌊T/S⌋, "trailing" starts at T - 1
            and goes down by T/S.
        offset: added to the times of "leading".
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
        TypeError: steps or offset is no whole number, or lam_min no number.
    """
    _checked(schedule)
    check_option("timestep_spacing", spacing, SPACINGS)
    check_whole("offset (steps_offset)", offset, 0)
    check_number("lam_min", lam_min, -math.inf, schedule.lam(0))
    limit = int(np.count_nonzero(-np.log(schedule.ratio) >= lam_min))
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
    return times.astype(np.int64 if whole else np.float64)


def karras(
    schedule: Schedule, steps: int, *, rho: float = 7.0, first: float | None = None, last: float | None = None
) -> np.ndarray:
    """ρ_i with ρ_i^{1/7} falling linearly (EDM, arXiv:2206.00364, eq. 5): float64 (steps,), for `sigma_grid`.

    Args:
        schedule: gives the range. steps: S. rho: the exponent, called ρ in the paper.
        first, last: the largest and the smallest σ/α; None takes those of t = T - 1 and t = 0.
    """
    check_number("rho", rho, 0, above=True)
    first, last = _range(schedule, steps, first, last)
    ramp = np.linspace(0, 1, steps)
    return (first ** (1 / rho) + ramp * (last ** (1 / rho) - first ** (1 / rho))) ** rho


def uniform_lambda(
    schedule: Schedule, steps: int, *, first: float | None = None, last: float | None = None
) -> np.ndarray:
    """ρ_i falling exponentially, which is λ rising linearly (arXiv:2206.00927, sec. 3.4): arguments as in `karras`."""
    return np.geomspace(*_range(schedule, steps, first, last), steps)


def beta(
    schedule: Schedule,
    steps: int,
    *,
    a: float = 0.6,
    b: float = 0.6,
    first: float | None = None,
    last: float | None = None,
) -> np.ndarray:
    """ρ_i at quantiles of a beta distribution, denser at both ends (arXiv:2407.12173): arguments as in `karras`."""
    from scipy.special import betaincinv  # MindSpore's own dependency, half a second to import

    check_number("a", a, 0, above=True)
    check_number("b", b, 0, above=True)
    first, last = _range(schedule, steps, first, last)
    return last + (first - last) * betaincinv(a, b, 1 - np.linspace(0, 1, steps))


def _range(schedule: Schedule, steps: int, first: float | None, last: float | None) -> tuple[float, float]:
    first = float(_checked(schedule).ratio[-1]) if first is None else first
    last = float(schedule.ratio[0]) if last is None else last
    check_number("first (the largest σ/α)", first, 0, math.inf)
    check_number("last (the smallest σ/α)", last, 0, math.inf)
    check_whole("steps", steps, 1)
    if not 0 < last < first < np.inf:
        raise ValueError(f"σ/α must fall from a finite first to a positive last, got {first} … {last}")
    return first, last


def grid(schedule: Schedule, timesteps: Sequence[float] | np.ndarray, *, final: str = "zero") -> Grid:
    """Make the grid that visits the given times and ends without noise.

    Args:
        schedule: gives α and σ.
        timesteps: (S,), falling within [0, T - 1], integer or not; `timesteps` makes the usual ones.
        final: "zero" ends at (α, σ) = (1, 0), "sigma_min" at the schedule's own t = 0.
    Returns:
        S + 1 nodes, the last with t = 0.
    Raises:
        ValueError: there is no time, or the times don't fall strictly within [0, T - 1].
    """
    check_option("final", final, FINALS)
    _checked(schedule)
    t = np.asarray(timesteps, np.float64)
    if t.ndim != 1 or len(t) == 0:
        raise ValueError(f"timesteps must be a list of at least one time, got {timesteps!r}")
    if not np.all(np.diff(t) < 0):
        raise ValueError(f"timesteps must fall strictly, got {t.tolist()}")
    zero = final == "zero"
    return Grid(
        t=np.append(t, 0.0),
        alpha=np.append(schedule.alpha(t), 1.0 if zero else schedule.alpha(0.0)),
        sigma=np.append(schedule.sigma(t), 0.0 if zero else schedule.sigma(0.0)),
        schedule=schedule,
    )


def sigma_grid(schedule: Schedule, ratios: Sequence[float] | np.ndarray, *, final: str = "zero") -> Grid:
    """Make the grid that visits given σ/α: those of `karras`, `uniform_lambda`, `beta`, or any.

    Args:
        schedule: gives the times.
        ratios: (S,) σ/α, falling strictly within those of the schedule.
        final: as in `grid`.
    Raises:
        ValueError: the ratios don't fall strictly, or the schedule has no such σ/α.
    """
    ratios = np.asarray(ratios, np.float64)
    if ratios.ndim != 1 or not len(ratios) or not np.all(np.diff(ratios) < 0) or not ratios[-1] > 0:
        raise ValueError(f"ratios (σ/α) must be a list of positive numbers that fall strictly, got {ratios.tolist()}")
    return grid(schedule, schedule.time(-np.log(ratios)), final=final)


def check_grid(grid: Grid) -> None:
    """Raise a TypeError where it isn't a Grid, and a ValueError where its nodes aren't three arrays of one length."""
    if not isinstance(grid, Grid):
        raise TypeError(f"grid must be a Grid, as schedule.grid(schedule, timesteps) makes; got {kind(grid)}")
    shapes = [getattr(nodes, "shape", None) for nodes in grid[:3]]
    if shapes[0] is None or shapes != [(len(grid.t),)] * 3:
        raise ValueError(f"t, alpha and sigma of a grid must be arrays of one length, got shapes {shapes}")
    if len(grid.t) < 2 or any(nodes.dtype.kind != "f" for nodes in grid[:3]):
        raise ValueError(f"a grid must have two nodes at least, of floating-point numbers, got {len(grid.t)} nodes")
    if not np.allclose(grid.alpha**2 + grid.sigma**2, 1, rtol=0, atol=1e-6) or not np.isfinite(grid.t).all():
        raise ValueError("the nodes of a grid must be finite, with α² + σ² = 1; schedule.grid makes such grids")
    steps = np.diff(grid.sigma)
    if not (np.all(steps <= 0) or np.all(steps >= 0)):
        raise ValueError("the nodes of a grid must go from noisy to clean, or all of them the other way")


def truncate(grid: Grid, strength: float) -> Grid:
    """Keep the last ⌊strength · S⌋ steps: where image-to-image begins, at x = alpha[0] · x0 + sigma[0] · ε.

    Args:
        grid: S steps.
        strength: within (0, 1]; 1 keeps everything.
    Raises:
        ValueError: strength is outside (0, 1] or leaves no step.
    """
    check_grid(grid)
    if not is_number(strength):
        raise TypeError(f"strength must be a number, got {kind(strength)}")
    steps = len(grid.t) - 1
    keep = int(steps * strength + 1e-9) if 0 < strength <= 1 else 0  # 50 · 0.58 is 28.999…96 in floating point
    if keep == 0:
        raise ValueError(f"strength must be within [1/{steps}, 1] for {steps} steps, got {strength}")
    first = steps - keep
    t, alpha, sigma = (nodes[first:] for nodes in grid[:3])
    return Grid(t, alpha, sigma, grid.schedule, grid.skipped + first)


def reverse(grid: Grid) -> Grid:
    """The same nodes from clean to noisy: any deterministic solver then finds what leads to a picture (inversion).

    That is noise of standard deviation 1 as far as the model is exact: what it leaves of the picture at the first node,
    z - x0, counts as noise there and is carried along, so that it may be larger or smaller.

    A node with σ = 0 holds no noise to tell, so the schedule's t = 0 stands for it.

    Args:
        grid: S steps, from `grid` or `sigma_grid`.
    Raises:
        ValueError: the grid ends at σ = 0 and doesn't know its schedule, or has t = 0 twice.
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


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _like(t: Time, value: np.ndarray) -> Time:
    """A Python float for a number: a NumPy scalar times a Tensor is not a Tensor."""
    return value if isinstance(t, np.ndarray) else float(value)
