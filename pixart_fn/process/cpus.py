"""Which CPUs MindSpore's workers run on: each on its own while the CPUs are idle, and otherwise on those left over.

A graph's operation is shared out to all workers and ends with the last of them. Two things make one late. Linux wakes
the second worker on the CPU of the first, where both share it for milliseconds. And a worker whose CPU another process
uses waits for its turn in each of some thousand operations. So a process alone gives each worker a CPU, which saves a
third of the time; and a process that isn't alone withdraws to the CPUs that the others leave, which saves a sixth for
two processes on two CPUs, and three quarters beside a busy neighbour.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from . import signals

SWITCH = "PIXART_FN_CPUS"
"""The environment variable that is "shared" for what this file does, or "free" to leave all to the operating system."""
EVERY = 0.5
"""Seconds between two looks at what others compute; the kernel counts in hundredths."""
PAUSES = 0.25
"""The share of the time between two looks that pauses may take, so that it tells what others do beside this process."""
_WORKERS = ("ActorThread", "KernelThread")
_PROCESS = Path("/proc/self")
_TASKS = _PROCESS / "task"


class Usage(NamedTuple):
    """What was computed up to a time, in seconds."""

    time: float
    busy: Mapping[int, float]
    """Of each CPU."""
    process: float
    """Of this process, with its threads that have ended."""
    own: Mapping[int, tuple[float, int]]
    """Of each of its threads, with the CPU where it ran last."""


class _State:
    """The last look and the CPUs chosen then, none before the first; and the seconds since then between blocks."""

    usage: Usage | None = None
    chosen: tuple[int, ...] = ()
    paused = 0.0
    ended = 0.0
    """When the last block ended."""


_STATE = _State()


def workers() -> list[int]:
    """List the thread ids of MindSpore's workers, of which there are none before its first operation."""
    found = []
    if _TASKS.is_dir():
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # a thread that ends meanwhile
                if (task / "comm").read_text().startswith(_WORKERS):
                    found.append(int(task.name))
    return sorted(found)


def mode() -> str:
    """Return what the environment variable says, "shared" or "free".

    Raises:
        ValueError: it says something else.
    """
    said = os.environ.get(SWITCH, "shared")
    if said not in ("shared", "free"):
        raise ValueError(f"the environment variable {SWITCH} must be 'shared' or 'free', got {said!r}")
    return said


def allowed() -> list[int] | None:
    """Return the CPUs that the calling thread may run on, ascending; None where the system doesn't say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@contextmanager
def shared() -> Iterator[None]:
    """Put MindSpore's workers on the CPUs that are left, and the calling thread with them until the block ends.

    Raises:
        ValueError: the environment variable says something else than "shared" or "free".
    """
    if mode() == "free" or not hasattr(os, "sched_setaffinity"):
        yield
        return
    here = threading.get_native_id()
    own = os.sched_getaffinity(here)
    _STATE.paused += time.monotonic() - _STATE.ended
    _look(sorted(own))
    chosen = own.intersection(_STATE.chosen)
    withdrawn = 0 < len(chosen) < len(own)
    try:
        if withdrawn:
            _place(here, chosen)
        yield
    finally:
        if withdrawn:
            with signals.deferred():
                _place(here, own)
        if _STATE.usage is not None:  # a block may take minutes, after which its own time tells what others do
            _look(sorted(own))
        _STATE.ended = time.monotonic()


def _look(cpus: list[int]) -> None:
    """Choose anew, where the last choice is some time ago."""
    last, current = _STATE.usage, _STATE.chosen
    if last is not None and time.monotonic() - last.time < EVERY:
        return
    threads = workers()
    # no workers yet, or more CPUs than workers, where Linux finds a free one; or a container numbers CPUs otherwise
    usage = _usage(cpus) if len(threads) == len(cpus) else None
    if usage is None or usage.busy.keys() != set(cpus):
        _STATE.usage, _STATE.chosen = None, ()
        for thread in threads if current else ():
            _place(thread, cpus)
        return
    _STATE.usage, _STATE.chosen = usage, _chosen(last, usage, current, cpus)
    _STATE.paused = 0.0
    for i, thread in enumerate(threads if _STATE.chosen != current else ()):
        _place(thread, {cpus[i]} if len(_STATE.chosen) == len(cpus) else _STATE.chosen)


def _chosen(last: Usage | None, now: Usage, current: tuple[int, ...], cpus: list[int]) -> tuple[int, ...]:
    """Choose all CPUs at first, and then as `choose` does."""
    if last is None or last.busy.keys() != now.busy.keys():
        return tuple(cpus)
    chosen = choose(last, now, current or tuple(cpus), os.getpid())
    # others that computed in a pause may have done so in turns with this process, and then it leaves them nothing
    is_pause = _STATE.paused > PAUSES * (now.time - last.time)
    return current if is_pause and len(chosen) < len(current) else chosen


def choose(before: Usage, after: Usage, chosen: tuple[int, ...], turn: int) -> tuple[int, ...]:
    """Choose the CPUs that other processes leave.

    Args:
        before: what was used at the last look.
        after: what is used now.
        chosen: the CPUs that hold now, which are kept where others are hardly better.
        turn: a number that differs between processes, which decides where CPUs are equal.
    Returns:
        The CPUs, ascending: all of them if the others took less than a quarter of one, and at least one.
    """
    cpus = sorted(after.busy)
    others = {k: after.busy[k] - before.busy[k] for k in cpus}
    ended = after.process - before.process
    for thread, (seconds, cpu) in after.own.items():
        used = seconds - before.own.get(thread, (0.0, cpu))[0]
        ended -= used
        if cpu in others:
            others[cpu] -= used
    total = max(sum(others.values()), 0.0)
    if total > 0:  # nobody says where threads ran that have ended meanwhile, such as those that share a call's work
        rest = max(total - max(ended, 0.0), 0.0) / total
        others, total = {k: rest * seconds for k, seconds in others.items()}, rest * total
    left = len(cpus) + 0.25 - total / (after.time - before.time)
    kept = 0.2 * (after.time - before.time) * (len(chosen) < len(cpus))
    ranked = sorted(cpus, key=lambda k: (others[k] - kept * (k in chosen), (k + turn) % len(cpus)))
    return tuple(sorted(ranked[: max(1, int(left))]))


def _usage(cpus: list[int]) -> Usage:
    busy, own, process = {}, {}, 0.0
    with contextlib.suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cpus:
                user, nice, system, _, _, irq, softirq = map(int, fields[:7])
                busy[int(name[3:])] = _seconds(user + nice + system + irq + softirq)
    with contextlib.suppress(OSError):
        process = _computed(_PROCESS)[0]
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):
            own[int(task.name)] = _computed(task)
    return Usage(time.monotonic(), busy, process, own)


def _computed(task: Path) -> tuple[float, int]:
    """The seconds that a thread or a process has computed, and the CPU where it did so last."""
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return _seconds(int(fields[11]) + int(fields[12])), int(fields[36])


def _seconds(ticks: int) -> float:
    return ticks / os.sysconf("SC_CLK_TCK")


def _place(thread: int, cpus: Collection[int]) -> None:
    with contextlib.suppress(OSError):  # a thread that has ended, or a CPU that was taken away
        os.sched_setaffinity(thread, cpus)
