"""`pixart-fn show`: print how a picture was drawn."""

from __future__ import annotations

import click

from .. import picture as picture_
from .. import sheets
from .console import document, result
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
    if as_json:
        document({"file": picture, "settings": settings, "calls": calls})
        return
    for call in calls:
        result(call)
