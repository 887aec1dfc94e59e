"""The first calls of small blocks, which aren't compiled yet, give the bits of the graphs: in every call of a block."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import without_numpy
from helpers.trees import normal

import pixart_fn as px
from pixart_fn import schedule, tree
from pixart_fn.backend import jit
from pixart_fn.train import losses, objective
from pixart_fn.train.batch import Batch

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

KEY = px.key(0)
OPTIONS = {"steps": 2, "progress": False}


@pytest.fixture
def compared(monkeypatch):
    """Every block that runs is run both ways and compared; how many were is listed by name."""
    without_numpy(monkeypatch)
    seen: dict[str, int] = {}
    real = jit._Graphs.__call__

    def both(self, *inputs):
        if not self.early:
            return real(self, *inputs)
        first, compiled = self.f(*inputs), real(self, *inputs)
        ours, theirs = ([leaf.asnumpy() for leaf in tree.leaves(each)] for each in (first, compiled))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        seen[self.f.__name__] = seen.get(self.f.__name__, 0) + 1
        return compiled

    monkeypatch.setattr(jit._Graphs, "__call__", both)
    return seen


def names(seen):
    return {name.partition("(")[0].removeprefix("pixart_fn.") for name in seen}


def test_a_guided_picture(compared):
    px.generate(tiny.params(), ["a cute cat", "the big dog"], KEY, negative_prompt="a field", **OPTIONS)
    assert len(names(compared)) > 8 and sum(compared.values()) > 30


def test_with_sizes_as_conditions_and_a_perturbed_guidance(compared):
    guidance = px.Guidance(3.0, pag_scale=1.0)
    px.generate(tiny.params(tiny.MICRO), "a cute cat", KEY, guidance=guidance, **OPTIONS)
    assert compared


def test_pictures_to_latents_and_back(compared):
    params = tiny.params()
    pictures = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    px.decode_latents(params, px.encode_image(params, pictures))
    assert sum(compared.values()) > 12


def test_in_halves(compared):
    params = tiny.params()
    text = px.encode_prompt(params, ["a cute cat"])
    weights = tree.map(lambda leaf: leaf.astype(ms.float16), params.transformer)
    px.sample_latents(params.replace(transformer=weights), text, KEY, **OPTIONS)
    assert sum(compared.values()) > 12


@pytest.mark.parametrize(("dtype", "recompute"), [("float32", True), ("float32", False), ("float16", True)])
def test_the_gradient_of_a_training_loss(compared, dtype, recompute):
    config = tiny.TRANSFORMER
    batch = Batch(normal(0, 2, 4, 8, 8), px.Text(normal(1, 2, 3, config.caption_channels), np.ones((2, 3), np.int32)))
    loss = losses.diffusion(schedule.from_betas(schedule.linear()), learned_variance=True)
    f = objective.of_transformer(config, loss, dtype=dtype, recompute=recompute)
    px.value_and_grad(f, has_aux=True)(tiny.params().transformer, batch, KEY)
    assert any(name.startswith("gradient of" if recompute else "kept gradient of") for name in compared)


def test_the_gradients_of_a_text_and_of_a_picture(compared):
    params = tiny.params()
    text = px.encode_prompt(params, ["a cute cat"])
    px.grad(lambda states: px.sample_latents(params, px.Text(states, text.mask), KEY, steps=1).mean())(text.states)
    px.grad(lambda z: px.decode_latents(params, z).mean())(px.noise(params, KEY))
    assert any(name.startswith("gradient of") for name in compared) and sum(compared.values()) > 20


def own():
    """A function of its own, which MindSpore knows by its name."""

    def add(p, x):
        return x + p

    return add


def test_gradients_are_compiled_after_fewer_calls(monkeypatch):
    monkeypatch.setattr(jit, "FIRST_CALLS", 8)
    graphs, before, counts = jit._Graphs(own(), "a gradient", jit.GRADIENT), jit.compilations(), []
    for _ in range(3):
        graphs(ms.Tensor(np.ones(1, np.float32)), ms.Tensor(np.ones(5, np.float32)))
        counts.append(jit.compilations() - before)
    assert counts == [0, 0, 1]


@pytest.mark.parametrize(("numbers", "first"), [(jit.SMALL, True), (jit.SMALL + 1, False)])
def test_what_is_small_is_compiled_after_some_calls_and_all_else_at_once(monkeypatch, numbers, first):
    monkeypatch.setattr(jit, "FIRST_CALLS", 2)
    graphs = jit._Graphs(own(), f"sum of {numbers}")
    p, x = ms.Tensor(np.ones(1, np.float32)), ms.Tensor(np.zeros(numbers - 1, np.float32))
    before = jit.compilations()
    counts = []
    for _ in range(4):
        assert graphs(p, x).asnumpy()[-1] == 1
        counts.append(jit.compilations() - before)
    assert counts == ([0, 0, 1, 1] if first else [1, 1, 1, 1])


def test_another_shape_counts_anew_and_what_needs_a_graph_is_compiled(monkeypatch):
    monkeypatch.setattr(jit, "FIRST_CALLS", 1)
    graphs, p = jit._Graphs(own(), "a sum"), ms.Tensor(np.ones(1, np.float32))
    before = jit.compilations()
    for n in (2, 3):
        graphs(p, ms.Tensor(np.ones(n, np.float32)))
    assert jit.compilations() == before
    jit._Graphs(own(), "another sum", early=0)(p, ms.Tensor(np.ones(4, np.float32)))
    assert jit.compilations() == before + 1


@pytest.mark.slow
def test_the_embedded_checkpoint(compared):
    params = px.load()
    picture = px.generate(params, "a cat", KEY, **OPTIONS)
    px.encode_image(params, np.asarray(picture)[None] / np.float32(255))
    assert len(names(compared)) > 12
