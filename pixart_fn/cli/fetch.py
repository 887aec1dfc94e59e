"""`pixart-fn fetch`: download a released checkpoint."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from .console import document, note, result
from .importing import importing
from .verb import Verb, folder

if TYPE_CHECKING:
    from ..checkpoint.manifest import Entry


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    with importing():
        from ..checkpoint import manifest

    return [CompletionItem(each.name) for each in manifest.entries() if each.name.startswith(incomplete)]


@click.command(cls=Verb)
@click.argument("name", shell_complete=_names)
@click.option("--variant", metavar="VARIANT", help="Variant of the weights' files, such as fp16.")
@click.option(
    "--to",
    metavar="DIR",
    shell_complete=folder,
    help="A new folder; by default huggingface_hub's cache, where px.load finds it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the call and its arguments as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors and the call that loads it.")
def fetch(name: str, variant: str | None, to: str | None, as_json: bool, quiet: bool) -> None:
    """Download a released checkpoint.

    NAME is one of those that `pixart-fn models` lists. All files that px.load reads are downloaded, those of the text
    encoder too. The size and the hash of every file are checked, and the call that loads the checkpoint is printed.
    After a stop, the same command goes on.
    """
    with importing():
        from ..checkpoint import fetch as fetch_
        from ..checkpoint import manifest

    entry = manifest.find(name)
    say = (lambda text: None) if quiet else note
    say(f"{entry.name}: {entry.id}, licence {_licence(entry)}")
    folder = None if to is None else Path(os.path.expanduser(to))
    with fetch_.silent() if quiet else nullcontext():
        call = fetch_.fetch(entry, variant, folder, say)
    say(_advice(entry))
    if as_json:
        document(_listed(entry, call))
    else:
        result(call)


def _listed(entry: Entry, call: str) -> dict[str, object]:
    """Return what was fetched, as JSON lists it: the call that loads it, or a file that Python doesn't load."""
    is_call = call.startswith("px.")
    where = {"call": call if is_call else None, "file": None if is_call else call}
    settings = {name: getattr(entry.call, name) for name in ("steps", "guidance", "times")}
    return {"name": entry.name, "id": entry.id, "licence": entry.licence, "kind": entry.kind} | where | settings


def _licence(entry: Entry) -> str:
    return entry.licence + ("" if entry.licence_checked else " as others say, see the model card")


def _advice(entry: Entry) -> str:
    """Say in one sentence what to do with the line that is printed next."""
    call = entry.call
    settings = f"steps={call.steps}, guidance={call.guidance:g}"
    settings += f" at the time {call.times[0]:g} alone" if call.times and len(call.times) == 1 else ""
    if entry.kind == "adapter":
        place = f"{entry.pipeline} with the scheduler of {entry.scheduler}" if entry.scheduler else entry.pipeline
        return f"the adapter goes onto {place}, and draws with {settings}"
    if entry.kind == "pth":
        return f"pixart-fn convert makes a transformer for {entry.pipeline} of this file, which draws with {settings}"
    if entry.kind == "controlnet":
        return f"the ControlNet goes onto {entry.pipeline}, and draws with {settings}"
    return f"this call loads it, and it draws with {settings}"
