"""File descriptors that are closed with the objects that hold them, and locks on what they are of."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NoReturn

from ..process.signals import is_of_a_handler

NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
"""Opens no symbolic link, where the system knows of that."""


class Owned:
    """A file descriptor that is closed when the object is freed, if `close` hasn't closed it before.

    No function in Python is called then: one is where Python calls handlers of signals, and what they raise while an
    object is freed is printed and ignored, so that Ctrl-C would be lost.
    """

    _close: Callable[[], object] = int
    """What closes it; it does nothing once that is done."""
    __del__ = property(attrgetter("_close"))  # a method would be a function in Python

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor that is open."""
        self.descriptor = descriptor
        self._close = partial(os.close, descriptor)

    def __reduce_ex__(self, _: object) -> NoReturn:
        """Refuse to be copied or pickled, as a copy would close the same descriptor."""
        raise TypeError("a file that is open can't be copied or pickled")

    def close(self) -> None:
        """Close it, unless it is closed already; `descriptor` isn't used afterwards."""
        close, self._close = self._close, int
        close()


class Lock(Owned):
    """An open file or folder whose lock others can't take until it is closed, or its process ends."""

    def __init__(self, path: Path, flags: int, mode: int = 0o666):
        super().__init__(os.open(path, flags | NOFOLLOW, mode))

    def take(self, wait: bool = True) -> bool | None:
        """Take the lock.

        Args:
            wait: whether to wait where another holds it.
        Returns:
            Whether it was taken; None where there are no locks.
        """
        try:
            import fcntl  # Windows has none

            fcntl.flock(self.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except ImportError:
            return None
        except OSError as error:
            if is_of_a_handler(error):
                raise
            return None
        return True

    def holds(self, path: Path) -> bool:
        """Return whether the file that is open is still the one of a path."""
        try:
            return os.path.samestat(os.lstat(path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False
