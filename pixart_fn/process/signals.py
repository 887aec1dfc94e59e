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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

_INSIDE: set[object] = set()
"""One entry for each block of `stoppable` that runs, in any thread."""
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
"""Those by which people, schedulers of jobs and timers end what runs; no system has all."""


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


@dataclass
class Waiting:
    """Whether signals wait for the end of a block of `deferred`; setting it is one step, between no two signals."""

    on: bool


@contextmanager
def deferred(on: bool = True) -> Iterator[Waiting]:
    """Let signals that have a handler in Python wait for the end of the `with` block, which mustn't stop half-way.

    In the main thread, where Python calls handlers, any of them may raise: Ctrl-C's and SIGTERM's a KeyboardInterrupt,
    the caller's own whatever it likes. Each signal that came is then handled once, also where a handler before raised.

    Args:
        on: whether they wait from the start, or else only once the block sets `on` of what it is given.
    """
    waiting = Waiting(on)
    if not _is_main():
        yield waiting
        return
    caught: dict[int, FrameType | None] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        if waiting.on:
            caught[number] = frame
        else:
            handlers[number](number, frame)

    handlers: dict[int, Callable[[int, FrameType | None], object]] = {
        number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))
    }
    try:
        for number in handlers:
            signal.signal(number, handle)
        yield waiting
    finally:
        waiting.on = False
        for number, handler in handlers.items():
            if signal.getsignal(number) is handle:  # the block may have set another
                signal.signal(number, handler)
        if signal.SIGINT in caught and handlers.get(signal.SIGTERM) is _stop:
            caught.pop(signal.SIGTERM, None)  # MindSpore's answer to the first
        with ExitStack() as stack:
            for number in reversed(caught):
                stack.callback(handlers[number], number, caught[number])


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
