"""Ctrl-C while MindSpore is at work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C, and SIGTERM, be a KeyboardInterrupt in here.

    MindSpore answers SIGINT below Python once it has compiled a graph, by sending its own process a SIGTERM, which
    would end it at once: without cleaning up, and with another exit status.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
