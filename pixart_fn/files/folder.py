"""Replacing the files of a folder in one step, so that whoever reads it finds the old ones or the new ones."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ..process.signals import deferred, is_of_a_handler
from . import atomic
from .owned import Lock

UNFINISHED = ".pixart_fn-unfinished"
"""A file in a folder whose files are being replaced one by one, or were when the process was killed."""
_Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]


def replace(folder: Path, index: str, fill: Callable[[Path], object]) -> None:
    """Write files into a folder in one step, beside those of other names that it holds.

    A new folder with all files is made beside the old one and exchanged with it. Where that can't be done, the files
    are moved into the old folder one by one, under a mark that `unchanged` refuses: where the file system can't
    exchange folders, where the folder or one inside is a mount point, where its parent can't be written to, where it is
    the current folder or above it, where it holds no index, or where the files go through a link inside it.

    Args:
        folder: it is made where it isn't there, and so are those above it; a symbolic link is followed.
        index: the name of the file that whoever reads the folder reads first, and which is moved last.
        fill: a function that writes the files, the index too, into the empty folder that it is given.
    Raises:
        ValueError: the path can't be the name of a folder.
        FileExistsError: it isn't a folder.
        OSError: the files can't be written; unless the error says otherwise, the folder is what it was.
        Exception: whatever else `fill` raises.
    """
    real = check(folder)
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        if real.is_dir():
            atomic.clear(real)
        inside = real.is_dir() and (real in _mount_points() or not os.access(real.parent, os.W_OK | os.X_OK))
        work = partial(_publish, real=real, index=index, fill=fill)
        atomic.temporarily(real if inside else real.parent, work, folder=True)
    except OSError as error:
        if is_of_a_handler(error):
            raise
        raise atomic.unwritten(error, folder) from error


def check(folder: Path) -> Path:
    """Return the folder that `replace` writes, and raise what it raises before it writes.

    Args:
        folder: to write.
    Returns:
        The folder's own path, where symbolic links lead to it; it needn't exist.
    """
    try:
        real = Path(os.path.realpath(folder))
        kind = stat.S_IFMT(os.stat(folder).st_mode)
    except FileNotFoundError:
        return real
    except OSError as error:
        raise atomic.unwritten(error, folder) from error
    except ValueError as error:
        raise atomic.misnamed(folder) from error
    if kind != stat.S_IFDIR:
        raise FileExistsError(f"{folder} is {'a file' if kind == stat.S_IFREG else 'no folder'}; name a folder")
    if not os.access(real, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {str(folder)!r} can't be written to")
    return real


def link(file: Path, other: Path) -> None:
    """Give a file, or a symbolic link, a second name, or copy it where the file system has no hard links.

    Args:
        file: what is there.
        other: where nothing is yet.
    Raises:
        OSError: it can't be copied either.
    """
    try:
        os.link(file, other, follow_symlinks=False)
    except OSError:
        shutil.copy2(file, other, follow_symlinks=False)


@contextlib.contextmanager
def unchanged(sources: Iterable[object], index: str) -> Iterator[None]:
    """Make sure that the files that are read inside a `with` block belong together.

    Args:
        sources: what is read, of which paths of folders count; one without an index may lie in a folder that has it.
        index: the name of the file that `replace` moves last.
    Raises:
        OSError: the files are being replaced one by one, that was interrupted, or a folder was replaced meanwhile.
    """
    names = [os.fspath(source) for source in sources if isinstance(source, (str, os.PathLike))]
    paths = [Path(os.path.expanduser(name)) for name in names if isinstance(name, str)]
    before = {path: _stamp(path, index) for path in paths if os.path.isdir(path)}
    try:
        yield
    except (OSError, ValueError) as error:  # what doesn't belong together may not be readable together
        _check_stamps(before, index, error)
        raise
    _check_stamps(before, index, None)


def _check_stamps(before: dict[Path, _Stamp], index: str, error: Exception | None) -> None:
    for folder, stamp in before.items():
        if _stamp(folder, index) != stamp:
            raise OSError(f"{str(folder)!r} was replaced while it was read; read it again") from error


def _stamp(folder: Path, index: str) -> _Stamp:
    """Return what changes when a folder's files are replaced."""
    homes = [folder] if (folder / index).exists() else [folder, Path(os.path.realpath(folder)).parent]
    for home in homes:
        if os.path.lexists(home / UNFINISHED):
            raise OSError(
                f"{str(home)!r} holds old and new files mixed: they are being replaced, or that was interrupted; write "
                "them again"
            )
    return (_identity(folder), *(_identity(home / index) for home in homes))


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    own = found.st_dev, found.st_ino
    return own if stat.S_ISDIR(found.st_mode) else (*own, found.st_size, found.st_mtime_ns)


# --- publishing -------------------------------------------------------------------------------------------------------


def _publish(staging: Path, real: Path, index: str, fill: Callable[[Path], object]) -> None:
    """Fill a folder and put it, or its files, where they belong."""
    fill(staging)
    files = [path.relative_to(staging) for path in staging.rglob("*") if not path.is_dir()]
    files.sort(key=lambda file: (str(file) == index, file))
    if _is_kept(real, staging, index):
        _move(staging, real, files)
        return
    with _turn(real.parent):
        if real.is_dir():
            atomic.resemble(staging, real.stat())
        try:
            staging.rename(real)  # which takes the place of an empty folder
        except OSError:
            if not real.is_dir():
                raise
            _bring_over(real, staging)
            try:
                _exchange(staging, real)
            except OSError:
                _move(staging, real, files)
    atomic.sync(real.parent)


@contextlib.contextmanager
def _turn(parent: Path) -> Iterator[None]:
    """Wait while another process exchanges a folder of the same parent, where it can be told."""
    try:
        lock = Lock(parent, os.O_RDONLY)
    except OSError as error:  # it can't be listed
        if is_of_a_handler(error):
            raise
        yield
        return
    try:
        lock.take()
        yield
    finally:
        lock.close()


def _is_kept(real: Path, staging: Path, index: str) -> bool:
    """Return whether files must be moved into a folder, since it can't be exchanged or others would miss it."""
    if not real.is_dir():
        return False
    if staging.parent == real or any(real == point or real in point.parents for point in _mount_points()):
        return True
    with contextlib.suppress(FileNotFoundError):  # the current folder was removed
        here = Path(os.getcwd())
        if real == here or real in here.parents:
            return True
    names = {entry.name: entry for entry in os.scandir(real)}
    through = [name for name in os.listdir(staging) if name in names and names[name].is_symlink()]
    return bool(names and index not in names) or any(names[name].is_dir() for name in through)


def _mount_points() -> set[Path]:
    """Return the folders and files at which something is mounted; empty where the system doesn't list them."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:  # not Linux
        return set()
    escaped = (line.split()[4] for line in lines)
    return {
        Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), name))) for name in escaped
    }


def _bring_over(old: Path, new: Path) -> None:
    """Put the files of an old folder that a new one lacks into it, and give what is in both the old one's mode."""
    if os.path.ismount(old):
        raise OSError(f"{str(old)!r} is a mount point")
    if not os.access(old, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(f"{str(old)!r} is protected against writing")
    for entry in os.scandir(old):
        there = new / entry.name
        if entry.name == UNFINISHED or atomic.is_temporary(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            there.mkdir(exist_ok=True)
            _bring_over(Path(entry.path), there)
        elif not os.path.lexists(there):
            link(Path(entry.path), there)
        elif entry.is_file(follow_symlinks=False) and there.is_file():
            atomic.resemble(there, entry.stat())
    atomic.resemble(new, old.stat())
    atomic.sync(new)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step; raise an OSError where the system or the file system can't."""
    library, names = ctypes.CDLL(None, use_errno=True), (os.fsencode(one), os.fsencode(other))
    here, exchange = -100, 2  # AT_FDCWD; RENAME_EXCHANGE on Linux and RENAME_SWAP on macOS
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, exchange)
        else:
            failed = library.renameat2(here, names[0], here, names[1], exchange)
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# --- moving one by one ------------------------------------------------------------------------------------------------


def _move(staging: Path, real: Path, files: list[Path]) -> None:
    """Move files into a folder one by one, under a mark; an interruption waits for it, as half would be a mixture."""
    locks: list[Lock] = []
    try:
        with deferred():
            try:
                _move_marked(staging, real, files, locks)
            except (KeyboardInterrupt, SystemExit):  # raised by another thread, as such a signal waits
                _move_marked(staging, real, files, locks)
                raise
    finally:
        for lock in locks:
            lock.close()


def _move_marked(staging: Path, real: Path, files: list[Path], locks: list[Lock]) -> None:
    mark = real / UNFINISHED
    marked = os.path.lexists(mark)
    _mark(mark, locks)
    try:
        for file in files:
            if os.path.lexists(staging / file):
                _move_one(staging / file, real / file)
                marked = True
        for folder in {(real / file).parent for file in files}:
            atomic.sync(folder)
        os.unlink(mark)
    except OSError as error:
        if not marked:  # nothing was moved
            os.unlink(mark)
            raise
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"{reason}, and it holds old and new files mixed now; write it again") from error
    atomic.sync(real)


def _mark(mark: Path, locks: list[Lock]) -> None:
    """Make the mark; wait while another process works under it, and let others wait until its lock is closed."""
    while True:
        if not locks:
            locks.append(Lock(mark, os.O_RDWR | os.O_CREAT))
        locks[0].take()
        if locks[0].holds(mark):
            return
        locks.pop().close()


def _move_one(file: Path, there: Path) -> None:
    there.parent.mkdir(parents=True, exist_ok=True)
    if there.is_file() and not there.is_symlink():
        atomic.resemble(file, there.stat())
    try:
        file.replace(there)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        atomic.write(there, partial(shutil.copyfile, file))  # a mount point, or beyond one
