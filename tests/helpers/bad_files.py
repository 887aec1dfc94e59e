"""The rows of tests/test_bad_input.py for files, training, figures and the loop."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from helpers import bad_values as of
from helpers import tiny
from helpers.bad_calls import OF_PARAMS, OF_TEXT, PARAMS, TEXT
from helpers.bad_rows import GRID, KEY, NOISE, SWITCH, Row, X, x0

import pixart_fn as px
from pixart_fn.checkpoint.text import load_text, save_text

mpl.use("Agg")
FOLDER = Path("a folder of nothing")

# --- files ------------------------------------------------------------------------------------------------------------

PLACE = of.also(of.path(), nowhere="nowhere/at/all", missing=FOLDER)
DTYPE = of.option()
FILES = [
    Row(
        px.load,
        {},
        {
            **dict.fromkeys(("source", "transformer", "text_encoder", "vae"), PLACE),
            "revision": of.also(of.without(of.option(), "another", "NULs", "long"), number=1),
            "scheduler": of.without(PLACE, "a dict"),
            "variant": of.also(of.without(of.option(), "a list"), other={"nothing": "fp16"}),
            **{"stream": of.also(of.without(SWITCH, "None")), "dtype": DTYPE},
        },
        {
            "source": "source|folder|nowhere|hub",
            "transformer": "transformer|folder|nowhere",
            "vae": "vae|folder|nowhere",
            "text_encoder": "text_encoder|folder|nowhere",
            "scheduler": "scheduler|folder|nowhere",
            "variant": "variant|nonsense|fp16",
            "revision": "revision",
        },
        runs=False,
    ),
    Row(
        px.save,
        {"params": PARAMS, "folder": FOLDER},
        {"params": OF_PARAMS, "folder": of.without(of.path(), "long", "NULs"), "dtype": DTYPE},
        {"params": "params|transformer|vae"},
        runs=False,
    ),
    Row(
        px.save_picture,
        {"picture": np.zeros((4, 4, 3), np.float32), "file": FOLDER / "a.png", "settings": 1},
        {
            "picture": of.array((4, 4), (4, 4, 2)),
            "file": of.also(of.path(), ending="a.txt"),
            "settings": {"an object": object(), "NaN": np.nan, "complex": 1j, "a set": {1}},
        },
        {"settings": "setting", "file": "file|name|folder"},
        lambda picture, file, settings: px.save_picture(picture, file, settings=settings),
        runs=False,
    ),
    Row(
        save_text,
        {"text": TEXT, "file": FOLDER / "a.safetensors"},
        {
            "text": of.also(of.without(OF_TEXT, "of another width"), none=None),
            "file": of.also(of.path(), ending="a.txt"),
        },
        {"file": "file|stored"},
        runs=False,
    ),
    Row(
        load_text,
        {"file": FOLDER / "a.safetensors"},
        {"file": of.also(of.path(), ending="a.txt", nowhere="a.safetensors")},
        {"file": "file|stored|safetensors"},
        runs=False,
    ),
]

# --- training, gradients, sampling, precision, figures ---------------------------------------------------------------

PLOTS = [
    Row(
        px.plots.schedules,
        {"named": {"a": NOISE}},
        {"named": {**of.mapping(), "x": {"a": 1}, "1": {1: NOISE}}, "axes": of.instance()},
    ),
    Row(
        px.plots.grids,
        {"named": {"a": GRID}},
        {"named": {**of.mapping(), "x": {"a": 1}}, "axes": of.instance()},
        {"named": "named|grid"},
    ),
    Row(
        px.plots.strip,
        {"rows": {"a": np.zeros((2, 4, 4, 3))}, "titles": ["a"]},
        {
            "rows": {
                **of.mapping(),
                "x": {"a": 1},
                "shape": {"a": X[0]},
                "many": {"a": np.zeros((9999, 1, 1, 3))},
                "none": {},
            },
            "titles": of.without(of.instance(), "a tuple", "a dict"),
        },
    ),
    Row(
        px.plots.work,
        {"curves": {"a": [(1, 0.5)]}, "ylabel": "error"},
        {
            "curves": {
                **of.mapping(),
                "x": {"a": 1},
                "empty": {"a": []},
                "words": {"a": ["ab"]},
                "ones": {"a": [(1,)]},
            },
            **{"ylabel": of.text(), "ax": of.instance()},
        },
    ),
]

LOOP = [
    Row(
        f,
        {"key": KEY, "denoise": x0, "solver": "ddim", "grid": GRID, "x": X},
        {
            **{"denoise": of.without(of.function(2), "none", "too many"), "solver": of.instance(), "grid": of.grid()},
            "x": of.also({"None": None, "a number": 1, "text": "x", "an object": object()}),
            **({"start": of.whole(0, 2)} if f is px.iterate else {}),
        },
    )
    for f in (px.iterate, px.sample)
]
OTHERS = [
    Row(
        px.value_and_grad,
        {"f": lambda tree: tree["a"].sum()},
        {"f": of.without(of.function(1), "none", "too many"), "has_aux": SWITCH},
        {"f": "function"},
    ),
    Row(
        px.solvers.from_config,
        {"scheduler_config": dict(tiny.SCHEDULER)},
        {"scheduler_config": {**of.mapping(), "another class": {"_class_name": "x" * 10**6}, "none": {}}},
        {"scheduler_config": "scheduler"},
    ),
    Row(px.precision, {"mode": None}, {"mode": of.without(of.option(), "a list", "long")}, {"mode": "precision"}),
]
ROWS = [*FILES, *PLOTS, *LOOP, *OTHERS]
