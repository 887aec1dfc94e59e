"""What tests of signals share."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has neither these signals nor fork")
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@contextlib.contextmanager
def handled(number):
    """Set a handler that remembers what it gets, and set the one from before in the end."""
    got = []
    before = signal.signal(number, lambda number, frame: got.append(number))
    try:
        yield got
    finally:
        signal.signal(number, before)
