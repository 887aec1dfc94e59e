"""`pixart-fn show`: print how a picture was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from .. import picture as picture_
from .. import settings as settings_
from .. import sheets
from .console import document, note, result
from .verb import Verb, file


@click.command(cls=Verb)
@click.argument("picture", shell_complete=file)
@click.option("--json", "as_json", is_flag=True, help="Print the settings and the calls as JSON.")
def show(picture: str, as_json: bool) -> None:
    """Print the Python call that draws a PICTURE again.

    For a sheet over solvers, steps, guidance or seeds that is one call for each picture, row by row.
    """
    settings = picture_.read_settings(picture)
    try:
        calls = sheets.calls(settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{picture!r} can't be drawn again: {error}") from error
    _check_adapters(settings)
    if as_json:
        document({"file": picture, "settings": settings, "calls": calls})
        return
    for call in calls:
        result(call)


def _check_adapters(settings: Mapping[str, Any]) -> None:
    """Say which adapters can't be read where the call reads them, or are other files than those of the picture."""
    for source, sha256, _ in settings_.listed(settings):
        try:
            found = settings_.digest(source)
        except OSError:
            note(f"the call reads the LoRA {source!r}, which is no file here; its sha256 is {sha256}")
            continue
        if found != sha256:
            note(f"the LoRA {source!r} isn't the file that the picture was drawn with: its sha256 isn't {sha256}")
