"""Threads of a call's own, among which it shares work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import Thread
from typing import TypeAlias, TypeVar

T = TypeVar("T")
S = TypeVar("S")
Tasks: TypeAlias = "SimpleQueue[Callable[[], None] | None]"
Done: TypeAlias = "SimpleQueue[BaseException | None]"


@contextmanager
def shared(n: int) -> Iterator[Callable[[Callable[[S], T], Sequence[S]], list[T]]]:
    """Give what maps a function over a sequence in n threads, the caller's among them.

    These threads also start while the process ends, when concurrent.futures takes no more work; where even that is too
    late, the caller's thread does all of it. What a function raises is raised by the map, after the parts in progress.
    """
    tasks: Tasks = SimpleQueue()
    done: Done = SimpleQueue()

    def each(f: Callable[[S], T], parts: Sequence[S]) -> list[T]:
        results, left = {}, iter(range(len(parts)))

        def work() -> None:
            for i in left:
                results[i] = f(parts[i])

        others = min(len(threads), len(parts) - 1)
        for _ in range(others):
            tasks.put(work)
        try:
            work()
        finally:
            for _ in left:  # nothing, unless this thread was interrupted: then the others end too
                pass
        for error in [done.get() for _ in range(others)]:
            if error is not None:
                raise error
        return [results[i] for i in range(len(parts))]

    threads: list[Thread] = []
    try:
        with suppress(RuntimeError):  # Python 3.12 starts none once it runs what is registered with atexit
            for _ in range(n - 1):
                thread = Thread(target=_serve, args=(tasks, done), daemon=True)
                thread.start()
                threads.append(thread)
        yield each
    finally:
        for _ in threads:
            tasks.put(None)
        for thread in threads:
            thread.join()


def _serve(tasks: Tasks, done: Done) -> None:
    """Do tasks until None comes, and answer each with its error or None."""
    for work in iter(tasks.get, None):
        try:
            work()
        except BaseException as error:
            done.put(error)
        else:
            done.put(None)
