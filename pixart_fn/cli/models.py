"""`pixart-fn models`: list the released checkpoints."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from .console import document, note, result
from .importing import importing
from .verb import Verb

if TYPE_CHECKING:
    from ..checkpoint.manifest import Entry

HEADINGS = ("name", "pixels", "steps", "guidance", "tokens", "about GiB", "licence", "here", "id")
NUMBERS = HEADINGS[1:6]
"""The columns that are aligned to the right."""


@click.command(cls=Verb)
@click.option("--json", "as_json", is_flag=True, help="Print all that is known of each as JSON.")
def models(as_json: bool) -> None:
    """List the released checkpoints.

    Steps, guidance and tokens are those that each was made for; a guidance of 1 is none. "about GiB" is the memory of
    all weights in float32, and "here" says whether huggingface_hub's cache holds them. `pixart-fn fetch NAME` downloads
    one.
    """
    with importing():
        from ..checkpoint import fetch, manifest

    rows = [(entry, fetch.cached(entry)) for entry in manifest.entries()]
    if as_json:
        content = [dataclasses.asdict(entry) | {"bytes": entry.size(), "here": here} for entry, here in rows]
        document(content)
        return
    for line in _aligned([HEADINGS, *(_cells(entry, here) for entry, here in rows)]):
        result(line)
    note("a licence with ? is what others say of it; the model card on the hub says what holds")


def _cells(entry: Entry, here: str) -> tuple[str, ...]:
    size = entry.size()
    gib = "" if size is None else f"{size / 2**30:.1f}"
    licence = entry.licence + ("" if entry.licence_checked else " ?")
    numbers = (f"{entry.side}", f"{entry.steps}", f"{entry.guidance:g}", f"{entry.tokens}", gib)
    return entry.name, *numbers, licence, here, entry.id


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [heading in NUMBERS for heading in HEADINGS]
    lines = []
    for row in rows:
        cells = zip(row, widths, right, strict=True)
        lines.append("  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in cells))
    return [line.rstrip() for line in lines]
