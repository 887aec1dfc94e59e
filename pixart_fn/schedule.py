"""From β to a noise schedule to a grid, in NumPy float64 on the host.

Everything is variance preserving: x_t = α(t) x0 + σ(t) ε with α² + σ² = 1, and λ = log(α/σ). Time counts training
steps, t = 0 … T - 1, and may be fractional.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .types import Grid

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


@dataclass(frozen=True, eq=False)
class Schedule:
    """How much signal and noise x_t holds, and what the model that was trained on it predicts.

    Between the training times σ/α is linear in t, which is how diffusers interpolates.

    Args:
        ratio: float64 (T,), σ/α at t = 0 … T - 1, rising.
        prediction: "epsilon", "sample" (x0) or "v_prediction".
    """

    ratio: np.ndarray
    prediction: str = "epsilon"

    @property
    def steps(self) -> int:
        """T, the number of training times."""
        return len(self.ratio)

    def alpha(self, t: Time) -> Time:
        """The signal's factor √ᾱ at t, a number or an array within [0, T - 1]."""
        return _like(t, 1 / np.hypot(1, self._ratio(t)))

    def sigma(self, t: Time) -> Time:
        """The noise's standard deviation √(1 - ᾱ) at t, a number or an array within [0, T - 1]."""
        ratio = self._ratio(t)
        return _like(t, ratio / np.hypot(1, ratio))

    def lam(self, t: Time) -> Time:
        """Half the logarithm of the signal-to-noise ratio at t, a number or an array within [0, T - 1]."""
        return _like(t, -np.log(self._ratio(t)))

    def _ratio(self, t: float | np.ndarray) -> np.ndarray:
        outside = np.logical_not((np.asarray(t) >= 0) & (np.asarray(t) <= self.steps - 1))
        if np.any(outside):
            raise ValueError(f"t must be within [0, {self.steps - 1}], got {np.asarray(t)[outside].flat[0]}")
        return np.interp(t, np.arange(self.steps), self.ratio)


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
    ratio = np.sqrt(np.expm1(-np.cumsum(np.log1p(-betas))))
    ratio.setflags(write=False)
    return Schedule(ratio, prediction)


def timesteps(
    schedule: Schedule,
    steps: int,
    spacing: str = "linspace",
    *,
    offset: int = 0,
    skip_zero: bool = True,
    lam_min: float = -np.inf,
) -> np.ndarray:
    """Choose the training times at which to evaluate the model (arXiv:2305.08891, table 2), exactly as diffusers does.

    Args:
        schedule: with T training times.
        steps: S, at least 1.
        spacing: "linspace" holds the last training time, "leading" multiples of ⌊T/S⌋, "trailing" starts at T - 1
            and goes down by T/S. One step of linspace or leading without skip_zero is t = 0, useless from pure noise.
        offset: added to the times of "leading".
        skip_zero: lay out S + 1 times and leave t = 0 away, as DPM-Solver does, rather than S with t = 0, as DDIM and
            DDPM do; "trailing" is the same in both.
        lam_min: leave out the times whose λ is lower ("trailing" then has fewer than S).
    Returns:
        int64 (S,), falling.
    Raises:
        ValueError: steps is under 1 or over the number of times that there are, or the spacing is unknown.
    """
    check_option("timestep_spacing", spacing, SPACINGS)
    steps = operator.index(steps)
    limit = int(np.count_nonzero(-np.log(schedule.ratio) >= lam_min))
    n = steps + skip_zero
    most = schedule.steps if spacing == "trailing" else limit - skip_zero
    if not 1 <= steps <= most:
        raise ValueError(f"steps must be within 1 … {most} for {spacing} spacing, got {steps}")
    if spacing == "trailing":
        falling = np.arange(limit, 0, -schedule.steps / steps).round().astype(np.int64)
        return falling[falling > 0] - 1
    if spacing == "leading":
        rising = np.arange(n) * (limit // n) + offset
    else:
        rising = np.linspace(0, limit - 1, n).round().astype(np.int64)
    return rising[int(skip_zero) :][::-1].copy()


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
    )


def truncate(grid: Grid, strength: float) -> Grid:
    """Keep the last ⌊strength · S⌋ steps: where image-to-image begins, at x = alpha[0] · x0 + sigma[0] · ε.

    Args:
        grid: S steps.
        strength: within (0, 1]; 1 keeps everything.
    Raises:
        ValueError: strength is outside (0, 1] or leaves no step.
    """
    steps = len(grid.t) - 1
    keep = int(steps * strength + 1e-9) if 0 < strength <= 1 else 0  # 50 · 0.58 is 28.999…96 in floating point
    if keep == 0:
        raise ValueError(f"strength must be within [1/{steps}, 1] for {steps} steps, got {strength}")
    return Grid(*(nodes[steps - keep :] for nodes in grid))


def check_option(name: str, value: str, options: Sequence[str]) -> None:
    """Raise a sentence that names the option, what it got and what there is."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")


def _like(t: Time, value: np.ndarray) -> Time:
    """A Python float for a number: a NumPy scalar times a Tensor is not a Tensor."""
    return value if isinstance(t, np.ndarray) else float(value)
