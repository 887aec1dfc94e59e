"""Warnings in a process with threads, where Python has one list of filters, and one way to show them, for all."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

_COLLECTED: ContextVar[list[str] | None] = ContextVar("_COLLECTED", default=None)


def warn(sentence: str, stacklevel: int) -> None:
    """Warn of what isn't an error, or hand the sentence to who collects it.

    Args:
        sentence: what the user reads.
        stacklevel: as `warnings.warn` counts, from the function that calls this.
    """
    found = _COLLECTED.get()
    if found is None:
        warnings.warn(sentence, UserWarning, stacklevel=stacklevel + 1)
    else:
        found.append(sentence)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect what the package warns of in this thread, inside a `with` block."""
    found: list[str] = []
    token = _COLLECTED.set(found)
    try:
        yield found
    finally:
        _COLLECTED.reset(token)


class _Quiet:
    """How many threads are inside `ignored`, and what brings the filters back once none is."""

    def __init__(self) -> None:
        self.lock, self.inside, self.filters = threading.Lock(), 0, ExitStack()

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                self.filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.filters.close()


_quiet = _Quiet()


@contextmanager
def ignored() -> Iterator[None]:
    """Show no warning inside a `with` block, in which several threads may be at once.

    Each with a `catch_warnings` of its own would bring back the filters that it found, which may be another's.
    """
    _quiet.enter()
    try:
        yield
    finally:
        _quiet.leave()
