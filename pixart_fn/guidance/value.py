"""What a Guidance is made of: scales, an interval, blocks of the transformer. B pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..checks import check_function, is_number, kind, shown
from ..types import Array

Scale: TypeAlias = float | Sequence[float] | Array | Callable[[float], float | Sequence[float] | Array]
"""A number, one number per picture (B,), or a function of t that gives either."""

LARGEST = 1e6
"""Size of a scale at most; models draw nothing but noise from a hundred on, and float32 ends at 3e38."""


def check_scale(name: str, scale: Scale, rows: int | None = None) -> None:
    """Raise TypeError where it isn't a scale, and ValueError where its numbers are too large or not as many as rows.

    Args:
        name: what the sentence calls it.
        scale: a number, one number per picture, or a function of t, which isn't called.
        rows: how many pictures there are; None is any number.
    """
    if callable(scale):
        return check_function(name, scale, "t")
    if isinstance(scale, str) or not (is_number(scale) or isinstance(scale, Sequence) or hasattr(scale, "shape")):
        raise TypeError(f"{name} must be a number, one for each picture, or a function of t, got {kind(scale)}")
    if isinstance(scale, Sequence) and len(scale) > LARGEST:
        raise ValueError(f"{name} must be a number or one for each picture, got {len(scale)} of them")
    try:
        w = numbers(scale)
    except ValueError:
        raise TypeError(f"{name} must be a number, or a list of one for each picture, got {shown(scale)}") from None
    except OverflowError:
        raise ValueError(f"{name} must be at most 1.8e308 in size, as a float is, got a larger whole number") from None
    if not np.isfinite(w).all():
        raise ValueError(f"{name} must be finite, got {shown(scale)}")
    if (np.abs(w) > LARGEST).any():
        raise ValueError(f"{name} must be within ±{LARGEST:g}, got {shown(scale)}")
    if w.ndim > 1 or not w.size or (rows is not None and w.shape not in ((), (rows,))):
        wanted = "" if rows is None else f" ({rows})"
        raise ValueError(f"{name} must be a number or one for each picture{wanted}, got an array of shape {w.shape}")


def scale_at(name: str, scale: Scale, t: float, rows: int | None) -> float | Sequence[float] | Array:
    """The scale at t: what it gives where it is a function, checked under its name, and itself otherwise."""
    if not callable(scale):
        return scale
    value = scale(float(t))
    check_scale(f"{name} at t = {t:g}", value, rows)
    return value


def as_interval(interval: object) -> tuple[float, float]:
    """Return two numbers as a tuple, checked.

    Args:
        interval: (low, high) in training-time units, a tuple, a list or an array.
    Returns:
        The same numbers.
    Raises:
        TypeError: it isn't two numbers.
        ValueError: the first is above the second, or one of them is NaN.
    """
    ends = interval.tolist() if isinstance(interval, np.ndarray) else interval
    if not (isinstance(ends, (tuple, list)) and len(ends) == 2 and all(map(is_number, ends))):
        raise TypeError(f"interval must be two numbers (low, high) in training-time units, got {shown(ends)}")
    if not ends[0] <= ends[1]:
        raise ValueError(f"interval must be (low, high) with low at most high, got {shown(ends)}")
    return ends[0], ends[1]


def check_lengths(scales: Mapping[str, Scale]) -> None:
    """Raise a ValueError where scales have one number for each picture and not as many."""
    many = {name: numbers(each).shape for name, each in scales.items() if not callable(each)}
    several = {name: shape[0] for name, shape in many.items() if shape}
    if len({*several.values()}) > 1:
        got = " and ".join(map(str, several.values()))
        raise ValueError(f"{' and '.join(several)} must have one number for each picture, got {got}")


def as_layers(name: str, layers: Sequence[int]) -> tuple[int, ...]:
    """Return blocks of the transformer as a tuple.

    Args:
        name: what the sentence calls them.
        layers: a list or an array of different blocks, counted from 0.
    Returns:
        The same numbers.
    Raises:
        TypeError: they aren't a list of whole numbers.
        ValueError: there is none, one is below 0, or one is there twice.
    """
    listed = layers.ndim == 1 if isinstance(layers, np.ndarray) else isinstance(layers, Sequence)
    whole = listed and all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in layers)
    if not whole:
        raise TypeError(f"{name} must be a list of the transformer's blocks, counted from 0, got {shown(layers)}")
    if not len(layers) or min(layers) < 0:
        raise ValueError(f"{name} must be at least one block, counted from 0, got {shown(tuple(layers))}")
    if len({*layers}) < len(layers):
        raise ValueError(f"{name} must be different blocks, got {shown(tuple(layers))}")
    return tuple(map(int, layers))


def always(scale: Scale, number: float) -> bool:
    """Whether a scale is this number for every picture at every t."""
    return not callable(scale) and bool(np.all(numbers(scale) == number))


def part_of(scale: Scale, rows: slice) -> Scale:
    """The scale of a part of the pictures; one that may differ between them becomes a function of t."""
    return partial(_part_at, scale, rows) if callable(scale) or numbers(scale).ndim else scale


def _part_at(scale: Scale, rows: slice, t: float) -> Any:
    value: Any = scale(t) if callable(scale) else scale
    return value[rows] if isinstance(value, (tuple, list)) or getattr(value, "ndim", 0) == 1 else value


def numbers(scale: Scale) -> NDArray[np.float64]:
    """The numbers of a scale that isn't a function: float64 () or (B,)."""
    values = np.asarray(scale.asnumpy() if hasattr(scale, "asnumpy") else scale)
    if values.dtype == object and all(map(is_number, values.flat)):  # whole numbers beyond 64 bits
        return values.astype(np.float64)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"these are no numbers: {values.dtype}")
    return values.astype(np.float64)


def call_of(value: Any) -> str:
    """The call that makes a dataclass, without what is usual; the scale is never left out."""
    values = [(field.name, getattr(value, field.name), field.default) for field in fields(value)]
    shown = [
        f"{name}={each!r}"
        for name, each, usual in values
        if name == "scale" or type(each) is not type(usual) or each != usual
    ]
    return f"{type(value).__name__}({', '.join(shown)})"


def frozen(scale: Scale) -> Scale:
    """The same numbers, immutable; a function, and a Tensor, which may have a gradient, stay what they are."""
    if callable(scale) or hasattr(scale, "asnumpy"):
        return scale
    values: Any = np.asarray(scale, np.float64).tolist()
    return tuple(values) if isinstance(values, list) else values
