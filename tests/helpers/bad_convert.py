"""The rows of tests/test_bad_input.py for the conversion of the authors' files."""

from __future__ import annotations

from helpers import bad_values as of
from helpers.bad_rows import SWITCH, Row

from pixart_fn.checkpoint.convert import convert

FILE, FOLDER = "nothing.pth", "a folder of nothing"

ROWS = [
    Row(
        convert,
        {"source": FILE, "target": FOLDER},
        {
            "source": of.also(of.path(), **{"missing": FILE, "no ending": "nothing", "a picture": "cat.png"}),
            "target": of.also(of.without(of.path(), "long"), **{"another file": "b.pth"}),
            "size": of.also(of.whole(1, 2048), **{"between": 300, "of latents": 32}),
            "version": of.option(),
            "heads": of.whole(1, 2**16),
            "weights": of.also(of.option(), **{"None": None}),
            "progress": SWITCH,
        },
        {"source": "source|target"},
        runs=False,
    ),
]
