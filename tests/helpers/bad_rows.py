"""The rows of tests/test_bad_input.py for schedules and guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from helpers import bad_values as of

import pixart_fn as px

NOISE = px.schedule.from_betas(px.schedule.linear())
GRID = px.schedule.grid(NOISE, [900, 500])
KEY = px.key(0)
X = np.arange(16, dtype=np.float32).reshape(1, 4, 2, 2)
GOOD, LOW = {"rhos": px.schedule.karras(NOISE, 3)}, float(NOISE.rhos[0])


@dataclass(frozen=True)
class Row:
    """A function with arguments that are right, and for each argument what is wrong for it.

    `said` is what the sentence calls an argument, where that isn't its name. `call` is how to call the function so
    that it does its checks, for one that gives an iterator or a function.
    """

    function: Callable[..., Any]
    right: Mapping[str, Any]
    wrong: Mapping[str, of.Bad]
    said: Mapping[str, str] = field(default_factory=dict)
    call: Callable[..., Any] | None = None
    runs: bool = True
    """Whether the call with right arguments is made too: not where it draws a picture or reads weights."""


def x0(x: Any, t: float) -> Any:
    return 0.5 * x


def pair(x: Any, t: float) -> Any:
    return x0(x, t), x0(x, t)


SCALE = of.without(
    of.also(
        of.number(),
        **{"NaN": np.array([np.nan]), "words": ["a"], "flags": [True], "ragged": [[1], [1, 2]], "1e38": 1e38},
        **{"empty": [], "too long": range(10**9), "of no t": lambda: 1.0, "10**400": 10**400, "a dict": {}},
    ),
    "a list",
    "a Tensor",
    "a long list",
    "a type",  # int is a function of t
)
TIME = of.without(of.also(of.number(0, 999), words=np.array(["a"])), "a list", "a Tensor", "a long list")
LAM = of.without(of.also(of.number(-30, 30), words=np.array(["a"])), "a list", "a Tensor", "a long list")
SWITCH, STEPS = of.switch(), of.whole(1, 1000)
MANY = of.whole(1, 10**6)

BLOCKS = of.also(of.instance(), none=[], twice=[1, 1], below=[-1], ragged=[[1], [1, 2]], flags=[True])
INTERVAL = of.also(
    of.without(of.instance(), "an array"), turned=(2, 1), nan=(np.nan, 1), words=("a", "b"), three=(1, 2, 3)
)
ABOVE_0 = of.without(of.also(of.number(0), none=0), "inf")
VALUES = {"conditional": of.array((2, 2)), "unconditional": of.array((2, 2)), "w": of.without(SCALE, "of no t")}

s, g = px.schedule, px.guidance
ROWS: list[Row] = [
    # --- schedules
    *(
        Row(
            f,
            {"steps": 10, "start": 0.1, "end": 0.2},
            {"steps": MANY, "start": of.number(0.0, 1), "end": of.number(0, 1)},
        )
        for f in (s.linear, s.scaled_linear)
    ),
    Row(s.squaredcos_cap_v2, {"steps": 10}, {"steps": MANY}),
    Row(
        s.Schedule,
        {**GOOD, "rhos": np.array([0.1, 1.0])},
        {
            "rhos": of.also(
                of.array((2, 2)), falling=np.array([3.0, 2.0, 1.0]), nan=np.array([np.nan]), empty=np.ones(0)
            ),
            "prediction": of.option(),
            "model_time": of.function(1),
        },
    ),
    *(Row(getattr(NOISE, name), {"t": 5}, {"t": TIME}) for name in ("alpha", "sigma", "lam", "rho")),
    Row(NOISE.time, {"lam": 0.0}, {"lam": LAM}, {"lam": "λ"}),
    Row(
        s.from_betas,
        {"betas": [0.1, 0.2], "prediction": "v"},
        {"betas": of.without(of.numbers([0.0], [1.5], [-1]), "long"), "prediction": of.option()},
    ),
    Row(s.check_schedule, {"schedule": NOISE}, {"schedule": of.schedule()}),
    Row(
        s.zero_terminal_snr,
        {"schedule": NOISE, "alpha_bar": 0.0},
        {"schedule": of.schedule(), "alpha_bar": of.also(of.number(0, 1), whole=1.0)},
    ),
    Row(
        s.convert,
        {"value": X, "x": X, "alpha": 0.6, "sigma": 0.8, "source": "epsilon", "target": "x0"},
        {
            "value": of.without(of.array((1, 4, 2, 3)), "strings", "objects", "complex numbers"),
            "x": of.without(of.array((1, 4, 2, 3)), "strings", "objects", "complex numbers"),
            "alpha": of.number(0, 1),
            "sigma": of.number(0, 1),
            "source": of.option(),
            "target": of.option(),
        },
        {"x": "x"},
    ),
    Row(
        s.grid,
        {"schedule": NOISE, "timesteps": [900, 500], "final": "zero"},
        {"schedule": of.schedule(), "timesteps": of.numbers([5, 5], [1000], [-1]), "final": of.option()},
        {"timesteps": "t"},
    ),
    Row(
        s.rho_grid,
        {"schedule": NOISE, "rhos": [2.0, 1.0], "final": "zero"},
        {"schedule": of.schedule(), "rhos": of.numbers([1, 2], [1e300], [-1.0]), "final": of.option()},
        {"rhos": "rhos|λ must be within"},
    ),
    Row(s.check_grid, {"grid": GRID}, {"grid": of.grid()}),
    Row(s.reverse, {"grid": GRID}, {"grid": of.grid()}),
    Row(s.truncate, {"grid": GRID, "strength": 0.5}, {"grid": of.grid(), "strength": of.number(0, 1)}),
    Row(
        s.timesteps,
        {"schedule": NOISE, "steps": 5, "spacing": "linspace"},
        {
            **{"schedule": of.schedule(), "steps": STEPS, "spacing": of.option(), "offset": of.whole(0)},
            **{"skip_zero": SWITCH, "whole": SWITCH, "lam_min": of.without(of.number(None, 30), "-inf")},
        },
    ),
    Row(
        s.karras,
        {"schedule": NOISE, "steps": 5},
        {
            **{
                "schedule": of.schedule(),
                "steps": MANY,
                "power": of.also(of.number(0), none=0, tiny=1e-300, small=1e-4),
            },
            **{"first": of.number(0), "last": of.number(0, 160)},
        },
    ),
    Row(
        s.uniform_lambda,
        {"schedule": NOISE, "steps": 5},
        {"schedule": of.schedule(), "steps": MANY, "first": of.number(0), "last": of.number(0, 160)},
        {"first": "first|σ/α must fall"},
    ),
    Row(
        s.beta,
        {"schedule": NOISE, "steps": 5},
        {
            **{"schedule": of.schedule(), "steps": MANY, "a": of.also(of.number(0), none=0), "b": of.number(0)},
            **{"first": of.number(0), "last": of.number(0, 160)},
        },
    ),
    Row(
        s.ays,
        {"schedule": NOISE, "steps": 5, "table": "sdxl"},
        {
            **{"schedule": of.schedule(), "steps": MANY, "table": of.option()},
            **{"first": of.number(0), "last": of.number(0, 160)},
        },
    ),
    # --- guidance
    Row(
        px.Guidance,
        {"scale": 2.0},
        {
            **{"scale": SCALE, "pag_scale": SCALE, "rescale": of.number(0, 1), "compat": of.option()},
            **{
                "interval": INTERVAL,
                "pag_layers": BLOCKS,
                "method": of.also(of.instance(), **{"a class": g.Projected}),
            },
            "worse": of.also(of.instance(), **{"a class": g.Skip}),
        },
    ),
    Row(
        g.Projected,
        {"eta": 0.5, "threshold": 15.0, "momentum": -0.5},
        {"eta": of.number(0, 1), "threshold": ABOVE_0, "momentum": of.number(-1, 1)},
    ),
    Row(g.ZeroStar, {"zero_from": 960}, {"zero_from": of.number(0)}),
    Row(g.Weaker, {"scale": 2.0}, {"scale": of.also(SCALE, none=0.0, zeros=[0, 0]), "interval": INTERVAL}),
    *(
        Row(
            kind,
            {"scale": 2.0, "layers": [1]},
            {"scale": of.also(SCALE, none=0.0, zeros=[0, 0]), "interval": INTERVAL, "layers": BLOCKS},
        )
        for kind in (g.Perturb, g.Skip)
    ),
    Row(
        g.Blur,
        {"scale": 2.0, "layers": [1], "sigma": 2.0},
        {
            **{"scale": of.also(SCALE, none=0.0, zeros=[0, 0]), "interval": INTERVAL, "layers": BLOCKS},
            "sigma": ABOVE_0,
        },
    ),
    Row(g.as_guidance, {"guidance": 2.0}, {"guidance": SCALE}),
    Row(g.check_scale, {"name": "w", "scale": 2.0}, {"scale": SCALE, "rows": {}}, {"scale": "w must"}),
    Row(
        g.both,
        {"conditional": x0, "unconditional": x0},
        {"conditional": of.function(2), "unconditional": of.function(2)},
    ),
    Row(
        g.guided,
        {
            "guidance": px.Guidance(2.0, pag_scale=1.0),
            "conditional": x0,
            "pair": pair,
            "worse": x0,
            "schedule": NOISE,
        },
        {
            **{"guidance": SCALE, "conditional": of.function(2), "pair": of.function(2), "worse": of.function(2)},
            "schedule": of.without(of.schedule(), "None"),
        },
    ),
    Row(
        g.interval,
        {"inside": x0, "outside": x0, "low": 1, "high": 2},
        {
            **{"inside": of.function(2), "outside": of.function(2)},
            **{"low": of.without(of.number(None, 3), "-inf"), "high": of.without(of.number(0), "inf")},
        },
        {"low": "interval", "high": "interval"},
    ),
    Row(
        g.compose,
        {"base": x0, "parts": [(x0, 1.0)]},
        {
            "base": of.function(2),
            "parts": of.also(of.instance(), none=[], triples=[(x0, 1, 2)], weight=[(x0, "a")], f=[(lambda: 0, 1.0)]),
        },
        {"parts": "parts|a weight"},
    ),
    Row(g.clip, {"denoise": x0, "largest": 1.0}, {"denoise": of.function(2), "largest": of.also(of.number(0), zero=0)}),
    Row(
        g.threshold,
        {"denoise": x0, "quantile": 0.9, "largest": 1.0},
        {"denoise": of.function(2), "quantile": of.also(of.number(0, 1), zero=0), "largest": of.number(1)},
    ),
    *(
        Row(
            f,
            {"model": model, "schedule": NOISE, "prediction": "x0"},
            {"model": of.function(2), "schedule": of.schedule(), "prediction": of.option()},
        )
        for f, model in ((g.denoiser, x0), (g.variance_denoiser, lambda x, t: np.concatenate([x, x], 1)))
    ),
    *(Row(f, {"conditional": X, "unconditional": X, "w": 2.0}, VALUES) for f in (g.combine, g.zero_star)),
    Row(
        g.adaptive_projected,
        {"conditional": X, "unconditional": X, "w": 2.0, "running": X},
        {
            **VALUES,
            **{"eta": of.number(0, 1), "threshold": ABOVE_0, "momentum": of.number(-1, 1)},
            "running": of.without(of.array((2, 2)), "None"),
        },
    ),
    Row(
        g.rescale,
        {"guided": X, "conditional": X, "phi": 0.5},
        {"guided": of.array((2, 2)), "conditional": of.array((2, 2)), "phi": of.number(0, 1)},
    ),
    Row(
        g.away,
        {"guided": X, "conditional": X, "worse": X, "s": 1.0},
        {
            **{"guided": of.array((2, 2)), "conditional": of.array((2, 2)), "worse": of.array((2, 2))},
            "s": of.without(SCALE, "of no t"),
        },
    ),
    Row(
        g.first_channels,
        {"guided": X, "conditional": X, "n": 3},
        {"guided": of.array((2, 2)), "conditional": of.array((2, 2)), "n": of.whole(0, 4)},
    ),
]
