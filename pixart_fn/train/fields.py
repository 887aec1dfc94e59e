"""The fields of a recipe in words: what each may be and means, and which one a wrong name is nearest to."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ..checks import shown


class Field(NamedTuple):
    """A field of a recipe.

    Args:
        name: such as "run.steps".
        kind: what its values must be, in words.
        text: whether its values are texts.
        default: its value where a recipe doesn't say it.
        help: what it means.
    """

    name: str
    kind: str
    text: bool
    default: Any
    help: str


def listed(sections: Mapping[str, type[Any]]) -> list[Field]:
    """List fields in their order.

    Args:
        sections: dataclasses by the names of the sections, each field with "help" in its metadata.
    Returns:
        The fields.
    """
    found = []
    for section, cls in sections.items():
        hints = get_type_hints(cls, include_extras=True)
        for each in dataclasses.fields(cls):
            kind = _kind(hints[each.name])
            text = kind.startswith(("text", '"'))
            found.append(Field(f"{section}.{each.name}", kind, text, each.default, each.metadata["help"]))
    return found


def check_name(name: object, known: Collection[str]) -> None:
    """Raise a ValueError that tells the nearest name, by its last part too, where there is no such field.

    Args:
        name: such as "run.steps".
        known: the names of all fields.
    """
    if name in known:
        return
    word, last = str(name)[:80], {each.partition(".")[2]: each for each in known}
    near = difflib.get_close_matches(word, known, 1)
    near = near or [last[each] for each in difflib.get_close_matches(word.rpartition(".")[2], last, 1)]
    advice = f"the nearest is {near[0]!r}" if near else "a field is such as 'run.steps'"
    raise ValueError(f"a recipe has no field {shown(name)}; {advice}")


def _kind(hint: Any) -> str:
    """Say in words what the values of an annotation are; None, which TOML can't write, is left out."""
    plain = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    if hint in plain:
        return plain[hint]
    args = [each for each in get_args(hint) if each is not type(None)]
    if get_origin(hint) is Annotated:
        return f"{plain[args[0]]} {args[1].words}"
    if get_origin(hint) is Literal:
        return ", ".join(f'"{each}"' for each in args)
    if get_origin(hint) is tuple:
        return "list of texts"
    return _kind(args[0])  # of a union with None
