"""The rows of tests/test_bad_input.py for training data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import bad_values as of
from helpers.bad_calls import OF_PARAMS, OF_TEXT, PARAMS, TEXT
from helpers.bad_rows import SWITCH, Row

from pixart_fn.train import data
from pixart_fn.train.data.sources import Source

NOWHERE = Path("a folder of nothing")
PLACE = of.also(of.path(), missing=NOWHERE)
LATENTS = np.ones((2, 4, 2, 2), np.float32)
TWO = TEXT._replace(states=np.repeat(TEXT.states, 2, 0), mask=np.repeat(TEXT.mask, 2, 0))
DATASET = data.arrays(LATENTS, TWO, null=TEXT)
BATCHES = data.order.Batches(DATASET, 2, 0)
WRONG_TEXT = of.without(OF_TEXT, "of another width")
OF_BATCHES = {**of.instance(), "None": None, "a dataset": DATASET}
EMPTY = Source("imagefolder", NOWHERE, ())
OF_DATASET = {**of.instance(), "None": None, "a Text": TEXT, "of no examples": data.order.Batches}

ROWS = [
    Row(
        data.sources.open,
        {"path": NOWHERE},
        {"path": PLACE, "kind": of.option(), **dict.fromkeys(("column", "caption"), of.optional(of.text()))},
        {"path": "path|folder or file"},
        runs=False,
    ),
    Row(
        data.authors.open,
        {"path": NOWHERE, "version": "sigma", "resolution": 512},
        {
            **{"path": PLACE, "version": of.option(), "resolution": of.also(of.whole(8, 2**14), odd=17)},
            **{"multiscale": SWITCH, "real_prompt_ratio": of.number(0, 1), "width": of.whole(), "channels": of.whole()},
        },
        {"path": "path|data_info"},
        runs=False,
    ),
    Row(
        data.authors.check,
        {"dataset": DATASET},
        {"dataset": {**of.instance(), "None": None, "arrays": DATASET}, "progress": SWITCH},
        runs=False,
    ),
    Row(data.prepared.open, {"path": NOWHERE}, {"path": PLACE}, {"path": "path|preparation"}, runs=False),
    Row(
        data.prepare.run,
        {"source": EMPTY, "params": PARAMS, "out": NOWHERE},
        {
            **{"source": {**of.instance(), "None": None, "a path": NOWHERE}, "params": OF_PARAMS},
            **{"out": of.without(of.path(), "long"), "size": of.also(of.without(of.whole(1, 2**14), "text"), odd=17)},
            **{"dtype": of.option(), "clean": SWITCH, "batch": of.whole(), "workers": of.whole(), "progress": SWITCH},
            "shard": {**of.instance(), "None": None, "beyond": (2, 2), "of none": (0, 0), "of words": ("0", "1")},
        },
        {"params": "params|transformer|vae", "size": "size|height"},
        runs=False,
    ),
    Row(
        data.arrays,
        {"latents": LATENTS, "texts": TWO},
        {
            "latents": of.without(of.array((2, 4, 2), (3, 4, 2, 2), (0, 4, 2, 2)), "complex numbers"),
            **{"texts": {**WRONG_TEXT, "one row": TEXT, "None": None}, "null": WRONG_TEXT},
            "names": {**of.without(of.ANYWHERE, "a generator"), "one": ["a"], "numbers": [1, 2], "a number": 1},
            "sizes": {"one": [(8, 8)], "words": [("a", "b")] * 2, "zeros": [(0, 8)] * 2, "halves": [(0.5, 8)] * 2},
        },
    ),
    Row(
        data.order.Batches,
        {"dataset": DATASET, "batch_size": 2, "seed": 0, "rank": 0, "workers": 1},
        {
            **{"dataset": OF_DATASET, "batch_size": of.whole(), "seed": of.whole(0), "rank": of.whole(0, 0)},
            **{"workers": of.also(of.whole(), three=3), "dropout": of.number(0, 1), "sample": SWITCH},
            **{"conditions": SWITCH, "null": WRONG_TEXT},
        },
    ),
    Row(
        data.order.mixed,
        {"instance": BATCHES, "prior": BATCHES},
        {"instance": OF_BATCHES, "prior": OF_BATCHES, "prior_weight": of.number(0)},
    ),
    Row(
        data.order.prefetch,
        {"batches": BATCHES, "start": 0},
        {"batches": of.function(1), "start": of.whole(0), "ahead": of.whole(1, 2**10)},
    ),
]
