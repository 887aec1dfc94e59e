"""Guidance as a value that is checked when it is made, and the scales in it. B pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..checks import check_function, check_number, check_option, is_number, kind, shown
from ..public import public_class
from ..types import Array

Scale: TypeAlias = float | Sequence[float] | Array | Callable[[float], float | Sequence[float] | Array]
"""A number, one number per picture (B,), or a function of t that gives either."""

LARGEST = 1e6
"""Size of a scale at most; models draw nothing but noise from a hundred on, and float32 ends at 3e38."""

COMPATS = ("diffusers", "original")


@public_class
@dataclass(frozen=True, repr=False)
class Guidance:
    """How a denoiser is guided by text, as one immutable value that is checked when it is made.

    Args:
        scale: w of `combine`, within ±LARGEST: a number, one number per picture (B,), or a function of t that gives
            either; 1 evaluates no negative text.
        interval: (low, high) in training-time units: guide where low ≤ t ≤ high, and evaluate the prompt alone
            elsewhere (arXiv:2404.07724); None guides everywhere.
        rescale: φ of `rescale`, within [0, 1], in what the model predicts; 0 is none.
        pag_scale: s of `perturbed_attention`, as `scale`; 0 is none, and anything else evaluates a third branch.
        pag_layers: the transformer's blocks that are perturbed, counted from 0; None takes the middle one.
        compat: "diffusers", or "original" to guide three of the four channels and to read the negative text under the
            prompt's mask, as PixArt-α's own DDPM sampler does.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or it would change nothing: pag_layers without a pag_scale, and
            interval, rescale or compat where the scale is 1 and pag_scale is 0.
    """

    scale: Scale = 4.5
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    pag_scale: Scale = 0.0
    pag_layers: Sequence[int] | None = None
    compat: str = "diffusers"

    def __post_init__(self) -> None:
        check_scale("the scale of guidance", self.scale)
        check_scale("pag_scale", self.pag_scale)
        check_number("rescale", self.rescale, 0, 1)
        check_option("compat", self.compat, COMPATS)
        for name in ("scale", "pag_scale"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        _check_lengths(self.scale, self.pag_scale)
        if self.interval is not None:
            object.__setattr__(self, "interval", as_interval(self.interval))
        if self.pag_layers is not None:
            _check_layers(self.pag_layers)
            object.__setattr__(self, "pag_layers", tuple(map(int, self.pag_layers)))
            if not self.perturbs:
                raise ValueError(f"pag_layers {self.pag_layers} need a pag_scale, which is 0")
        if not (self.compares or self.perturbs):
            self._check_unguided()

    @property
    def compares(self) -> bool:
        """Whether the negative text is evaluated, which a scale of 1 leaves out."""
        return callable(self.scale) or not bool(np.all(_numbers(self.scale) == 1))

    @property
    def perturbs(self) -> bool:
        """Whether a branch with perturbed attention is evaluated."""
        return callable(self.pag_scale) or bool(np.any(_numbers(self.pag_scale)))

    def __repr__(self) -> str:
        """The call that makes it, without what is usual."""
        values = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        shown = [
            f"{name}={value!r}"
            for name, value, usual in values
            if name == "scale" or type(value) is not type(usual) or value != usual
        ]
        return f"Guidance({', '.join(shown)})"

    def _check_unguided(self) -> None:
        """Raise a ValueError where an option is given although nothing is guided."""
        options = {"interval": self.interval, "rescale": self.rescale or None, "compat": self.compat}
        given = [f"{name}={value!r}" for name, value in options.items() if value not in (None, "diffusers")]
        if given:
            raise ValueError(f"{', '.join(given)} would change nothing with a scale of 1 and a pag_scale of 0")


def as_guidance(guidance: Guidance | Scale) -> Guidance:
    """Return a Guidance as it is, and make one of a bare scale.

    Args:
        guidance: a Guidance, or its scale alone.
    Returns:
        A Guidance.
    Raises:
        TypeError: it is neither.
        ValueError: a number of the scale is NaN or infinite.
    """
    return guidance if isinstance(guidance, Guidance) else Guidance(guidance)


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
        w = _numbers(scale)
    except ValueError:
        raise TypeError(f"{name} must be a number, or a list of one for each picture, got {shown(scale)}") from None
    except OverflowError:
        raise ValueError(f"{name} must be at most 1.8e308 in size, as a float is, got a larger whole number") from None
    if not np.isfinite(w).all():
        raise ValueError(f"{name} must be finite, got {shown(scale)}")
    if (np.abs(w) > LARGEST).any():
        raise ValueError(f"{name} must be within ±{LARGEST:g}, got {shown(scale)}")
    if w.ndim > 1 or not w.size or (rows is not None and w.shape not in ((), (rows,))):
        many = "each picture" if rows is None else f"each of {rows} pictures"
        raise ValueError(f"{name} must be a number or one for {many}, got an array of shape {w.shape}")


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


def _check_lengths(scale: Scale, pag_scale: Scale) -> None:
    shapes = {_numbers(each).shape for each in (scale, pag_scale) if not callable(each)} - {()}
    if len(shapes) > 1:
        raise ValueError(
            f"scale and pag_scale must have one number for each picture, got {len(_numbers(scale))} and"
            f" {len(_numbers(pag_scale))}"
        )


def _check_layers(layers: Sequence[int]) -> None:
    listed = layers.ndim == 1 if isinstance(layers, np.ndarray) else isinstance(layers, Sequence)
    whole = listed and all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in layers)
    if not whole:
        raise TypeError(f"pag_layers must be a list of the transformer's blocks, counted from 0, got {shown(layers)}")
    if not len(layers) or min(layers) < 0:
        raise ValueError(f"pag_layers must be at least one block, counted from 0, got {shown(tuple(layers))}")
    if len({*layers}) < len(layers):
        raise ValueError(f"pag_layers must be different blocks, got {shown(tuple(layers))}")


def _numbers(scale: Scale) -> NDArray[np.float64]:
    numbers = np.asarray(scale.asnumpy() if hasattr(scale, "asnumpy") else scale)
    if numbers.dtype == object and all(map(is_number, numbers.flat)):  # whole numbers beyond 64 bits
        return numbers.astype(np.float64)
    if numbers.dtype.kind not in "iuf":
        raise ValueError(f"these are no numbers: {numbers.dtype}")
    return numbers.astype(np.float64)


def _frozen(scale: Scale) -> Scale:
    """The same numbers, immutable; a function, and a Tensor, which may have a gradient, stay what they are."""
    if callable(scale) or hasattr(scale, "asnumpy"):
        return scale
    numbers: Any = np.asarray(scale, np.float64).tolist()
    return tuple(numbers) if isinstance(numbers, list) else numbers
