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
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_INSIDE: set[object] = set()
"""One entry for each block of `stoppable` that runs, in any thread."""
_NAMES = (
    *("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK", "SIGUSR1", "SIGUSR2", "SIGXCPU"),
    *("SIGALRM", "SIGVTALRM", "SIGPROF"),
)
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


# --- waiting ----------------------------------------------------------------------------------------------------------


class Waiting:
    """Whether signals wait for the end of a block of `deferred`."""

    def __init__(self) -> None:
        self.on = True
        """To set it is one step, between no two signals."""

    def off(self) -> None:
        """Handle the signals that came, and the next ones at once, also where the work caught what a handler raised."""
        self.on = False
        if self in _STATE.blocks:
            _STATE.raising = False
            _handle_caught()


class _State:
    """What the main thread knows of the blocks that it is in; no other thread calls handlers."""

    def __init__(self) -> None:
        self.blocks: list[Waiting] = []
        self.caught: OrderedDict[int, FrameType | None] = OrderedDict()
        self.raising = False
        """Whether a handler runs, or has raised and the blocks clean up: the next signals wait for that."""
        self.own: dict[int, Callable[[int, FrameType | None], object]] = {}
        """The handlers in whose place `_handle` is, or was."""
        self.actions: dict[int, Any] = {}
        """Theirs as the system knows them, with what Python doesn't know of: another library's handler, and flags."""

    def waits(self) -> bool:
        return self.raising or any(block.on for block in self.blocks)

    def forget(self) -> None:
        """Let no signal wait: a process that was forked inside a block may never come to its end."""
        self.blocks.clear()
        self.caught.clear()
        self.raising = False


_STATE = _State()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_STATE.forget)


@contextmanager
def deferred() -> Iterator[Waiting]:
    """Let the signals of `_NAMES` that have a handler in Python wait for the end of a `with` block, which stays whole.

    In the main thread, where Python calls handlers, any of them may raise: Ctrl-C's and SIGTERM's a KeyboardInterrupt,
    the caller's own whatever it likes. Each signal that came is then handled once, also where a handler before raised.

    A block whose end alone must stay whole has a `try` that begins with `off()` and a `finally` that begins with
    `on = True`, both in the function of the `with`, since a signal may come wherever a function begins, a block's own
    included. Between the two, the first handler that raises lets the next signals wait for the `finally`.
    """
    waiting = Waiting()
    if not _is_main():
        yield waiting
        return
    try:
        _STATE.blocks.append(waiting)
        if len(_STATE.blocks) == 1:
            _install()
        yield waiting
    finally:  # what must be done stands here itself, not in a function
        waiting.on = True
        try:
            _handle_rest(waiting)
        finally:
            waiting.on = True  # for those that come from now on, until the handlers are put back
            try:
                if _STATE.blocks[:1] == [waiting]:
                    try:
                        _put_back()
                    finally:  # a handler that is back may have raised before the next one was put back
                        _put_back()
            finally:
                if waiting in _STATE.blocks:
                    _STATE.blocks.remove(waiting)
                if not _STATE.blocks:
                    _STATE.raising = False
                _handle_caught()


def _install() -> None:
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler) and handler is not _handle:
            _STATE.own[number] = handler
            # what MindSpore has put in the place of Python's handler of SIGINT isn't worth keeping
            _STATE.actions[number] = None if number == signal.SIGINT else _action(number)
            signal.signal(number, _handle)


def _put_back() -> None:
    raised: list[BaseException] = []
    for number, own in _STATE.own.items():
        while signal.getsignal(number) is _handle and len(raised) < 100:  # the block may have set another
            try:
                signal.signal(number, own)
                if (action := _STATE.actions[number]) is not None:
                    _library().sigaction(number, action, None)
            except BaseException as error:  # of a handler that was put back before
                raised.append(error)
    if raised:
        raise raised[-1]


def _handle_rest(waiting: Waiting) -> None:
    """Handle what waited for a block, as long as no other one around it lets signals wait."""
    waiting.on = False
    if _STATE.blocks[:1] != [waiting]:
        _handle_caught()
        return
    _STATE.raising = False
    try:
        _handle_caught()
    finally:
        if _STATE.caught:
            _handle_rest(waiting)


def _handle(number: int, frame: FrameType | None) -> None:
    """Handle a signal now, or at the end of the blocks that it waits for."""
    _STATE.caught[number] = frame
    _handle_caught()


def _handle_caught() -> None:
    """Call the handlers of the signals that came, in their order, each also where one before raises."""
    if _STATE.waits() or not _STATE.caught:
        return
    _STATE.raising = True
    try:
        if _STATE.caught:
            number, frame = _STATE.caught.popitem(last=False)
            if number == signal.SIGINT and _STATE.own.get(signal.SIGTERM) is _stop and _is_answered():
                _STATE.caught.pop(signal.SIGTERM, None)
            _STATE.own[number](number, frame)
        _STATE.raising = False
    finally:
        if not _STATE.blocks:
            _STATE.raising = False
        _handle_caught()


def _is_answered() -> bool:
    """Return whether a SIGTERM after Ctrl-C says nothing new: MindSpore's answer to it, or one more interruption."""
    return bool(_INSIDE) or _STATE.own[signal.SIGINT] is signal.default_int_handler


def is_of_a_handler(error: OSError) -> bool:
    """Return whether an error says nothing of a file: a caller's own handler of SIGALRM often raises a TimeoutError.

    Args:
        error: which has a number where the system has raised it.
    """
    return isinstance(error, TimeoutError) and not error.errno


# --- the system's own -------------------------------------------------------------------------------------------------


def _action(number: int) -> Any:
    """Return a signal's handler as the system knows it; None where it can't be asked."""
    if os.name != "posix":
        return None
    action = ctypes.create_string_buffer(512)  # more than a struct sigaction, which has 152 bytes on Linux
    _library().sigaction(number, None, action)
    return action


@contextmanager
def kept() -> Iterator[None]:
    """Put the handler of SIGINT back that holds before the `with` block, which MindSpore replaces inside it."""
    before = _action(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None:
            _library().sigaction(signal.SIGINT, before, None)
