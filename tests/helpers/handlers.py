"""Handlers of signals, for the time of a block."""

from __future__ import annotations

import contextlib
import signal


@contextlib.contextmanager
def handled(number):
    """Set a handler that remembers what it gets, and set the one from before in the end."""
    got = []
    before = signal.signal(number, lambda number, frame: got.append(number))
    try:
        yield got
    finally:
        signal.signal(number, before)
