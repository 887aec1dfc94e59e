"""The end of a process that has computed, which MindSpore makes long."""

from __future__ import annotations

import atexit
import os
import sys


class Ending:
    """Ends the process with `status` when all else that `atexit` knows is done; while that is None, Python ends it.

    On a CPU it takes MindSpore half a second to dissolve what it has built, whose memory the system frees at once. Make
    this before MindSpore is imported: what is registered first is called last.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        atexit.register(self._end)

    def _end(self) -> None:
        if self.status is None:
            return
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):  # which Python says, and then ends with a status of its own
                return
        os._exit(self.status)
