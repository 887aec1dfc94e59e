"""The drawings that wait or run, so that each can be cancelled by the visitor who began it."""

from __future__ import annotations

import threading


class Busy(ValueError):
    """A visitor's drawing, or all that may wait, is there already."""


class Jobs:
    """The visitors who draw, each with the event that stops the drawing; all methods may be called from any thread.

    Args:
        most: how many drawings may wait or run at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def begin(self, visitor: str) -> int:
        """Note that a visitor draws.

        Args:
            visitor: what tells one visitor from another.
        Returns:
            How many other drawings wait or run.
        Raises:
            Busy: the visitor draws already, or too many wait.
        """
        with self._lock:
            if visitor in self._events:
                raise Busy("a picture is being drawn already; cancel it or wait for it")
            ahead = len(self._events)
            if ahead >= self._most:
                raise Busy(f"{ahead} drawings wait already, which is the most; try again in a while")
            self._events[visitor] = threading.Event()
            return ahead

    def event(self, visitor: str) -> threading.Event:
        """Return what is set once the visitor's drawing must stop; a drawing that was never begun must."""
        with self._lock:
            if visitor in self._events:
                return self._events[visitor]
        stopped = threading.Event()
        stopped.set()
        return stopped

    def stop(self, visitor: str) -> bool:
        """Stop the visitor's drawing after its present step; return whether there is one."""
        with self._lock:
            found = self._events.get(visitor)
        if found is not None:
            found.set()
        return found is not None

    def end(self, visitor: str) -> None:
        """Note that the visitor's drawing has ended, or that the visitor has left, which stops it."""
        with self._lock:
            found = self._events.pop(visitor, None)
        if found is not None:
            found.set()
