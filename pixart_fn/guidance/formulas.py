"""The formulas of guidance as functions of values. B pictures, C channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import check_number, check_whole, is_number, kind
from ..types import Array
from .value import check_scale

TINY = 1e-30
"""What is added to a sum of squares that is divided by: nothing next to any but 0."""


def combine(conditional: Array, unconditional: Array, w: float | Sequence[float] | Array) -> Array:
    """Go from the unconditional x0 to the conditional one and beyond it: x0 = w · x0_c + (1 - w) · x0_u.

    This is classifier-free guidance (arXiv:2207.12598, eq. 6); in ε it is the usual ε_u + w (ε_c - ε_u).

    Args:
        conditional: x0 with the condition, (B, C, …).
        unconditional: x0 without it, or with a negative text, of the same shape.
        w: a number, or one number per picture (B,); 1 is exactly the conditional x0, 0 the unconditional one.
    Returns:
        x0 of the same shape.
    Raises:
        TypeError: w isn't numbers, or a value no array.
        ValueError: the number of scales is not B, or the shapes differ.
    Example:
        >>> px.guidance.combine(np.array([2.0]), np.array([1.0]), 4.5)
        array([5.5])
    """
    _check_shapes(conditional=conditional, unconditional=unconditional)
    scale = _factor("w", w, conditional)
    if isinstance(scale, float) and scale in (0, 1):  # 0 times what isn't finite would be NaN
        return 1.0 * (conditional if scale else unconditional)
    return scale * conditional + (1.0 - scale) * unconditional


def rescale(guided: Array, conditional: Array, phi: float) -> Array:
    """Mix with the guided value scaled to the conditional one's deviation: φ · guided · std_c/std_g + (1 - φ) · guided.

    This is against overexposure (arXiv:2305.08891, eq. 15 and 16), where both are what the model predicts.

    Args:
        guided: what guidance gives, (B, C, …).
        conditional: the same without guidance.
        phi: φ within [0, 1].
    Returns:
        A value of the same shape.
    Raises:
        TypeError: phi isn't a number, or a value no array.
        ValueError: phi is outside [0, 1], or the shapes differ or have no two numbers for each picture.
    """
    check_number("phi", phi, 0, 1)
    _check_shapes(guided=guided, conditional=conditional)
    shape = shape_of(guided)
    if len(shape) < 2 or 0 in shape or math.prod(shape[1:]) < 2:
        raise ValueError(f"guided must have the shape (B, C, …) with two numbers in each row at least, got {shape}")
    ratio = _deviation(conditional) / _deviation(guided)
    return guided * (phi * ratio + (1.0 - phi))


def adaptive_projected(
    conditional: Array,
    unconditional: Array,
    w: float | Sequence[float] | Array,
    *,
    eta: float = 0.0,
    threshold: float = math.inf,
    momentum: float = 0.0,
    running: Array | None = None,
) -> tuple[Array, Array]:
    """Guide without the part of the difference that only makes colours stronger (APG, arXiv:2410.02416).

    The difference d = x0_c - x0_u, with momentum d + β · running, is shortened to the norm r at most and split into its
    part d_∥ along x0_c and the rest d_⊥: x0 = x0_c + (w - 1) (d_⊥ + η d_∥).

    The paper defines this on x0. It depends on the space: along ε_c lies another part of the difference, and in ε each
    step's difference counts α/σ times as much, in the norm and in the sum. diffusers' guider is this function of
    whatever the model predicts, with w - 1 as its guidance_scale where use_original_formulation is True; by default it
    goes w times as far from the unconditional value instead, which doesn't lead to the conditional one at w = 1.

    Args:
        conditional: x0 with the condition, (B, C, …).
        unconditional: x0 without it, or with a negative text, of the same shape.
        w: a number, or one number per picture (B,); 1 is exactly the conditional x0.
        eta: η within [0, 1], how much of d_∥ is kept; 1 with the other options left alone is `combine`.
        threshold: r, the largest norm of a picture's d over all its numbers, above 0; infinite for any.
        momentum: β within [-1, 1]; the paper takes negative ones, against what earlier steps did.
        running: the second value of the step before, or None in the first one.
    Returns:
        x0, and the running difference d + β · running, which the next step takes; both of the same shape.
    Raises:
        TypeError: w isn't numbers, another option is no number, or a value no array.
        ValueError: an option is outside its range, the number of scales is not B, or the shapes differ or are empty.
    """
    check_number("eta", eta, 0, 1)
    check_number("threshold", threshold, 0, math.inf, above=True)
    check_number("momentum", momentum, -1, 1)
    values = {"conditional": conditional, "unconditional": unconditional}
    _check_shapes(**values, **({} if running is None else {"running": running}))
    _check_rows("conditional", conditional)
    scale = _factor("w", w, conditional)
    difference = conditional - unconditional
    running = difference if running is None else difference + momentum * running
    if isinstance(scale, float) and scale == 1:  # 0 times what isn't finite would be NaN
        return 1.0 * conditional, running
    update = running
    if threshold < math.inf:
        update = update / (_dot(update, update) ** 0.5 / threshold).clip(1.0, None)
    parallel = _dot(update, conditional) / (_dot(conditional, conditional) + TINY) * conditional
    return conditional + (scale - 1.0) * (update - (1.0 - eta) * parallel), running


def zero_star(conditional: Array, unconditional: Array, w: float | Sequence[float] | Array) -> Array:
    """Guide from the unconditional value at its best length: `combine(c, s · u, w)` (CFG-Zero*, arXiv:2503.18886).

    s = ⟨c, u⟩ / ⟨u, u⟩ for each picture brings s · u closest to c, so that c - s · u is what of c lies across u.

    The paper defines this on the velocity, dx/dt of a flow. It depends on the space, since s is another one there; of
    models that preserve variance the velocity is v, the derivative of x by the angle whose tangent is σ/α. diffusers'
    guider is this function of whatever the model predicts, which for PixArt is ε.

    Args:
        conditional: c with the condition, (B, C, …).
        unconditional: u without it, or with a negative text, of the same shape.
        w: a number, or one number per picture (B,); 1 is exactly c, 0 is s · u.
    Returns:
        A value of the same shape.
    Raises:
        TypeError: w isn't numbers, or a value no array.
        ValueError: the number of scales is not B, or the shapes differ or are empty.
    """
    _check_shapes(conditional=conditional, unconditional=unconditional)
    _check_rows("conditional", conditional)
    s = _dot(conditional, unconditional) / (_dot(unconditional, unconditional) + 1e-8)  # the authors' own 1e-8
    return combine(conditional, s * unconditional, w)


def away(guided: Array, conditional: Array, worse: Array, s: float | Sequence[float] | Array) -> Array:
    """Move away from what a worse model gives: x0 = x0_g + s · (x0_c - x0_w).

    The worse one has perturbed attention (PAG, arXiv:2403.17377, eq. 9), leaves blocks out (skip-layer guidance), has
    blurred queries (smoothed energy, arXiv:2408.00760) or is a smaller or less trained model (auto-guidance,
    arXiv:2406.02507, eq. 3, whose w is s + 1). In ε, and in v, it is the same: the weights s and -s add up to 0.

    Args:
        guided: x0, guided by text or not, (B, C, …).
        conditional: x0 with the condition.
        worse: x0 of the worse model with the condition.
        s: a number, or one number per picture (B,); 0 is exactly the guided x0.
    Returns:
        x0 of the same shape.
    Raises:
        TypeError: s isn't numbers, or a value no array.
        ValueError: the number of scales is not B, or the shapes differ.
    Example:
        >>> px.guidance.away(np.array([5.5]), np.array([2.0]), np.array([1.5]), 2.0)
        array([6.5])
    """
    _check_shapes(guided=guided, conditional=conditional, worse=worse)
    return guided + _factor("s", s, guided) * (conditional - worse)


def first_channels(guided: Array, conditional: Array, n: int = 3) -> Array:
    """Take the first n channels from the guided x0 and the others from the conditional one.

    The original PixArt-α's sampler guides three of the four channels.

    Args:
        guided: x0, (B, C, …).
        conditional: x0 with the condition, of the same shape.
        n: how many channels, within 0 … C.
    Returns:
        x0 of the same shape.
    Raises:
        TypeError: n isn't a whole number, or a value no array.
        ValueError: n is outside 0 … C, or the shapes differ or have no channels.
    """
    _check_shapes(guided=guided, conditional=conditional)
    if len(shape_of(guided)) < 2:
        raise ValueError(f"guided must have the shape (B, C, …), got {shape_of(guided)}")
    check_whole("n", n, 0, guided.shape[1])
    if isinstance(guided, np.ndarray):
        return np.concatenate([guided[:, :n], conditional[:, n:]], 1)
    from mindspore import ops  # only here, so that the mathematics of guidance needs no MindSpore

    return ops.cat((guided[:, :n], conditional[:, n:]), 1)


def shape_of(value: object) -> tuple[int, ...]:
    """The shape of an array or a Tensor; () where there is none."""
    return tuple(getattr(value, "shape", ()))


def _check_shapes(**values: Array) -> None:
    """Raise where values aren't arrays of numbers, or, as NumPy might broadcast them, where their shapes differ."""
    for name, value in values.items():
        numbers = value.dtype.kind in "fiu" if isinstance(value, np.ndarray) else hasattr(value, "asnumpy")
        if not numbers:
            raise TypeError(f"{name} must be an array or a Tensor of numbers, got {kind(value)}")
    if len({*map(shape_of, values.values())}) > 1:
        got = ", ".join(f"{name} {shape_of(value)}" for name, value in values.items())
        raise ValueError(f"{' and '.join(values)} must have the same shape, got {got}")


def _factor(name: str, scale: float | Sequence[float] | Array, x: Array) -> float | Array:
    """A scale that is checked, in a shape that multiplies x."""
    if callable(scale):
        raise TypeError(f"{name} must be a number, one for each picture; Guidance takes functions of t")
    if not hasattr(scale, "asnumpy"):  # reading a Tensor's numbers would wait for the device at every step
        check_scale(name, scale)
    return column(name, scale, x)


def column(name: str, scale: float | Sequence[float] | Array, x: Array) -> float | Array:
    """A number, or one number per picture in a shape that multiplies x."""
    if is_number(scale):
        return float(scale)
    value: Any = scale
    if not hasattr(scale, "asnumpy"):
        value = np.asarray(scale, x.dtype if isinstance(x, np.ndarray) else np.float32)
        if not isinstance(x, np.ndarray):
            from mindspore import Tensor  # only here, so that the mathematics of guidance needs no MindSpore

            value = Tensor.from_numpy(value)
    if tuple(value.shape) == ():
        return value
    if tuple(value.shape) != (x.shape[0],):
        raise ValueError(f"{name} must be a number or one for each picture ({x.shape[0]}), got {value.shape}")
    return value.reshape(-1, *[1] * (x.ndim - 1))


def _check_rows(name: str, value: Array) -> None:
    """Raise a ValueError where a value holds no numbers for each picture."""
    if not shape_of(value) or 0 in shape_of(value):
        raise ValueError(
            f"{name} must have the shape (B, C, …) with a number in each row at least, got {shape_of(value)}"
        )


def _dot(a: Array, b: Array) -> Array:
    """Each picture's inner product, in a shape that multiplies it."""
    return (a * b).reshape(a.shape[0], -1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def _deviation(x: Array) -> Array:
    """Each picture's standard deviation, in a shape that multiplies it."""
    flat = x.reshape(x.shape[0], -1)
    centred = flat - flat.mean(1).reshape(-1, 1)
    variance = (centred * centred).sum(1) / (flat.shape[1] - 1)
    return (variance**0.5).reshape(-1, *[1] * (x.ndim - 1))
