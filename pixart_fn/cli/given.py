"""What `generate` is given, checked before any work: prompts, sizes, pictures, and what varies in a sheet."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import picture as picture_
from .. import sheets
from ..checks import check_number
from ..files import reading

PICTURES = ("init", "mask", "control")
"""The options that name a picture to draw from or to follow."""
MEMORY = 1e9
"""The most GiB that a limit of memory may have, which is more than any machine has, so that its bytes are a number."""
NEEDED = {
    **dict.fromkeys(("strength", "mask"), ("init", "the picture to draw from")),
    **dict.fromkeys(("controlnet", "control_scale"), ("control", "the picture whose edges are followed")),
}


def prompts(words: tuple[str, ...], file: str | None) -> list[str]:
    """Return the prompt, or the lines of a file."""
    if len(words) > 1:
        raise ValueError(f'put the prompt in quotes: "{" ".join(words)}"')
    if (not words) == (file is None):
        raise ValueError(f"give a PROMPT or --prompts FILE{', not both' if words else ''}")
    if file is None:
        return list(words)
    if file == "-" and sys.stdin is None:
        raise ValueError("--prompts - reads stdin, which is closed")
    name = "stdin" if file == "-" else repr(file)
    content = sys.stdin.buffer.read(reading.MOST + 1) if file == "-" else reading.content(Path(file), pipe=True)
    if len(content) > reading.MOST:
        raise ValueError(f"the prompts in {name} take more than {reading.MOST >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"the prompts in {name} are not UTF-8: byte {content[error.start]:#x} in line {line}"
        ) from None
    found = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    if not found:
        raise ValueError(f"there are no prompts in {name}")
    return found


def check_workers(options: dict[str, Any]) -> None:
    """Check that the work can be shared out."""
    if options["sheet"]:
        raise ValueError("--sheet needs one worker, since several can't draw into one file; leave out --sheet or msrun")
    if options["prompts"] == "-":
        raise ValueError("several workers can't share stdin; --prompts must name a file")


def check_memory(gib: float | None) -> None:
    """Check the limit of memory."""
    if gib is not None:
        check_number("--memory", gib, 0, MEMORY, above=True)


def axes(options: dict[str, Any], prompts: int) -> dict[str, list[Any]]:
    """Return what varies in a sheet, by its name; nothing where every option has one value."""
    found = {name: options[name] for name in sheets.AXES if isinstance(options[name], list)}
    if not found:
        return {}
    first = next(f"--{name} {','.join(map(str, values))}" for name, values in found.items())
    if not options["sheet"]:
        raise ValueError(f"{first} names several values, which --sheet puts side by side; add --sheet, or give one")
    if options["n"] != 1:
        raise ValueError(f"--n draws pictures of the same settings; beside {first}, --seed 0,1,2 draws several")
    if prompts != 1:
        raise ValueError(f"a sheet over {first} takes one prompt, got {prompts}")
    sheets.check_axes(found)
    return found


def check_pictures(options: dict[str, Any]) -> None:
    """Check --init, --mask, --control and what needs them; a missing --strength or --control-scale is filled in."""
    for name, (needed, what) in NEEDED.items():
        if options[name] is not None and options[needed] is None:
            raise ValueError(f"--{name.replace('_', '-')} needs --{needed}, {what}")
    if options["control"] is not None:
        picture_.read_picture(options["control"])
        options["control_scale"] = 1.0 if options["control_scale"] is None else options["control_scale"]
    if options["init"] is None:
        return
    if options["no_binning"]:
        raise ValueError("--no-binning is for pictures without --init; with it, --size is drawn itself")
    if options["strength"] is None:
        options["strength"] = 0.6 if options["mask"] is None else 1.0
    size = picture_.read_picture(options["init"]).size
    if options["mask"] is None:
        return
    mask = picture_.read_picture(options["mask"], mask=True).size
    if size != mask:
        raise ValueError(
            f"--mask must have the size of --init, {size[1]} x {size[0]}, got {mask[1]} x {mask[0]}"
        )  # fmt: skip


def check_other_files(files: Iterable[Path], options: dict[str, Any]) -> None:
    """Raise a ValueError where a picture that is read would be written over."""
    written = {os.path.realpath(file) for file in files}
    for name in PICTURES:
        if options[name] is not None and os.path.realpath(os.path.expanduser(options[name])) in written:
            raise ValueError(f"--out must be another file than --{name}, which `pixart-fn show` refers to")


def size(text: str | None) -> tuple[int | None, int | None]:
    """Return the height and the width of --size."""
    if text is None:
        return None, None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise ValueError(f"--size must be HEIGHTxWIDTH or one number, such as 512x768; got {text!r}")
    if not all(len(side) <= 6 and 1 <= int(side) <= picture_.SIDE for side in sides):
        raise ValueError(f"--size must be at least 1 and at most {picture_.SIDE} pixels along a side, got {text!r}")
    return int(sides[0]), int(sides[-1])
