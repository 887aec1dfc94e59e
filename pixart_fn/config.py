"""From a model's config.json to a frozen dataclass: a field must be used or known to be harmless, or it is an error."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from .checks import is_number, kind, shown

T = TypeVar("T")

LONGEST = 100_000
"""Entries of a list in a file at most."""
NAMED = 8
"""Wrong fields that one sentence names at most."""


class Check(NamedTuple):
    """What a value must be, in words and as a test: `Annotated[float, Check("above 0", …)]` is a float above 0."""

    words: str
    fits: Callable[[Any], bool]


def among(*options: str) -> Check:
    """Make the Check that a value is one of these."""
    return Check(f"among {', '.join(map(repr, options))}", lambda value: value in options)


def whole(low: int, high: int) -> Check:
    """Make the Check that a whole number is within low … high."""
    return Check(f"within {low} … {high}", lambda value: low <= value <= high)


_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
# Sizes that no released model comes near, so that a mistyped one is a sentence before anything is built.
Layers: TypeAlias = Annotated[int, whole(1, 1000)]
Width: TypeAlias = Annotated[int, whole(1, 2**16)]
Vocabulary: TypeAlias = Annotated[int, whole(1, 2**24)]
Side: TypeAlias = Annotated[int, whole(1, 2**14)]
Positive: TypeAlias = Annotated[
    float,
    Check(f"within float32's normal numbers, {_TINY:.2g} … {_HUGE:.2g}", lambda v: _TINY <= v <= _HUGE),
]
Epsilon: TypeAlias = Annotated[float, Check(f"within {_TINY:.2g} … 1", lambda value: _TINY <= value <= 1)]

_CHECKS: dict[Any, Check] = {
    int: Check("a whole number", lambda value: isinstance(value, (int, np.integer)) and not isinstance(value, bool)),
    float: Check("a finite number", lambda value: is_number(value) and abs(value) <= sys.float_info.max),
    bool: Check("True or False", lambda value: isinstance(value, bool)),
    str: Check("a string", lambda value: isinstance(value, str)),
    type(None): Check("None", lambda value: value is None),
    Any: Check("", lambda value: True),
}


def read(
    cls: type[T],
    json: Mapping[str, Any],
    *,
    fixed: Mapping[str, Collection[object]],
    ignored: Collection[str] = (),
    component: str | None = None,
) -> T:
    """Make a configuration from a parsed config.json.

    Args:
        cls: a frozen dataclass; its field names are the file's, and its annotations say what their values must be:
            int, float, bool, str, None, Any, a frozen dataclass, a Literal, a tuple of one type, a union, or Annotated
            with a Check.
        json: the file's content. Names that start with "_" are notes of the library that wrote it, and are ignored.
        fixed: fields, each with the values that are supported; another value is an error.
        ignored: fields that don't change the computation at inference.
        component: the name of the configuration in an error; None takes the name of the module of `cls`.
    Returns:
        An instance of `cls`.
    Raises:
        TypeError: json is no dict.
        ValueError: one sentence for the fields that are unknown or have an unsupported value.
    """
    component = component or cls.__module__.rsplit(".", 1)[-1]
    check_object(json, component)
    checks = _checks(cls)
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for name, value in json.items():
        if len(wrong) > NAMED:
            wrong[NAMED:] = ["…"]
            break
        if name in checks:
            value = value.tolist() if isinstance(value, np.ndarray) else value
            values[name] = tuple(value) if isinstance(value, list) else value
            wrong += _mistake(name, values[name], checks[name], value)
        elif name in ignored or str(name).startswith("_"):
            continue
        elif name not in fixed:
            near = difflib.get_close_matches(str(name)[:80], [*checks, *fixed, *ignored], 1)
            wrong.append(f"unknown field {shown(name)} = {shown(value)}" + (f" (nearest: {near[0]!r})" if near else ""))
        elif value not in fixed[name]:
            wrong.append(f"{name} = {shown(value)} isn't supported (supported: {', '.join(map(shown, fixed[name]))})")
    if wrong:
        raise ValueError(f"{component} config: " + "; ".join(wrong))
    return cls(**values)


def check_object(json: object, component: str) -> None:
    """Raise a TypeError where what should be the content of a config.json is no dict."""
    if not isinstance(json, Mapping):
        raise TypeError(f"{component} config: it must be a dict, the content of a config.json, got {kind(json)}")


def check(config: object, component: str) -> None:
    """Raise where a configuration that was made by hand has a field that no file could have.

    Args:
        config: an instance of a frozen dataclass, as `read` makes it.
        component: the name of the configuration in the error.
    Raises:
        ValueError: one sentence for all such fields.
    """
    each = ((name, getattr(config, name), check) for name, check in _checks(type(config)).items())
    wrong = [mistake for name, value, check in each for mistake in _mistake(name, value, check, value)]
    if wrong:
        raise ValueError(f"{component} config: " + "; ".join(wrong))


def _mistake(name: str, value: Any, check: Check, given: Any) -> list[str]:
    """Say what is wrong about a value, which is shown as it was given."""
    if isinstance(value, tuple) and len(value) > LONGEST:
        return [f"{name} must have at most {LONGEST} entries, got {len(value)}"]
    return [] if check.fits(value) else [f"{name} must be {check.words}, got {shown(given)}"]


def _checks(cls: type) -> dict[str, Check]:
    return {name: _check(hint) for name, hint in get_type_hints(cls, include_extras=True).items()}


def _check(hint: Any) -> Check:
    """Return the Check of a value that is annotated with this type."""
    if hint in _CHECKS:
        return _CHECKS[hint]
    if isinstance(hint, type) and is_dataclass(hint):
        return Check(f"a {hint.__name__}", lambda value: isinstance(value, hint))
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return Check(" or ".join(map(repr, args)), lambda value: (type(value), value) in [(type(a), a) for a in args])
    if get_origin(hint) is tuple:
        item = _check(args[0])
        return Check(f"a list, each entry {item.words}", lambda v: isinstance(v, tuple) and all(map(item.fits, v)))
    if get_origin(hint) is Annotated:
        base, more = _check(args[0]), args[1]
        return Check(f"{base.words} {more.words}".strip(), lambda value: base.fits(value) and more.fits(value))
    parts = [_check(arg) for arg in sorted(args, key=lambda arg: arg is not type(None))]  # of a union
    return Check(" or ".join(part.words for part in parts), lambda value: any(part.fits(value) for part in parts))
