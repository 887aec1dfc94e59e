"""Webdataset tars, whose members are read where they lie: nothing is extracted."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ...checks import kind
from ...files import reading
from . import pictures
from .entries import LARGEST_CAPTION, Entry, Skipped, text

PICTURES = ("jpg", "jpeg", "png", "webp")
LARGEST_NAME = 2**20
"""Bytes of a member's own header at most, which holds its name."""


def listed(path: Path, column: str | None, caption: str | None) -> list[Entry | Skipped]:
    """List the pictures of a tar or of a folder's tars.

    Args:
        path: the file or the folder.
        column: the key of the caption in .json members; None takes a .txt, or else the key "caption".
        caption: of pictures that have neither; None skips these.
    Returns:
        The pictures in the order of the tars' names and of their members.
    Raises:
        FileNotFoundError: the folder holds no tar.
        ValueError: a tar is damaged or compressed.
    """
    files = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{str(path)!r} holds no .tar file")
    return [each for file in files for each in _tar(file, column, caption)]


class _Bounded:
    """A file of which tarfile reads only small pieces: a header that says it is huge would fill the memory."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if size > LARGEST_NAME:
            raise tarfile.ReadError("a header is larger than any name")
        return self._read(size)


def _tar(path: Path, column: str | None, caption: str | None) -> Iterator[Entry | Skipped]:
    with os.fdopen(reading.descriptor(path), "rb") as file:
        try:
            groups = _groups(file)
        except (tarfile.TarError, ValueError, OverflowError) as error:
            hint = "; a compressed tar must be unpacked first" if path.suffix != ".tar" else ""
            raise ValueError(f"{path} is no tar file, or is damaged ({error}){hint}") from error
        for base, members in groups.items():
            found = [ending for ending in members if ending in PICTURES]
            for ending in found[:1]:
                yield _member(file, path, f"{base}.{ending}", members, column, caption)
            for ending in found[1:]:
                yield Skipped(f"{path.name}/{base}.{ending}", f"it is the second picture named {base}")
            for ending in members:
                if "." in ending and ending.rpartition(".")[2] in PICTURES:
                    reason = f"its ending begins at the first point of its name, and {ending} is none of a picture"
                    yield Skipped(f"{path.name}/{base}.{ending}", reason)


def _groups(file: BinaryIO) -> dict[str, dict[str, tuple[int, int]]]:
    """Return where each member lies, (offset, size), by its name up to the first point, and by its ending."""
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    opened: Any = _Bounded(file)
    with tarfile.open(fileobj=opened, mode="r:") as tar:
        known: Any = tar
        for member in tar:
            known.members.clear()  # or it keeps all of them, a kilobyte each
            path = PurePosixPath(member.name)
            stem, _, ending = path.name.partition(".")
            if not member.isreg() or member.sparse is not None or not stem:
                continue
            place = member.offset_data, member.size
            groups.setdefault((path.parent / stem).as_posix(), {}).setdefault(ending.lower(), place)
    return groups


def _member(
    file: BinaryIO,
    path: Path,
    name: str,
    members: dict[str, tuple[int, int]],
    column: str | None,
    otherwise: str | None,
) -> Entry | Skipped:
    """Return the entry of a member that is a picture, or why there is none."""
    offset, size = members[name.rpartition(".")[2]]
    name = f"{path.name}/{name}"
    if size > pictures.LARGEST:
        return Skipped(name, f"it holds more than {pictures.LARGEST >> 20} MiB")
    try:
        own = _caption(file, members, column)
    except ValueError as error:
        return Skipped(name, str(error))
    caption = otherwise if own is None else own
    if caption is None:
        return Skipped(name, "it has no caption: no .txt and no .json of its name")
    return Entry(name, caption, path, offset, size)


def _caption(file: BinaryIO, members: dict[str, tuple[int, int]], column: str | None) -> str | None:
    ending = "txt" if "txt" in members and column is None else "json"
    if ending not in members:
        return None
    start, length = members[ending]
    if length > LARGEST_CAPTION:
        raise ValueError(f"its .{ending} holds more than {LARGEST_CAPTION >> 20} MiB")
    file.seek(start)
    content = file.read(length)
    try:
        return text(content) if ending == "txt" else _field(content, column or "caption")
    except ValueError as error:
        raise ValueError(f"its .{ending} can't be used: {error}") from error


def _field(content: bytes, column: str) -> str:
    found = reading.parse(content)
    if not isinstance(found, dict) or not isinstance(found.get(column), str):
        got = kind(found.get(column)) if isinstance(found, dict) else kind(found)
        raise ValueError(f"{column} must be a text in it, got {got}")
    caption: str = found[column]
    return caption.strip()
