"""`pixart-fn plot`: draw how trainings went."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import click

from .. import plots
from ..files import atomic
from .console import note, result
from .importing import importing
from .verb import Verb, file, folder

ENDINGS = (".png", ".svg", ".pdf")


@click.command(cls=Verb)
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", shell_complete=folder)
@click.option("--out", default="curves.png", shell_complete=file, help="A .png, .svg or .pdf file.")
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
def plot(runs: tuple[str, ...], out: str, force: bool) -> None:
    """Draw the curves of trainings.

    RUN is the folder of a training. The loss, the norm of the gradient and the examples per second are drawn. Several
    runs are drawn into the same axes. The name of the file is printed.
    """
    file = Path(os.path.expanduser(out))
    if file.suffix.lower() not in ENDINGS:
        raise ValueError(f"the name of a figure must end in {', '.join(ENDINGS)}; got {out!r:.60}")
    if os.path.lexists(atomic.target(file)) and not force:
        raise FileExistsError(f"{out!r} exists already; --force overwrites it")
    named = _read(runs)
    figure = _figure(named)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: note(str(message))  # a letter that the font lacks
        atomic.write(file, lambda temporary: figure.savefig(temporary, format=file.suffix[1:].lower(), dpi=150))
    result(out)


def _read(runs: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Return the records of each run by its name: that of its folder, or where two have the same, its path."""
    with importing():
        from ..train import record

    names = [Path(os.path.abspath(run)).name for run in runs]
    if len({*names}) < len(names):
        names = list(runs)
    if len({*names}) < len(names):
        raise ValueError("a RUN is named twice")
    found = {name: record.read(run).steps for name, run in zip(names, runs, strict=True)}
    for name, steps in found.items():
        if not steps:
            raise ValueError(f"the training in {name!r} has taken no step yet")
    return found


def _figure(named: dict[str, list[dict[str, Any]]]) -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("plot needs matplotlib: pip install '.[notebooks]' in a clone") from error
    matplotlib.use("Agg")  # a file is drawn, on machines without a screen too
    return plots.training(named)[0].figure
