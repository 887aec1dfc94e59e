"""The parts of a PNG, which Pillow reads as a whole where they aren't pixels."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from .reading import MOST

CHUNKS = 2**17
"""The most parts that are looked through: twice what the pixels that Pillow reads take in parts of the usual 8 KiB."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IDAT", b"fdAT")  # which are read bit by bit


def check(file: BinaryIO, name: str) -> None:
    """Raise a ValueError where a part other than pixels is large, since Pillow would take five times its memory.

    Args:
        file: open at its start, where it is again in the end; one that is no PNG is let through.
        name: what an error calls it.
    """
    if file.read(len(_SIGNATURE)) == _SIGNATURE:
        for kind, size in _parts(file):
            if size > MOST and kind not in _PIXELS:
                raise ValueError(
                    f"{name!r} holds a part of {size >> 20} MiB beside its pixels, and at most {MOST >> 20} are read"
                )
    file.seek(0)


def text(file: BinaryIO, keyword: str) -> str | None:
    """Read a text that may come after the pixels; Pillow would decode all of those to reach it.

    Args:
        file: a PNG that `check` lets through.
        keyword: the name of the text.
    Returns:
        The text of the first iTXt part with this name, or None.
    """
    file.seek(len(_SIGNATURE))
    for kind, size in _parts(file):
        if kind != b"iTXt":
            continue
        content, check = file.read(size), file.read(4)
        file.seek(-len(content) - len(check), os.SEEK_CUR)
        found, _, rest = content.partition(b"\0")
        if found == keyword.encode() and check == zlib.crc32(kind + content).to_bytes(4, "big"):
            # two bytes say how it is compressed, which `save_picture` never does; then language, translation, text
            return rest[2:].split(b"\0", 2)[-1].decode("utf-8") if rest[:1] == b"\0" else None
    return None


def _parts(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Give the kind and the size of each part before IEND, while the file stands at its content."""
    for _ in range(CHUNKS):
        head = file.read(8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or kind == b"IEND":
            return
        yield kind, size
        file.seek(size + 4, os.SEEK_CUR)
