"""Ctrl-C and SIGTERM while MindSpore computes.

During each graph MindSpore answers SIGINT itself, by sending its own process a SIGTERM, and it goes on to do so
afterwards. That would end the process at once: without `finally`, without KeyboardInterrupt, and with a notebook's
kernel.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_INSIDE: set[object] = set()
"""One entry for each block of `stoppable` that runs, in any thread."""


def _stop(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does inside a block, as MindSpore may have made this SIGTERM of it; end the process elsewhere."""
    own = signal.getsignal(signal.SIGINT)
    if not _INSIDE:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    elif callable(own):
        own(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def prepare() -> None:
    """Put both handlers right, where this is the main thread, which alone can set one.

    SIGTERM gets one, where there is none, that ends the process as before. Only inside a block of `stoppable`, in
    whatever thread, does it do what Ctrl-C does. It stays set, since other threads may compute later. SIGINT gets the
    one that Python knows of, in place of the one that a graph of the caller's own, outside of this package, has left.
    """
    if not _is_main():
        return
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stop)
    if (own := signal.getsignal(signal.SIGINT)) is not None:
        signal.signal(signal.SIGINT, own)


@contextmanager
def stoppable() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM raise a KeyboardInterrupt in the main thread while the `with` block runs in any thread.

    MindSpore makes the two the same signal. A handler of SIGTERM that isn't Python's default is left in place, and gets
    both; otherwise a handler of SIGINT that isn't Python's own gets both.
    """
    token = object()
    try:
        prepare()
        _INSIDE.add(token)
        yield
    finally:
        _INSIDE.discard(token)


@contextmanager
def deferred() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the `with` block, for work that is short and mustn't stop half-way.

    This is so in the main thread, where they raise a KeyboardInterrupt; another handler is called at once.
    """
    if not _is_main():
        yield
        return
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    usual: dict[int, Callable[[int, FrameType | None], None]] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: _stop,
    }
    waiting = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    try:
        for number in waiting:
            signal.signal(number, remember)
        yield
    finally:
        for number, handler in waiting.items():
            signal.signal(number, handler)
        for number in caught[:1]:
            waiting[number](number, None)


@contextmanager
def kept() -> Iterator[None]:
    """Put the handler of SIGINT back that holds before the `with` block, which MindSpore replaces inside it."""
    if os.name != "posix":
        yield
        return
    before = ctypes.create_string_buffer(512)  # more than a struct sigaction, which has 152 bytes on Linux
    _library().sigaction(signal.SIGINT, None, before)
    try:
        yield
    finally:
        _library().sigaction(signal.SIGINT, before, None)
