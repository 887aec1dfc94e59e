"""One thread computes at a time: MindSpore keeps what it runs, and what it records, for the whole process.

A graph is chosen and run by two calls to MindSpore, and an operation outside of a graph uses the same queues. Two
threads that do either at once get exceptions, an abort, or a wrong picture without an error. So everything here that
computes holds one lock while it does.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from . import cpus, signals

P = ParamSpec("P")
R = TypeVar("R")


class _State:
    """The lock, how often its thread holds it, and whether MindSpore has workers here, or had in a parent by fork."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0
        self.computes = False
        self.forked = False

    def before_fork(self) -> None:
        self.computes = bool(cpus.workers())

    def after_fork(self) -> None:
        self.lock, self.depth = threading.RLock(), 0  # another thread may have held it
        self.forked |= self.computes


_STATE = _State()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_STATE.before_fork, after_in_child=_STATE.after_fork)


@contextmanager
def lock() -> Iterator[None]:
    """Hold the lock under which this package computes, for arithmetic of your own with Tensors in a thread.

    Every function here that computes takes the lock itself: a stage for as long as it runs, and `generate`, `sample`
    and `iterate` for one step at a time, so that `on_step` and the body of a loop over `iterate` run without it. A
    denoiser, and a function that is differentiated, run with it: one that waits for another thread's computation waits
    for ever. The other threads wait, and Ctrl-C interrupts the one that waits in the main thread. A thread that has the
    lock may take it again.

    Returns:
        A context manager, as in `with px.lock(): y = x + 1`.
    Raises:
        RuntimeError: this process was forked from one that had computed, where MindSpore would wait for ever.
    Example:
        >>> with px.lock():
        ...     y = px.noise(px.load(), px.key(0)) + 1
    """
    if _STATE.forked:
        raise RuntimeError(
            "this process was forked from one in which MindSpore had computed, and MindSpore would wait for ever; "
            "multiprocessing.get_context('spawn') starts processes that compute"
        )
    with signals.stoppable(), _STATE.lock:
        depth = _STATE.depth
        try:
            _STATE.depth = depth + 1
            if depth:
                yield
            else:
                with cpus.shared(), signals.kept():
                    yield
        finally:
            _STATE.depth = depth


def exclusive(f: Callable[P, R]) -> Callable[P, R]:
    """Make a function hold the lock while it runs."""

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with lock():
            return f(*args, **kwargs)

    return call
