"""Calling a function in threads a few arguments ahead, with the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")


def ahead(pool: Executor, f: Callable[[A], R], arguments: Iterable[A], n: int) -> Iterator[R]:
    """Yield f of each argument, in order, while the next n are computed.

    Args:
        pool: of threads, which its caller closes.
        f: a function.
        arguments: as many as there are, which may be without end.
        n: how many are computed ahead, at least 1.
    Yields:
        The results; what f raises is raised in its place.
    """
    rest = iter(arguments)
    waiting: deque[Future[R]] = deque(pool.submit(f, each) for each in islice(rest, n))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(f, each) for each in islice(rest, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()
