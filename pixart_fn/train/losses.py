"""The losses of diffusion training, as functions of (predict, batch, key).

B examples, C latent channels, h/w latent size, T training times, snr = α²/σ².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from ..backend.arrays import clamp
from ..checks import check_function, check_number, check_switch, kind, shown
from ..process.lock import exclusive
from ..public import public
from ..schedule import Schedule
from ..types import Key
from . import noising
from .batch import Batch, Metrics, Predict
from .times import State, Times, uniform

__all__ = ["Diffusion", "diffusion", "huber", "min_snr", "snr"]

Weighting = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Distance = Callable[[Tensor], Tensor]

UNIFORM = uniform()
BIN = 1 / 255
"""Half the width of the bins in which the variance bound counts x0 at t = 0; made for pixels, kept for latents."""
SMALLEST = 1e-12
"""The probability that a logarithm is taken of at least."""


@public
def diffusion(
    schedule: Schedule,
    prediction: str | None = None,
    learned_variance: bool = False,
    weighting: Weighting | None = None,
    distance: str | Distance = "l2",
    noise_offset: float = 0.0,
    times: Times = UNIFORM,
) -> Diffusion:
    """Make the loss that trains a diffusion model: the distance of what it predicts from the truth (DDPM, eq. 14).

    x_t = α x0 + σ ε, and the loss is mean_i w_i d(predict(x_t, t) - target) with the target ε, x0 or v = α ε - σ x0.
    With `learned_variance` the variational bound of IDDPM is added (arXiv:2102.09672, eq. 16), in bits and with λ = 1,
    where the mean is held fixed: this is the loss that PixArt was trained with.

    Args:
        schedule: of α and σ.
        prediction: what the network predicts, "epsilon", "x0" or "v"; None takes the schedule's own.
        learned_variance: whether the network's second C channels, its variance, are trained; if not, it may have them
            all the same, and they are left out.
        weighting: the weight of ‖x̂0 - x0‖² as a function of the SNR, float64 (T,) → (T,), such as `snr()` or
            `min_snr(5)`. For a network that predicts ε it is divided by snr, and for v by snr + 1, as
            ‖ε̂ - ε‖² = snr ‖x̂0 - x0‖² and ‖v̂ - v‖² = (snr + 1) ‖x̂0 - x0‖². None weighs what is predicted alike at all
            times. The variance bound isn't weighted.
        distance: "l2", the squared error, or a function of the error, Tensor → Tensor of the same shape, such as
            `huber(0.001)`.
        noise_offset: how much of one normal number for each channel is added to the noise, at least 0; 0.05 to 0.1
            lets a model learn very dark and very bright pictures.
        times: where t is drawn.
    Returns:
        loss(predict, batch, key, times_state=None) → (scalar Tensor, metrics), to be differentiated by
        `px.value_and_grad(…, has_aux=True)` with respect to the weights inside `predict`; see `Diffusion`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: one is out of its range; the weighting isn't finite; times are of another schedule; ε is predicted
            where the schedule ends in pure noise; or a schedule with a β of 0 is to learn a variance.
    """
    return Diffusion(schedule, prediction, learned_variance, weighting, distance, noise_offset, times)


def huber(c: float) -> Distance:
    """Make the pseudo-Huber distance √(x² + c²) - c: x²/2c near 0 and |x| far away (LCM, arXiv:2310.04378; 2310.14189).

    Args:
        c: where it turns from a square into a line, at least 1e-12; 0.001 in PixArt-LCM.
    Returns:
        A function of the error, Tensor → Tensor.
    Raises:
        TypeError, ValueError: c isn't such a number.
    """
    check_number("c", c, 1e-12)

    def distance(error: Tensor) -> Tensor:
        square = error * error
        return square / (ops.sqrt(square + c * c) + c)  # the same, where float32 would lose what is much smaller than c

    return distance


def snr(low: float = 0.0, high: float = math.inf) -> Weighting:
    """Make the weight of ‖x̂0 - x0‖² that is the SNR itself, between bounds.

    Without bounds it is DDPM's: ‖ε̂ - ε‖². `snr(low=1)` is the truncated SNR of arXiv:2202.00512, and `snr(high=γ)`
    min-SNR-γ.

    Args:
        low: the least weight, at least 0.
        high: the greatest weight, at least `low`.
    Returns:
        A function snr (T,) → weight (T,).
    Raises:
        TypeError, ValueError: one of them isn't such a number.
    """
    check_number("low", low, 0)
    check_number("high", high, low, math.inf)
    return lambda ratio: np.clip(ratio, low, high)


def min_snr(gamma: float = 5.0) -> Weighting:
    """Make the weight min(snr, γ) of ‖x̂0 - x0‖², so that no time dominates (arXiv:2303.09556, sec. 3.4).

    For ε the weight is min(snr, γ)/snr, and for v min(snr, γ)/(snr + 1).

    Args:
        gamma: γ, above 0.
    Returns:
        A function snr (T,) → weight (T,).
    Raises:
        TypeError, ValueError: gamma isn't such a number.
    """
    check_number("gamma", gamma, 0, above=True)
    return snr(high=gamma)


class _Range(NamedTuple):
    """At each time, float64 (T,): log β̃, log β - log β̃, and the factor of (x̂0 - x0)² in the divergence."""

    low: NDArray[np.float64]
    gap: NDArray[np.float64]
    precision: NDArray[np.float64]


@dataclass(frozen=True)
class Diffusion:
    """What `diffusion` makes: a loss as a value, whose fields are that function's arguments.

    Raises:
        TypeError, ValueError: as `diffusion`.
    """

    schedule: Schedule
    prediction: str | None = None
    learned_variance: bool = False
    weighting: Weighting | None = None
    distance: str | Distance = "l2"
    noise_offset: float = 0.0
    times: Times = UNIFORM

    def __post_init__(self) -> None:
        object.__setattr__(self, "prediction", noising.check_prediction(self.schedule, self.prediction))
        check_switch("learned_variance", self.learned_variance)
        if self.weighting is not None:
            check_function("weighting", self.weighting, "snr")
        if not isinstance(self.distance, str):
            check_function("distance", self.distance, "error")
        elif self.distance != "l2":
            raise ValueError(f'distance must be "l2" or a function such as huber(0.001), got {shown(self.distance)}')
        check_number("noise_offset", self.noise_offset, 0)
        noising.check_times(self.times, self.schedule)
        if not (np.isfinite(self._weights).all() and (self._weights >= 0).all()):
            raise ValueError("weighting must give a finite weight of at least 0 at each time of the schedule")
        if self.learned_variance and not np.isfinite(self._range).all():
            raise ValueError("learned_variance needs a schedule of two times at least, whose β are all above 0")

    @exclusive
    def __call__(self, predict: Predict, batch: Batch, key: Key, times_state: State = None) -> tuple[Tensor, Metrics]:
        """Compute the loss of a batch.

        Args:
            predict: (x_t (B, C, h, w), t (B,)) → the network's output, (B, C, h, w) or with a variance (B, 2C, h, w).
            batch: the examples; `batch.weight` multiplies each one's loss.
            key: (2,), of which `rng.split` makes one for each example, or (B, 2). An example's time and noise depend on
                its own key alone.
            times_state: what the sampler of times remembers, from `times.init()` or `times.update(…)`.
        Returns:
            The mean over the batch of weight · loss, and the metrics, which aren't differentiated: "losses" (B,), the
            unweighted loss of each example, "t" (B,), and over the batch "mse", where the distance is "l2", and "vb",
            where a variance is learned.
        Raises:
            TypeError: an argument has the wrong type.
            ValueError: the batch, the key or the network's output has a shape that doesn't fit.
        """
        noising.check_predict(predict=predict)
        x0, keys, weight = noising.examples(batch, key)
        t, drawn = noising.draw(self.times, keys, times_state)
        eps = noising.noise(keys, x0.shape, self.noise_offset)
        x = noising.noisy(self.schedule, x0, t, eps)
        output, variance = noising.evaluate(predict, "predict", self.schedule, x, t)
        error = output - self._target(x0, eps, t)
        losses = self._distances(error).mean((1, 2, 3))
        metrics: Metrics = {"mse": losses.mean()} if self.distance == "l2" else {}
        total = losses * noising.row(self._weights[t])
        if self.learned_variance:
            if variance is None:
                raise ValueError(f"predict must give 2C channels with learned_variance, got {tuple(output.shape)}")
            bound = self._bound(x0, ops.stop_gradient(error), variance, t)
            losses, total, metrics["vb"] = losses + bound, total + bound, bound.mean()
        metrics |= {"losses": losses, "t": noising.row(t)}
        scalar = noising.mean_of(total, weight * drawn)
        return scalar, {name: ops.stop_gradient(value) for name, value in metrics.items()}

    def _target(self, x0: Tensor, eps: Tensor, t: NDArray[np.int64]) -> Tensor:
        if self.prediction == "v":
            alpha, sigma = (noising.column(f(t)) for f in (self.schedule.alpha, self.schedule.sigma))
            return alpha * eps - sigma * x0
        return x0 if self.prediction == "x0" else eps

    def _distances(self, error: Tensor) -> Tensor:
        if isinstance(self.distance, str):
            return error * error
        far = self.distance(error)
        if not isinstance(far, Tensor) or far.shape != error.shape:
            got = tuple(far.shape) if isinstance(far, Tensor) else kind(far)
            raise ValueError(f"distance must give a Tensor of the error's shape {tuple(error.shape)}, got {got}")
        return far

    @cached_property
    def _x0_error(self) -> NDArray[np.float64]:
        """(x0 - x̂0) / (prediction - target) at each time, (T,)."""
        if self.prediction == "x0":
            return np.full(self.schedule.steps, -1.0)
        with np.errstate(divide="ignore"):
            return self.schedule.rhos if self.prediction == "epsilon" else 1 / np.hypot(1, 1 / self.schedule.rhos)

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """The weight of the distance at each time, (T,)."""
        if self.weighting is None:
            return np.ones(self.schedule.steps)
        with np.errstate(all="ignore"):
            weight = np.asarray(self.weighting(self.schedule.rhos**-2.0), np.float64)
            if weight.shape != (self.schedule.steps,):
                raise ValueError(f"weighting must give {self.schedule.steps} numbers, got the shape {weight.shape}")
            return weight * self._x0_error**2

    @cached_property
    def _range(self) -> _Range:
        """What the variance bound needs (IDDPM, arXiv:2102.09672, eq. 15; DDPM, eq. 7 for the posterior)."""
        noise = self.schedule.rhos**2  # (1 - ᾱ)/ᾱ
        before = np.append(0.0, noise[:-1])
        with np.errstate(all="ignore"):
            beta = 1 - (1 + before) / (1 + noise)
            sigma2, sigma2_before = 1 / (1 + 1 / noise), before / (1 + before)
            posterior = beta * sigma2_before / sigma2
            posterior[:1] = posterior[1:2] if len(posterior) > 1 else np.nan  # it is 0 at t = 0
            factor = beta / np.sqrt(1 + before) / sigma2  # of x0 in the posterior's mean
            return _Range(np.log(posterior), np.log(beta / posterior), factor**2 / posterior)

    def _bound(self, x0: Tensor, error: Tensor, variance: Tensor, t: NDArray[np.int64]) -> Tensor:
        """KL(q(x_{t-1} | x_t, x0) ‖ p), or -log p(x0 | x_1) at t = 0, in bits and as the mean over the elements: (B,).

        Where the variance is β̃ e^d, the divergence is (d - 1 + e^-d (1 + (Δμ)²/β̃)) / 2.
        """
        low, gap, precision = (each[t] for each in self._range)
        d = noising.column(gap) * (0.5 * variance + 0.5)
        square = noising.column(precision * self._x0_error[t] ** 2) * error * error
        nats = 0.5 * (d - 1.0 + ops.exp(-d) * (1.0 + square))
        if not t.all():
            first = _surprise(x0, noising.column(self._x0_error[t]) * error, 0.5 * (noising.column(low) + d))
            nats = ops.where(noising.column(t == 0) > 0, first, nats)
        return nats.mean((1, 2, 3)) / math.log(2)


def _surprise(x0: Tensor, error: Tensor, log_std: Tensor) -> Tensor:
    """-log of the probability that a Gaussian around x̂0 gives to the bin of x0, the outermost ones open (DDPM, eq. 13).

    The normal distribution function is the approximation by tanh, as in IDDPM's code, here as a logistic function of
    numbers below 0, where float32 keeps its digits.
    """
    scale, away = ops.exp(-log_std), -ops.abs(error)
    inside = _normal_cdf(scale * (away + BIN)) - _normal_cdf(scale * (away - BIN))
    left, right = _normal_cdf(scale * (error + BIN)), _normal_cdf(scale * (BIN - error))
    p = ops.where(x0 < -0.999, left, ops.where(x0 > 0.999, right, inside))
    return -ops.log(clamp(p, SMALLEST, 1.0))


def _normal_cdf(x: Tensor) -> Tensor:
    return ops.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))
