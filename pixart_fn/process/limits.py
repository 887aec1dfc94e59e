"""How much memory this process may still take: what its control groups leave, and what the system has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
"""Where the system's files are."""


class _Names(NamedTuple):
    """The files of a control group's memory, and how the counts of file pages are called in its statistics."""

    limit: str
    usage: str
    pages: tuple[str, str]


_SECOND = _Names("memory.max", "memory.current", ("inactive_file", "active_file"))
_FIRST = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def free(root: Path = ROOT) -> int | None:
    """Return the bytes that this process may take beside those that it has, or None where the system doesn't say.

    Pages of files count as free, since the kernel takes them back: mapped weights are such pages.

    Args:
        root: the directory that holds proc and sys.
    """
    found = [*(left for _, left in _groups(root)), *_fields(root / "proc/meminfo", "MemAvailable:", 1024)]
    return max(min(found), 0) if found else None


def limit(root: Path = ROOT) -> int | None:
    """Return the bytes that all processes beside this one and it may take: the system's, or its control groups' limit.

    Args:
        root: the directory that holds proc and sys.
    """
    found = [*(most for most, _ in _groups(root)), *_fields(root / "proc/meminfo", "MemTotal:", 1024)]
    return min(found, default=None)


def resident(root: Path = ROOT) -> int:
    """Return the bytes of memory that this process has and that aren't pages of a file; 0 where nobody says."""
    return next(_fields(root / "proc/self/status", "RssAnon:", 1024), 0)


def file_pages(root: Path = ROOT) -> list[tuple[int, int]]:
    """Return the first and the last address of each mapped file, ascending; the kernel can take such pages back."""
    found = []
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/maps").read_text().splitlines():
            addresses, _, _, _, inode = line.split()[:5]
            if inode != "0":
                first, end = addresses.split("-")
                found.append((int(first, 16), int(end, 16) - 1))
    return found


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """The limit of each control group above this process and what it leaves, of the second version or the first."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            names, mount = (_FIRST, "sys/fs/cgroup/memory") if controllers else (_SECOND, "sys/fs/cgroup")
            # in a container the group's own path may be mounted in place of the root
            group = Path(path)
            for each in (group, *group.parents):
                yield from _left(root / mount / each.relative_to("/"), names)


def _left(folder: Path, names: _Names) -> Iterator[tuple[int, int]]:
    with contextlib.suppress(OSError, ValueError):  # no such group, or the limit is "max"
        limit, usage = (int((folder / name).read_text()) for name in (names.limit, names.usage))
        if limit < 2**60:  # the first version's way to say that there is none
            yield limit, limit - usage + sum(next(_fields(folder / "memory.stat", name, 1), 0) for name in names.pages)


def _fields(file: Path, name: str, unit: int) -> Iterator[int]:
    """The number in the line that begins with a name."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            words = line.split()
            if words and words[0] == name:
                yield int(words[1]) * unit
