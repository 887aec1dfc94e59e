"""From a model to a denoiser, and from denoisers to a guided one. Solvers see only x0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from .schedule import PREDICTIONS, Schedule, check_option
from .types import Array, Denoiser

Pair: TypeAlias = Callable[[Array, float], tuple[Array, Array]]
"""(x_t, t) → (x0 with the condition, x0 without it)."""


def denoiser(model: Callable[[Array, float], Array], schedule: Schedule, prediction: str | None = None) -> Denoiser:
    """Make a denoiser from a model's raw output.

    "epsilon": x0 = (x_t - σ ε)/α; "sample": the output itself; "v_prediction": x0 = α x_t - σ v (arXiv:2202.00512).

    Args:
        model: (x_t (B, C, …), t) → (B, C, …), or (B, 2C, …) whose second half is a learned variance: left out.
        schedule: gives α and σ at t.
        prediction: what the output is; None takes the schedule's own.
    Raises:
        ValueError: the prediction is not one of these, or the model's output has another shape.
    """
    if prediction is None:
        prediction = schedule.prediction
    check_option("prediction (prediction_type)", prediction, PREDICTIONS)

    def denoise(x: Array, t: float) -> Array:
        alpha, sigma = schedule.alpha(float(t)), schedule.sigma(float(t))
        raw = _mean(model(x, t), x)
        if prediction == "sample":
            return raw
        return (x - sigma * raw) / alpha if prediction == "epsilon" else alpha * x - sigma * raw

    return denoise


def both(conditional: Denoiser, unconditional: Denoiser) -> Pair:
    """Make a pair from two denoisers, evaluated one after the other."""
    return lambda x, t: (conditional(x, t), unconditional(x, t))


def classifier_free(pair: Pair, scale: float | Sequence[float] | Array) -> Denoiser:
    """Guide by going from the unconditional x0 towards the conditional one, and beyond it.

    x0 = w · x0_conditional + (1 - w) · x0_unconditional (arXiv:2207.12598, eq. 6), which in ε is the usual
    ε_u + w (ε_c - ε_u).

    Args:
        pair: evaluates both, ideally in one batch of 2B.
        scale: w, a number or (B,); 1 is exactly the conditional x0, 0 the unconditional one.
    Raises:
        ValueError: the number of scales is not the batch size.
    """

    def denoise(x: Array, t: float) -> Array:
        conditional, unconditional = pair(x, t)
        w = _column(scale, x)
        return w * conditional + (1.0 - w) * unconditional

    return denoise


def _mean(raw: Array, x: Array) -> Array:
    """The first C of 2C channels."""
    shape = tuple(x.shape)
    if tuple(raw.shape) == shape:
        return raw
    if len(shape) > 1 and tuple(raw.shape) == (shape[0], 2 * shape[1], *shape[2:]):
        return raw[:, : shape[1]]
    raise ValueError(f"the model's output for x of shape {shape} must have C or 2C channels, got {tuple(raw.shape)}")


def _column(scale: float | Sequence[float] | Array, x: Array) -> float | Array:
    """A number, or one number a sample in a shape that multiplies x."""
    if isinstance(scale, (int, float, np.number)):
        return float(scale)
    if isinstance(scale, (Sequence, np.ndarray)):
        scale = np.asarray(scale, x.dtype if isinstance(x, np.ndarray) else np.float32)
        if not isinstance(x, np.ndarray):
            from mindspore import Tensor  # only here, so that the mathematics of guidance needs no MindSpore

            scale = Tensor.from_numpy(scale)
    if tuple(scale.shape) == ():
        return scale
    if tuple(scale.shape) != (x.shape[0],):
        raise ValueError(f"guidance scale must be a number or one for each of {x.shape[0]} samples, got {scale.shape}")
    return scale.reshape(-1, *[1] * (x.ndim - 1))
