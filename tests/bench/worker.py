"""One side of one work in a process of its own: `python -m tests.bench.worker ours|theirs|mindone WORK HOME`.

Sets up, then runs once for each line of its input and answers with the seconds; at the end tells its peak of memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path

from .works import WORKS


def serve(side: str, name: str, home: Path) -> None:
    if side == "ours":
        from pixart_fn.backend import jit

        jit.FIRST_CALLS = 0  # what is measured is a repeated call, for which everything is compiled
    run = getattr(WORKS[name], side)(home)
    answer({"ready": True})
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        answer({"seconds": time.perf_counter() - start})
    end = {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if side == "ours":
        end["compilations"] = jit.compilations()
    answer(end)


def answer(content: dict) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    quiet = contextlib.nullcontext()
    if sys.argv[1] == "theirs":
        import torch

        quiet = torch.inference_mode()
        torch.set_num_threads(len(os.sched_getaffinity(0)))  # some containers make it choose one
    with quiet:
        serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
