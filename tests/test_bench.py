"""The figures of the page of measurements, and of the README, are those that the benchmark wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("kind", ["table", "scaling", "against_mindone"])
def test_the_tables_of_the_page_are_the_results(kind):
    from bench import __main__ as bench

    page = (ROOT / "notebooks/about/benchmarks.md").read_text("utf-8")
    assert getattr(bench, kind)(json.loads(bench.RESULTS.read_text())) in page


def test_the_table_of_the_readme_has_rows_of_the_results():
    from bench import __main__ as bench

    (table,) = re.findall(r"^\| work \|.*?\n\n", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    rows, measured = table.splitlines()[:-1], bench.table(json.loads(bench.RESULTS.read_text())).splitlines()
    assert len(rows) >= 5 and [row for row in rows if row not in measured] == []


def test_a_table_says_what_was_measured():
    from bench import __main__ as bench

    side = {"seconds": 2.0, "peak_gib": 1.25}
    rows = bench.table(
        {"machine": {}, "a": {"ours": side, "theirs": {**side, "seconds": 4.0}, "ratio": 0.5}}
    ).splitlines()
    assert len(rows) == 3 and rows[2] == "| a | 2.00 s | 4.00 s | **0.50** | 1.2, 1.2 GiB |"
