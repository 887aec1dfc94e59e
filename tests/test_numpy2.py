"""What NumPy 2 needs of us beside MindSpore 2.10; with NumPy 1 this passes as well, and tests nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("operation", "expected"), [("1.0 - Tensor(2.0)", -1.0), ("Tensor(2.0) * 3", 6.0), ("ops.add(1, Tensor(2.0))", 3.0)]
)
def test_the_first_operation_with_a_number_computes_and_prints_nothing(operation, expected):
    code = f"from pixart_fn import nn\nfrom mindspore import Tensor, ops\nprint(({operation}).asnumpy())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert float(done.stdout) == expected
    assert "NumPy 1.x" not in done.stderr
