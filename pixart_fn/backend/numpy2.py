"""MindSpore 2.10 is built with NumPy 1, and with NumPy 2 one thing about it needs help; this module knows which."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator

import numpy as np


def settle() -> None:
    """With NumPy 2, have the failure behind MindSpore that would otherwise be the first operation with a number.

    MindSpore looks for NumPy's C interface when an operation first gets a Python number. It doesn't find the one that
    it was built with, the operation fails with a SystemError under a printed page ("A module that was compiled using
    NumPy 1.x …"), and it doesn't look again. Here that happens to an operation that fails before it computes, and what
    is printed about it is kept from the screen, and from a notebook, which shows what reaches sys.excepthook.
    """
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        return
    from mindspore import ops

    hook, sys.excepthook = sys.excepthook, lambda *_: None
    try:
        with (
            without(b"Numpy init failed"),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.suppress(TypeError, ImportError, SystemError),
        ):
            ops.sub(1.0, "not a number")
    finally:
        sys.excepthook = hook


@contextlib.contextmanager
def without(part: bytes) -> Iterator[None]:
    """Keep the lines with `part` from the standard error of the process, where MindSpore's C++ writes its log."""
    with tempfile.TemporaryFile() as caught:
        own = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            caught.seek(0)
            os.write(2, b"".join(line for line in caught if part not in line))
