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
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def _stop(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does: raise a KeyboardInterrupt, or call the handler that was set for it."""
    own = signal.getsignal(signal.SIGINT)
    if callable(own):
        own(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@contextmanager
def stoppable() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM raise a KeyboardInterrupt inside the `with` block, in the main thread.

    MindSpore makes the two the same signal. A handler of SIGTERM that isn't Python's default is left in place, and gets
    both; otherwise a handler of SIGINT that isn't Python's own gets both. In other threads nothing is changed, since
    only the main thread can handle signals.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGTERM, _stop)
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def deferred() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the `with` block, for work that is short and mustn't stop half-way.

    This is so in the main thread, where they raise a KeyboardInterrupt; another handler is called at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = []

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _stop}
    waiting = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    try:
        for number in waiting:
            signal.signal(number, remember)
        yield
    finally:
        for number, handler in waiting.items():
            signal.signal(number, handler)
        if caught:
            raise KeyboardInterrupt


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
