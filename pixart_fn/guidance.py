"""From a model to a denoiser, and from denoisers to a guided one. Solvers see only x0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .checks import check_number, check_option, check_whole, is_number, kind
from .schedule import PREDICTIONS, Schedule, convert
from .types import Array, Denoiser

Pair: TypeAlias = Callable[[Array, float], tuple[Array, Array]]
"""(x_t, t) → (x0 with the condition, x0 without it)."""

Scale: TypeAlias = float | Sequence[float] | Array | Callable[[float], float | Sequence[float] | Array]
"""A number, one a sample (B,), or a function of t that gives either."""


def denoiser(
    model: Callable[[Array, float], Array],
    schedule: Schedule,
    prediction: str | None = None,
    *,
    learned_variance: bool = False,
) -> Denoiser:
    """Make a denoiser from a model's raw output.

    "epsilon": x0 = (x_t - σ ε)/α; "x0": the output itself; "v": x0 = α x_t - σ v (arXiv:2202.00512).

    Args:
        model: (x_t (B, C, …), t) → (B, C, …), or (B, 2C, …) whose second half is a learned variance.
        schedule: gives α and σ at t, and the time that the model is told.
        prediction: what the output is; None takes the schedule's own.
        learned_variance: whether to leave the second half after x0, for `ddpm("learned_range")`, rather than drop it.
    Raises:
        ValueError: the prediction is not one of these, or the model's output has another shape; at α = 0, a model
            that predicts ε has no x0.
    """
    if prediction is None:
        prediction = schedule.prediction
    check_option("prediction", prediction, PREDICTIONS)

    def denoise(x: Array, t: float) -> Array:
        raw = model(x, schedule.model_time(float(t)))
        mean, rest = _halves(raw, x, learned_variance)
        x0 = convert(mean, x, schedule.alpha(float(t)), schedule.sigma(float(t)), prediction, "x0")
        return x0 if rest is None else _stack(x0, rest)

    return denoise


def both(conditional: Denoiser, unconditional: Denoiser) -> Pair:
    """Make a pair from two denoisers, evaluated one after the other."""
    return lambda x, t: (conditional(x, t), unconditional(x, t))


def classifier_free(
    pair: Pair,
    scale: Scale,
    *,
    rescale: float = 0.0,
    schedule: Schedule | None = None,
    channels: int | None = None,
) -> Denoiser:
    """Guide by going from the unconditional x0 towards the conditional one, and beyond it.

    x0 = w · x0_conditional + (1 - w) · x0_unconditional (arXiv:2207.12598, eq. 6), which in ε is the usual
    ε_u + w (ε_c - ε_u). A learned variance after x0 stays the conditional one.

    Args:
        pair: evaluates both, ideally in one batch of 2B.
        scale: w, a number, (B,), or a function of t that gives either; 1 is exactly the conditional x0, 0 the
            unconditional one.
        rescale: φ within [0, 1]: mix with the result scaled to the conditional's standard deviation a sample, against
            overexposure (arXiv:2305.08891, eq. 15 and 16).
        schedule: where given, deviations are those of what its model predicts, as in the paper, rather than of x0.
        channels: guide the first so many and leave the others conditional: the original PixArt-α's sampler guides
            three of the four.
    Raises:
        TypeError: the scale is none of these, or another option is of another type.
        ValueError: the number of scales is not the batch size, or rescale is outside [0, 1].
    """
    _check_scale(scale)
    check_number("rescale", rescale, 0, 1)
    if channels is not None:
        check_whole("channels", channels, 1)

    def denoise(x: Array, t: float) -> Array:
        conditional, unconditional = pair(x, t)
        w = _column(scale, x, t)
        guided = w * _mean(conditional, x) + (1.0 - w) * _mean(unconditional, x)
        if rescale:
            guided = _rescaled(guided, _mean(conditional, x), x, t, rescale, schedule)
        if channels is None and conditional.shape == x.shape:
            return guided
        kept = x.shape[1] if channels is None else channels
        return _stack(guided[:, :kept], conditional[:, kept:])

    return denoise


def interval(inside: Denoiser, outside: Denoiser, low: float, high: float) -> Denoiser:
    """Use one denoiser where low ≤ t ≤ high and another elsewhere (arXiv:2404.07724).

    With the guided one inside and the conditional one outside, nothing is evaluated without the condition there.

    Args:
        inside, outside: denoisers. low, high: in training-time units.
    Raises:
        ValueError: low is above high.
    """
    check_number("low (of an interval)", low, -math.inf, math.inf)
    check_number("high (of an interval)", high, -math.inf, math.inf)
    if low > high:
        raise ValueError(f"an interval goes from low to high, got {low} and {high}")
    return lambda x, t: inside(x, t) if low <= t <= high else outside(x, t)


def compose(base: Denoiser, parts: Sequence[tuple[Denoiser, Scale]]) -> Denoiser:
    """Add up what several prompts change: x0 = x0_base + Σ w_k (x0_k - x0_base) (arXiv:2206.01714, eq. 11).

    A negative w_k steers away. With one part this is `classifier_free`.

    Args:
        base: the unconditional denoiser, or that of a negative prompt.
        parts: denoisers with their weights: numbers, one a sample, or functions of t.
    Raises:
        ValueError: there is no part.
    """
    if not parts:
        raise ValueError("compose needs at least one denoiser with its weight")
    for _, weight in parts:
        _check_scale(weight)

    def denoise(x: Array, t: float) -> Array:
        origin = base(x, t)
        x0 = origin
        for part, weight in parts:
            x0 = _add(x0, _column(weight, x, t) * (_mean(part(x, t), x) - _mean(origin, x)))
        return x0

    return denoise


def perturbed(guided: Denoiser, pair: Pair, scale: Scale) -> Denoiser:
    """Add perturbed-attention guidance: x0 = x0_guided + s · (x0_conditional - x0_perturbed) (arXiv:2403.17377, eq. 9).

    Args:
        guided: any denoiser, guided by text or not.
        pair: (x_t, t) → the conditional x0, and that of the model whose self-attention is the identity in some blocks.
        scale: s, a number, one a sample, or a function of t.
    Raises:
        TypeError: the scale is none of these.
    """
    _check_scale(scale)

    def denoise(x: Array, t: float) -> Array:
        conditional, worse = pair(x, t)
        return _add(guided(x, t), _column(scale, x, t) * (_mean(conditional, x) - _mean(worse, x)))

    return denoise


def threshold(denoise: Denoiser, quantile: float = 0.995, largest: float = 1.0) -> Denoiser:
    """Dynamic thresholding: clip x0 to ±s and divide by s, s a sample's quantile of |x0| within [1, largest].

    For pixels in [-1, 1] (Imagen, arXiv:2205.11487, sec. 2.3); latents live elsewhere.

    Args:
        denoise: a denoiser. quantile: within (0, 1]. largest: at least 1; 1 clips to [-1, 1].
    Raises:
        ValueError: one of them is outside its range.
    """
    check_number("quantile", quantile, 0, 1, above=True)
    check_number("largest", largest, 1)

    def shrink(x0: Array) -> Array:
        sizes = _numpy(abs(x0)).reshape(x0.shape[0], -1)
        s = np.clip(np.quantile(sizes.astype(np.float64), quantile, axis=1), 1, largest)
        return _clipped(x0 / _column(s, x0, 0.0) if largest > 1 else x0, 1.0)

    return _on_x0(denoise, shrink)


def clip(denoise: Denoiser, largest: float = 1.0) -> Denoiser:
    """Clip x0 to ±largest, which is above 0: for pixels, as `threshold`."""
    check_number("largest", largest, 0, above=True)
    return _on_x0(denoise, lambda x0: _clipped(x0, largest))


def _clipped(x0: Array, largest: float) -> Array:
    """x0 within ±largest, where NaN stays NaN: MindSpore's own clip makes a number of it."""
    clipped = x0.clip(-largest, largest)
    return clipped if isinstance(x0, np.ndarray) else clipped + 0.0 * x0


def _on_x0(denoise: Denoiser, change: Callable[[Array], Array]) -> Denoiser:
    """Change the x0 of a denoiser, not the learned variance that may follow it."""

    def changed(x: Array, t: float) -> Array:
        x0 = denoise(x, t)
        return change(x0) if x0.shape == x.shape else _stack(change(_mean(x0, x)), x0[:, x.shape[1] :])

    return changed


def _rescaled(guided: Array, conditional: Array, x: Array, t: float, phi: float, schedule: Schedule | None) -> Array:
    """φ · (what is guided, with the conditional's deviation) + (1 - φ) · what is guided."""

    def told(x0: Array, back: bool = False) -> Array:
        if schedule is None or schedule.prediction == "x0":
            return x0
        names = ("x0", schedule.prediction)
        return convert(x0, x, schedule.alpha(float(t)), schedule.sigma(float(t)), *(names[::-1] if back else names))

    output = told(guided)
    ratio = _deviation(told(conditional)) / _deviation(output)
    return told(output * (phi * ratio + (1.0 - phi)), back=True)


def _deviation(x: Array) -> Array:
    """Each sample's standard deviation, in a shape that multiplies it."""
    flat = x.reshape(x.shape[0], -1)
    centred = flat - flat.mean(1).reshape(-1, 1)
    variance = (centred * centred).sum(1) / (flat.shape[1] - 1)
    return (variance**0.5).reshape(-1, *[1] * (x.ndim - 1))


def _halves(raw: Array, x: Array, keep: bool) -> tuple[Array, Array | None]:
    """The first C of 2C channels, and the rest where it is kept."""
    shape = tuple(x.shape)
    if tuple(raw.shape) == shape and not keep:
        return raw, None
    if len(shape) > 1 and tuple(raw.shape) == (shape[0], 2 * shape[1], *shape[2:]):
        return raw[:, : shape[1]], raw[:, shape[1] :] if keep else None
    channels = "2C channels, of which half is a variance" if keep else "C or 2C channels"
    raise ValueError(f"the model's output for x of shape {shape} must have {channels}, got {tuple(raw.shape)}")


def _mean(x0: Array, x: Array) -> Array:
    """x0 without a learned variance after it."""
    return x0 if x0.shape == x.shape else x0[:, : x.shape[1]]


def _add(x0: Array, change: Array) -> Array:
    """A change of x0, not of a learned variance after it."""
    C = change.shape[1] if change.ndim > 1 else None
    return x0 + change if x0.shape == change.shape else _stack(x0[:, :C] + change, x0[:, C:])


def _check_scale(scale: Scale) -> None:
    """Raise a TypeError where it isn't a scale, and a ValueError where one is NaN or infinite."""
    if callable(scale) or hasattr(scale, "shape"):
        return
    numbers: Sequence[Any] = scale if isinstance(scale, Sequence) and not isinstance(scale, str) else [scale]
    for number in numbers:
        if not is_number(number):
            raise TypeError(
                f"guidance scale must be a number, one for each sample, or a function of t, got {kind(number)}"
            )
        check_number("guidance scale", number)


def _column(scale: Scale, x: Array, t: float) -> float | Array:
    """A number, or one number a sample in a shape that multiplies x."""
    value: Any = scale(float(t)) if callable(scale) else scale
    if callable(scale):
        _check_scale(value)
    if is_number(value):
        return float(value)
    if isinstance(value, (Sequence, np.ndarray)):
        value = np.asarray(value, x.dtype if isinstance(x, np.ndarray) else np.float32)
        if not isinstance(x, np.ndarray):
            from mindspore import Tensor  # only here, so that the mathematics of guidance needs no MindSpore

            value = Tensor.from_numpy(value)
    if tuple(value.shape) == ():
        return value
    if tuple(value.shape) != (x.shape[0],):
        raise ValueError(f"guidance scale must be a number or one for each of {x.shape[0]} samples, got {value.shape}")
    return value.reshape(-1, *[1] * (x.ndim - 1))


def _stack(first: Array, second: Array) -> Array:
    """Channels of both."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second], 1)
    from mindspore import ops

    return ops.cat((first, second), 1)


def _numpy(x: Array) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.asnumpy()
