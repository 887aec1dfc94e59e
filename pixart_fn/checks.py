"""Checks of arguments in public functions: each error is one sentence that says what is valid and what was given."""

from __future__ import annotations

import inspect
import math
import re
import reprlib
import sys
from collections.abc import Iterable, Sequence
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray


def check_option(name: str, value: str, options: Sequence[str]) -> None:
    """Raise a ValueError where `value` isn't one of the options."""
    if not any(isinstance(value, str) and value == option for option in options):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {shown(value)}")


def check_number(
    name: str, value: float, low: float | None = None, high: float | None = None, *, above: bool = False
) -> None:
    """Check a number.

    Args:
        name: the name of the value in the error.
        value: the value to check.
        low: the low end of the range; None for any finite number, -math.inf to allow -infinity.
        high: the high end of the range; None for any finite number, math.inf to allow infinity.
        above: whether the low end itself is outside.
    Raises:
        TypeError: `value` isn't a number.
        ValueError: `value` is NaN or outside the range.
    """
    if not is_number(value):
        raise TypeError(f"{name} must be a number, got {kind(value)}")
    lowest = -sys.float_info.max if low is None else low
    highest = sys.float_info.max if high is None else high
    if not lowest <= value <= highest or (above and value == low):
        valid = "a finite number" if high is None else "a number"
        if low is not None:
            valid = f"{valid} {'above' if above else 'of at least'} {low:g}"
        if low is not None and high is not None and high < math.inf:
            valid = f"within {'(' if above else '['}{low:g}, {high:g}]"
        raise ValueError(f"{name} must be {valid}, got {shown(value)}")


def check_whole(name: str, value: int, low: int, high: int | None = None) -> None:
    """Check a whole number; an error about its range names the nearest valid one.

    Args:
        name: the name of the value in the error.
        value: the value to check.
        low: the least valid value.
        high: the greatest valid value; None for none.
    Raises:
        TypeError: `value` isn't a whole number.
        ValueError: `value` is outside the range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {kind(value)}")
    if high is None and value < low:
        raise ValueError(f"{name} must be at least {low}, got {shown(int(value))}")
    if high is not None and not low <= value <= high:
        valid = {1: f"{low} or {high}", 2: f"{low}, {low + 1} or {high}"}.get(high - low, f"{low} … {high}")
        nearest = low if value < low else high
        raise ValueError(f"{name} must be {valid}, got {shown(int(value))}; the nearest is {nearest}")


def check_switch(name: str, value: bool) -> None:
    """Raise a TypeError where `value` isn't True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {kind(value)}")


def check_sha256(name: str, value: str) -> None:
    """Raise a TypeError or ValueError where a value isn't a sha256 in lower case."""
    check_type(name, value, str, "64 hexadecimal digits")
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"{name} must be 64 hexadecimal digits, got {shown(value)}")


def check_type(name: str, value: object, cls: type | tuple[type, ...], wanted: str) -> None:
    """Raise a TypeError where `value` isn't an instance; `wanted` says what it must be, such as "a Schedule"."""
    if not isinstance(value, cls):
        raise TypeError(f"{name} must be {wanted}, got {kind(value)}")


def check_function(name: str, f: object, arguments: str) -> None:
    """Check that a value can be called with so many arguments by position.

    Args:
        name: the name of the value in the error.
        f: the value to check; a built-in function that doesn't tell its arguments is taken.
        arguments: the names of the arguments in the error, such as "x, t".
    Raises:
        TypeError: `f` isn't such a function.
    """
    if not callable(f):
        raise TypeError(f"{name} must be a function of ({arguments}), got {kind(f)}")
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments.split(", "))
    except TypeError:
        raise TypeError(f"{name} must be a function of ({arguments}), got one of {signature}") from None


def as_numbers(name: str, values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a list of at least one number as an array.

    Args:
        name: the name of the list in an error.
        values: a sequence or an array (n,) of real numbers, of which NaN is one.
    Returns:
        float64 (n,).
    Raises:
        TypeError: it is no list of numbers.
        ValueError: it is empty, or a number is beyond what a float holds.
    """
    if isinstance(values, np.ndarray):
        listed = values.ndim == 1 and values.dtype.kind in "fiu"
    else:
        listed = isinstance(values, Sequence) and not isinstance(values, range) and all(map(is_number, values))
    if not listed:
        raise TypeError(f"{name} must be a list of numbers, got {shown(values)}")
    if not len(values):
        raise ValueError(f"{name} must be a list of at least one number, got {shown(values)}")
    try:
        return np.asarray(values, np.float64)
    except OverflowError:
        raise ValueError(f"{name} must be numbers of at most 1.8e308, as a float is, got {shown(values)}") from None


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is one real number of Python or NumPy; a bool isn't."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def kind(value: object) -> str:
    """Return a value's type with its article, such as "a list"; for None, strings and bools, return their repr."""
    if value is None or isinstance(value, (str, bool)):
        return shown(value)
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' or name == 'ndarray' else 'a'} {name}"


def shown(value: object) -> str:
    """Return a value's repr on one line, in which what is long is left out, for an error."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # Python's own bound on the digits of a whole number that it writes
        text = "a whole number of thousands of digits"
    return " ".join(text.split())


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100


def first_few(names: Iterable[str], limit: int = 8) -> str:
    """Return the first few names, for an error."""
    every = list(names)
    return ", ".join(every[:limit]) + (", …" if len(every) > limit else "")
