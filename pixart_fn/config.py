"""From a model's config.json to a frozen dataclass: a field must be used or known to be harmless, or it is an error."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from .checks import is_number

T = TypeVar("T")


class Check(NamedTuple):
    """What a value must be, in words and as a test: `Annotated[float, Check("above 0", …)]` is a float above 0."""

    words: str
    fits: Callable[[Any], bool]


def among(*options: str) -> Check:
    """Make the Check that a value is one of these."""
    return Check(f"among {', '.join(map(repr, options))}", lambda value: value in options)


_CHECKS: dict[Any, Check] = {
    int: Check("a whole number", lambda value: isinstance(value, (int, np.integer)) and not isinstance(value, bool)),
    float: Check("a finite number", lambda value: is_number(value) and abs(value) < math.inf),
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
            int, float, bool, str, None, Any, a Literal, a tuple of one type, a union, or Annotated with a Check.
        json: the file's content. Names that start with "_" are notes of the library that wrote it, and are ignored.
        fixed: fields, each with the values that are supported; another value is an error.
        ignored: fields that don't change the computation at inference.
        component: the name of the configuration in an error; None takes the name of the module of `cls`.
    Returns:
        An instance of `cls`.
    Raises:
        ValueError: one sentence for all the fields that are unknown or have an unsupported value.
    """
    checks = _checks(cls)
    values, wrong = {}, []
    for name, value in json.items():
        got = reprlib.repr(value)
        if name in checks:
            value = value.tolist() if isinstance(value, np.ndarray) else value
            values[name] = tuple(value) if isinstance(value, list) else value
            if not checks[name].fits(values[name]):
                wrong.append(f"{name} must be {checks[name].words}, got {got}")
        elif name in ignored or name.startswith("_"):
            continue
        elif name not in fixed:
            near = difflib.get_close_matches(name, [*checks, *fixed, *ignored], 1)
            wrong.append(f"unknown field {name!r} = {got}" + (f" (nearest: {near[0]!r})" if near else ""))
        elif value not in fixed[name]:
            wrong.append(f"{name} = {got} isn't supported (supported: {', '.join(map(repr, fixed[name]))})")
    if wrong:
        raise ValueError(f"{component or cls.__module__.rsplit('.', 1)[-1]} config: " + "; ".join(wrong))
    return cls(**values)


def _checks(cls: type) -> dict[str, Check]:
    return {name: _check(hint) for name, hint in get_type_hints(cls, include_extras=True).items()}


def _check(hint: Any) -> Check:
    """Return the Check of a value that is annotated with this type."""
    if hint in _CHECKS:
        return _CHECKS[hint]
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
