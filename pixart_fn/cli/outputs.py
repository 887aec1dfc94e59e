"""The files that `generate` writes: their names and settings, and what is there already."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import picture as picture_
from .. import settings as settings_
from .. import sheets
from ..backend import workers as workers_
from ..backend.workers import Workers
from ..checks import check_whole
from ..files import reading
from . import given

BATCH = 16
"""The most pictures of one prompt that are drawn together, since memory grows with their number."""
NAME = "picture"
"""How the names of pictures begin in a folder."""
OWN = ("steps", "guidance", "height", "width")
"""Settings that the model fills in where they aren't given."""
STORED = ("model", "variant", "revision", "dtype", "seed", "steps", "guidance", "negative", "solver", "tokens", "tile")


class Output(NamedTuple):
    """A file to write and the settings that go into it."""

    file: Path
    settings: dict[str, Any]


def is_folder(options: dict[str, Any]) -> bool:
    """Whether --out is a folder for pictures rather than a file."""
    out = os.path.expanduser(options["out"])
    return not options["sheet"] and (out.endswith("/") or os.path.isdir(out))


def outputs(prompts: list[str], axes: dict[str, list[Any]], options: dict[str, Any]) -> list[Output]:
    """Return what is to be written: a sheet, one picture, or numbered pictures, each checked without the model."""
    check_whole("--n", options["n"], 1, picture_.PICTURES)
    total = len(prompts) * options["n"]
    check_whole("the number of pictures", total, 1, picture_.PICTURES)
    out = Path(os.path.expanduser(options["out"]))
    folder = is_folder(options)
    if not folder:
        picture_.prepare(out, {})
    settings = _settings(axes, options) | {"n": total}
    if options["sheet"]:
        index = {"index": 0, "axes": axes} if axes else {"index": None}
        found = [Output(out, {"prompt": prompts if len(prompts) > 1 else prompts[0], **settings, **index})]
    else:
        several = folder or total > 1 or options["prompts"] is not None
        name = out / f"{NAME}.png" if folder else out
        files = [name.with_name(f"{name.stem}-{i}{name.suffix}") for i in range(total)] if several else [name]
        each = [{"prompt": prompts[i // options["n"]], **settings, "index": i} for i in range(total)]
        found = [Output(*both) for both in zip(files, each, strict=True)]
    for output in found:
        _check(output)
    return found


def _settings(axes: dict[str, list[Any]], options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that all pictures have, without what varies in a sheet."""
    height, width = given.size(options["size"])
    settings = {name: options[name] for name in STORED if name not in axes}
    settings |= {"height": height, "width": width} | _pictures(options)
    # edges are those of the size that is drawn
    binning = not options["no_binning"] and (options["control"] is None or options["init"] is not None)
    settings |= {"clean": not options["no_clean"], "binning": binning}
    return settings | settings_.adapters(options["adapters"])


def _pictures(options: dict[str, Any]) -> dict[str, Any]:
    """Return what says which files were drawn from or followed: their names without folders, and their sha256."""
    files = {name: Path(options[name]) for name in given.PICTURES if options[name] is not None}
    hashes = {
        f"{name}_sha256": hashlib.sha256(reading.content(picture_.existing(file), picture_.LARGEST)).hexdigest()
        for name, file in files.items()
    }
    how = {name: options[name] for name in ("strength", "controlnet", "control_scale") if options[name] is not None}
    return {name: file.name for name, file in files.items()} | hashes | how


def _check(output: Output) -> None:
    """Check everything that can be checked without the model."""
    try:
        sheets.check(output.settings)
    except (ValueError, TypeError) as error:
        option = "" if str(error).startswith("prompt ") else "--"
        raise type(error)(f"{option}{error}".replace("--control_", "--control-")) from error
    picture_.prepare(*output)


# --- what is there already --------------------------------------------------------------------------------------------


def check_absent(outputs: Iterable[Output], force: bool) -> None:
    """Raise where a file exists, of this worker's alone: another may have written its own by now."""
    existing = [output.file for output in outputs if os.path.lexists(output.file)]
    if existing and not force:
        _refuse(existing, "exists already", "exist already")


def present(outputs: Sequence[Output], force: bool) -> set[Path]:
    """Return the files of a folder that hold the same picture already, by its settings.

    Args:
        outputs: of which those settings that the model fills in, and that are None still, may be any.
        force: whether nothing that is there counts, since all is drawn anew.
    Raises:
        FileExistsError: a file holds something else.
    """
    there = [] if force else [output for output in outputs if os.path.lexists(output.file)]
    others = [output.file for output in there if not _holds(output)]
    if others:
        _refuse(others, "holds another picture", "hold other pictures")
    return {output.file for output in there}


def is_there(output: Output, options: dict[str, Any]) -> bool:
    """Return whether a file of a folder holds the same picture already; raise where it mustn't be overwritten."""
    if is_folder(options):
        return bool(present([output], options["force"]))
    check_absent([output], options["force"])
    return False


def _refuse(files: list[Path], one: str, several: str) -> None:
    first, more = repr(str(files[0])), len(files) - 1
    said = f"{first} and {more} more {several}; --force overwrites them" if more else f"{first} {one}"
    raise FileExistsError(said if more else f"{said}; --force overwrites it")


def _holds(output: Output) -> bool:
    try:
        stored = picture_.read_settings(output.file)
    except (OSError, ValueError):
        return False
    wanted = output.settings
    free = {name for name in OWN if wanted[name] is None}
    return _compared(stored, free) == _compared(wanted, free)


def _compared(settings: dict[str, Any], free: set[str]) -> dict[str, Any]:
    """Return what decides how a picture looks; of the number of pictures, whether there was another one."""
    kept = {name: value for name, value in settings.items() if value is not None and name not in free}
    return kept | {"n": min(kept.get("n", 1), 2) if isinstance(kept.get("n", 1), int) else None}


# --- sheets and batches -----------------------------------------------------------------------------------------------


def check_sheet(sheet: Output, height: int, width: int) -> None:
    """Raise a ValueError where the format can't hold a sheet of pictures of a size."""
    axes, n = sheet.settings.get("axes"), sheet.settings["n"]
    if axes:
        n = sheets.counts(axes)[0] * sheets.counts(axes)[1]
        size = sheets.size(axes, width, height)
    else:
        columns, rows = picture_.shape(n)
        size = columns * width, rows * height
    try:
        picture_.check_size(*size, sheet.file.suffix)
    except ValueError as error:
        raise ValueError(f"--sheet of {n} pictures is too large: {error}") from error


def batches(prompts: int, each: int, workers: Workers) -> list[range]:
    """Return the pictures of this worker, by their index over all, and by what is drawn together whoever draws it."""
    found = [
        range(p * each + i, p * each + min(i + BATCH, each)) for p in range(prompts) for i in range(0, each, BATCH)
    ]
    return [found[i] for i in workers_.share(workers, len(found))]
