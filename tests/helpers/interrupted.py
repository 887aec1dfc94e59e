"""A call that is interrupted at each of its lines in turn."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any


def everywhere(call: Callable[[], object], check: Callable[[], object], *modules: ModuleType, every: int = 1) -> int:
    """Run a call again and again, with a KeyboardInterrupt at its first line in some modules, then at its second, …

    Args:
        call: what is interrupted.
        check: what is run after each time.
        modules: those whose lines count.
        every: 1 for all lines, 2 for every other one, …
    Returns:
        How many lines there were, to within `every`.
    """
    files = {module.__file__ for module in modules}
    for line in itertools.count(step=every):
        if not _at(line, call, files):
            return line
        check()


def _at(line: int, call: Callable[[], object], files: set[str | None]) -> bool:
    """Interrupt a call at one of its lines; return whether it has that line."""
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
                raise KeyboardInterrupt
        return trace

    ends: list[bool] = []

    def run() -> None:
        sys.settrace(trace)
        try:
            call()
            ends.append(False)
        except KeyboardInterrupt:
            ends.append(True)

    thread = threading.Thread(target=run)  # what Python keeps of an exception from a trace function ends with it
    thread.start()
    thread.join()
    return ends[0]
