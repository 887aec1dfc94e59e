"""The loop: what it yields, when it evaluates, and that no module of the mathematics needs MindSpore."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import EVERY, gaussian, grids, keys, latents, schedules, shapes

import pixart_fn
from pixart_fn import rng, schedule, solvers
from pixart_fn.sample import iterate, sample

LINEAR = schedule.from_betas(schedule.linear())
GRID = schedule.grid(LINEAR, schedule.timesteps(LINEAR, 10))


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys)
def test_sample_is_the_end_of_iterate(data, name, shape, key):
    noise = data.draw(schedules())
    grid, x, denoise = data.draw(grids(noise=noise)), latents(0, shape), gaussian(0.3, 0.6, noise)
    infos = list(iterate(key, denoise, EVERY[name](), grid, x))
    assert len(infos) == len(grid.t) - 1
    assert [info.t for info in infos] == grid.t[:-1].tolist()
    assert np.array_equal(infos[-1].x, sample(key, denoise, EVERY[name](), grid, x))
    assert np.array_equal(infos[0].x0, denoise(x, grid.t[0]))


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys)
def test_a_saved_state_goes_on_as_if_uninterrupted(data, name, shape, key):
    """A state and its index are all that there is: the noise of a step depends on key and index alone."""
    noise = data.draw(schedules())
    grid, x, denoise = data.draw(grids(noise=noise)), latents(0, shape), gaussian(0.3, 0.6, noise)
    stop = data.draw(st.integers(0, len(grid.t) - 1))
    solver = EVERY[name]()
    state = solver.init(x)
    for i in range(stop):
        state, _ = solver.step(key, denoise, grid, i, state)
    saved = tuple(np.copy(value) for value in (state.x, *state.history))
    state = type(state)(saved[0], saved[1:])
    for i in range(stop, len(grid.t) - 1):
        state, _ = EVERY[name]().step(key, denoise, grid, i, state)
    assert np.array_equal(state.x, sample(key, denoise, solver, grid, x))


def test_early_stop_evaluates_no_further():
    times = []

    def denoise(x, t):
        times.append(t)
        return x

    infos = list(islice(iterate(rng.key(0), denoise, solvers.dpmpp_2m(), GRID, np.ones((1, 1))), 3))
    assert len(infos) == 3 and times == GRID.t[:3].tolist()


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_tail_of_a_grid_starts_from_noised_data(name):
    """Image-to-image: with the data known, any strength leads back to it."""
    x0 = latents(0, (1, 2, 3, 3))
    for strength in (0.1, 0.5, 1):
        tail = schedule.truncate(GRID, strength)
        x = tail.alpha[0] * x0 + tail.sigma[0] * latents(1, x0.shape)
        assert np.array_equal(sample(rng.key(0), lambda x, t: x0, EVERY[name](), tail, x), x0)


def test_the_mathematics_needs_no_mindspore():
    """Without the package's own __init__, which is free to import what it likes."""
    code = f"""
import sys, types
package = types.ModuleType("pixart_fn")
package.__path__ = {[str(Path(pixart_fn.__file__).parent)]!r}
sys.modules["pixart_fn"] = package
import numpy as np
from pixart_fn import guidance, rng, schedule, solvers
from pixart_fn.sample import sample
noise, make_grid, solver = solvers.from_config({{"_class_name": "DDPMScheduler", "clip_sample": False}})
denoise = guidance.denoiser(lambda x, t: 0.5 * x, noise)
denoise = guidance.classifier_free(guidance.both(denoise, denoise), [4.5])
sample(rng.key(0), denoise, solver, make_grid(2), rng.normal(rng.key(0), (1, 2)))
assert not [name for name in sys.modules if name.split(".")[0] == "mindspore"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
