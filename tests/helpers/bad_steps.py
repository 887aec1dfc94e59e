"""The rows of tests/test_bad_input.py for the step of training, its state, the loop and what watches it."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import bad_values as of
from helpers.bad_calls import PARAMS
from helpers.bad_rows import KEY, SWITCH, Row

from pixart_fn.train import init, loop, make_step, objective, optim, watch
from pixart_fn.train.batch import Batch
from pixart_fn.types import Text

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

LEAF = {"a": ms.Tensor(np.float32([1, 2]))}
OPTIMISER, AVERAGE = optim.adamw(0.1), optim.ema(0.9)
STATE = init(LEAF, OPTIMISER, KEY)
CONFIG = PARAMS.config.transformer
BATCH = Batch(np.zeros((1, 4, 8, 8), np.float32), Text(np.zeros((1, 4, 32), np.float32), np.ones((1, 4), np.int32)))
NO_TREE = {"array": {"a": np.ones(2)}, "a number": 1, "text": "x", "empty": {}, "whole": {"a": ms.Tensor([1])}}
NO_FOLDER = of.without(of.path(), "empty", "white space", "long", "NULs")
FUNCTION_OF_3 = of.function(3)
MINUTES = of.without(of.number(0), "inf")
NO_PROMPTS = {"text": "a cat", "none": [], "numbers": [1], "1": 1}
AIM = {"recompute": SWITCH, "dtype": of.option()}


def _loss(p: Any, batch: Any, key: Any) -> Any:
    return p["a"].sum(), {}


def _network(student: Any, target: Any, teacher: Any, null: Any, batch: Any, key: Any) -> Any:
    return student, {}


STEP = make_step(_loss, OPTIMISER)

ROWS = [
    Row(
        init,
        {"params": LEAF, "optimiser": OPTIMISER, "key": KEY},
        {
            **{"params": NO_TREE, "optimiser": of.instance(), "ema": of.instance(), "times": of.instance()},
            **{"key": of.also(of.key(), two=np.zeros((2, 2), np.uint64)), "scale": of.instance()},
        },
    ),
    Row(
        make_step,
        {"loss": _loss, "optimiser": OPTIMISER},
        {
            **{"loss": FUNCTION_OF_3, "optimiser": of.instance(), "ema": of.instance(), "accumulate": of.whole(1)},
            **{"times": of.instance(), "target": of.also(SWITCH, without=True), "workers": of.instance()},
        },
    ),
    Row(
        loop.run,
        {"step": STEP, "state": STATE, "batches": lambda step: None, "folder": "run", "steps": 0},
        {
            **{"step": FUNCTION_OF_3, "state": of.instance(), "batches": of.function(1), "folder": NO_FOLDER},
            **{"steps": of.whole(0), "minutes": MINUTES, "save_every_minutes": MINUTES, "workers": of.instance()},
            "identity": of.without(of.mapping(), "None"),
            **{"settings": of.without(of.mapping(), "None"), "on_step": of.function(2), "progress": SWITCH},
        },
        runs=False,
    ),
    Row(
        objective.predictor,
        {"p": PARAMS.transformer, "config": CONFIG, "batch": BATCH},
        {**AIM, "p": NO_TREE, "config": of.instance(), "batch": of.instance()},
    ),
    Row(
        objective.of_transformer,
        {"config": CONFIG, "loss": _loss},
        {**AIM, "config": of.instance(), "loss": FUNCTION_OF_3},
    ),
    Row(
        objective.of_adapter,
        {"p": PARAMS.transformer, "config": CONFIG, "loss": _loss},
        {**AIM, "p": NO_TREE, "config": of.instance(), "loss": FUNCTION_OF_3},
    ),
    Row(
        objective.of_lcm,
        {"p": PARAMS.transformer, "config": CONFIG, "loss": _network, "null": BATCH.text},
        {
            **{**AIM, "p": NO_TREE, "config": of.instance(), "loss": of.function(6)},
            **{"null": of.instance(), "adapter": SWITCH},
        },
    ),
    Row(
        watch.with_average,
        {"params": PARAMS, "state": STATE},
        {"params": of.instance(), "state": of.instance()},
        runs=False,
    ),
    Row(
        watch.samples,
        {"params": PARAMS, "prompts": ["a cat"], "folder": "samples", "every": 10},
        {
            **{"params": of.instance(), "folder": NO_FOLDER, "every": of.whole(1), "steps": of.whole(1)},
            **{"guidance": of.number(0), "key": of.key(), "prompts": NO_PROMPTS},
        },
        runs=False,
    ),
    Row(watch.tensorboard, {"folder": "events"}, {"folder": NO_FOLDER}, runs=False),
    Row(watch.together, {}, {"watches": of.function(2)}, call=lambda watches: watch.together(watches), runs=False),
]
