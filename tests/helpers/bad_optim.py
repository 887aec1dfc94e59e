"""The rows of tests/test_bad_input.py for optimisers."""

from __future__ import annotations

import numpy as np
from helpers import bad_values as of
from helpers.bad_rows import SWITCH, Row
from helpers.trees import normal

from pixart_fn.train import optim

LEAVES = {"a": normal(0, 3, 2)}
NO_LEAVES = {
    **{"a number": 1, "text": "x", "others": {"b": LEAVES["a"]}, "whole numbers": {"a": np.ones((3, 2), int)}},
    "of another shape": {"a": np.ones((2, 3), np.float32)},
}
OPTIMISER, AVERAGE = optim.sgd(0.1), optim.ema(0.9)
NO_STATES = {**of.instance(), "too short": (OPTIMISER.init(LEAVES)[0],), "another's": AVERAGE.init(LEAVES)}
NO_TRANSFORMATION = of.instance()
ABOVE = of.also(of.number(0), zero=0)
BETA = of.also(of.number(0, 1), one=1)
PAIR = {
    **of.instance(),
    **{
        "one": (1e-8,),
        "words": ("a", "b"),
        "zero": (0, 1e-3),
        "infinite": (1e-30, np.inf),
        "a number below 0": (1, -1),
    },
}
RATE = of.without(of.also(of.number(0), of_nothing=lambda: 0.1, of_two=lambda step, other: 0.1), "a type")
MASK = of.function(2)
RATES = {
    **of.without(of.instance(), "a tuple"),
    **{"numbers": [1], "words": [("a", "b")], "below 0": [("a", -1)], "three": [("a", 1, 2)], "turned": [(1, "a")]},
}
ADAM = {"b1": BETA, "b2": BETA, "eps": ABOVE}
CAME = {"b1": BETA, "b2": BETA, "b3": BETA, "eps": PAIR, "clip_threshold": ABOVE}
DECAY = {"weight_decay": of.number(0), "mask": MASK}
RISE = {"peak": of.number(0), "warmup": of.whole(1)}
FALL = {**RISE, "steps": of.whole(0), "end": of.number(0, 1)}
STEP = {
    **{"params": NO_LEAVES, "gradients": NO_LEAVES, "state": NO_STATES, "donate": SWITCH},
    **{"transformation": NO_TRANSFORMATION, "ema": of.without(NO_TRANSFORMATION, "None")},
    **{"ema_state": {**of.instance(), "None": None}, "norm": of.number(0)},
}
TREES = {"params": "params|tree|shape", "gradients": "gradient|tree", "updates": "update|tree"}

ROWS: list[Row] = [
    Row(optim.adamw, {"lr": 0.1}, {"lr": RATE, **ADAM, **DECAY}),
    Row(optim.scale_by_adam, {}, {**ADAM, "bias_correction": SWITCH}),
    Row(optim.lion, {"lr": 0.1}, {"lr": RATE, "b1": BETA, "b2": BETA, **DECAY}),
    Row(optim.scale_by_lion, {}, {"b1": BETA, "b2": BETA}),
    Row(
        optim.sgd,
        {"lr": 0.1, "momentum": 0.9},
        {"lr": RATE, "momentum": BETA, "nesterov": SWITCH, **DECAY},
    ),
    Row(optim.trace, {"momentum": 0.9}, {"momentum": BETA, "nesterov": SWITCH}),
    Row(optim.came, {"lr": 0.1}, {"lr": RATE, **CAME, **DECAY}),
    Row(optim.scale_by_came, {}, CAME),
    Row(
        optim.adafactor,
        {},
        {
            **{"lr": RATE, "b1": BETA, "decay": of.also(of.number(0, 1), zero=0), "eps": PAIR, "clip_threshold": ABOVE},
            **{"scale_parameter": SWITCH, "warmup_init": SWITCH, **DECAY},
        },
    ),
    Row(optim.clip, {"largest": 1.0}, {"largest": ABOVE}),
    Row(optim.clip_by_global_norm, {"largest": 1.0}, {"largest": ABOVE}),
    Row(optim.add_decayed_weights, {"rate": 0.1}, {"rate": of.number(0), "mask": MASK}),
    Row(optim.scale_by_learning_rate, {"lr": 0.1}, {"lr": RATE}),
    Row(optim.scale_by_name, {"rates": [("a", 2.0)]}, {"rates": RATES}),
    Row(optim.ema, {"decay": 0.9}, {"decay": of.number(0, 1), "warmup": SWITCH}),
    Row(optim.constant, {"value": 0.1}, {"value": of.number(0)}),
    Row(optim.warmup_constant, {"peak": 0.1, "warmup": 10}, RISE),
    *(Row(f, {"peak": 0.1, "steps": 100}, FALL) for f in (optim.warmup_linear, optim.warmup_cosine)),
    Row(
        optim.warmup_stable_decay,
        {"peak": 0.1, "steps": 100},
        {**RISE, "steps": of.whole(0), "decay": of.also(of.number(0, 1), zero=0)},
    ),
    Row(
        optim.chain,
        {"transformations": OPTIMISER},
        {"transformations": NO_TRANSFORMATION},
        call=lambda transformations: optim.chain(transformations),
    ),
    Row(
        optim.leafwise,
        {"init_leaf": None, "update_leaf": lambda leaf, g, state, p, step, shared: (g, state)},
        {
            **{"init_leaf": of.function(2), "update_leaf": of.function(6), "prepare": of.function(1)},
            "elementwise": SWITCH,
        },
    ),
    Row(
        optim.apply_updates,
        {"params": LEAVES, "updates": LEAVES},
        {"params": NO_LEAVES, "updates": NO_LEAVES, "donate": SWITCH},
        TREES,
    ),
    Row(
        optim.step,
        {
            **{"transformation": OPTIMISER, "params": LEAVES, "gradients": LEAVES, "state": OPTIMISER.init(LEAVES)},
            **{"ema": AVERAGE, "ema_state": AVERAGE.init(LEAVES)},
        },
        STEP,
        TREES,
    ),
    Row(
        optim.global_norm,
        {"updates": LEAVES},
        {"updates": {"a number": 1, "text": "x", "whole numbers": {"a": np.ones(2, int)}}},
    ),
]

HELD = "holds what it is given, which is checked where it is used"
EXEMPT = {
    **dict.fromkeys(("train.optim.leaves.Leaf", "train.optim.leaves.LeafwiseState"), HELD),
    **{"train.optim.transform.Transformation": HELD, "train.optim.common.matrices": "a mask, called with a leaf's own"},
}
