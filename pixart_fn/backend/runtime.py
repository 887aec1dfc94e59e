"""How MindSpore's runtime is set up: its environment variables, its threads and its launches, in this one file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .device import has_ascend


def set_environment() -> None:
    """Set what MindSpore reads when it is first imported, where the user hasn't."""
    os.environ.setdefault("GLOG_v", "3")  # its log speaks of internals at level 2
    if not has_ascend():  # a thread that waits for work by spinning takes a CPU from it
        os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
    # where it writes what a failed compilation looked like, which otherwise is rank_0/ in the working directory
    os.environ.setdefault("MS_OM_PATH", str(Path(tempfile.gettempdir(), f"mindspore-{os.getuid()}")))


def settle_on_cpu() -> None:
    """Compute on the CPU, and launch each operation from the thread that asks for it: faster between small graphs.

    MindSpore takes both settings only before the first operation of the process.
    """
    import mindspore as ms

    ms.set_device("CPU")
    ms.runtime.launch_blocking()
