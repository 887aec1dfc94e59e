"""Wrong values by the kind of argument: of another type, out of range, and absurd, each with a label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np

import pixart_fn as px

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

Bad: TypeAlias = Mapping[str, Any]

NULS = "\0" * 10
ANYWHERE: Bad = {
    "an object": object(),
    "a complex number": 1 + 2j,
    "a Decimal": Decimal("0.5"),
    "a date": np.datetime64("2026-01-01"),
    "a generator": (each for each in (0.5,)),
    "a type": int,
}
"""Values that are right for no argument. A generator is no list, since it can be gone through once."""


def _numbers(low: float | None, high: float | None) -> Bad:
    bad = {} if low is None else {"below": low - 1, "far below": -(10**30), "thousands of digits": -(10**5000)}
    return bad | ({} if high is None else {"above": high + 1, "far above": 10**30, "1e38": 1e38})


def whole(low: int | None = 1, high: int | None = None) -> Bad:
    others = {"text": "3", "a bool": True, "a fraction": 2.5, "a whole float": 2.0, "NaN": math.nan, "inf": math.inf}
    return {**ANYWHERE, **others, **_whole(_numbers(low, high)), "a Tensor": Tensor(1), "a list": [1]}


def _whole(bad: Bad) -> Bad:
    return {name: int(value) for name, value in bad.items()}


def number(low: float | None = None, high: float | None = None) -> Bad:
    others = {"text": "0.5", NULS: NULS, "a bool": True, "NaN": math.nan, "a Tensor": Tensor(0.5), "a list": [0.5]}
    ends = {"inf": math.inf, "-inf": -math.inf}
    return {**ANYWHERE, **others, **ends, **_numbers(low, high), "a long list": [0.5] * 10**6}


def switch() -> Bad:
    return {**ANYWHERE, "1": 1, "0.0": 0.0, "text": "true", "None": None, "a list": [], "a Tensor": Tensor(True)}


def option() -> Bad:
    return {
        **ANYWHERE,
        "another": "nonsense",
        "empty": "",
        "NULs": NULS,
        "a number": 1,
        "a list": ["x"],
        "long": "x" * 10**6,
    }


def text() -> Bad:
    return {**ANYWHERE, "a number": 1, "None": None, "bytes": b"a", "a list": ["a"]}


def key() -> Bad:
    shapes = {"one word": np.zeros(1, np.uint64), "three axes": np.zeros((2, 2, 2), np.uint64)}
    others = {"a seed": 0, "floats": np.zeros(2), "a list": [0, 0], "a Tensor": Tensor([0, 0]), "text": "seed"}
    return {**ANYWHERE, **shapes, **others, "signed": np.zeros(2, np.int64)}


def function(arity: int) -> Bad:
    wrong = {"none": lambda: 0, "too many": lambda a, b, c, d, e, f, g: 0}
    return {
        **_without(ANYWHERE, "a type"),
        **wrong,
        "a number": 1,
        "text": "f",
        "a list": [abs],
        "a Tensor": Tensor(1.0),
    }


def instance() -> Bad:
    """Of an argument that takes instances of one class alone."""
    return {
        **ANYWHERE,
        "a number": 1,
        "text": "text",
        "NULs": NULS,
        "a dict": {},
        "a tuple": (),
        "an array": np.ones(2),
    }


def array(*wrong_shapes: tuple[int, ...]) -> Bad:
    shaped = {f"of shape {shape}": np.zeros(shape, np.float32) for shape in wrong_shapes}
    others = {"None": None, "a number": 1.0, "a list": [[1.0]], "text": "x", "strings": np.array([["a"]])}
    return {
        **ANYWHERE,
        **others,
        **shaped,
        "complex numbers": np.ones((1, 1), complex),
        "objects": np.array([object()]),
    }


def numbers(*wrong: Any) -> Bad:
    """Of a list of numbers."""
    listed = {f"{value!r:.40}": value for value in wrong}
    others = {"empty": [], "None": None, "a number": 1.0, "text": "123", "words": ["a"], "two axes": [[0.5]]}
    flags = {"bools": [True], "a range": range(10**12), "NaN": [math.nan], "a huge number": [10**400]}
    return {**ANYWHERE, **others, **flags, **listed, "a Tensor": Tensor([0.5]), "long": [0.5] * 10**6}


def tree() -> Bad:
    return {**ANYWHERE, "None": None, "a number": 1, "text": "x", "empty": {}, "another": {"a": Tensor([1.0])}}


def path() -> Bad:
    bytes_ = {"bytes": b"x", "empty": "", "white space": "  ", "NULs": NULS, "long": "x" * 10**5}
    return {**ANYWHERE, **bytes_, "a number": 1, "a list": ["x"], "a bool": False}


def mapping() -> Bad:
    return {**ANYWHERE, "None": None, "a number": 1, "text": "x", "a list": [1], "a set": {1}}


def schedule() -> Bad:
    return {**instance(), "None": None, "betas": px.schedule.linear()}


def grid() -> Bad:
    t = np.array([900.0, 0.0])
    made = px.schedule.grid(px.schedule.from_betas(px.schedule.linear()), [900, 500])
    broken = {
        "of Nones": px.Grid(None, None, None),
        "of text": px.Grid("a", "b", "c"),
        "of Tensors": px.Grid(*map(Tensor, (t, t, t))),
        "of NaN": made._replace(alpha=made.alpha * math.nan),
        "one node": px.Grid(*(nodes[:1] for nodes in made[:3])),
        "of another schedule": made._replace(schedule=5),
        "skipped": made._replace(skipped=-1),
    }
    return {**instance(), **broken, "None": None}


def optional(bad: Bad) -> Bad:
    return _without(bad, "None")


def also(bad: Bad, **more: Any) -> Bad:
    return {**bad, **more}


def _without(bad: Bad, *names: str) -> Bad:
    return {name: value for name, value in bad.items() if name not in names}


without = _without
