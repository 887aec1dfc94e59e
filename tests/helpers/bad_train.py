"""The rows of tests/test_bad_input.py for training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from helpers import bad_values as of
from helpers.bad_calls import PARAMS
from helpers.bad_data import BATCHES, DATASET, EMPTY, NOWHERE, OF_BATCHES, OF_DATASET
from helpers.bad_rows import KEY, MANY, NOISE, STEPS, SWITCH, Row, X

from pixart_fn import plots, transformer
from pixart_fn.train import data, distill, evaluate, init, job, losses, optim, recipe, reparameterise, times

ROWS: list[Row] = []

# --- losses, times, distillation, evaluation --------------------------------------------------------------------------

NO_TIMES = of.also(of.instance(), none=None, other=times.uniform(10))
POSITIVE = of.also(of.number(0), zero=0)
SCALING = of.also(of.number(0, 1e6), zero=0)
LOSS = {
    **{"schedule": of.schedule(), "prediction": of.option(), "learned_variance": SWITCH, "times": NO_TIMES},
    **{"weighting": of.function(1), "distance": of.function(1), "noise_offset": of.number(0)},
}
LCM = {
    **{"schedule": of.schedule(), "prediction": of.option(), "steps": STEPS, "scale": of.number(0)},
    **{"timestep_scaling": SCALING, "sigma_data": SCALING, "distance": of.function(1)},
}
START = of.whole(0, 999)
DMD = {
    **{"schedule": of.schedule(), "prediction": of.option(), "features": of.function(1), "times": NO_TIMES},
    **{"regression_weight": of.number(0), "scale": of.number(0), "start": START},
}
FEATURES = np.arange(12, dtype=np.float64).reshape(4, 3) + 1
NO_FEATURES = of.also(of.array((4,), (2, 3, 4), (0, 3)), nan=FEATURES * np.nan, text_in_a_list=["a"])
FOUND = evaluate.statistics(FEATURES)
NO_STATISTICS = {
    "of Nones": evaluate.Statistics(None, None),
    "of lists": evaluate.Statistics([1.0], [[1.0]]),
    "of other shapes": evaluate.Statistics(FOUND.mu[:2], FOUND.sigma),
    "of NaN": evaluate.Statistics(FOUND.mu * np.nan, FOUND.sigma),
    "of no covariance": evaluate.Statistics(FOUND.mu, -FOUND.sigma),
}
NPZ = of.also(of.path(), ending="a.txt")
LOSSES = [
    *(Row(f, {"schedule": NOISE}, LOSS) for f in (losses.diffusion, losses.Diffusion)),
    Row(losses.huber, {"c": 0.1}, {"c": POSITIVE}),
    Row(losses.snr, {"low": 0.0, "high": 5.0}, {"low": of.number(0), "high": of.without(of.number(0), "inf")}),
    Row(losses.min_snr, {"gamma": 5.0}, {"gamma": POSITIVE}),
    Row(times.uniform, {"steps": 1000, "low": 0}, {"steps": MANY, "low": START, "high": START}),
    Row(times.logit_normal, {"mean": 0.0}, {"mean": of.number(), "std": POSITIVE, "steps": MANY}),
    Row(
        times.importance,
        {"history": 10},
        {"history": of.whole(1, 1000), "uniform_prob": of.number(0, 1), "steps": MANY},
    ),
    Row(
        times.Times,
        {"steps": 5, "draw": lambda keys, state: None},
        {
            **{"steps": MANY, "draw": of.function(2), "update": of.function(3)},
            "init": of.without(of.function(0), "none", "too many"),
        },
    ),
    *(Row(f, {"schedule": NOISE}, LCM) for f in (distill.lcm, distill.LCM)),
    *(Row(f, {"schedule": NOISE}, DMD) for f in (distill.dmd, distill.DMD)),
    Row(
        distill.one_step,
        {"predict": lambda x, t: x, "schedule": NOISE, "noise": X},
        {
            **{"predict": of.function(2), "schedule": of.schedule(), "noise": of.array((2, 2), (1, 0, 2, 2))},
            **{"start": START, "prediction": of.option()},
        },
    ),
]
EVALUATION = [
    Row(evaluate.statistics, {"features": FEATURES}, {"features": NO_FEATURES}),
    Row(
        evaluate.read_statistics,
        {"file": Path("a.npz")},
        {"file": of.also(NPZ, nowhere="nowhere.npz")},
        {"file": "file|stored|nowhere"},
        runs=False,
    ),
    Row(
        evaluate.write_statistics,
        {"values": FOUND, "file": Path("a.npz")},
        {"values": {**of.instance(), **NO_STATISTICS}, "file": NPZ},
        {"file": "file|stored"},
    ),
    Row(
        evaluate.fid,
        {"real": FEATURES, "generated": FOUND},
        {name: {**NO_FEATURES, **NO_STATISTICS} for name in ("real", "generated")},
    ),
    Row(
        evaluate.kid,
        {"real": FEATURES, "generated": FEATURES, "key": KEY, "subsets": 2, "size": 3},
        {
            **{"real": NO_FEATURES, "generated": NO_FEATURES, "key": of.also(of.key(), rows=np.zeros((3, 2), "u8"))},
            **{"subsets": MANY, "size": of.whole(2, 4)},
        },
    ),
    Row(
        evaluate.clip_score,
        {"images": FEATURES, "texts": FEATURES},
        {name: of.also(NO_FEATURES, zeros=FEATURES * 0, short=FEATURES[:2]) for name in ("images", "texts")},
    ),
    Row(
        evaluate.precision_recall,
        {"real": FEATURES, "generated": FEATURES},
        {"real": NO_FEATURES, "generated": NO_FEATURES, "k": of.whole(1, 3)},
    ),
]
ROWS += LOSSES + EVALUATION

# --- curves of trainings ----------------------------------------------------------------------------------------------

RECORD = {"step": 1, "loss": 0.5}
NO_RECORDS = {
    "a list": {"a": []}, "no step": {"a": [{"loss": 1.0}]}, "a text": {"a": "step"}, "numbers": {"a": [1.0]},
    "a step in words": {"a": [{"step": "1"}]}, "a number as the name": {1: [RECORD]},
}  # fmt: skip
ROWS.append(
    Row(
        plots.training,
        {"named": {"a": [RECORD]}, "axes": None},
        {
            "named": {**of.without(of.instance(), "a dict"), **NO_RECORDS},
            "axes": {"one": [1], "text": "abc", "none": [None] * 3},
        },
    )
)

# --- recipes, and the first weights of a stage ------------------------------------------------------------------------

SMALL = transformer.Config(
    num_attention_heads=2, attention_head_dim=6, num_layers=1, cross_attention_dim=12, sample_size=8,
    caption_channels=8, use_additional_conditions=False,
)  # fmt: skip
NO_CHANGES = {
    **of.mapping(), "another field": {"num_layers": 2}, "a size of text": {"sample_size": "8"},
    "no size": {"sample_size": 0}, "a scale of nothing": {"interpolation_scale": 0},
    "a switch of text": {"use_additional_conditions": "yes"},
}  # fmt: skip
FIELDS = "|".join(reparameterise.OF_A_STAGE)
GIVEN = {"data": {"path": "data"}, "run": {"out": "out"}}
RECIPE, STATE = recipe.make(GIVEN), init(PARAMS.transformer, optim.sgd(0.1), KEY)
ROWS += [
    Row(
        reparameterise.from_dit,
        {"key": KEY, "config": SMALL, "source": "dit"},
        {
            "key": of.key(),
            "config": of.instance(),
            "source": of.also(of.path(), nowhere="nowhere"),
            "compat": of.option(),
        },
        {"source": "source|nowhere", "config": "config"},
        runs=False,
    ),
    Row(
        reparameterise.resized,
        {"config": SMALL, "changes": {"sample_size": 16}},
        {"config": of.instance(), "changes": NO_CHANGES},
        {"changes": f"changes|{FIELDS}"},
    ),
    Row(
        reparameterise.with_conditions,
        {"key": KEY, "p": transformer.init(KEY, SMALL), "old": SMALL, "new": SMALL},
        {
            **{"key": of.key(), "p": {"none": None, "a dict": {}, "a number": 1, "a list": []}},
            **{
                name: of.also(of.instance(), deeper=dataclasses.replace(SMALL, num_layers=2)) for name in ("old", "new")
            },
        },
        {"old": "old|config", "new": "new|config"},
    ),
    Row(
        recipe.read,
        {"source": "small", "changes": {"data.path": "data", "run.out": "out"}},
        {
            "source": {**of.path(), "nowhere": "nowhere", "no file": "nowhere.toml"},
            "changes": {**of.without(of.mapping(), "None"), "another": {"run.stesp": 1}, "a number": {1: 1}},
        },
        {"source": "source|recipe|nowhere|x", "changes": "changes|field"},
    ),
    Row(
        recipe.make,
        {"content": GIVEN, "where": "mine"},
        {
            "content": {**of.mapping(), "another": {"runs": {}}, "no section": {"run": 1}},
            "where": of.without(of.instance(), "text", "NULs"),
        },
        {"content": "content|mine"},
    ),
    Row(
        job.run,
        {"recipe": RECIPE},
        {"recipe": of.instance(), "workers": of.instance(), "progress": SWITCH},
        runs=False,
    ),
    Row(job.make, {"recipe": RECIPE}, {"recipe": of.instance(), "workers": of.instance()}, runs=False),
    Row(
        job.write,
        {"recipe": RECIPE, "params": PARAMS, "state": STATE},
        {"recipe": of.instance(), "params": of.instance(), "state": of.instance()},
        runs=False,
    ),
]

# --- edges for a ControlNet -------------------------------------------------------------------------------------------

SMALLER = data.arrays(np.ones((2, 4, 2, 4), np.float32), DATASET.texts)
ROWS += [
    Row(
        data.controls.controlled,
        {"pictures": BATCHES, "controls": DATASET},
        {"pictures": OF_BATCHES, "controls": of.also(OF_DATASET, smaller=SMALLER)},
    ),
    Row(
        data.prepare.run,
        {"source": EMPTY, "params": PARAMS, "out": NOWHERE},
        {"edges": of.option()},
        runs=False,
    ),
]
