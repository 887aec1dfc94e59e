"""What one sees of a training: sheets from the same noise with the weights of the moment, and TensorBoard's events."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import pytest
from helpers import tiny
from helpers.tolerances import assert_close
from PIL import Image

import pixart_fn as px
from pixart_fn import tree
from pixart_fn.checkpoint import lora
from pixart_fn.train import optim, state, watch

PARAMS = tiny.params()
PROMPTS = ["a cat", "a dog", "a tree"]


def begin(params, ema=True):
    return state.init(params, optim.sgd(0.1), px.key(1), ema=optim.ema(0.5) if ema else None)


@pytest.fixture
def drawn(monkeypatch):
    """What `generate` is asked for; it draws a grey picture for each prompt."""
    seen = []

    def generate(params, prompts, key, **options):
        seen.append({"params": params, "prompts": prompts, "key": key.tolist(), **options})
        return [Image.new("RGB", (16, 16), (9 * len(seen),) * 3) for _ in prompts]

    monkeypatch.setattr(watch, "generate", generate)
    return seen


def test_sheets_are_drawn_every_so_many_steps(drawn, tmp_path):
    now = begin(PARAMS.transformer)
    see = watch.samples(PARAMS, PROMPTS, tmp_path / "samples", 3, steps=2, guidance=3.0)
    for step in range(1, 8):
        see(now.replace(step=step), {"loss": 1.0})
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step-0000003.png", "step-0000006.png"]
    assert [{name: each[name] for name in each if name != "params"} for each in drawn] == [
        {"prompts": PROMPTS, "key": px.key(0).tolist(), "steps": 2, "guidance": 3.0, "progress": False}
    ] * 2
    with Image.open(tmp_path / "samples" / "step-0000006.png") as sheet:
        assert sheet.size == (32, 32) and sheet.getpixel((0, 0)) == (18, 18, 18)


def test_they_are_drawn_with_the_average(drawn, tmp_path):
    now = begin(PARAMS.transformer)
    leaf = now.ema.leaves["proj_out"]["bias"]
    leaf += 1
    watch.samples(PARAMS, PROMPTS, tmp_path, 1, key=px.key(5))(now, {})
    used = drawn[0]["params"].transformer["proj_out"]["bias"].asnumpy()
    assert_close(used, PARAMS.transformer["proj_out"]["bias"].asnumpy() + 1)
    assert drawn[0]["params"].vae is PARAMS.vae and drawn[0]["key"] == px.key(5).tolist()


def test_an_adapter_is_merged():
    adapter = lora.init(px.key(2), PARAMS.transformer, lora.Config(rank=2, alpha=4.0))
    own = tree.map(lambda leaf: leaf + 0.1, adapter)  # it begins without an effect
    seen = watch.with_average(PARAMS, begin(own, ema=False)).transformer
    expected = lora.merge(PARAMS.transformer, own)
    name = "transformer_blocks.0.attn1.to_q.weight"
    ours, theirs = (dict(tree.items(each))[name].asnumpy() for each in (seen, expected))
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, dict(tree.items(PARAMS.transformer))[name].asnumpy())


def test_without_an_average_the_parameters_are_taken():
    now = begin(PARAMS.transformer, ema=False)
    assert watch.with_average(PARAMS, now).transformer is now.params


def test_events_are_written_where_tensorboard_is_installed(monkeypatch, tmp_path):
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            written.append("flushed")

    spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else spec(name))
    assert watch.tensorboard(tmp_path) is None
    module = types.ModuleType("tensorboard.summary")
    module.Writer = Writer
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "tensorboard.summary", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: module if name == "tensorboard" else spec(name))
    see = watch.tensorboard(tmp_path / "events")
    see(begin(PARAMS.transformer).replace(step=4), {"loss": 0.5, "norm": 2.0})
    assert written == [str(tmp_path / "events"), ("loss", 0.5, 4), ("norm", 2.0, 4), "flushed"]


def test_several_watches_are_one():
    seen = []
    both = watch.together(lambda now, metrics: seen.append(1), None, lambda now, metrics: seen.append(2))
    both(begin(PARAMS.transformer), {})
    assert seen == [1, 2]


def test_a_mistake_is_one_sentence(tmp_path):
    with pytest.raises(TypeError, match="prompts must be a list of at least one text"):
        watch.samples(PARAMS, "a cat", tmp_path, 1)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        watch.samples(PARAMS, PROMPTS, tmp_path, 0)
    with pytest.raises(TypeError, match="watches must be a function of"):
        watch.together(3)
