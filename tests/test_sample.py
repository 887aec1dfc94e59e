"""The loop: what it yields, when it evaluates, and that no module of the mathematics needs MindSpore."""

from __future__ import annotations

import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.strategies import CONSISTENT, EVERY, ROUGH, gaussian, grids, keys, latents, one, schedules, shapes
from helpers.tolerances import assert_close
from hypothesis import given
from hypothesis import strategies as st

from pixart_fn import rng, schedule, solvers
from pixart_fn.sample import iterate, sample
from pixart_fn.types import Grid, Solver, StepInfo

pytestmark = pytest.mark.filterwarnings("ignore:.* may draw noise on this grid:UserWarning")
LINEAR = schedule.from_betas(schedule.linear())
GRID = schedule.grid(LINEAR, schedule.timesteps(LINEAR, 10))


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys)
def test_sample_is_the_end_of_iterate(data, name, shape, key):
    noise = data.draw(schedules())
    grid, x, denoise = data.draw(grids(schedule=noise)), latents(0, one(name, shape)), gaussian(0.3, 0.6, noise)
    infos = list(iterate(key, denoise, EVERY[name](), grid, x))
    assert len(infos) == len(grid.t) - 1
    assert [info.t for info in infos] == grid.t[:-1].tolist()
    assert np.array_equal(infos[-1].x, sample(key, denoise, EVERY[name](), grid, x))
    assert np.array_equal(infos[0].x0, denoise(x, grid.t[0]))


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys)
def test_a_saved_state_goes_on_as_if_uninterrupted(data, name, shape, key):
    """A state and its index are all that there is: the noise of a step depends on key and index alone."""
    noise = data.draw(schedules())
    grid, x, denoise = data.draw(grids(schedule=noise)), latents(0, one(name, shape)), gaussian(0.3, 0.6, noise)
    stop = data.draw(st.integers(0, len(grid.t) - 2))
    whole = list(iterate(key, denoise, EVERY[name](), grid, x))
    saved = pickle.loads(pickle.dumps(whole[stop].state))
    rest = list(iterate(key, denoise, EVERY[name](), grid, saved, start=stop + 1))
    assert len(rest) == len(whole) - stop - 1
    assert all(np.array_equal(one.x, other.x) for one, other in zip(rest, whole[stop + 1 :], strict=True))


def test_early_stop_evaluates_no_further():
    times = []

    def denoise(x, t):
        times.append(t)
        return x

    infos = list(islice(iterate(rng.key(0), denoise, solvers.dpmpp_2m(), GRID, np.ones((1, 1))), 3))
    assert len(infos) == 3 and times == GRID.t[:3].tolist()


@pytest.mark.parametrize("name", sorted({*EVERY} - {*CONSISTENT} - {*ROUGH}))
def test_the_tail_of_a_grid_starts_from_noised_data(name):
    """Image-to-image: with the data known, any strength leads back to it."""
    x0 = latents(0, (1, 2, 3, 3))
    for strength in (0.1, 0.5, 1):
        tail = schedule.truncate(GRID, strength)
        x = tail.alpha[0] * x0 + tail.sigma[0] * latents(1, x0.shape)
        assert_close(sample(rng.key(0), lambda x, t: x0, EVERY[name](), tail, x), x0)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"grid": [999, 500]}, TypeError, r"grid must be a Grid, as schedule.grid\(schedule, .*\) makes; got a list"),
        ({"grid": GRID.t}, TypeError, "makes; got an ndarray"),
        ({"grid": lambda steps: GRID}, TypeError, "makes; got a function"),
        ({"grid": GRID._replace(sigma=GRID.sigma[1:])}, ValueError, "must be arrays of one length, got shapes"),
        ({"grid": Grid([1.0, 0.0], [0.9, 1.0], [0.4, 0.0])}, ValueError, "must be arrays of one length"),
        ({"denoise": 0.5}, TypeError, r"denoise must be a function of \(x, t\), got a float"),
        ({"x": [1.0, 2.0]}, TypeError, "x must be an array, a Tensor or a SolverState, got a list"),
        (
            {"x": solvers.unipc().init(np.ones((1, 1)))},
            TypeError,
            r"x is a CorrectorState, the state of another method; ddim\(\) goes on from a MultistepState",
        ),
        ({"start": -1}, ValueError, "start must be 0 … 10, got -1; the nearest is 0"),
        ({"start": 11}, ValueError, "start must be 0 … 10, got 11; the nearest is 10"),
        ({"start": 0.5}, TypeError, "start must be a whole number, got a float"),
    ],
)
def test_what_is_no_argument_is_refused_before_the_first_step(change, error, sentence):
    arguments = {"denoise": lambda x, t: x, "solver": solvers.ddim(), "grid": GRID, "x": np.ones((1, 1)), **change}
    with pytest.raises(error, match=sentence):
        iterate(rng.key(0), **arguments)


class Own(NamedTuple):
    """The state of a solver of one's own."""

    x: np.ndarray


INFO = StepInfo(np.ones((1, 1)), np.ones((1, 1)), 0.0, 1.0, 0.0, 1)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (None, "None"),
        (INFO, "a StepInfo"),
        (Own(np.ones((1, 1))), "an Own"),
        (np.ones((2, 1)), "an ndarray"),
        ((np.ones((1, 1)), INFO), r"\(an ndarray, a StepInfo\)"),
        ((INFO, Own(np.ones((1, 1)))), r"\(a StepInfo, an Own\)"),
        ((Own(np.ones((1, 1))), INFO, 0), r"\(an Own, a StepInfo, an int\)"),
    ],
)
def test_a_step_that_returns_something_else_is_one_sentence(returned, got):
    sentence = r"must return \(state, StepInfo\), where the state is a NamedTuple whose field x is the sample; got "
    for name, start in (("", "step of the solver "), ("mine()", r"step of mine\(\) ")):
        solver = Solver(Own, lambda *arguments: returned, name)
        with pytest.raises(TypeError, match=f"^{start}{sentence}{got}$"):
            sample(rng.key(0), lambda x, t: x, solver, GRID, np.ones((1, 1)))


def test_a_state_without_a_sample_is_one_sentence():
    solver = solvers.ddim()._replace(init=lambda x: [x])
    with pytest.raises(TypeError, match=r"^init of ddim\(\) must return a NamedTuple whose field x is .*, got a list$"):
        iterate(rng.key(0), lambda x, t: x, solver, GRID, np.ones((1, 1)))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_no_other_solver_takes_a_learned_variance(name):
    sentence = r"^denoise gives \(x0, variance\), which only px.solvers.ddpm\('learned_range'\) takes; "
    with pytest.raises(TypeError, match=sentence):
        sample(rng.key(0), lambda x, t: (x, x), EVERY[name](), GRID, np.ones((1, 1)))
    sample(rng.key(0), lambda x, t: (x, x), solvers.ddpm("learned_range"), GRID, np.ones((1, 1)))


def test_starting_at_the_end_takes_no_step():
    assert list(iterate(rng.key(0), lambda x, t: x, solvers.ddim(), GRID, np.ones((1, 1)), start=10)) == []


def test_the_mathematics_and_its_tests_need_no_mindspore():
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
sys.modules["mindspore"] = None
import pixart_fn as px
import test_convergence, test_guidance, test_sample, test_schedule, test_solvers
noise, make_grid, solver, wrap = px.solvers.from_config({{"_class_name": "DDPMScheduler", "clip_sample": False}})
denoise = px.guidance.denoiser(lambda x, t: 0.5 * x, noise)
denoise = px.guidance.guided([4.5], denoise, px.guidance.both(denoise, denoise))
px.sample(px.key(0), wrap(denoise), solver, make_grid(2), px.rng.normal(px.key(0), (1, 2)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
