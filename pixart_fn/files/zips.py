"""The entries of a zip archive, whose files can be read in place where they aren't compressed."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..checks import shown
from .header import LONGEST
from .safetensors import Opened

LARGEST = 2**24
"""Bytes of the list of entries, and of the entry whose content is read at once."""
MOST = 2**16
"""Entries. A model of 42 layers with the state of its optimiser has 3000."""
_END, _END64, _LOCATOR, _LISTED, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_NAME = re.compile(r"(?!.*(?:^|/)\.\.?(?:/|$))[^/\\:][^\\:]*")
"""A plain relative path."""


class Entry(NamedTuple):
    """Where a file's content lies in the archive, and what was done to it: "compressed", "encrypted" or ""."""

    offset: int
    size: int
    packed: str


class _Listed(NamedTuple):
    name: str
    size: int
    packed: str
    begin: int
    """Of the header before the content."""


def begins(head: bytes) -> bool:
    """Return whether a file's first bytes are those of a zip archive."""
    return head[:4] in (_LOCAL, _END)


def entries(file: Opened) -> dict[str, Entry]:
    """List the files in an archive.

    Args:
        file: the archive.
    Returns:
        Each file's place, by its name.
    Raises:
        ValueError: it is cut off or damaged, an entry is named twice or not by a plain relative path, or entries
            overlap.
    """
    begin, end, count = _directory(file)
    if end - begin > LARGEST or count > MOST:
        raise ValueError(f"it lists {count} files in {end - begin} bytes, more than any model has")
    listed = _listed(_bytes(file, begin, end - begin), count)
    found: dict[str, Entry] = {}
    free = 0
    for name, size, packed, at in sorted(listed, key=lambda each: each.begin):
        head = _bytes(file, at, 30, begin)
        named, more = struct.unpack("<HH", head[26:])
        start = at + 30 + named + more
        if head[:4] != _LOCAL or _bytes(file, at + 30, named, begin) != name.encode():
            raise ValueError(f"it has no file {shown(name)} where it lists one")
        if at < free or start + size > begin:
            raise ValueError(f"its file {shown(name)} reaches into another")
        found[name], free = Entry(start, size, packed), start + size
    return found


def in_place(found: Mapping[str, Entry], name: str) -> Entry:
    """Return the entry of a file whose content can be read as it is.

    Args:
        found: the files in an archive.
        name: of the file.
    Raises:
        ValueError: there is no such file, or it is compressed or encrypted.
    """
    if name not in found:
        raise ValueError(f"it has no file {shown(name)}")
    if found[name].packed:
        raise ValueError(f"its file {shown(name)} is {found[name].packed}, as torch writes none")
    return found[name]


def content(file: Opened, found: Mapping[str, Entry], name: str) -> bytes:
    """Read a small file at once; raise a ValueError where `in_place` does, or where it has more than LARGEST bytes."""
    entry = in_place(found, name)
    if entry.size > LARGEST:
        raise ValueError(f"it holds a file of {entry.size >> 20} MiB where a small one belongs")
    return _bytes(file, entry.offset, entry.size)


def _bytes(file: Opened, offset: int, size: int, end: int | None = None) -> bytes:
    if offset < 0 or size < 0 or offset + size > (file.size if end is None else end):
        raise ValueError("its list of files leads outside of it")
    array = np.empty(size, np.uint8)
    file.read_into(array, offset)
    return array.tobytes()


def _directory(file: Opened) -> tuple[int, int, int]:
    """Return where the list of entries begins and ends, and how many there are."""
    first = max(file.size - 22 - 2**16, 0)  # before the longest comment
    tail = _bytes(file, first, file.size - first)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise ValueError("its end is missing; download it again")
    _, disk, other, here, count, size, begin, comment = struct.unpack("<4s4H2LH", tail[at : at + 22])
    if at + 22 + comment != len(tail):
        raise ValueError("its end is damaged; download it again")
    end = first + at
    if end >= 20 and (locator := _bytes(file, end - 20, 20))[:4] == _LOCATOR:
        at64 = struct.unpack("<Q", locator[8:16])[0]
        record = _bytes(file, at64, 56)
        if record[:4] != _END64:
            raise ValueError("its end is damaged; download it again")
        disk, other, here, count, size, begin = struct.unpack("<2L4Q", record[16:56])
        end = at64
    if disk or other or here != count or begin + size != end:
        raise ValueError("its list of files isn't where its end says; download it again")
    return begin, end, count


def _listed(directory: bytes, count: int) -> list[_Listed]:
    """Read the list of entries; folders are left out."""
    found: list[_Listed] = []
    at = 0
    for _ in range(count):
        head = directory[at : at + 46]
        if len(head) < 46 or head[:4] != _LISTED:
            raise ValueError("its list of files is damaged; download it again")
        flags, method = struct.unpack("<2H", head[8:12])
        packed, size, named, more, comment = struct.unpack("<2L3H", head[20:34])
        begin = struct.unpack("<L", head[42:])[0]
        name = _name(directory[at + 46 : at + 46 + named])
        extra = directory[at + 46 + named : at + 46 + named + more]
        at += 46 + named + more + comment
        size, packed, begin = _wide(extra, (size, packed, begin))
        how = "encrypted" if flags & 1 else "compressed" if method else ""
        if not how and packed != size:
            raise ValueError(f"its file {shown(name)} has {packed} bytes and should have {size}")
        if name.endswith("/") and not size:
            continue
        found.append(_Listed(name, packed, how, begin))
    if at != len(directory):
        raise ValueError("its list of files is damaged; download it again")
    if len({each.name for each in found}) < len(found):
        raise ValueError("it holds two files of one name")
    return found


def _name(raw: bytes) -> str:
    name = raw.decode("utf-8", "replace")
    plain = len(raw) <= LONGEST and name.isprintable() and name.encode() == raw
    if not plain or not _NAME.fullmatch(name):
        raise ValueError(f"it holds a file named {shown(name)}, which is no plain relative path")
    return name


def _wide(extra: bytes, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return sizes in which those that 32 bits can't hold are taken from a zip64 field."""
    wide, at = b"", 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack("<2H", extra[at : at + 4])
        if kind == 1:
            wide = extra[at + 4 : at + 4 + size]
        at += 4 + size
    found = []
    for each in sizes:
        if each == 2**32 - 1:
            if len(wide) < 8:
                raise ValueError("its list of files is damaged; download it again")
            each, wide = struct.unpack("<Q", wide[:8])[0], wide[8:]
        found.append(each)
    return found[0], found[1], found[2]
