"""The examples in the docstring of px.solvers, a solver of one's own, and in CONTRIBUTING, a guidance of one's own."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import numpy as np
from helpers import tiny
from helpers.tolerances import assert_close

import pixart_fn as px


def test_the_solver_of_the_docstring_is_ddim():
    lines = inspect.getdoc(px.solvers).splitlines()
    indented = [i for i, line in enumerate(lines) if line.startswith("    ")]
    code = "\n".join(lines[indented[0] : indented[-1] + 1])
    space: dict = {}
    exec(textwrap.dedent(code), space)
    assert repr(space["mine"]()) == "mine()"
    expected = px.sample(px.key(0), lambda x, t: 0.9 * x, px.solvers.ddim(), space["grid"], space["noise"])
    assert np.array_equal(space["x"], expected)


def test_the_guidance_of_contributing_is_that_of_a_guidance():
    page = (Path(px.__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8")
    (code,) = re.findall(r"^  ```python\n(.*?)^  ```$", page, re.M | re.S)
    params = tiny.params()
    text, negative = px.encode_prompt(params, "a cute cat"), px.encode_prompt(params, "")
    space = {"px": px, "params": params, "text": text}
    exec(textwrap.dedent(code), space)
    expected = px.text_denoiser(params, text, negative, lambda t: 1 + t / 250)
    x, schedule = px.noise(params, px.key(0)), px.solvers.from_config(params.config.scheduler).schedule
    for t in (999.0, 250.0):
        # products of other sizes add in another order
        assert_close(space["denoise"](x, t).asnumpy(), expected(x, t).asnumpy(), 1e-5)
    grid = px.schedule.grid(schedule, [999, 500])
    assert np.isfinite(px.sample(px.key(0), space["denoise"], px.solvers.ddim(), grid, x).asnumpy()).all()
