"""`pixart-fn convert`: from the authors' files to a folder in diffusers layout, and back."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import click

from .console import document, note, result
from .importing import importing
from .verb import Verb, file


@click.command(cls=Verb)
@click.argument("source", metavar="IN", shell_complete=file)
@click.argument("target", metavar="OUT", shell_complete=file)
@click.option("--size", metavar="PIXELS", type=int, show_default="as IN says", help="Side that IN was trained at.")
@click.option("--version", metavar="alpha|sigma", show_default="as IN says", help="Which PixArt IN is.")
@click.option(
    "--heads", metavar="N", type=int, show_default="16, as in released models", help="Heads of the attention of IN."
)
@click.option("--weights", metavar="NAME", default="state_dict", help="state_dict, or state_dict_ema for the average.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def convert(source: str, target: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Convert a transformer between the authors' files and diffusers layout.

    IN is a .pth, .pt or .bin file, mindone's .ckpt, or a .safetensors with the authors' names. OUT is then a folder,
    which px.load takes as transformer=. Or IN is a pipeline's or a transformer's folder, and OUT a .pth or .ckpt file.
    Nothing in a file is run, and no number is rounded.
    """
    with importing():
        from ..checkpoint.convert import convert as convert_

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: None if quiet else note(_as_options(str(message)))
        try:
            convert_(source, target, progress=not quiet, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(_as_options(str(error))) from error
    if as_json:
        document(_listed(source, Path(os.path.expanduser(target))))
    elif not quiet:
        result(target)


def _listed(source: str, target: Path) -> dict[str, Any]:
    """Return what was written, as JSON lists it."""
    files = sorted(each for each in target.rglob("*") if each.is_file()) if target.is_dir() else [target]
    each = [{"file": str(file), "bytes": file.stat().st_size} for file in files]
    return {"source": source, "target": str(target), "files": each}


def _as_options(sentence: str) -> str:
    """Say a sentence about arguments of Python with the command's options."""
    names = r"\b(size|version|heads|weights)"
    sentence = re.sub(rf"{names}=(?=[\w'])", r"--\1 ", sentence)
    return re.sub(rf"{names}(?:=|(?= must be))", r"--\1", sentence)
