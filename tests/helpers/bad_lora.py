"""The rows of tests/test_bad_input.py for adapters, textual inversion and DreamBooth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import bad_values as of
from helpers.bad_calls import OF_PARAMS, PARAMS, SIDE
from helpers.bad_rows import KEY, SWITCH, Row

from pixart_fn import tree
from pixart_fn.checkpoint import lora
from pixart_fn.train import adapt

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

CONFIG = lora.Config(rank=2, targets=("to_q",))
ADAPTER = lora.init(KEY, PARAMS.transformer, CONFIG)
FOLDER = Path("a folder of nothing")
TOKEN = "<my-cat>"
WITH_TOKEN = adapt.add_token(PARAMS, TOKEN, "cat")
ROW = adapt.token_rows(WITH_TOKEN, TOKEN)

OF_TREE = of.also(of.tree(), **{"an array": np.ones(2), "None inside": {"a": None}})
OF_ADAPTER = {
    **of.also(of.instance(), **{"None": None, "a config": CONFIG}),
    "of nothing": ADAPTER.replace(weights={}),
    "of None": ADAPTER.replace(weights=None),
    "of another rank": ADAPTER.replace(config=lora.Config(rank=3)),
    "without a config": ADAPTER.replace(config=None),
    "of another model": lora.init(KEY, PARAMS.text_encoder, lora.Config(targets=("wi_0",))),
    "of LoHa and LoRA at once": ADAPTER.replace(weights=tree.map(lambda leaf: {"hada_w1_a": leaf}, ADAPTER.weights)),
    "of factors that don't fit": ADAPTER.replace(
        weights=tree.nest({"proj_out.lokr_w1": np.ones((2, 2)), "proj_out.lokr_w2": np.ones(2)}),
    ),
    "of half": ADAPTER.replace(weights=tree.nest(dict(list(tree.items(ADAPTER.weights))[1:]))),
}
WEIGHT = of.without(of.number(), "a long list", "a list")
MERGED = {
    "tree": OF_TREE,
    "adapter": of.also(OF_ADAPTER, **{"no adapters": [], "a list of text": ["a"], "a set": {1}}),
    "weight": of.also(of.without(of.number(), "a list"), **{"two": [1, 1], "words": ["a"], "none": []}),
}
SAID = {"adapter": "adapter", "tree": "tree|adapter", "weight": "weight"}
NAMES = of.also(of.instance(), **{"empty": [], "numbers": [1], "a name alone": "to_q", "an empty name": [""]})
PATTERN = {**of.mapping(), "of numbers": {1: 2}, "words": {"a": "b"}, "zero": {"a": 0}, "bools": {"a": True}}
FILE = of.also(of.path(), ending="a.txt")

LORA = [
    Row(
        lora.Config,
        {"rank": 2},
        {
            **{
                "rank": of.whole(1, 2**16),
                "alpha": of.also(of.number(0), zero=0),
                "targets": of.without(NAMES, "a type"),
            },
            **{"dora": SWITCH, "rslora": SWITCH, "rank_pattern": PATTERN, "alpha_pattern": PATTERN},
        },
    ),
    Row(
        lora.init,
        {"key": KEY, "tree": PARAMS.transformer, "config": CONFIG},
        {
            "key": of.also(of.key(), two=np.zeros((2, 2), np.uint64)),
            "tree": OF_TREE,
            "config": of.also(of.instance(), **{"None": None, "another's targets": lora.Config(targets=("nothing",))}),
        },
        {"tree": "tree", "config": "config|targets"},
    ),
    Row(
        lora.apply,
        {"tree": PARAMS.transformer, "adapter": ADAPTER, "weight": 1.0},
        {"tree": OF_TREE, "adapter": OF_ADAPTER, "weight": WEIGHT},
        SAID,
    ),
    *(
        Row(f, {"tree": PARAMS.transformer, "adapter": ADAPTER, "weight": 1.0}, MERGED, SAID)
        for f in (lora.merge, lora.unmerge)
    ),
    Row(
        lora.load,
        {"source": FOLDER},
        {
            "source": of.also(of.path(), nowhere="nowhere/at/all", missing=FOLDER),
            "revision": of.also(of.without(of.option(), "another", "NULs", "long"), number=1),
            "alpha": of.also(of.number(0), zero=0),
            "sha256": of.also(of.without(of.text(), "None"), short="0" * 63, high="A" * 64),
        },
        {"source": "source", "revision": "revision"},
        runs=False,
    ),
    Row(
        lora.save,
        {"adapter": ADAPTER, "folder": FOLDER},
        {
            "adapter": of.without(OF_ADAPTER, "of another model"),
            "folder": of.without(of.path(), "long", "NULs"),
            "layout": of.option(),
        },
        runs=False,
    ),
]

ADAPT = [
    Row(
        adapt.add_token,
        {"params": PARAMS, "token": TOKEN, "init": "cat"},
        {
            "params": OF_PARAMS,
            "token": of.also(
                of.without(of.text()), **{"empty": "", "upper": "<A>", "white": "a b", "known": "</s>", "a stop": "a.b"}
            ),
            "init": of.also(
                of.array((2, 3), (0, 32), (200, 32), (32,)), **{"empty": "", "NaN": np.full((1, 32), np.nan)}
            ),
            "vectors": of.whole(1, 100),
        },
        {"params": "params"},
    ),
    Row(
        adapt.token_rows,
        {"params": WITH_TOKEN, "token": TOKEN},
        {"params": OF_PARAMS, "token": of.also(of.text(), unknown="cat", own="</s>")},
    ),
    Row(
        adapt.with_token_rows,
        {"params": WITH_TOKEN, "rows": ROW},
        {
            "params": OF_PARAMS,
            "rows": {
                **of.mapping(),
                "unknown": {"cat": ROW[TOKEN]},
                "too many": {TOKEN: ms.Tensor(np.ones((2, 32), np.float32))},
                "a list": {TOKEN: [1.0]},
                "whole numbers": {TOKEN: np.ones((1, 32), int)},
                "by numbers": {1: ROW[TOKEN]},
            },
        },
        {"rows": "rows|token"},
    ),
    Row(
        adapt.write_prompt,
        {"params": WITH_TOKEN, "prompt": "a <my-cat>"},
        {"params": OF_PARAMS, "prompt": of.text()},
    ),
    Row(
        adapt.save_embedding,
        {"rows": ROW, "file": FOLDER / "a.safetensors"},
        {
            "rows": {
                **of.mapping(),
                "none": {},
                "two": {"a": ROW[TOKEN], "b": ROW[TOKEN]},
                "flat": {TOKEN: np.ones(2)},
                "NaN": {TOKEN: np.full((1, 2), np.nan)},
            },
            "file": FILE,
        },
        runs=False,
    ),
    Row(
        adapt.load_embedding,
        {"file": FOLDER / "a.safetensors"},
        {"file": of.also(FILE, nowhere="a.safetensors")},
        {"file": "file|a.safetensors"},
        runs=False,
    ),
    Row(
        adapt.class_pictures,
        {"params": PARAMS, "prompt": "a cat", "n": 1, "key": KEY, "out": FOLDER},
        {
            **{
                "params": OF_PARAMS,
                "prompt": of.text(),
                "n": of.whole(1, 100_000),
                "out": of.without(of.path(), "long"),
            },
            **{"key": of.also(of.key(), two=np.zeros((2, 2), np.uint64)), "steps": of.whole(1)},
            **{"guidance": of.number(), "negative_prompt": of.text(), "height": SIDE, "width": SIDE},
            **{"clean": SWITCH, "progress": SWITCH},
        },
        runs=False,
    ),
]
ROWS = [*LORA, *ADAPT]
