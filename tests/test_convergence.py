"""Orders of convergence on Gaussian data, whose ODE and SDE have known solutions: the order of every solver.

Everything is in λ from -2.5 to 2.5, where σ > 0. The data are N(0.3, 0.6²), so that the perfect denoiser is affine.
"""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from strategies import DETERMINISTIC, STOCHASTIC, gaussian
from tolerances import relative_error

from pixart_fn import rng, schedule, solvers
from pixart_fn.sample import iterate, sample
from pixart_fn.types import Grid, SolverState

MEAN, STD = 0.3, 0.6
pytestmark = pytest.mark.filterwarnings("ignore:.* may draw noise on this grid:UserWarning")
KEY = rng.key(0)


class Continuous:
    """A schedule with λ(t) = -t, known between the nodes."""

    ratio = np.exp([-4.0, 4.0])

    def time(self, lam):
        return -float(lam)

    def alpha(self, t):
        return 1 / np.hypot(1, np.exp(t))

    def sigma(self, t):
        return self.alpha(t) * np.exp(t)


NOISE = Continuous()


def exact(t):
    """(mean, standard deviation) of x_t."""
    alpha, sigma = NOISE.alpha(t), NOISE.sigma(t)
    return alpha * MEAN, np.hypot(alpha * STD, sigma)


def even(steps: int) -> Grid:
    t = np.linspace(2.5, -2.5, steps + 1)
    return Grid(t, NOISE.alpha(t), NOISE.sigma(t), NOISE)


def slope(counts, errors) -> float:
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


ORDERS = {
    "ddim": 1,
    "euler": 1,
    "dpm_multistep order 1": 1,
    "dpm_multistep order 3 heun": 2,  # half of the second difference is missing
    "dpmpp_3m": 3,
    "deis": 3,
    "dpm_singlestep order 3": 3,
    "dpm_singlestep order 3 heun": 3,
    "dpm_singlestep order 3 noise": 3,
    "lms": 4,
    "lms order 3": 3,
    "unipc full order": 3,  # predictor of order p, corrector of order p + 1
    "unipc full order bh1": 3,
    "unipc full order noise": 3,
    "unipc order 3": 4,
}
"""The others are of second order: with `lower_order_final`, UniPC-2 too, whose last step has an error of h²."""


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
def test_order_of_convergence(name):
    """From exact starting values: the first, lower-order steps of a multistep solver leave an error of h² for good."""
    x, counts, errors = np.array([[1.7], [-0.4], [0.6]]), (360, 720, 1440), []
    for steps in counts:
        grid, solver = even(steps), DETERMINISTIC[name]()
        mean, std = exact(grid.t)
        path = mean + std * (x - mean[0])[..., None] / std[0]
        state = solver.init(x)
        for i in range(steps):
            if i < 3:
                state = SolverState(path[..., i], state.history)
            state, _ = solver.step(KEY, gaussian(MEAN, STD, NOISE), grid, i, state)
        errors.append(np.linalg.norm(state.x - path[..., -1]))
    assert abs(slope(counts, errors) - ORDERS.get(name, 2)) < 0.25


WEAK = {
    "ddpm": 1,
    "ddpm fixed_large": 1,
    "ddim eta 0.5": 1,
    "ddim eta 1": 1,
    "euler_ancestral": 1,
    "sde order 1": 1,
    "sde singlestep": 1,  # the noise of a group's first stage isn't part of its last one's
}
"""The others are of second weak order, in their variance: the mean is exact from an exact mean."""


@pytest.mark.parametrize("name", sorted({*STOCHASTIC} - {"sa_solver"}))  # whose τ(t) is 0 on this grid
def test_weak_order_by_exact_moments(name):
    """A number is a vector: its mean, and its part of each random draw. No sampling, so no sampling error."""
    counts, errors = (120, 240, 480), []
    for steps in counts:
        grid, draws = even(steps), {}
        mean, std = exact(grid.t)

        def unit(key, x, draws=draws):
            """The same key, the same direction."""
            noise = np.zeros(x.shape)
            noise[0, 2 + draws.setdefault(key.tobytes(), len(draws))] = 1
            return noise

        def denoise(x, t):
            alpha, sigma = NOISE.alpha(t), NOISE.sigma(t)
            gain = alpha * STD**2 / np.hypot(alpha * STD, sigma) ** 2
            x0 = gain * x
            x0[0, 0] += MEAN - gain * alpha * MEAN
            return x0

        x = np.zeros((1, 2 * steps + 2))
        x[0, :2] = mean[0], std[0]
        with mock.patch.object(rng, "normal_like", unit):
            x = sample(KEY, denoise, STOCHASTIC[name](), grid, x)
        assert len(draws) >= steps - 1
        assert abs(x[0, 0] - mean[-1]) < 1e-13
        errors.append(abs(np.sum(x[0, 1:] ** 2) - std[-1] ** 2))
    assert abs(slope(counts, errors) - WEAK.get(name, 2)) < 0.25


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_steps_keep_their_tolerance(order):
    """The error follows the tolerance, and a third order takes fewer evaluations for a small one."""
    grid, x = even(1), np.array([[1.7, -0.4, 0.6]])
    mean, std = exact(grid.t)
    goal = mean[-1] + std[-1] / std[0] * (x - mean[0])
    work = []
    for rtol in (1e-2, 1e-3, 1e-4):
        (info,) = iterate(KEY, gaussian(MEAN, STD, NOISE), solvers.dpm_adaptive(order, rtol, rtol / 10), grid, x)
        assert relative_error(info.x, goal) < rtol
        work.append(info.evaluations)
    assert work == sorted(work) and work[-1] < 1000


def test_adaptive_steps_repeat_what_was_too_coarse():
    """A first step over everything is cut down until it meets the tolerance."""
    grid, x, taken = even(1), np.array([[1.7]]), []

    def denoise(x, t):
        taken.append(t)
        return gaussian(MEAN, STD, NOISE)(x, t)

    (info,) = iterate(KEY, denoise, solvers.dpm_adaptive(first=5.0, rtol=1e-4, atol=1e-5), grid, x)
    assert info.evaluations == len(taken) and taken[1] < taken[0]
    mean, std = exact(grid.t)
    assert relative_error(info.x, mean[-1] + std[-1] / std[0] * (x - mean[0])) < 1e-4


def test_second_order_pays():
    """What the method is for: at 20 steps its error is a small part of DDIM's."""
    noise = schedule.from_betas(schedule.linear())
    denoise, x = gaussian(MEAN, STD, noise), np.random.default_rng(0).standard_normal(64)
    fine = schedule.grid(noise, schedule.timesteps(noise, 900))
    coarse = schedule.grid(noise, schedule.timesteps(noise, 20))
    goal = sample(KEY, denoise, solvers.dpmpp_2m(), fine, x)
    first, second = (sample(KEY, denoise, s, coarse, x) for s in (solvers.ddim(), solvers.dpmpp_2m()))
    assert relative_error(second, goal) < 0.3 * relative_error(first, goal)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "heun", "deis"])
def test_inversion_round_trips(name):
    """To the noise of a picture and back: the error falls with the order, over the whole schedule."""
    noise = schedule.from_betas(schedule.linear())
    denoise, x, errors = gaussian(MEAN, STD, noise), np.linspace(-1, 1.5, 7)[None], []
    for steps in (40, 80, 160):
        ratios = schedule.uniform_lambda(noise, steps + 1)[:-1]
        grid = schedule.sigma_grid(noise, ratios, final="sigma_min")
        noisy = sample(KEY, denoise, DETERMINISTIC[name](), schedule.reverse(grid), x)
        assert abs(noisy.std() / (x.std() / np.hypot(STD * noise.alpha(0.0), noise.sigma(0.0))) - 1) < 0.1
        errors.append(relative_error(sample(KEY, denoise, DETERMINISTIC[name](), grid, noisy), x))
    assert errors[-1] < (0.03 if name == "ddim" else 1e-4) and errors[2] < errors[1] < errors[0]
