"""MindSpore 2.10 is built with NumPy 1, and with NumPy 2 one thing about it needs help; this module knows which."""

from __future__ import annotations

import contextlib
import io

import numpy as np


def settle() -> None:
    """With NumPy 2, have the failure behind MindSpore that would otherwise be the first operation with a number.

    MindSpore looks for NumPy's C interface when an operation first gets a Python number. It doesn't find the one that
    it was built with, the operation fails with a SystemError under a printed page ("A module that was compiled using
    NumPy 1.x …"), and it doesn't look again. Here that happens to an operation that fails before it computes, and the
    page is kept from the screen.
    """
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        return
    from mindspore import ops

    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(TypeError, ImportError, SystemError):
        ops.sub(1.0, "not a number")
