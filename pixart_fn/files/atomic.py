"""Writing a file in one step: under a temporary name in its folder, which is then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ..process.signals import deferred, is_of_a_handler
from .owned import NOFOLLOW, Lock
from .reading import KINDS, NotRegular

DAY = 24 * 60 * 60
"""Seconds after which a temporary of another machine is taken for one that was left behind."""
_TEMPORARY = re.compile(r"\.pixart_fn-(?P<machine>[0-9a-f]{8})-[0-9a-f]{32}\.(?:tmp|folder)")
_DIRECTORY, _NONBLOCK = (getattr(os, f"O_{name}", 0) for name in ("DIRECTORY", "NONBLOCK"))


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file in one step, so that a run that is stopped leaves either the old file or the new one.

    Of several processes that write one file at once, the last one's is there in the end, whole. The mode of a file that
    is replaced stays, and a symbolic link stays a link to the file that is replaced. A file that is itself a mount
    point, as one that is handed into a container, can't be replaced: it is overwritten, once the new content is
    complete and there is room for it.

    Args:
        path: the file, whose folder must exist; an existing file is replaced.
        save: a function that writes the content to the path that it is given, where an empty file is.
    Raises:
        ValueError: the path can't be the name of a file.
        OSError: the file is a folder, a device, a pipe or a socket, its folder is missing, or it can't be written; its
            old content is still there then.
        Exception: whatever else `save` raises.
    """
    real = target(path)
    try:
        old = os.stat(real) if os.path.lexists(real) else None
        temporarily(real.parent, lambda temporary: _replace(temporary, real, old, save), like=old)
    except OSError as error:
        if is_of_a_handler(error):
            raise
        raise unwritten(error, path) from error


def target(path: Path) -> Path:
    """Return the file that `write` replaces, and raise what it raises before it writes.

    Args:
        path: the file.
    Returns:
        The path or, where it is a symbolic link, the path of the file that it leads to, which needn't exist yet.
    """
    name, real = repr(str(path)), path
    try:
        if os.path.islink(path):
            real = Path(os.path.realpath(path))
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        if not real.parent.is_dir():
            leads = f", a link to {str(real)!r}," if real != path else ""
            raise FileNotFoundError(
                f"{name}{leads} can't be written: there is no folder {str(real.parent)!r}"
            ) from None
        return real
    except OSError as error:
        raise unwritten(error, path) from error
    except ValueError as error:
        raise misnamed(path) from error
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(f"{name} is a folder; name a file in it")
    if kind != stat.S_IFREG:
        raise NotRegular(f"{name} is {KINDS.get(kind, 'no regular file')}; name a regular file")
    return real


def check_place(path: Path) -> None:
    """Raise, before the work whose result is written, what would keep a file and its missing folders from being made.

    Args:
        path: the file.
    Raises:
        ValueError, OSError: as `target` says, or its folder is no folder or can't be written to, or a name is too long.
    """
    if os.path.lexists(path):
        target(path)
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is not a folder, so {str(path)!r} can't be written")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the folder {str(folder)!r} can't be written to")
    for part in path.absolute().relative_to(folder).parts:
        try:
            os.lstat(folder / part)
        except FileNotFoundError:
            continue
        except OSError as error:  # the name is too long
            raise unwritten(error, path) from error
        except ValueError as error:
            raise misnamed(path) from error


def unwritten(error: OSError, path: Path) -> OSError:
    """Return an error of the same kind that says in one sentence what couldn't be written and why.

    Args:
        error: what the system said, or a sentence.
        path: what was to be written.
    """
    reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    sentence = f"{str(path)!r} can't be written: {reason[:1].lower()}{reason[1:]}"
    if not error.errno:
        return OSError(sentence)
    again = type(OSError(error.errno, ""))(sentence)
    again.errno = error.errno
    return again


def misnamed(path: Path) -> ValueError:
    """Return an error for a path with a NUL character or half a surrogate pair.

    Args:
        path: what was to be written.
    """
    return ValueError(f"{str(path)!r} can't be written: no file's name can hold what it holds")


# --- temporary names --------------------------------------------------------------------------------------------------


def temporarily(
    parent: Path, work: Callable[[Path], object], *, folder: bool = False, like: os.stat_result | None = None
) -> None:
    """Work with a temporary file or folder, and remove what is left of it in the end, however that comes about.

    What a killed process has left in the same folder is removed first. A process holds a lock on its temporary for as
    long as it lives; where a file system has no locks, or they don't reach the other machines that share it, a
    temporary stays for a day.

    Args:
        parent: the folder in which it is made.
        work: a function that is given its path, and which may rename it.
        folder: whether it is a folder.
        like: of the file that it is to replace, whose mode it has from the start.
    """
    clear(parent)
    temporary = parent / f".pixart_fn-{_machine()}-{uuid.uuid4().hex}.{'folder' if folder else 'tmp'}"
    if os.path.lexists(temporary):
        raise FileExistsError(errno.EEXIST, f"the temporary name {temporary.name} is in use")
    lock = None
    with deferred() as waiting:
        try:
            try:
                waiting.off()
                lock = _made(temporary, folder, 0o666 if like is None else stat.S_IMODE(like.st_mode) | 0o600)
                work(temporary)
            finally:
                waiting.on = True
                _remove(temporary)
        finally:  # another thread may have raised an exception in this one
            _remove(temporary)
            if lock is not None:
                lock.close()


def clear(parent: Path) -> None:
    """Remove the temporaries that killed processes have left in a folder.

    Args:
        parent: the folder; where it can't be listed, nothing is removed.
    """
    with _tolerated():
        for name in os.listdir(parent):
            if found := _TEMPORARY.fullmatch(name):
                with _tolerated():  # another process removes it too, or it is another user's
                    _remove_left(parent / name, own=found["machine"] == _machine())


def is_temporary(name: str) -> bool:
    """Return whether a name is one that `temporarily` makes.

    Args:
        name: of a file or a folder.
    """
    return _TEMPORARY.fullmatch(name) is not None


def _machine() -> str:
    """Return a name for this machine since it was started, all its containers included."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:  # not Linux
        name = str(uuid.getnode()).encode()
    return hashlib.sha256(name).hexdigest()[:8]


def _made(temporary: Path, folder: bool, mode: int) -> Lock:
    """Make a temporary and return its lock."""
    while True:
        if folder:
            os.mkdir(temporary)
        try:
            lock = Lock(temporary, os.O_RDONLY | _DIRECTORY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        except FileNotFoundError:
            if not folder:
                raise
            continue  # another process has cleared it away before it was locked
        lock.take()
        if lock.holds(temporary):
            return lock
        lock.close()


def _remove_left(temporary: Path, own: bool) -> None:
    """Remove a temporary if the process that made it is gone."""
    aged = time.time() - os.lstat(temporary).st_mtime > DAY
    if not own and not aged:
        return
    folder = temporary.suffix == ".folder"
    lock = Lock(temporary, os.O_RDONLY | _DIRECTORY if folder else os.O_RDWR | _NONBLOCK)
    try:
        free = lock.take(wait=False)
        if free or (free is None and aged):
            _remove(temporary)
    finally:
        lock.close()


def _remove(temporary: Path) -> None:
    if temporary.suffix == ".folder":
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        with _tolerated():
            os.unlink(temporary)


@contextlib.contextmanager
def _tolerated() -> Iterator[None]:
    """Go on where the system refuses what the block does."""
    try:
        yield
    except OSError as error:
        if is_of_a_handler(error):
            raise


# --- replacing --------------------------------------------------------------------------------------------------------


def _replace(temporary: Path, real: Path, old: os.stat_result | None, save: Callable[[Path], object]) -> None:
    """Fill a temporary file and put it in the place of the real one."""
    save(temporary)
    descriptor = os.open(temporary, os.O_RDWR | NOFOLLOW)
    try:
        if old is not None:
            resemble(descriptor, old)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.replace(temporary, real)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        with deferred():
            _overwrite(real, temporary)
    sync(real.parent)


def _overwrite(real: Path, temporary: Path) -> None:
    """Copy a file over a mount point, after room was made for it, so that a full disk leaves the old content."""
    with open(temporary, "rb") as source, open(real, "r+b") as file:
        before, size = os.fstat(file.fileno()).st_size, os.fstat(source.fileno()).st_size
        if size > before and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise
        shutil.copyfileobj(source, file)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def resemble(new: Path | int, old: os.stat_result) -> None:
    """Give a file or folder the mode of the one that it replaces and, where that is allowed, the owner.

    Args:
        new: its path or descriptor.
        old: of the one that it replaces.
    """
    with contextlib.suppress(AttributeError), _tolerated():  # only root may give files away; Windows has no owners
        os.chown(new, old.st_uid, old.st_gid)
    os.chmod(new, stat.S_IMODE(old.st_mode))


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can say so.

    Args:
        folder: in which files were made, renamed or removed.
    """
    with _tolerated():
        descriptor = os.open(folder, os.O_RDONLY | _DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
