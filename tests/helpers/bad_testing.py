"""The rows of tests/test_bad_input.py for px.testing: strategies, perfect denoisers, and the check of a solver."""

from __future__ import annotations

import numpy as np
from helpers import bad_values as of
from helpers.bad_rows import NOISE, SWITCH, Row

import pixart_fn as px

t = px.testing
GRID = t.lambda_grid(2)
SCHEDULE = of.also(of.without(of.instance(), "None"), two=px.schedule.from_betas(np.array([0.1, 0.2])))
ONE_SCHEDULE = of.without(of.instance(), "None")
LIST = of.also(of.without(of.instance(), "a tuple"), **{"empty": [], "another": ["nonsense"], "numbers": [1]})
NAMES = of.without(LIST, "empty")
STEPS = of.also(
    of.without(of.instance(), "a tuple"),
    **{"one": [30], "falling": [60, 30], "twice": [30, 30], "few": [2, 3], "many": [30, 10**5], "words": ["a", "b"]},
)
LENGTHS = of.without(of.also(of.numbers(0.05, 11, -1), **{"inf": [np.inf]}), "long")
NORMAL = {"words": np.array(["a"]), "NaN": np.array([np.nan]), "whole": np.ones(2, int)}
MEAN = of.also(of.number(), **NORMAL)
STD = of.also(of.number(0), **NORMAL, zero=0, zeros=np.zeros(2))
BROADCAST = {"of another shape": np.ones(5)}
SOLVER = of.instance()

ROWS = [
    Row(t.keys, {}, {}),
    Row(t.shapes, {}, {}),
    Row(t.schedules, {"prediction": "v"}, {"prediction": of.option()}),
    Row(t.grids, {"schedule": NOISE}, {"finals": LIST, "schedule": SCHEDULE, "steps": of.whole(1, 100)}),
    Row(t.denoisers, {"schedule": NOISE}, {"schedule": ONE_SCHEDULE}),
    Row(t.Constant, {"x0": 0.5}, {"x0": of.number()}),
    Row(t.Gaussian, {"mean": 0, "std": 1, "schedule": NOISE}, {"mean": MEAN, "std": STD, "schedule": ONE_SCHEDULE}),
    Row(t.TwoPoints, {"at": 1, "schedule": NOISE}, {"at": of.also(of.number(0), zero=0), "schedule": ONE_SCHEDULE}),
    Row(
        t.exact_gaussian,
        {"x": np.ones((1, 2)), "grid": GRID, "mean": 0.3, "std": np.ones(2)},
        {
            "x": of.array(),
            "grid": of.instance(),
            "mean": of.also(MEAN, **BROADCAST),
            "std": of.also(STD, **BROADCAST),
        },
    ),
    Row(t.lambda_grid, {"steps": 3}, {"steps": of.whole(1, 10**6), "lengths": LENGTHS}),
    Row(
        t.convergence,
        {"solver": "ddim", "steps": [4, 8]},
        {"solver": SOLVER, "steps": STEPS, "stochastic": SWITCH, "lengths": LENGTHS},
    ),
    Row(
        t.check_solver,
        {"solver": "ddim", "examples": 1},
        {
            **{"solver": SOLVER, "order": of.number(0, 10), "stochastic": SWITCH, "skip": NAMES},
            **{"examples": of.whole(1, 10_000), "lengths": LENGTHS},
        },
    ),
]
EXEMPT = dict.fromkeys(
    ("testing.order.Convergence", "testing.check.SolverReport"), "holds what was measured, which nobody gives"
)
