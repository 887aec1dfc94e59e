"""What compiles: one block of each kind a size; nothing for another prompt, seed, step count, scale or solver."""

from __future__ import annotations

import pytest
from helpers import tiny
from helpers.drawing import without_numpy

import pixart_fn as px
from pixart_fn.backend import jit

KEY = px.key(0)
BASE = {"steps": 3, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_numpy(monkeypatch)
        yield


@pytest.fixture(scope="module")
def params(compiled):
    """A model that has drawn once."""
    params = tiny.params()
    px.generate(params, "a cute cat", KEY, **BASE)
    return params


def new(params, prompt="a cute cat", key=KEY, **changes):
    """How many graphs another picture compiles."""
    before = jit.compilations()
    px.generate(params, prompt, key, **{**BASE, **changes})
    return jit.compilations() - before


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "the big dog runs"},
        {"key": px.key(7)},
        {"steps": 7},
        {"guidance": 2.0},
        {"guidance": lambda t: 1 + t / 500},
        {"negative_prompt": "a field"},
        {"solver": px.solvers.ddim()},
        {"solver": px.solvers.dpmpp_3m(), "steps": 5},
        {"solver": px.solvers.ddpm()},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_nothing_is_compiled_again(params, changes):
    assert new(params, **changes) == 0


def test_nothing_is_compiled_for_other_weights_of_the_same_shapes(params):
    """Such as those with a LoRA merged into them."""
    other = params.replace(transformer=px.tree.map(lambda leaf: leaf * 1.01, params.transformer))
    assert new(other) == 0


def test_a_new_size_compiles_one_block_of_each_kind(params):
    deeper = tiny.transformer.Config(**{**vars(tiny.TRANSFORMER), "num_layers": 5})
    small, large = (new(tiny.params(config), height=24, width=16) for config in (tiny.TRANSFORMER, deeper))
    assert 0 < large <= small <= 25
    assert new(params, height=24, width=16) == 0
