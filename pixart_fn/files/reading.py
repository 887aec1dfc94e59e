"""Reading files that may come from anywhere: only regular ones, only up to a size, and only JSON that is plain."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checks import shown

MOST = 2**26
"""Bytes of a file that is read as a whole: 64 MiB. The largest that is released, a tokenizer.json, has 3 MiB."""
DEEPEST = 64
"""Lists and objects of JSON inside each other."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# A pipe without a writer would make the process wait; Windows has no such flag, and would change line ends without one.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class NotRegular(OSError):
    """What is named is there and is no regular file."""


def descriptor(path: Path, *, pipe: bool = False) -> int:
    """Open a file for reading, where it is a regular one: another may never end, or make the reader wait for it.

    Args:
        path: the file; symbolic links are followed.
        pipe: whether a pipe is taken as well.
    Returns:
        The file's descriptor, which the caller closes.
    Raises:
        OSError: there is no such file, it can't be read, or it is a folder, a pipe, a socket or a device.
    """
    _check_kind(path, os.stat(path), pipe)  # before it is opened, on which a device may act
    opened = os.open(path, _FLAGS)
    try:
        found = os.fstat(opened)
        _check_kind(path, found, pipe)
        if stat.S_ISFIFO(found.st_mode):
            os.set_blocking(opened, True)  # its writer may be slow; without one, reading ends at once
    except BaseException:
        os.close(opened)
        raise
    return opened


def sha256(path: Path) -> str:
    """Return the sha256 of a regular file of any size, as hexadecimal digits."""
    found = hashlib.sha256()
    with os.fdopen(descriptor(path), "rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()


def _check_kind(path: Path, found: os.stat_result, pipe: bool) -> None:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG and not (pipe and kind == stat.S_IFIFO):
        raise NotRegular(f"{path} is {KINDS.get(kind, 'no file')}; a regular file is needed")


def content(path: Path, most: int = MOST, *, pipe: bool = False) -> bytes:
    """Read a whole file.

    Args:
        path: the file; symbolic links are followed.
        most: the largest size in bytes that is read.
        pipe: whether a pipe is taken as well.
    Returns:
        What the file holds.
    Raises:
        OSError: as `descriptor` says.
        ValueError: the file is larger.
    """
    with os.fdopen(descriptor(path, pipe=pipe), "rb") as file:
        read = file.read(most + 1)
    if len(read) > most:
        raise ValueError(f"{path} holds more than {most >> 20} MiB, which is the most that is read of such a file")
    return read


def json_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Args:
        path: the file.
    Returns:
        The object.
    Raises:
        OSError: the file can't be read.
        ValueError: it is too large, isn't JSON as `parse` takes it, or holds no object.
    """
    text = content(path)
    try:
        value = parse(text)
    except ValueError as error:
        raise ValueError(f"{path} isn't valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, not {shown(value)}")
    return value


def parse(
    text: bytes,
    *,
    constant: Callable[[str], Any] | None = None,
    fraction: Callable[[str], Any] | None = None,
    whole: Callable[[str], Any] | None = None,
) -> Any:
    """Parse JSON in UTF-8.

    NaN and infinities are read, since diffusers writes -Infinity into scheduler_config.json.

    Args:
        text: the JSON.
        constant: makes the value of NaN, Infinity or -Infinity; None takes them as Python does.
        fraction: makes the value of a number with a point or an exponent, likewise.
        whole: makes the value of any other number, likewise.
    Returns:
        The value.
    Raises:
        ValueError: it isn't UTF-8 or isn't JSON, begins with a byte order mark, names a key twice, is nested more than
            DEEPEST deep, or holds half a surrogate pair, which isn't text.
    """
    decoded = text.decode("utf-8")
    if decoded.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark; save it without one")
    try:
        value = json.loads(
            decoded, object_pairs_hook=_object, parse_constant=constant, parse_float=fraction, parse_int=whole
        )
    except RecursionError:
        raise _nested() from None
    if decoded.count("[") + decoded.count("{") > DEEPEST:
        _check_depth(value)
    if _HALF_A_PAIR.search(decoded):
        _check_text(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shown(twice)} is there twice")
    return made


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [child for node in level for child in _children(node)]
    if level:
        raise _nested()


def _children(node: Any) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []


def _nested() -> ValueError:
    return ValueError(f"it is nested more than {DEEPEST} deep")


def _check_text(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a string holds half a surrogate pair, which isn't text") from None
