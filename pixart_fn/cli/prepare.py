"""`pixart-fn prepare`: encode pictures and captions once, for training."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..backend import workers as workers_
from ..backend.runtime import settle_on_cpu
from ..checks import check_whole
from . import source as source_
from .console import note, result
from .importing import importing
from .verb import Computing, file, folder

if TYPE_CHECKING:
    from ..train.data.prepare import Report

KINDS = ("imagefolder", "webdataset", "authors")
EDGES = ("canny", "sobel")
NAMED = 3
"""Skipped pictures that are named; skipped.jsonl lists all."""


@click.command(cls=Computing)
@click.argument("source", shell_complete=file)
@click.option("--out", required=True, metavar="DIR", shell_complete=folder, help="The folder to write.")
@source_.options
@click.option(
    "--size", metavar="N|multi", show_default="the model's own", help="Side of squares, or multi, multi-512 …"
)
@click.option("--kind", type=click.Choice(KINDS), show_default="found out from SOURCE", help="What SOURCE is.")
@click.option("--column", show_default="the usual one", help="Name of the captions in metadata.")
@click.option("--caption", show_default="none", help="Caption of every picture that has none.")
@click.option(
    "--edges",
    type=click.Choice(EDGES),
    show_default="none",
    help="Encode the pictures' edges instead, for a ControlNet.",
)
@click.option("--workers", metavar="N", type=int, default=2, help="Threads that read pictures.")
@click.option("--shard", metavar="I/N", show_default="all", help="Encode the I-th of N parts, from 0.")
@click.option("--no-clean", is_flag=True, help="Don't clean captions as in the training of PixArt.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def prepare(source: str, **options: Any) -> None:
    """Encode pictures and captions for training.

    SOURCE is a folder of pictures with .txt files beside them or a metadata.jsonl, a .tar of webdataset or a folder of
    them, or PixArt's data_info.json. `pixart-fn train` reads the folder that is written. The same command goes on where
    it was stopped. With --size multi, each picture is brought to the nearest of the sizes that the released models of
    this resolution were trained at; multi-512 takes the sizes of another resolution.

    `msrun … python -m pixart_fn prepare …` divides the pictures among several workers.
    """
    if workers_.is_scheduler():  # the workers here exchange nothing
        return
    workers = workers_.assigned()
    check_whole("--workers", options["workers"], 1, 256)
    shard = (workers.rank, workers.size) if options["shard"] is None else _shard(options["shard"])
    size = _size(options["size"])
    shown = not options["quiet"] and workers.rank == 0
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: note(str(message)) if shown else None
        report = _run(source, size, shard, options, shown)
    if shown:
        _tell(report, options["out"])


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"--shard must be I/N, the I-th of N parts from 0, such as 0/4; got {text!r:.60}")
    return int(match[1]), int(match[2])


def _size(text: str | None) -> int | str | None:
    if text is None or text.startswith("multi"):
        return text
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        raise ValueError(f"--size must be a number of pixels or multi, got {text!r:.60}")
    return int(text)


def _run(source: str, size: int | str | None, shard: tuple[int, int], options: dict[str, Any], shown: bool) -> Report:
    with importing():
        from ..train.data import prepare as prepare_
        from ..train.data import sources

    found = sources.open(source, options["kind"], options["column"], options["caption"])
    settle_on_cpu()
    if shown:
        note(repr(found))
    params = source_.load(options, shown)
    report: Report = prepare_.run(
        found, params, options["out"], size=size, clean=not options["no_clean"], workers=options["workers"],
        shard=shard, progress=shown, edges=options["edges"],
    )  # fmt: skip
    return report


def _tell(report: Report, out: str) -> None:
    """Print what was done, and of what was skipped the first few."""
    for name, reason in report.skipped[:NAMED]:
        note(f"skipped {name}: {reason}")
    skipped = f", {len(report.skipped)} skipped" if report.skipped else ""
    if report.complete:
        listed = f" (listed in {Path(out) / 'skipped.jsonl'})" if report.skipped else ""
        result(f"{report.examples} examples in {out}{skipped}{listed}")
    else:
        result(f"{report.examples} examples of this shard in {out}{skipped}; other shards aren't ready yet")
