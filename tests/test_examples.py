"""The examples of a solver and of a guidance of one's own, in docstrings and in CONTRIBUTING, run."""

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


def example(module) -> str:
    """The indented lines of a module's docstring."""
    lines = inspect.getdoc(module).splitlines()
    indented = [i for i, line in enumerate(lines) if line.startswith("    ")]
    return textwrap.dedent("\n".join(lines[indented[0] : indented[-1] + 1]))


def contributing() -> str:
    """The one block of Python in CONTRIBUTING."""
    page = (Path(px.__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8")
    (code,) = re.findall(r"^  ```python\n(.*?)^  ```$", page, re.M | re.S)
    return textwrap.dedent(code)


def test_the_solver_of_the_docstring_is_ddim():
    space: dict = {}
    exec(example(px.solvers), space)
    assert repr(space["mine"]()) == "mine()"
    expected = px.sample(px.key(0), lambda x, t: 0.9 * x, px.solvers.ddim(), space["grid"], space["noise"])
    assert np.array_equal(space["x"], expected)


@pytest.mark.parametrize("code", [example(px.guidance), contributing()], ids=["docstring", "contributing"])
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
