"""Where a solver's grid ends or turns around: cases that grids to σ = 0 don't tell apart."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from helpers.strategies import gaussian, latents

from pixart_fn import rng, schedule, solvers
from pixart_fn.sample import iterate, sample

NOISE = schedule.from_betas(schedule.linear())
KEY = rng.key(0)


def test_lcm_ends_with_the_consistency_function_itself_whatever_the_last_node():
    """arXiv:2310.04378: the last step isn't noised again, so that σ_min at the end changes nothing."""
    x, x0 = latents(0, (1, 2, 3, 3)), latents(1, (1, 2, 3, 3))
    tau = 10.0 * 500
    expected = 0.25 / (tau**2 + 0.25) * x + tau / (tau**2 + 0.25) ** 0.5 * x0
    for final in schedule.FINALS:
        grid = schedule.grid(NOISE, [500], final=final)
        np.testing.assert_allclose(sample(KEY, lambda x, t: x0, solvers.lcm(), grid, x), expected, rtol=1e-14)


def test_sa_solver_without_noise_goes_backwards_with_second_order():
    """Towards the noise the steps in λ are negative; the exact path keeps the number of standard deviations."""
    mean, std = 0.3, 0.6
    denoise, start = gaussian(mean, std, NOISE), np.linspace(-2, 2, 9)[None]
    errors = []
    for steps in (20, 40, 80):
        rhos = schedule.uniform_lambda(NOISE, steps, first=5.0, last=0.1)
        grid = schedule.reverse(schedule.rho_grid(NOISE, rhos, final="sigma_min"))
        grid = grid._replace(t=grid.t[1:], alpha=grid.alpha[1:], sigma=grid.sigma[1:])  # from σ/α = 0.1
        ended = sample(KEY, denoise, solvers.sa_solver(tau=0.0, lower_order_final=False), grid, start)
        spread = np.hypot(grid.alpha * std, grid.sigma)
        exact = grid.alpha[-1] * mean + (start - grid.alpha[0] * mean) * spread[-1] / spread[0]
        errors.append(np.abs(ended - exact).max())
    assert np.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.3)


def test_unipc_of_third_order_ends_as_that_of_second():
    """With `lower_order_final` the last predictor is of order 1, and the corrector before it of order 2 whatever p."""
    grid = schedule.grid(NOISE, [900, 700, 500, 300, 200, 100])
    denoise, last = gaussian(0.3, 0.6, NOISE), 5
    *_, before = islice(iterate(KEY, denoise, solvers.unipc(3), grid, latents(0, (1, 2, 3, 3))), last)
    ends = [solvers.unipc(order).step(KEY, denoise, grid, last, before.state)[0] for order in (2, 3)]
    np.testing.assert_array_equal(ends[0].corrected, ends[1].corrected)
    np.testing.assert_array_equal(ends[0].x, ends[1].x)


def curved(x, t):
    """A denoiser that is linear in nothing."""
    return 0.5 * np.tanh(x) + 0.3 * np.sin(t / 150)


def test_a_step_of_dpm_adaptive_is_that_of_dpm_solver_3():
    """DPM-Solver (arXiv:2206.00927), algorithm 2, with r1 = 1/3 and r2 = 2/3, written out."""
    grid = schedule.grid(NOISE, [400], final="sigma_min")
    x = latents(0, (1, 2, 3, 3))
    start, end = -np.log(grid.sigma / grid.alpha)
    h = end - start

    def at(part):
        lam = start + part * h
        t = NOISE.time(lam)
        return t, 1 / np.sqrt(1 + np.exp(-2 * lam)), 1 / np.sqrt(1 + np.exp(2 * lam))

    def eps(x, t, alpha, sigma):
        return (x - alpha * curved(x, t)) / sigma

    (_, alpha, _), (_, alpha1, sigma1), (_, alpha2, sigma2), (_, alpha3, sigma3) = map(at, (0, 1 / 3, 2 / 3, 1))
    first = eps(x, *at(0))
    u1 = alpha1 / alpha * x - sigma1 * np.expm1(h / 3) * first
    d1 = eps(u1, *at(1 / 3)) - first
    half = 2 / 3 * h
    u2 = alpha2 / alpha * x - sigma2 * np.expm1(half) * first - sigma2 * 2 * (np.expm1(half) / half - 1) * d1
    d2 = eps(u2, *at(2 / 3)) - first
    expected = alpha3 / alpha * x - sigma3 * np.expm1(h) * first - sigma3 * 1.5 * (np.expm1(h) / h - 1) * d2
    (info,) = iterate(KEY, curved, solvers.dpm_adaptive(rtol=1e9, first=100.0), grid, x)
    assert info.evaluations == 3
    np.testing.assert_allclose(info.x, expected, rtol=1e-10)


def test_dpm_adaptive_grows_a_step_tenfold_at_most():
    """Where the model always says the same, each step is exact, and the next is ten times as long in λ."""
    grid = schedule.grid(NOISE, [900], final="sigma_min")
    asked = []

    def constant(x, t):
        asked.append(t)
        return np.full_like(x, 0.2)

    list(iterate(KEY, constant, solvers.dpm_adaptive(first=0.01), grid, latents(0, (1, 2, 3, 3))))
    lam = NOISE.lam(np.array(asked[::3]))  # three evaluations per step, the first at its start
    np.testing.assert_allclose(np.diff(lam)[:3], [0.01, 0.1, 1.0], rtol=1e-6)


def test_dpm_adaptive_does_not_go_from_clean_to_noisy():
    up = schedule.reverse(schedule.rho_grid(NOISE, schedule.uniform_lambda(NOISE, 5)))
    with pytest.raises(ValueError, match="dpm_adaptive goes from noisy to clean alone"):
        list(iterate(KEY, lambda x, t: 0.9 * x, solvers.dpm_adaptive(), up, latents(0, (1, 2, 3, 3))))
