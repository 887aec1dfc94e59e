"""Examples run: a solver and a guidance of one's own, in docstrings and in CONTRIBUTING, and the training of a page."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from helpers.tolerances import assert_close

import pixart_fn as px


def examples(module) -> list[str]:
    """The indented blocks of a module's docstring."""
    blocks = re.findall(r"^    .*(?:\n(?:    .*)?)*", inspect.getdoc(module), re.M)
    return [textwrap.dedent(block) for block in blocks]


def contributing() -> str:
    """The one block of Python in CONTRIBUTING."""
    page = (Path(px.__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8")
    (code,) = re.findall(r"^  ```python\n(.*?)^  ```$", page, re.M | re.S)
    return textwrap.dedent(code)


def test_the_solver_of_the_docstring_is_ddim():
    space: dict = {}
    (code,) = examples(px.solvers)
    exec(code, space)
    assert repr(space["mine"]()) == "mine()"
    expected = px.sample(px.key(0), lambda x, t: 0.9 * x, px.solvers.ddim(), space["grid"], space["noise"])
    assert np.array_equal(space["x"], expected)


@pytest.mark.parametrize("code", [examples(px.guidance)[0], contributing()], ids=["docstring", "contributing"])
def test_a_guidance_of_one_s_own_is_that_of_a_guidance(code):
    params = tiny.params()
    text, negative = px.encode_prompt(params, "a cute cat"), px.encode_prompt(params, "")
    space = {"px": px, "params": params, "text": text}
    exec(code, space)
    expected = px.text_denoiser(params, text, negative, lambda t: 1 + t / 250)
    x, schedule = px.noise(params, px.key(0)), px.solvers.from_config(params.config.scheduler).schedule
    for t in (999.0, 250.0):
        # products of other sizes add in another order
        assert_close(space["denoise"](x, t).asnumpy(), expected(x, t).asnumpy(), 1e-5)
    grid = px.schedule.grid(schedule, [999, 500])
    assert np.isfinite(px.sample(px.key(0), space["denoise"], px.solvers.ddim(), grid, x).asnumpy()).all()


def test_the_auto_guidance_of_the_docstring_moves_away_from_the_weaker_model():
    params = tiny.params()
    text = px.encode_prompt(params, "a cute cat")
    first, second = examples(px.guidance)
    weak = params.replace(transformer=px.tree.map(lambda leaf: 0.9 * leaf, params.transformer))
    space = {"px": px, "params": params, "text": text, "weaker_params": weak}
    exec(first, space)
    exec(second, space)
    x = px.noise(params, px.key(0))
    good, poor, guided = (space[name](x, 500.0).asnumpy() for name in ("conditional", "weaker", "denoise"))
    assert_close(guided, good + 2 * (good - poor), 1e-5)
    assert_close(space["denoise"](x, 900.0).asnumpy(), space["conditional"](x, 900.0).asnumpy(), 1e-5)


def test_the_training_of_the_page_takes_a_step(monkeypatch):
    page = (Path(px.__file__).parents[1] / "notebooks/howto/train_in_python.md").read_text("utf-8")
    (code,) = (each for each in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "make_step" in each)
    params = tiny.params()
    random = np.random.default_rng(0)
    text = px.Text(random.standard_normal((16, 4, 32)).astype(np.float32), np.ones((16, 4), np.int32))
    latents = random.standard_normal((16, 4, 8, 8)).astype(np.float32)
    dataset = px.train.data.arrays(latents, text, null=px.Text(text.states[:1], text.mask[:1]))
    monkeypatch.setattr(px, "load", lambda: params)
    monkeypatch.setattr(px.train.data.prepared, "open", lambda folder: dataset)
    space: dict = {}
    exec(code, space)
    assert space["state"].step == 1 and 0 < space["metrics"]["loss"] < 100
