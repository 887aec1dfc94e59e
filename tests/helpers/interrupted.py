"""A call that is interrupted, or whose process ends, at each of its lines in turn."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, NoReturn


def everywhere(
    call: Callable[[], object], check: Callable[[], object], *modules: ModuleType, every: int = 1, killed: bool = False
) -> int:
    """Run a call again and again, and stop it at its first line in some modules, then at its second, …

    Args:
        call: what is stopped.
        check: what is run after each time.
        modules: those whose lines count.
        every: 1 for all lines, 2 for every other one, …
        killed: whether it ends with its process, without cleaning up; it is interrupted otherwise.
    Returns:
        How many lines there were, to within `every`.
    """
    files = {module.__file__ for module in modules}
    for line in itertools.count(step=every):
        if not (_killed if killed else _interrupted)(line, call, files):
            return line
        check()


def _interrupted(line: int, call: Callable[[], object], files: set[str | None]) -> bool:
    """Raise a KeyboardInterrupt at a line of a call; return whether it has that line."""
    ends: list[bool] = []

    def stop() -> NoReturn:
        raise KeyboardInterrupt

    def run() -> None:
        sys.settrace(_tracer(line, files, stop))
        try:
            call()
            ends.append(False)
        except KeyboardInterrupt:
            ends.append(True)

    thread = threading.Thread(target=run)  # what Python keeps of an exception from a trace function ends with it
    thread.start()
    thread.join()
    return ends[0]


def _killed(line: int, call: Callable[[], object], files: set[str | None]) -> bool:
    """End a process at a line of a call; return whether the call has that line."""
    process = os.fork()
    if process == 0:
        try:
            sys.settrace(_tracer(line, files, lambda: os._exit(1)))
            call()
            os._exit(0)
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, 1)
    return bool(status)


def _tracer(line: int, files: set[str | None], stop: Callable[[], NoReturn]) -> Callable[[FrameType, str, Any], Any]:
    left = line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files or frame.f_code.co_name == "__del__":  # where Python ignores errors
            return None
        if frame.f_back is not None and frame.f_back.f_code.co_name == "__del__":
            return None
        if event == "line":
            left -= 1
            if left == -1:
                sys.settrace(None)
                stop()
        return trace

    return trace
