"""A picture with its caption, wherever it lies, and one that had to be left out."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ...checks import shown
from ...files import reading
from . import pictures

LARGEST_CAPTION = 2**20
"""Bytes of a caption at most."""


class Entry(NamedTuple):
    """A picture with its caption, of which nothing but the caption is in memory.

    Args:
        name: the picture's path in the source, with "/" between folders; of one in a tar, after the tar's name.
        caption: what it shows.
        file: the file that holds the picture.
        offset: the byte of the file where the picture begins.
        size: of the picture in bytes.
    """

    name: str
    caption: str
    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the picture's bytes.

        Raises:
            OSError: the file can't be read, or has become shorter.
        """
        with os.fdopen(reading.descriptor(self.file), "rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError("it was cut off after it was listed")
        return content


class Skipped(NamedTuple):
    """A picture that isn't used, and why not."""

    name: str
    reason: str


def named(root: Path, name: str, caption: str, path: Path) -> Entry | Skipped:
    """Return the entry of a picture in a file of its own, or why there is none.

    Args:
        root: the source's folder, for the sake of the error.
        name: the picture's name in the source.
        caption: what it shows.
        path: the file.
    """
    try:
        size = path.stat().st_size
    except OSError:
        return Skipped(name, f"there is no file {path.relative_to(root).as_posix()}")
    if size > pictures.LARGEST:
        return Skipped(name, f"it holds more than {pictures.LARGEST >> 20} MiB")
    return Entry(name, caption, path, 0, size)


def inner(name: object, where: str) -> PurePosixPath:
    """Return a path that a file of metadata names, which must stay below the file's own folder.

    Args:
        name: what the file says.
        where: the file and the place in it, for errors.
    Raises:
        ValueError: it is no such path.
    """
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise ValueError(f"{where} must name a file in its own folder or below, got {shown(name)}")
    return path


def text(content: bytes) -> str:
    """Return a caption from the content of a .txt file.

    Args:
        content: UTF-8, with or without a byte order mark.
    Raises:
        ValueError: it isn't UTF-8.
    """
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("it isn't UTF-8") from None
