"""Denoisers that wrap another: exact outside a mask whatever the solver, and the mean where windows overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.strategies import EVERY, gaussian, latents
from helpers.tolerances import assert_close

from pixart_fn import edit, rng, schedule, solvers
from pixart_fn.sample import iterate, sample
from pixart_fn.types import VarianceSolver

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

pytestmark = pytest.mark.filterwarnings("ignore:.* may draw noise on this grid:UserWarning")
LINEAR = schedule.from_betas(schedule.linear())
Z, NOISE = latents(0, (1, 2, 4, 6)), latents(1, (1, 2, 4, 6))
MASK = np.zeros((1, 1, 4, 6), bool)
MASK[..., :3] = True
OUTSIDE = np.broadcast_to(~MASK, Z.shape)
NEARLY = {
    "lcm": 1e-6,  # its consistency function at the last node keeps 2e-7 of x
    "sa_solver sde epsilon": np.inf,  # it extrapolates ε, which its own noise changes from node to node
}
"""Solvers that don't end at z itself, where `inpaint` puts it."""


def perfect(solver):
    """Knows a picture of mean 0.3, mixed with its neighbours, so that the inside depends on the outside."""
    denoise = gaussian(0.3, 0.6, LINEAR)

    def mixing(x, t):
        x0 = denoise(0.5 * (x + np.roll(x, 1, 3)), t)
        return (x0, 0 * x0) if isinstance(solver, VarianceSolver) else x0

    return mixing


@pytest.mark.parametrize("final", schedule.FINALS)
@pytest.mark.parametrize("name", sorted(EVERY))
def test_outside_the_mask_every_solver_keeps_the_noised_picture(name, final):
    solver = EVERY[name]()
    grid = schedule.truncate(schedule.grid(LINEAR, schedule.timesteps(LINEAR, 10), final=final), 0.8)
    denoise = edit.masked(perfect(solver), Z, MASK)
    start = grid.alpha[0] * Z + grid.sigma[0] * NOISE
    infos, others = (list(iterate(rng.key(i), denoise, solver, grid, start)) for i in range(2))
    if np.array_equal(infos[-1].x, others[-1].x):  # deterministic
        for info, alpha, sigma in zip(infos, grid.alpha[1:], grid.sigma[1:], strict=True):
            assert np.abs(info.x - (alpha * Z + sigma * NOISE))[OUTSIDE].max() < 1e-9
    if final == "zero":
        assert np.abs(infos[-1].x - Z)[OUTSIDE].max() < NEARLY.get(name, 1e-9)
    free = sample(rng.key(0), perfect(solver), solver, grid, start)
    assert np.abs(infos[-1].x - free)[~OUTSIDE].max() > 1e-3  # what is inside sees what is kept


def test_masked_is_the_formula_on_arrays_and_tensors():
    soft = np.linspace(0, 1, 24, dtype=np.float32).reshape(1, 1, 4, 6)
    x = latents(2, (3, 2, 4, 6), np.float32)
    expected = soft * (2 * x) + (1 - soft) * Z
    denoise = edit.masked(lambda x, t: x * 2.0, Z, soft)
    assert_close(denoise(x, 5.0), expected)
    assert denoise(x, 5.0).dtype == np.float32
    assert_close(denoise(Tensor(x), 5.0).asnumpy(), expected)
    x0, variance = edit.masked(lambda x, t: (x * 2.0, x), Z, soft)(x, 5.0)
    assert_close(x0, expected)
    assert np.array_equal(variance, x)


def mean_of_windows(model, x, h, w, places, weights=1.0):
    total, covered = np.zeros(x.shape), np.zeros(x.shape[2:])
    for i, j in places:
        total[:, :, i : i + h, j : j + w] += weights * model(x[:, :, i : i + h, j : j + w])
        covered[i : i + h, j : j + w] += weights
    return total / covered


def model(x):
    """What depends on where a place lies in its window."""
    return x * np.cumsum(np.ones(x.shape[2:]), 1).astype(x.dtype) + x.mean((1, 2, 3), keepdims=True)


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_windows_agree_by_their_formula(at_once):
    x = latents(3, (2, 3, 5, 9))
    calls = []

    def denoise(x, t):
        calls.append(len(x))
        return model(x)

    places = list(itertools.product((0, 2), (0, 2, 4, 5)))  # the last ones end at the edge
    made = edit.windows(denoise, (3, 4), 2, at_once=at_once)
    assert_close(made(x, 5.0), mean_of_windows(model, x, 3, 4, places))
    assert sum(calls) == 2 * len(places) and max(calls) == 2 * min(at_once, len(places))
    weights = np.outer([1, 2, 1], [1, 3, 3, 1])
    weighted = edit.windows(denoise, (3, 4), 2, at_once=at_once, weights=weights)
    assert_close(weighted(x, 5.0), mean_of_windows(model, x, 3, 4, places, weights))


def test_the_mean_of_x0_is_the_mean_of_epsilon():
    x, (alpha, sigma) = latents(4, (1, 3, 5, 9)), (0.6, 0.8)
    x0 = edit.windows(lambda x, t: model(x), (3, 4), (1, 3))(x, 5.0)
    epsilon = edit.windows(lambda x, t: (x - alpha * model(x)) / sigma, (3, 4), (1, 3))(x, 5.0)
    assert_close(x0, (x - sigma * epsilon) / alpha)


def test_a_window_that_covers_everything_is_the_denoiser_itself():
    x = latents(5, (1, 3, 5, 9), np.float32)
    assert np.array_equal(edit.windows(lambda x, t: model(x), 16, 8)(x, 5.0), model(x))


def test_windows_give_tensors_for_tensors_and_keep_the_variance():
    x = latents(6, (1, 3, 5, 9), np.float32)
    expected = edit.windows(lambda x, t: 2 * x, 4, 2)(x, 5.0)
    x0, variance = edit.windows(lambda x, t: (2 * x, -x), 4, 2)(Tensor(x), 5.0)
    assert_close(x0.asnumpy(), expected)
    assert_close(variance.asnumpy(), -x)


def test_a_perfect_denoiser_draws_the_same_in_windows():
    """One that looks at each place alone can't tell."""
    x = latents(7, (1, 2, 6, 10))
    grid = schedule.grid(LINEAR, schedule.timesteps(LINEAR, 10))
    denoise = gaussian(0.3, 0.6, LINEAR)
    expected = sample(rng.key(0), denoise, solvers.dpmpp_2m(), grid, x)
    assert_close(sample(rng.key(0), edit.windows(denoise, 4, 3), solvers.dpmpp_2m(), grid, x), expected)


@pytest.mark.parametrize("made", [lambda f: edit.masked(f, Z, MASK), lambda f: edit.windows(f, (4, 3), 2)])
def test_what_a_denoiser_sees_and_gives_is_checked(made):
    for given in (lambda x: x[:, :1], lambda x: None, lambda x: (x, x[:, :1])):
        with pytest.raises(TypeError, match=r"denoise must give x0, or \(x0, variance\), of the shape \(1, 2, 4, \d\)"):
            made(lambda x, t, given=given: given(x))(NOISE, 1.0)
    for x in (NOISE[0], [1.0]):
        with pytest.raises(ValueError, match="x_t must have the shape"):
            made(lambda x, t: x)(x, 1.0)
