"""`--lora` and `--lora-weight`: the adapters that are merged into the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import click

from .. import settings as settings_
from ..checks import check_number
from .importing import importing
from .verb import file

if TYPE_CHECKING:
    from ..params import Params

Row: TypeAlias = "tuple[str, str, float]"
"""Of an adapter: its file, folder or hub id, its sha256, and its weight."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def options(function: _Function) -> _Function:
    """Give a verb the two options."""
    weight = click.option(
        "--lora-weight",
        metavar="FLOAT",
        type=float,
        multiple=True,
        show_default="1",
        help="How much of the adapter is added; as often as --lora, or not at all.",
    )
    lora = click.option(
        "--lora",
        metavar="SOURCE",
        multiple=True,
        shell_complete=file,
        show_default="none",
        help="Merge this adapter, a file, a folder or a hub id, into the model; several times for several, in order.",
    )
    return lora(weight(function))


def rows(sources: tuple[str, ...], weights: tuple[float, ...]) -> list[Row]:
    """Check the options' values and return what they say of each adapter, before any work."""
    if weights and len(weights) != len(sources):
        raise ValueError(f"--lora-weight must be given as often as --lora, {len(sources)}, got {len(weights)}")
    for weight in weights:
        check_number("--lora-weight", weight, -settings_.SCALE, settings_.SCALE)
    each = weights or (1.0,) * len(sources)
    return [(source, _digest(source), weight) for source, weight in zip(sources, each, strict=True)]


def _digest(source: str) -> str:
    if os.path.exists(os.path.expanduser(source)):
        return settings_.digest(source)
    with importing():
        from ..checkpoint.lora_source import locate

    return settings_.digest(str(locate(source)))


def merging(rows: list[Row]) -> Callable[[Params], Params]:
    """Read the adapters, before a model is loaded, and return what merges them into it, one after the other."""
    if not rows:
        return lambda params: params
    with importing():
        from ..checkpoint import lora

    read = [(lora.load(source, sha256=sha256), weight) for source, sha256, weight in rows]

    def merge(params: Params) -> Params:
        for adapter, weight in read:
            params = lora.merge(params, adapter, weight)
        return params

    return merge
