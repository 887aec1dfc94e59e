"""What NumPy 2 needs of us beside MindSpore 2.10; with NumPy 1 the first test passes as well, and tests nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pixart_fn.backend import numpy2


@pytest.mark.parametrize(
    ("before", "operation", "expected"),
    [
        ("", "1.0 - Tensor(2.0)", -1.0),
        ("import mindspore", "Tensor(2.0) * 3", 6.0),  # before its log is told to be quiet
        ("", "ops.add(1, Tensor(2.0))", 3.0),
    ],
)
def test_the_first_operation_with_a_number_computes_and_prints_nothing(before, operation, expected):
    code = (
        f"{before}\nfrom pixart_fn.backend import nn\nfrom mindspore import Tensor, ops\nprint(({operation}).asnumpy())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert float(done.stdout) == expected
    assert "NumPy 1.x" not in done.stderr
    assert "Numpy init failed" not in done.stderr


def test_nothing_reaches_the_hook_through_which_a_notebook_shows_errors():
    code = (
        "import sys\nsys.excepthook = hook = lambda *error: print('shown', error)\nfrom pixart_fn.backend import nn\n"
        "print(sys.excepthook is hook)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n"


def test_only_the_named_lines_are_kept_from_standard_error(capfd):
    with numpy2.without(b"Numpy init failed"):
        os.write(2, b"one\n[WARNING] Numpy init failed.\ntwo\n")
    os.write(2, b"three\n")
    assert capfd.readouterr().err == "one\ntwo\nthree\n"
