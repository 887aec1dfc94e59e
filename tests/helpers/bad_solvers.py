"""The rows of tests/test_bad_input.py for keys, trees and solvers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import bad_values as of
from helpers.bad_rows import KEY, SWITCH, Row, X

import pixart_fn as px

LEAVES = {"a": np.ones(2), "b": [np.ones(3)]}
LOOP: list[Any] = []
LOOP.append(LOOP)
TREE = {"one that holds itself": LOOP, "dots": {"a.b": 1}, "twice": {1: 0, "1": 0}}
OTHER_TREE = of.also(TREE, leaf=1, another={"a": 1})


def _listed(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: list(f(*args, **options))


t, v = px.tree, px.solvers
ROWS: list[Row] = [
    # --- keys
    Row(px.key, {"seed": 0}, {"seed": of.whole(0, 2**64 - 1)}),
    Row(px.split, {"key": KEY, "n": 2}, {"key": of.key(), "n": of.whole(0, 2**32)}),
    Row(px.fold_in, {"key": KEY, "i": 2}, {"key": of.key(), "i": of.whole(0, 2**64 - 1)}),
    Row(px.rng.check_key, {"key": KEY}, {"key": of.key()}),
    Row(
        px.rng.normal,
        {"key": KEY, "shape": (2,)},
        {
            "key": of.key(),
            "shape": of.also(
                of.without(of.instance(), "a tuple"),
                negative=(-1,),
                words=("a",),
                huge=(10**30,),
                product=(10**6,) * 3,
                long=[1] * 99,
            ),
        },
    ),
    Row(
        px.rng.normal_like,
        {"key": KEY, "x": X},
        {"key": of.key(), "x": {"a list": [1.0], "None": None, "an object": object()}},
    ),
    # --- trees, of which anything but a broken one is a tree
    Row(
        t.items,
        {"tree": LEAVES, "prefix": "a"},
        {"tree": TREE, "prefix": of.text()},
        {"tree": "tree|keys"},
        _listed(t.items),
    ),
    *(Row(f, {"tree": LEAVES}, {"tree": TREE}, {"tree": "tree|keys"}) for f in (t.leaves, t.paths, t.size)),
    Row(
        t.unflatten,
        {"like": LEAVES, "leaves": [1, 2]},
        {
            "like": TREE,
            "leaves": {"None": None, "a number": 1, "too few": [1], "many": [0] * 10**6, "an object": object()},
        },
        {"like": "tree|keys", "leaves": "leaves"},
    ),
    Row(
        t.rows,
        {"tree": LEAVES, "rest": LEAVES},
        {"tree": TREE, "rest": OTHER_TREE},
        {"tree": "tree|keys", "rest": "tree|keys"},
        lambda tree, rest: list(t.rows(tree, rest)),
    ),
    *(
        Row(
            f,
            {"f": right, "tree": LEAVES, "rest": LEAVES},
            {"f": of.function(arity), "tree": TREE, "rest": OTHER_TREE},
            {"tree": "tree|keys", "rest": "tree|keys"},
            lambda f, tree, rest, function=f: function(f, tree, rest),
        )
        for f, right, arity in ((t.map, lambda a, b: a, 2), (t.map_with_path, lambda n, a, b: a, 3))
    ),
    Row(
        t.reduce,
        {"f": lambda a, b: a, "tree": LEAVES, "initial": 0},
        {"f": of.function(2), "tree": TREE, "initial": {}},  # whatever f takes
        {"tree": "tree|keys"},
    ),
    Row(
        t.nest,
        {"flat": {"a.0": 1}},
        {"flat": {**of.mapping(), "both": {"a": 1, "a.b": 2}, "deep": {".".join("a" * 10**4): 1}}},
        {"flat": "flat|name"},
    ),
    # --- solvers
    Row(v.named, {"solver": "ddim"}, {"solver": of.instance()}),
    Row(v.ddim, {"eta": 0.0}, {"eta": of.number(0, 1)}),
    Row(v.ddpm, {"variance": "fixed_small"}, {"variance": of.option()}),
    Row(v.deis, {"order": 2}, {"order": of.whole(1, 3), "lower_order_final": SWITCH}),
    *(
        Row(f, {}, {})
        for f in (v.dpm_2m, v.dpmpp_2m, v.dpmpp_3m, v.dpmpp_2s, v.sde_dpmpp_2m, v.euler, v.kdpm2_ancestral)
    ),
    Row(
        v.dpm_adaptive,
        {"order": 2},
        {
            **{"order": of.whole(2, 3), "rtol": of.number(0), "atol": of.number(0)},
            "first": of.also(of.number(0), zero=0),
        },
    ),
    Row(
        v.dpm_multistep,
        {"order": 2},
        {
            **{"order": of.whole(1, 3), "solver_type": of.option(), "algorithm": of.option()},
            **{"lower_order_final": SWITCH, "euler_at_final": SWITCH},
        },
    ),
    Row(
        v.dpm_singlestep,
        {"order": 2},
        {
            **{"order": of.whole(1, 3), "solver_type": of.option(), "algorithm": of.option()},
            "lower_order_final": SWITCH,
        },
    ),
    *(Row(f, {"eta": 0.5}, {"eta": of.number(0, 1)}) for f in (v.euler_ancestral, v.kdpm2, v.dpmpp_2s_ancestral)),
    Row(v.dpmpp_sde, {"eta": 0.5}, {"eta": of.number(0, 1), "s_noise": of.number(0)}),
    Row(
        v.heun,
        {"churn": 1.0},
        {
            **{"churn": of.number(0), "s_noise": of.number(0), "rho_min": of.number(0)},
            "rho_max": of.without(of.number(0), "inf"),
        },
    ),
    Row(v.lcm, {}, {name: of.also(of.number(0, 10**6), zero=0) for name in ("timestep_scaling", "sigma_data")}),
    Row(v.lms, {"order": 2}, {"order": of.whole(1, 4)}),
    Row(v.pndm, {"runge_kutta": True}, {"runge_kutta": SWITCH}),
    Row(
        v.sa_solver,
        {"tau": 1.0},
        {
            **{"predictor_order": of.whole(1, 3), "corrector_order": of.whole(1, 4), "integrand": of.option()},
            **{"tau": of.also(of.without(of.number(0, 100), "a type"), f=lambda: 1.0), "lower_order_final": SWITCH},
        },
    ),
    Row(
        v.unipc,
        {"order": 2},
        {
            **{"order": of.whole(1, 3), "variant": of.option(), "integrand": of.option(), "lower_order_final": SWITCH},
            "disable_corrector": of.also(
                of.without(of.instance(), "a tuple", "a dict"), below=[-1], words=["a"], flags=[True]
            ),
        },
    ),
]
