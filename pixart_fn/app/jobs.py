"""The drawings that wait or run, one after the other, so that each can be cancelled by the visitor who began it."""

from __future__ import annotations

import threading
from collections.abc import Iterator


class Busy(ValueError):
    """A visitor's drawing, or all that may wait, is there already."""


class Jobs:
    """The visitors who draw, each with the event that stops the drawing; all methods may be called from any thread.

    Args:
        most: how many drawings may wait or run at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: dict[str, threading.Event] = {}  # in the order in which they began
        self._changed = threading.Condition()

    def draws(self, visitor: str) -> bool:
        """Return whether the visitor's drawing waits or runs."""
        with self._changed:
            return visitor in self._events

    def begin(self, visitor: str) -> threading.Event:
        """Note that a visitor draws.

        Args:
            visitor: what tells one visitor from another.
        Returns:
            What is set once the drawing must stop.
        Raises:
            Busy: the visitor draws already, or too many wait.
        """
        with self._changed:
            if visitor in self._events:
                raise Busy("a picture is being drawn already; cancel it or wait for it")
            if len(self._events) >= self._most:
                raise Busy(f"{self._most} drawings wait already, which is the most; try again in a while")
            self._events[visitor] = threading.Event()
            return self._events[visitor]

    def ahead(self, visitor: str) -> Iterator[int]:
        """Wait for the visitor's turn.

        Args:
            visitor: one whose drawing has begun.
        Returns:
            An iterator of how many other drawings come first, which ends where none does, or the drawing is stopped.
        """
        with self._changed:
            count = self._count(visitor)
        while count:
            yield count
            with self._changed:
                before = count
                while before == (count := self._count(visitor)):
                    self._changed.wait()

    def stop(self, visitor: str) -> bool:
        """Stop the visitor's drawing, after its present step if it runs; return whether there is one."""
        with self._changed:
            found = self._events.get(visitor)
            if found is not None:
                found.set()
            self._changed.notify_all()
        return found is not None

    def end(self, visitor: str) -> None:
        """Note that the visitor's drawing has ended."""
        with self._changed:
            self._events.pop(visitor, None)
            self._changed.notify_all()

    def _count(self, visitor: str) -> int:
        """Return how many drawings come before the visitor's; 0 where it must stop."""
        found = self._events.get(visitor)
        return 0 if found is None or found.is_set() else list(self._events).index(visitor)
