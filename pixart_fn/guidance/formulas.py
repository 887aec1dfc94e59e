"""The formulas of guidance as functions of values. B pictures, C channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import check_number, check_whole, is_number, kind
from ..types import Array
from .value import check_scale


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


def perturbed_attention(
    guided: Array, conditional: Array, perturbed: Array, s: float | Sequence[float] | Array
) -> Array:
    """Move away from the x0 of a perturbed model: x0 = x0_g + s · (x0_c - x0_p) (arXiv:2403.17377, eq. 9).

    Args:
        guided: x0, guided by text or not, (B, C, …).
        conditional: x0 with the condition.
        perturbed: x0 of the model whose self-attention is the identity in some blocks.
        s: a number, or one number per picture (B,).
    Returns:
        x0 of the same shape.
    Raises:
        TypeError: s isn't numbers, or a value no array.
        ValueError: the number of scales is not B, or the shapes differ.
    """
    _check_shapes(guided=guided, conditional=conditional, perturbed=perturbed)
    return guided + _factor("s", s, guided) * (conditional - perturbed)


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
        raise ValueError(f"{name} must be a number or one for each of {x.shape[0]} pictures, got {value.shape}")
    return value.reshape(-1, *[1] * (x.ndim - 1))


def _deviation(x: Array) -> Array:
    """Each picture's standard deviation, in a shape that multiplies it."""
    flat = x.reshape(x.shape[0], -1)
    centred = flat - flat.mean(1).reshape(-1, 1)
    variance = (centred * centred).sum(1) / (flat.shape[1] - 1)
    return (variance**0.5).reshape(-1, *[1] * (x.ndim - 1))
