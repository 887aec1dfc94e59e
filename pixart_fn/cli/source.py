"""The options of verbs that load a model: --model, --variant and --revision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .console import note
from .importing import importing
from .verb import folder

if TYPE_CHECKING:
    from ..params import Params

_Function = TypeVar("_Function", bound=Callable[..., Any])


def options(function: _Function) -> _Function:
    """Give a verb the three options."""
    model = click.option(
        "--model",
        shell_complete=folder,
        show_default="the embedded one",
        help="A folder in diffusers layout, or a hub id owner/name.",
    )
    variant = click.option("--variant", show_default="none", help="Variant of the weights' files, such as fp16.")
    revision = click.option("--revision", show_default="the newest", help="Branch, tag or commit of a hub id.")
    return model(variant(revision(function)))


def load(options: Mapping[str, Any], shown: bool, **how: Any) -> Params:
    """Load the model of the options, and say so where notes are shown."""
    with importing():
        from ..checkpoint import load

    if shown:
        note(f"loading {options['model'] or 'the embedded checkpoint'}")
    how |= {name: options[name] for name in ("variant", "revision") if options[name] is not None}
    params = load(options["model"], **how)
    if shown:
        note(repr(params))
    return params
