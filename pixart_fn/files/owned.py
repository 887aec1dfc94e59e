"""A file descriptor that is closed with the object that holds it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from operator import attrgetter


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

    def close(self) -> None:
        """Close it, unless it is closed already; `descriptor` isn't used afterwards."""
        close, self._close = self._close, int
        close()
