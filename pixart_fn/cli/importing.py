"""MindSpore's import, which takes most of the time of a short command."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..process.signals import deferred


@contextmanager
def importing() -> Iterator[None]:
    """Import in the `with` block what may need MindSpore; Ctrl-C waits for its end, since MindSpore would abort.

    Nothing that is imported becomes garbage before the process ends. Python's collector would look through it again and
    again, which takes 0.3 of 1.7 seconds, so it waits for the end too and leaves all of it out from then on.
    """
    first, enabled = "mindspore" not in sys.modules, gc.isenabled()
    try:
        if first:
            gc.disable()
        with deferred():
            yield
    finally:
        if first and "mindspore" in sys.modules:
            gc.freeze()
        if enabled:
            gc.enable()
