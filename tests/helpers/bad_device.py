"""The row of tests/test_bad_input.py for px.device."""

from __future__ import annotations

from helpers import bad_values as of
from helpers.bad_rows import Row

from pixart_fn.backend import runtime

ROWS = [Row(runtime.device, {"name": "CPU"}, {"name": of.option()})]
