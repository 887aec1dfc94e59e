"""Losses that train a network to draw in few steps, from one of many steps: latent consistency, distribution matching.

They are functions of networks, each (x_t, t) → its output with the text inside, of a batch and of a key. A student with
an adapter, as in LCM-LoRA, is only another network. B examples, C latent channels, h/w latent size, T training times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from .. import rng
from ..checks import check_function, check_number, check_whole, kind
from ..guidance import combine
from ..process.lock import exclusive
from ..public import public
from ..schedule import Schedule
from ..types import Array, Key
from . import noising
from .batch import Batch, Metrics, Predict
from .losses import Diffusion, Distance, huber
from .times import Times, uniform

__all__ = ["DMD", "LCM", "dmd", "lcm", "one_step"]

Features = Callable[[Tensor], Tensor | Sequence[Tensor]]

LCM_HUBER = huber(0.001)
DMD_TIMES = uniform(low=1, high=998)
LEAST = 1e-5
"""What is added to DMD's divisor, as in PixArt-DMD's script."""
MATCHING = 3
"""What is folded into an example's key for the noise under which two distributions are compared."""


@public
def lcm(
    schedule: Schedule,
    prediction: str | None = None,
    steps: int = 50,
    scale: float = 5.5,
    timestep_scaling: float = 10.0,
    sigma_data: float = 0.5,
    distance: Distance = LCM_HUBER,
) -> LCM:
    """Make the loss of latent consistency distillation (LCM, arXiv:2310.04378, algorithm 1).

    With f(x, t) = c_skip(t) x + c_out(t) x̂0(x, t), the student's f at t_k should be the target network's f at the time
    before, t_{k-1}, where one DDIM step of the guided teacher leads: mean d(f(x_t, t) - f⁻(x', t')). With
    τ = timestep_scaling · t: c_skip = σ_d²/(τ² + σ_d²) and c_out = τ/√(τ² + σ_d²), so that f(x, 0) = x.

    Args:
        schedule: of α and σ.
        prediction: what all four networks predict, "epsilon", "x0" or "v"; None takes the schedule's own.
        steps: of DDIM, 1 … T, which are T // steps apart; the last starts at time T - 1 where T is a multiple.
        scale: of the teacher's guidance, in the convention of `px.Guidance` and diffusers: null + scale (teacher -
            null). PixArt's authors write teacher + w (teacher - null) with w = 4.5, which is 5.5 here.
        timestep_scaling: of t in c_skip and c_out, above 0, as in `solvers.lcm`.
        sigma_data: σ_d, the data's standard deviation, above 0, as in `solvers.lcm`.
        distance: a function of the difference, Tensor → Tensor of its shape.
    Returns:
        loss(student, target, teacher, null, batch, key) → (scalar Tensor, metrics); see `LCM`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: one is out of its range, or ε is predicted where the schedule ends in pure noise.
    """
    return LCM(schedule, prediction, steps, scale, timestep_scaling, sigma_data, distance)


@public
def dmd(
    schedule: Schedule,
    prediction: str | None = None,
    features: Features | None = None,
    regression_weight: float = 0.25,
    scale: float = 3.0,
    start: int = 400,
    times: Times = DMD_TIMES,
) -> DMD:
    """Make the loss of distribution matching distillation for a student of one step (DMD, arXiv:2311.18828).

    The gradient with respect to the student's latents x is (x̂0_fake - x̂0_real) / (mean |x - x̂0_real| + 1e-5), over the
    number of elements (eq. 7 and 8 as algorithm 2 has them), where both networks see x under one noise. With `features`
    the squared distance to what the teacher makes of the same noise in many steps is added (eq. 9).

    Args:
        schedule: of α and σ.
        prediction: what all four networks predict, "epsilon", "x0" or "v"; None takes the schedule's own.
        features: latents (B, C, h, w) → a Tensor (B, …) or a list of them, in which latents are compared, such as the
            layers of a network on decoded pictures; None leaves the regression out.
        regression_weight: of the regression, at least 0. PixArt-DMD's script doesn't halve the other term, which makes
            its 0.25 the same as 0.125 here.
        scale: of the teacher's guidance: null + scale (teacher - null). PixArt-DMD's is 3.
        start: the time at which the student takes its input for noise, within [0, T - 1]; PixArt-DMD's is 400.
        times: where the time of the comparison is drawn. PixArt-DMD takes 1 … 998.
    Returns:
        loss(student, fake, teacher, null, batch, key, noise=None) → (scalar Tensor, metrics), and in its `score` the
        loss of the fake score; see `DMD`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: one is out of its range, or ε is predicted where the schedule ends in pure noise.
    """
    return DMD(schedule, prediction, features, regression_weight, scale, start, times)


@public
@exclusive
def one_step(
    predict: Predict, schedule: Schedule, noise: Array, start: int = 400, prediction: str | None = None
) -> Tensor:
    """Take a student's one step: x̂0 of noise of unit variance, as if it were x_t at t = start.

    Args:
        predict: the student, (x_t, t) → (B, C, h, w), or (B, 2C, h, w) with a variance, which is left out.
        schedule: of α and σ.
        noise: (B, C, h, w), floating-point.
        start: the time, within [0, T - 1].
        prediction: what it predicts, "epsilon", "x0" or "v"; None takes the schedule's own.
    Returns:
        The latents x̂0, float32 (B, C, h, w).
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: one is out of its range, or the network gives another shape.
    """
    noising.check_predict(predict=predict)
    prediction = noising.check_prediction(schedule, prediction)
    check_whole("start", start, 0, schedule.steps - 1)
    x = noising.latents(noise, "noise")
    return _x0(predict, "predict", schedule, prediction, x, np.full(len(x), start))


@dataclass(frozen=True)
class LCM:
    """What `lcm` makes: a loss as a value, whose fields are that function's arguments.

    Raises:
        TypeError, ValueError: as `lcm`.
    """

    schedule: Schedule
    prediction: str | None = None
    steps: int = 50
    scale: float = 5.5
    timestep_scaling: float = 10.0
    sigma_data: float = 0.5
    distance: Distance = LCM_HUBER

    def __post_init__(self) -> None:
        object.__setattr__(self, "prediction", noising.check_prediction(self.schedule, self.prediction))
        check_whole("steps", self.steps, 1, self.schedule.steps)
        check_number("scale", self.scale, 0)
        check_number("timestep_scaling", self.timestep_scaling, 0, 1e6, above=True)
        check_number("sigma_data", self.sigma_data, 0, 1e6, above=True)
        check_function("distance", self.distance, "error")

    @exclusive
    def __call__(
        self, student: Predict, target: Predict, teacher: Predict, null: Predict, batch: Batch, key: Key
    ) -> tuple[Tensor, Metrics]:
        """Compute the loss of a batch; only the student is differentiated.

        Args:
            student: the network that is trained.
            target: the same network with a moving average of its weights, of decay 0.95 in PixArt-LCM.
            teacher: the network that is distilled, with the batch's text.
            null: the same network with the empty text.
            batch: the examples; `batch.weight` multiplies each one's loss.
            key: (2,), of which `rng.split` makes one for each example, or (B, 2).
        Returns:
            The mean over the batch of weight · loss, and the metrics "losses" (B,), unweighted, and "t" (B,).
        Raises:
            TypeError: an argument has the wrong type.
            ValueError: the batch, the key or an output has a shape that doesn't fit.
        """
        noising.check_predict(student=student, target=target, teacher=teacher, null=null)
        x0, keys, weight = noising.examples(batch, key)
        width = self.schedule.steps // self.steps
        k, _ = noising.draw(uniform(self.steps), keys, None)
        t = (k + 1) * width - 1
        before = np.maximum(t - width, 0)
        x = noising.noisy(self.schedule, x0, t, noising.noise(keys, x0.shape))
        x_before = self._ddim(teacher, null, x, t, before)
        wanted = ops.stop_gradient(self._consistency(target, "target", x_before, before))
        losses = self.distance(self._consistency(student, "student", x, t) - wanted).mean((1, 2, 3))
        metrics = {"losses": ops.stop_gradient(losses), "t": noising.row(t)}
        return noising.mean_of(losses, weight), metrics

    def _ddim(
        self, teacher: Predict, null: Predict, x: Tensor, t: NDArray[np.int64], before: NDArray[np.int64]
    ) -> Tensor:
        """One step of DDIM along the guided teacher (arXiv:2010.02502, eq. 12 with σ = 0)."""
        conditional, _ = noising.evaluate(teacher, "teacher", self.schedule, x, t)
        unconditional, _ = noising.evaluate(null, "null", self.schedule, x, t)
        guided = combine(conditional, unconditional, float(self.scale))
        x0 = noising.predicted_x0(guided, x, t, self.schedule, str(self.prediction))
        eps = noising.predicted_epsilon(guided, x, t, self.schedule, str(self.prediction))
        return noising.noisy(self.schedule, x0, before, eps)

    def _consistency(self, predict: Predict, name: str, x: Tensor, t: NDArray[np.int64]) -> Tensor:
        """f(x, t)."""
        x0 = _x0(predict, name, self.schedule, str(self.prediction), x, t)
        tau: NDArray[np.float64] = self.timestep_scaling * t.astype(np.float64)
        std = self.sigma_data
        skip, out = std**2 / (tau**2 + std**2), tau / np.sqrt(tau**2 + std**2)
        return noising.column(skip) * x + noising.column(out) * x0


@dataclass(frozen=True)
class DMD:
    """What `dmd` makes: a loss as a value, whose fields are that function's arguments.

    Raises:
        TypeError, ValueError: as `dmd`.
    """

    schedule: Schedule
    prediction: str | None = None
    features: Features | None = None
    regression_weight: float = 0.25
    scale: float = 3.0
    start: int = 400
    times: Times = DMD_TIMES

    def __post_init__(self) -> None:
        object.__setattr__(self, "prediction", noising.check_prediction(self.schedule, self.prediction))
        if self.features is not None:
            check_function("features", self.features, "latents")
        check_number("regression_weight", self.regression_weight, 0)
        check_number("scale", self.scale, 0)
        check_whole("start", self.start, 0, self.schedule.steps - 1)
        noising.check_times(self.times, self.schedule)

    @property
    def score(self) -> Diffusion:
        """The loss that trains the fake score on the student's latents: score(fake, batch, key), where batch.x0 holds
        what `one_step` gives."""
        return Diffusion(self.schedule, self.prediction, times=self.times)

    @exclusive
    def __call__(
        self,
        student: Predict,
        fake: Predict,
        teacher: Predict,
        null: Predict,
        batch: Batch,
        key: Key,
        noise: Array | None = None,
    ) -> tuple[Tensor, Metrics]:
        """Compute the loss of a batch; only the student is differentiated.

        Args:
            student: the network that is trained.
            fake: the network that `score` trains on what the student makes, with the batch's text.
            teacher: the network that is distilled, with the batch's text.
            null: the same network with the empty text.
            batch: the examples. With a regression x0 is what the teacher makes of `noise`; without one, only its shape
                counts. `batch.weight` multiplies each example's loss.
            key: (2,), of which `rng.split` makes one for each example, or (B, 2).
            noise: what the student starts from, of the shape of x0; None draws it from the keys.
        Returns:
            The mean over the batch of weight · loss, and the metrics "losses" (B,), unweighted, "t" (B,), the time of
            the comparison, and over the batch "matching" and, with `features`, "regression".
        Raises:
            TypeError: an argument has the wrong type.
            ValueError: the batch, the key, the noise or an output has a shape that doesn't fit, or there is a
                regression and no noise.
        """
        noising.check_predict(student=student, fake=fake, teacher=teacher, null=null)
        x0, keys, weight = noising.examples(batch, key)
        if noise is None and self.features is not None:
            raise ValueError("noise must be what the teacher made batch.x0 of, since features are compared, got None")
        z = noising.noise(keys, x0.shape) if noise is None else noising.latents(noise, "noise", like=x0)
        t, drawn = noising.draw(self.times, keys, None)
        x = _x0(student, "student", self.schedule, str(self.prediction), z, np.full(len(x0), self.start))
        away = self._direction(fake, teacher, null, ops.stop_gradient(x), t, keys)  # or all three would be taped
        matching = 0.5 * ops.square(x - ops.stop_gradient(x - away)).mean((1, 2, 3)) * noising.row(drawn)
        losses, metrics = matching, {"matching": matching.mean()}
        if self.features is not None:
            regression = _regression(self.features, x, x0)
            losses, metrics["regression"] = matching + self.regression_weight * regression, regression.mean()
        metrics |= {"losses": losses, "t": noising.row(t)}
        metrics = {name: ops.stop_gradient(value) for name, value in metrics.items()}
        return noising.mean_of(losses, weight), metrics

    def _direction(
        self, fake: Predict, teacher: Predict, null: Predict, x: Tensor, t: NDArray[np.int64], keys: Key
    ) -> Tensor:
        """From where the teacher takes the student's latents to where the fake score takes them, normalised."""
        x_t = noising.noisy(self.schedule, x, t, noising.noise(rng.fold_in(keys, MATCHING), x.shape))
        networks = {"fake": fake, "teacher": teacher, "null": null}
        of_fake, conditional, unconditional = (
            _x0(network, name, self.schedule, str(self.prediction), x_t, t) for name, network in networks.items()
        )
        real = combine(conditional, unconditional, float(self.scale))
        return (of_fake - real) / (ops.abs(x - real).mean((1, 2, 3), keep_dims=True) + LEAST)


def _x0(predict: Predict, name: str, schedule: Schedule, prediction: str, x: Tensor, t: NDArray[np.int64]) -> Tensor:
    output, _ = noising.evaluate(predict, name, schedule, x, t)
    return noising.predicted_x0(output, x, t, schedule, prediction)


def _regression(features: Features, latents: Tensor, target: Tensor) -> Tensor:
    """The mean square of the features' difference, summed over the lists that they may be: (B,)."""
    wanted = _listed(features(target), len(target))
    every = [
        ops.square(one - ops.stop_gradient(other)).reshape(len(target), -1).mean(1)
        for one, other in zip(_listed(features(latents), len(target)), wanted, strict=True)
    ]
    return ops.addn(every)


def _listed(features: Tensor | Sequence[Tensor], B: int) -> Sequence[Tensor]:
    every = [features] if isinstance(features, Tensor) else features
    if not isinstance(every, (list, tuple)) or not every or not all(isinstance(each, Tensor) for each in every):
        raise TypeError(f"features must give a Tensor or a list of Tensors, got {kind(features)}")
    for each in every:
        if each.ndim < 2 or each.shape[0] != B:
            raise ValueError(f"features must give the shape (B, …) with B = {B}, got {tuple(each.shape)}")
    return every
