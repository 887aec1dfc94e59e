"""Orders of convergence on Gaussian data, whose ODE and SDE have known solutions: the order of every solver.

Everything is in λ from -2.5 to 2.5, where σ > 0. The data are N(0.3, 0.6²), so that the perfect denoiser is affine.
"""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from helpers.strategies import DETERMINISTIC, STOCHASTIC, gaussian
from helpers.tolerances import relative_error

from pixart_fn import rng, schedule, solvers, testing
from pixart_fn.sample import iterate, sample
from pixart_fn.solvers import adaptive

MEAN, STD = 0.3, 0.6
pytestmark = pytest.mark.filterwarnings("ignore:.* may draw noise on this grid:UserWarning")
KEY = rng.key(0)


NOISE = testing.lambda_grid(1).schedule


def exact(t):
    """(mean, standard deviation) of x_t."""
    alpha, sigma = NOISE.alpha(t), NOISE.sigma(t)
    return alpha * MEAN, np.hypot(alpha * STD, sigma)


ORDERS = {
    "ddim": 1,
    "euler": 1,
    "dpm_multistep order 1": 1,
    "dpm_multistep order 3 heun": 2,  # half of the second difference is missing
    "dpmpp_3m": 3,
    "deis": 3,
    "dpm_singlestep order 3": 3,
    "dpm_singlestep order 3 heun": 3,
    "dpm_singlestep order 3 epsilon": 3,
    "lms": 4,
    "lms order 3": 3,
    "unipc full order": 3,  # predictor of order p, corrector of order p + 1
    "unipc full order bh1": 3,
    "unipc full order epsilon": 3,
    "unipc order 3": 4,
}
"""The others are of second order: with `lower_order_final`, UniPC-2 too, whose last step has an error of h²."""


EVEN_ALONE = {
    "pndm": 1,
    "pndm runge_kutta": 1,
    "dpm_singlestep order 3": 2,
    "dpm_singlestep order 3 heun": 2,
    "dpm_singlestep order 3 epsilon": 2,
}
"""Of methods whose formulas are those of even steps, and their lower order where every second step is twice as long."""
COUNTS = {"dpm_singlestep order 3": (480, 960)}
"""More, where errors of two signs cancel on the way."""


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
def test_order_of_convergence(name):
    def order(lengths):
        return testing.convergence(DETERMINISTIC[name](), COUNTS.get(name, (120, 240)), lengths=lengths).order

    even = ORDERS.get(name, 2)
    assert abs(order((1.0,)) - even) < 0.25
    assert abs(order((1.0, 2.0)) - EVEN_ALONE.get(name, even)) < 0.25


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


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_weak_order_by_exact_moments(name):
    measured = testing.convergence(STOCHASTIC[name](), (120, 240), stochastic=True, lengths=(1.0,))
    assert abs(measured.order - WEAK.get(name, 2)) < 0.25


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_steps_keep_their_tolerance(order):
    """The error follows the tolerance, and a third order takes fewer evaluations for a small one."""
    grid, x = testing.lambda_grid(1), np.array([[1.7, -0.4, 0.6]])
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
    grid, x, taken = testing.lambda_grid(1), np.array([[1.7]]), []

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
        rhos = schedule.uniform_lambda(noise, steps + 1)[:-1]
        grid = schedule.rho_grid(noise, rhos, final="sigma_min")
        noisy = sample(KEY, denoise, DETERMINISTIC[name](), schedule.reverse(grid), x)
        assert abs(noisy.std() / (x.std() / np.hypot(STD * noise.alpha(0.0), noise.sigma(0.0))) - 1) < 0.1
        errors.append(relative_error(sample(KEY, denoise, DETERMINISTIC[name](), grid, noisy), x))
    assert errors[-1] < (0.03 if name == "ddim" else 1e-4) and errors[2] < errors[1] < errors[0]


# --- options of one step, by exact moments


def moments_of_a_step(solver, denoise, grid, i=0, x=2.0):
    """(mean, variance) of x after step i from a number: the noise of each key is a direction of its own."""
    draws = {}

    def unit(key, x):
        noise = np.zeros(x.shape)
        noise[0, 1 + draws.setdefault(key.tobytes(), len(draws))] = 1
        return noise

    start = np.array([[x, 0.0, 0.0, 0.0]])
    with mock.patch.object(rng, "normal_like", unit):
        state, _ = solver.step(KEY, denoise, grid, i, solver.init(start))
    return state.x[0, 0], np.sum(state.x[0, 1:] ** 2)


LINEAR = schedule.from_betas(schedule.linear())


@pytest.mark.parametrize("s_noise", [1.0, 1.1, 0.0])
@pytest.mark.parametrize(("churn", "gamma"), [(0.6, 0.2), (1.2, 0.4), (3.0, 2**0.5 - 1)])
def test_churn_by_hand(churn, gamma, s_noise):
    """EDM's algorithm 2 on x0 = g x̃, a Gaussian's slope, from ρ = 2 to 1: one step of three."""
    grid = schedule.rho_grid(LINEAR, [2.0, 1.0, 0.5])
    g = 0.3

    def denoise(x, t):
        return g * x / LINEAR.alpha(t)

    hat = 2.0 * (1 + gamma)
    added = s_noise**2 * (hat**2 - 4.0)
    slope = (1 - g) / hat  # d = (x̃ - x0)/ρ = slope · x̃
    euler = 1 + (1.0 - hat) * slope
    factor = 1 + (1.0 - hat) * 0.5 * (slope + (1 - g) / 1.0 * euler)
    start, end = grid.alpha[:2]
    mean, variance = moments_of_a_step(solvers.heun(churn, s_noise=s_noise), denoise, grid)
    assert mean == pytest.approx(2.0 * factor * end / start, rel=1e-9)
    assert variance == pytest.approx(added * (factor * end) ** 2, rel=1e-9, abs=1e-15)


def test_churn_keeps_to_its_range():
    """Both ends of the range are within it; at the schedule's end ρ can't grow."""
    grid = schedule.rho_grid(LINEAR, [2.0, 1.0])
    rho = grid.sigma[0] / grid.alpha[0]
    plain = moments_of_a_step(solvers.heun(), lambda x, t: 0.3 * x, grid)
    for low, high, churned in ((rho, rho, True), (rho + 1e-9, 9.0, False), (0.0, rho - 1e-9, False)):
        got = moments_of_a_step(solvers.heun(0.5, low, high), lambda x, t: 0.3 * x, grid)
        assert (got[1] > 0) == churned
        assert churned or got == plain
    first = schedule.grid(LINEAR, [999, 500])
    mean, variance = moments_of_a_step(solvers.heun(0.5), lambda x, t: 0.3 * x, first)
    assert variance < 1e-12 and mean == pytest.approx(moments_of_a_step(solvers.heun(), lambda x, t: 0.3 * x, first)[0])


@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (1.0, 1.2), (0.5, 0.7), (0.0, 1.0), (1.0, 0.0)])
def test_brownian_midpoint_by_hand(eta, s_noise):
    """k-diffusion's DPM-Solver++ (SDE) with r = 1/2 on x0 = g x̃, from ρ = 4 to 1, whose middle is 2."""
    grid, g = schedule.rho_grid(LINEAR, [4.0, 1.0]), 0.3

    def share(end):
        up = min(end, eta * (end**2 * (16 - end**2) / 16) ** 0.5)
        return (end**2 - up**2) ** 0.5 / 4.0, up * s_noise

    def denoise(x, t):
        return g * x / LINEAR.alpha(t)

    (early, noise_early), (late, noise_late) = share(2.0), share(1.0)
    middle = early + (1 - early) * g
    mean = late + (1 - late) * g * middle
    w = (2 / 3) ** 0.5  # of the whole path from 4 to 1, the first part goes to 2
    first = (1 - late) * g * noise_early + noise_late * w
    start, end = grid.alpha[:2]
    got = moments_of_a_step(solvers.dpmpp_sde(eta, s_noise), denoise, grid)
    assert got[0] == pytest.approx(2.0 * mean * end / start, rel=1e-9)
    assert got[1] == pytest.approx((first**2 + noise_late**2 * (1 - w * w)) * end**2, rel=1e-9, abs=1e-15)


# --- the adaptive steps' error, by hand


def test_the_error_norm_by_hand():
    """‖(high - low)/max(atol, rtol · max(|low|, |previous|))‖ over √n (k-diffusion's dpm_solver_adaptive)."""
    low, high, previous = (np.array([values]) for values in ([1.0, -4.0, 0.1], [1.2, -4.4, 0.1], [-2.0, 1.0, 0.0]))
    expected = (((0.2 / 0.2) ** 2 + (0.4 / 0.4) ** 2 + 0.0) / 3) ** 0.5

    def error(rtol, atol):
        return adaptive._error(low, high, previous, adaptive.Tolerance(3, rtol, atol))

    assert error(0.1, 0.05) == pytest.approx(expected, rel=1e-12)
    assert error(0.0, 0.5) == pytest.approx(((0.4**2 + 0.8**2) / 3) ** 0.5, rel=1e-12)
    assert error(0.01, 1.0) == pytest.approx((0.2 / 3) ** 0.5, rel=1e-12)


@pytest.mark.parametrize(("d", "accepted"), [(0.3, False), (0.1, True), (0.0, True)])
def test_steps_are_accepted_and_rejected_by_hand(d, accepted):
    """DPM-Solver-12 from ρ = 8, first to 2 with 4 in the middle, where x0 is d and elsewhere 0.

    Its two results differ by α (8 - 2) d/4; a step's length is multiplied by min(10, 0.9 error^(-1/2)).
    """
    grid, times = schedule.rho_grid(LINEAR, [8.0, 0.05], final="sigma_min"), []

    def denoise(x, t):
        times.append(t)
        return np.full_like(x, d if len(times) == 2 else 0.0)

    solver = solvers.dpm_adaptive(2, rtol=0.0, atol=0.1, first=math.log(4.0))
    _, info = solver.step(KEY, denoise, grid, 0, solver.init(np.array([[3.0]])))
    error = 6.0 * d / 4.0 / 5**0.5 / 0.1
    assert (error <= 1) == accepted
    length = math.log(4.0) * (min(10.0, 0.9 * error**-0.5) if d else 10.0)
    lam = LINEAR.lam(np.array(times))
    assert lam[1] - lam[0] == pytest.approx(math.log(2.0), rel=1e-9)
    if not accepted:
        assert lam[2] - lam[0] == pytest.approx(length / 2, rel=1e-9)  # without asking again at the start
    else:
        rest = lam[0] + math.log(160.0) - lam[2]
        assert lam[2] - lam[0] == pytest.approx(math.log(4.0), rel=1e-9)
        assert lam[3] - lam[2] == pytest.approx(min(length, rest) / 2, rel=1e-9)
    assert info.evaluations == len(times) and info.x0.item() == 0.0
