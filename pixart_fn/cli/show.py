"""`pixart-fn show`: print how a picture was drawn."""

from __future__ import annotations

import click

from .. import picture as picture_
from .console import result


@click.command()
@click.argument("picture")
def show(picture: str) -> None:
    """Print the Python call that draws a PICTURE again."""
    settings = picture_.read_settings(picture)
    try:
        call = picture_.call(settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{picture!r} can't be drawn again: {error}") from error
    result(call)
