"""From a model's raw output to x0. B pictures, C channels."""

from __future__ import annotations

from collections.abc import Callable

from ..checks import check_function, check_number, check_option, kind
from ..public import public
from ..schedule import PREDICTIONS, Schedule, check_schedule, convert
from ..types import Array, Denoiser, VarianceDenoiser


@public
def denoiser(model: Callable[[Array, float], Array], schedule: Schedule, prediction: str | None = None) -> Denoiser:
    """Make a denoiser from a model's raw output.

    "epsilon": x0 = (x_t - σ ε)/α; "x0": the output itself; "v": x0 = α x_t - σ v (arXiv:2202.00512).

    Args:
        model: (x_t (B, C, …), t) → (B, C, …), or (B, 2C, …) whose second half is a learned variance, which is dropped.
        schedule: gives α and σ at t, and the time that the model is given.
        prediction: what the output is, "epsilon", "x0" or "v"; None takes the schedule's own.
    Returns:
        (x_t, t) → x0.
    Raises:
        TypeError: model isn't a function of (x, t), or schedule no Schedule.
        ValueError: the prediction is not one of these, or the model's output has another shape; at α = 0, a model
            that predicts ε has no x0.
    """
    predict = _predict(model, schedule, prediction)
    return lambda x, t: predict(x, t)[0]


@public
def variance_denoiser(
    model: Callable[[Array, float], Array], schedule: Schedule, prediction: str | None = None
) -> VarianceDenoiser:
    """Make a denoiser that keeps the learned variance of a model's raw output, for `solvers.ddpm("learned_range")`.

    Args:
        model: (x_t (B, C, …), t) → (B, 2C, …), whose second half is the variance.
        schedule: as in `denoiser`.
        prediction: as in `denoiser`, of the first half.
    Returns:
        (x_t, t) → (x0, variance).
    Raises:
        TypeError: as `denoiser`.
        ValueError: as `denoiser`, or the model's output holds no variance.
    """
    predict = _predict(model, schedule, prediction)

    def denoise(x: Array, t: float) -> tuple[Array, Array]:
        x0, variance = predict(x, t)
        if variance is None:
            raise ValueError(
                f"the model's output for x of shape {tuple(x.shape)} must have 2C channels, of which half is a"
                f" variance, got {tuple(x0.shape)}"
            )
        return x0, variance

    return denoise


def _predict(
    model: Callable[[Array, float], Array], schedule: Schedule, prediction: str | None
) -> Callable[[Array, float], tuple[Array, Array | None]]:
    """(x_t, t) → (x0, variance), where the variance is None for a model that predicts none."""
    check_function("model", model, "x, t")
    check_schedule(schedule)
    prediction = schedule.prediction if prediction is None else prediction
    check_option("prediction", prediction, PREDICTIONS)

    def predict(x: Array, t: float) -> tuple[Array, Array | None]:
        check_number("t", t, 0, schedule.steps - 1)
        if not hasattr(x, "shape"):
            raise TypeError(f"x must be an array or a Tensor, got {kind(x)}")
        output, variance, shape = model(x, schedule.model_time(float(t))), None, tuple(x.shape)
        if len(shape) > 1 and tuple(output.shape) == (shape[0], 2 * shape[1], *shape[2:]):
            output, variance = output[:, : shape[1]], output[:, shape[1] :]
        if tuple(output.shape) != shape:
            raise ValueError(
                f"the model's output for x of shape {shape} must have C or 2C channels, got {tuple(output.shape)}"
            )
        x0 = convert(output, x, schedule.alpha(float(t)), schedule.sigma(float(t)), prediction, "x0")
        return x0, variance

    return predict
