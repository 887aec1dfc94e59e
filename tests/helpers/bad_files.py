"""The rows of tests/test_bad_input.py for files, training, figures and the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from helpers import bad_values as of
from helpers import tiny
from helpers.bad_calls import OF_PARAMS, OF_TEXT, PARAMS, TEXT
from helpers.bad_rows import GRID, KEY, NOISE, SWITCH, Row, X, x0

import pixart_fn as px
from pixart_fn.checkpoint.text import load_text, save_text
from pixart_fn.train import loop, optim

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

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

LEAF = {"a": ms.Tensor(np.float32([1, 2]))}
STATE = optim.init(LEAF)
LEAVES = {"array": {"a": np.ones(2)}, "a number": 1, "text": "x", "others": {"b": LEAF["a"]}}
HYPER = {
    f"{name} {value}": optim.AdamW(**{name: value})
    for name, values in {
        "b1": (1, -1, np.nan, "a"),
        "b2": (1, None),
        "eps": (0, -1, np.inf),
        "weight_decay": (-1, "a"),
        "clip": (0, np.nan),
        "rates": (1, [1], [("a", "b")], [("a", -1)]),
    }.items()
    for value in values
}


def _loss(tree: Any, batch: Any) -> Any:
    return tree["a"].sum()


TRAIN = [
    Row(optim.init, {"params": LEAF}, {"params": of.without(LEAVES, "others")}),
    Row(
        optim.update,
        {"hyper": optim.AdamW(), "params": LEAF, "gradients": LEAF, "state": STATE, "lr": 0.1, "decay": 0.9},
        {
            **{"hyper": {**of.instance(), **HYPER}, "params": LEAVES, "gradients": LEAVES, "state": of.instance()},
            **{"lr": of.number(0), "decay": of.number(0, 1)},
        },
        {"params": "params|tree", "gradients": "gradients|tree"},
    ),
    Row(optim.check_hyper, {"hyper": optim.AdamW()}, {"hyper": {**of.instance(), **HYPER}}),
    Row(
        loop.warmup_stable_decay,
        {"peak": 1.0, "steps": 10},
        {
            **{"peak": of.number(0), "steps": of.whole(0), "warmup": of.whole(1)},
            "decay": of.also(of.number(0, 1), zero=0),
        },
    ),
    Row(
        loop.run,
        {"loss": _loss, "params": LEAF, "batch": lambda step: None, "folder": "run", "steps": 0, "lr": 0.1},
        {
            **{"loss": of.function(2), "params": of.without(LEAVES, "others"), "batch": of.function(1)},
            **{"folder": of.without(of.path(), "empty", "white space", "long", "NULs"), "steps": of.whole(0)},
            **{
                "lr": of.without(of.number(0), "a type"),
                "minutes": of.without(of.number(0), "inf"),
                "decay": of.number(0, 1),
            },
            **{"hyper": {**of.instance(), **HYPER}, "save_every_minutes": of.without(of.number(0), "inf")},
        },
    ),
]

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
        {"f": _loss},
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
ROWS = [*FILES, *TRAIN, *PLOTS, *LOOP, *OTHERS]
