"""From a component's config.json to a frozen dataclass: every field is used, known to be harmless, or reported."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def read(cls: type[T], json: dict[str, Any], *, fixed: Mapping[str, Collection], ignored: Collection[str] = ()) -> T:
    """Make a configuration from a parsed config.json.

    Args:
        cls: a frozen dataclass; its field names are the file's.
        json: the file's content; names that start with "_" are bookkeeping of the library that wrote it.
        fixed: names with the values that this implementation computes; another value is an error.
        ignored: names that don't change the computation at inference.
    Raises:
        ValueError: one sentence for all the fields that are unknown or have an unsupported value.
    """
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    wrong = []
    for name, value in json.items():
        if name in known or name in ignored or name.startswith("_"):
            continue
        if name not in fixed:
            near = difflib.get_close_matches(name, [*known, *fixed, *ignored], 1)
            wrong.append(f"unknown field {name!r} = {value!r}" + (f" (nearest: {near[0]!r})" if near else ""))
        elif value not in fixed[name]:
            wrong.append(f"{name} = {value!r} isn't supported (supported: {', '.join(map(repr, fixed[name]))})")
    if wrong:
        raise ValueError(f"{cls.__module__.rsplit('.', 1)[-1]} config: " + "; ".join(wrong))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in json.items() if name in known}
    return cls(**values)
