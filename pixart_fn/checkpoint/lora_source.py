"""Where an adapter's files are: a file, a folder, or a repository of the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..checks import first_few
from .hub import Place, find
from .sources import check_revision, refuse_address, written

CONFIG, WEIGHTS, DIFFUSERS = "adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"
ENDING = ".safetensors"
_ON_THE_HUB = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>.+\.safetensors)|/?)")


def locate(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Return the file with an adapter's weights; from the hub it is downloaded, with peft's settings beside it.

    Args:
        source: a file, a folder, a hub id owner/name, or owner/name/FILE.
        revision: branch, tag or commit of a hub id; None for the newest.
    Returns:
        The path of the file.
    Raises:
        TypeError: the source is neither a string nor a path, or the revision is no text.
        FileNotFoundError: there is no such folder or file.
        OSError: the hub can't give it.
        ValueError: the source is empty, or holds several files of which one must be named; or a revision is given for
            a file or a folder.
    """
    text = written(source, "source", "a folder, a .safetensors file or a hub id")
    check_revision(revision, text)
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        return path / _in_a_folder(path)
    if path.exists():
        return path
    refuse_address(text, "source")
    found = _ON_THE_HUB.fullmatch(text)
    if found is None or found["id"].endswith(ENDING):
        raise FileNotFoundError(f"source {str(path)!r} is neither a folder nor a file")
    place = find(found["id"], revision)
    file = found["file"] or _in_a_repository(place, found["id"])
    if not place.has(file):
        raise place.lacks(file)
    beside = "/".join([*file.split("/")[:-1], CONFIG])
    return place.fetch([file, *([beside] if place.has(beside) else [])]) / file


def _in_a_folder(path: Path) -> str:
    found = [name for name in (WEIGHTS, DIFFUSERS) if (path / name).exists()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"source {str(path)!r} holds both {WEIGHTS} and {DIFFUSERS}; give one of these files")
    others = [each.name for each in sorted(path.iterdir()) if each.suffix in (ENDING, ".bin")]
    has = f"it holds {first_few(others)}" if others else f"it holds no {ENDING} file"
    raise FileNotFoundError(f"source {str(path)!r} has neither {WEIGHTS} nor {DIFFUSERS}; {has}")


def _in_a_repository(place: Place, id: str) -> str:
    """Return the file with one of the usual names, or else the only one."""
    files = [name for name in place.names("") if name.endswith(ENDING)]
    usual = [name for name in files if name in (WEIGHTS, DIFFUSERS)] or files
    if len(usual) == 1:
        return usual[0]
    if not files:
        raise FileNotFoundError(f"{place} holds no {ENDING} file outside of its folders; give '{id}/FOLDER/FILE'")
    raise ValueError(f"{place} holds {first_few(files)}; give one of them, as in {f'{id}/{files[0]}'!r}")
