"""The README's figures are those that the benchmark wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["table", "scaling", "against_mindone"])
def test_the_tables_of_the_readme_are_the_results(kind):
    from bench import __main__ as bench

    assert getattr(bench, kind)(json.loads(bench.RESULTS.read_text())) in README


def test_a_table_says_what_was_measured():
    from bench import __main__ as bench

    side = {"seconds": 2.0, "peak_gib": 1.25}
    rows = bench.table(
        {"machine": {}, "a": {"ours": side, "theirs": {**side, "seconds": 4.0}, "ratio": 0.5}}
    ).splitlines()
    assert len(rows) == 3 and rows[2] == "| a | 2.00 s | 4.00 s | **0.50** | 1.2, 1.2 GiB |"
