"""What the losses share: examples and their keys, noisy latents, and what the network says of them.

B examples, C latent channels, h/w latent size, T training times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from .. import rng
from ..backend.arrays import as_float, as_numpy
from ..checks import check_function, check_option, check_type, kind, shown
from ..schedule import PREDICTIONS, Schedule, check_schedule
from ..types import Key, NumPyArray
from .batch import Batch, Predict
from .times import State, Times

TIME, NOISE, OFFSET = 0, 1, 2
"""What `rng.fold_in` folds into an example's key for its time, its noise, and the offset of that."""

Floats = NDArray[np.float64]


class Examples(NamedTuple):
    """Examples that are checked: x0 (B, C, h, w), their keys (B, 2), and their weights, float64 (B,)."""

    x0: Tensor
    keys: Key
    weight: Floats


def check_prediction(schedule: Schedule, prediction: str | None) -> str:
    """Return what a network predicts.

    Args:
        schedule: whose own prediction None takes.
        prediction: "epsilon", "x0", "v" or None.
    Returns:
        One of the three.
    Raises:
        TypeError: schedule isn't a Schedule.
        ValueError: prediction is something else, or ε where the schedule's last time is pure noise.
    """
    check_schedule(schedule)
    prediction = schedule.prediction if prediction is None else prediction
    check_option("prediction", prediction, PREDICTIONS)
    if prediction == "epsilon" and np.isinf(schedule.rhos).any():
        raise ValueError(
            'prediction must be "x0" or "v" where α is 0 at the last time, since ε says nothing of x0 there'
        )
    return prediction


def check_times(times: Times, schedule: Schedule) -> None:
    """Raise where a sampler isn't one of the schedule's times."""
    check_type("times", times, Times, "a sampler, as times.uniform() makes")
    if times.steps != schedule.steps:
        steps = schedule.steps
        raise ValueError(
            f"times must be a sampler of the schedule's {steps} times, got one of {times.steps}; "
            f"times.uniform(steps={steps}) is one"
        )


def examples(batch: Batch, key: Key) -> Examples:
    """Check a batch and give each of its examples a key.

    Args:
        batch: the examples.
        key: (2,), of which `rng.split` makes one for each example, or (B, 2).
    Returns:
        The examples.
    Raises:
        TypeError: batch isn't a Batch, or x0 or weight no array of floating-point numbers.
        ValueError: key isn't a key or is for another number of examples, x0 or weight has another shape, or a weight is
            below 0 or not finite.
    """
    check_type("batch", batch, Batch, "a Batch, as pixart_fn.train.batch defines it")
    x0 = latents(batch.x0, "batch.x0")
    B = len(x0)
    weight = np.ones(B)
    if batch.weight is not None:
        weight = as_numpy(as_float(batch.weight, "batch.weight")).astype(np.float64)
    if weight.shape != (B,) or not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError(
            f"batch.weight must be {B} finite numbers of at least 0, one for each example, got {shown(weight.tolist())}"
        )
    return Examples(x0, keys_of(key, B), weight)


def latents(x: object, name: str, like: Tensor | None = None) -> Tensor:
    """Return latents as a float32 Tensor.

    Args:
        x: an array or a Tensor (B, C, h, w) of floating-point numbers.
        name: what an error calls it.
        like: what must have the same shape, if anything.
    Raises:
        TypeError, ValueError: it is none.
    """
    made = as_float(x, name)
    if made.ndim != 4 or not made.size or (like is not None and made.shape != like.shape):
        wanted = "(B, C, h, w)" if like is None else str(tuple(like.shape))
        raise ValueError(f"{name} must have the shape {wanted}, got {tuple(made.shape)}")
    return made


def keys_of(key: Key, n: int) -> Key:
    """Return one key for each of n examples, (n, 2), from one key or from as many."""
    if rng.check_key(key).ndim == 1:
        return rng.split(key, n)
    if len(key) != n:
        raise ValueError(f"key must be one key, or one for each example ({n}), got {len(key)}")
    return key


def draw(times: Times, keys: Key, state: State) -> tuple[NDArray[np.int64], Floats]:
    """Draw the times of examples, and their weights; raise a ValueError where the sampler gives something else."""
    t, weight = times.draw(rng.fold_in(keys, TIME), state)
    B = len(keys)
    whole = isinstance(t, np.ndarray) and t.dtype.kind == "i" and t.shape == (B,)
    if not whole or (t < 0).any() or (t >= times.steps).any():
        raise ValueError(f"times.draw must give {B} whole numbers within [0, {times.steps - 1}], got {shown(t)}")
    weight = np.asarray(weight, np.float64)
    if weight.shape != (B,):
        raise ValueError(f"times.draw must give {B} weights, got the shape {weight.shape}")
    return t, weight


def noise(keys: Key, shape: Sequence[int], offset: float = 0.0) -> Tensor:
    """Draw the noise of examples, (B, C, h, w); `offset` times one more number is added in all of a channel."""
    drawn = rng.normal(rng.fold_in(keys, NOISE), shape)
    if offset:
        drawn = drawn + np.float32(offset) * rng.normal(rng.fold_in(keys, OFFSET), (*shape[:2], 1, 1))
    return Tensor.from_numpy(drawn)


def column(values: Floats) -> Tensor:
    """Numbers of examples, (B,), as float32 (B, 1, 1, 1)."""
    return Tensor.from_numpy(values.astype(np.float32).reshape(-1, 1, 1, 1))


def row(values: NumPyArray) -> Tensor:
    """Numbers of examples as float32 (B,)."""
    return Tensor.from_numpy(values.astype(np.float32))


def noisy(schedule: Schedule, x0: Tensor, t: NumPyArray, eps: Tensor) -> Tensor:
    """x_t = α x0 + σ ε, (B, C, h, w)."""
    return column(schedule.alpha(t)) * x0 + column(schedule.sigma(t)) * eps


def evaluate(predict: Predict, name: str, schedule: Schedule, x: Tensor, t: NumPyArray) -> tuple[Tensor, Tensor | None]:
    """Evaluate a network.

    Args:
        predict: (x_t, t) → (B, C, h, w), or (B, 2C, h, w) with the variance in the second half.
        name: what an error calls it.
        schedule: says which time the network is given.
        x: (B, C, h, w).
        t: (B,).
    Returns:
        What it predicts, and the variance or None.
    Raises:
        TypeError: it gives no Tensor.
        ValueError: it gives another shape.
    """
    given = np.array([schedule.model_time(float(each)) for each in t])
    out = predict(x, row(given))
    if not isinstance(out, Tensor):
        raise TypeError(f"{name} must give a Tensor, got {kind(out)}")
    B, C, h, w = x.shape
    if tuple(out.shape) == (B, 2 * C, h, w):
        return out[:, :C], out[:, C:]
    if tuple(out.shape) != (B, C, h, w):
        raise ValueError(
            f"{name} must give (B, C, h, w) or (B, 2C, h, w) for x of shape {tuple(x.shape)}, got {tuple(out.shape)}"
        )
    return out, None


def predicted_x0(output: Tensor, x: Tensor, t: NumPyArray, schedule: Schedule, prediction: str) -> Tensor:
    """Turn a network's prediction into x0, at x = α x0 + σ ε and v = α ε - σ x0 (arXiv:2202.00512, app. D).

    Args:
        output: what the network predicts, (B, C, h, w).
        x: x_t, (B, C, h, w).
        t: (B,).
        schedule: of α and σ.
        prediction: "epsilon", "x0" or "v".
    Returns:
        (B, C, h, w).
    """
    if prediction == "x0":
        return output
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if prediction == "v":
        return column(alpha) * x - column(sigma) * output
    return column(1 / alpha) * x - column(sigma / alpha) * output


def predicted_epsilon(output: Tensor, x: Tensor, t: NumPyArray, schedule: Schedule, prediction: str) -> Tensor:
    """Turn a network's prediction into ε; the arguments are those of `predicted_x0`."""
    if prediction == "epsilon":
        return output
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if prediction == "v":
        return column(sigma) * x + column(alpha) * output
    return column(1 / sigma) * x - column(alpha / sigma) * output


def check_predict(**networks: Predict) -> None:
    """Raise where one of these isn't a function of (x, t)."""
    for name, predict in networks.items():
        check_function(name, predict, "x, t")


def mean_of(loss: Tensor, weight: Floats) -> Tensor:
    """The mean of examples' losses (B,) times their weights: a scalar."""
    return (loss * row(weight)).mean()
