"""Where a solver's grid ends or turns around: cases that grids to σ = 0 don't tell apart."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import gaussian, latents

from pixart_fn import rng, schedule, solvers
from pixart_fn.sample import sample

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
        ratios = schedule.uniform_lambda(NOISE, steps, first=5.0, last=0.1)
        grid = schedule.reverse(schedule.sigma_grid(NOISE, ratios, final="sigma_min"))
        grid = grid._replace(t=grid.t[1:], alpha=grid.alpha[1:], sigma=grid.sigma[1:])  # from σ/α = 0.1
        ended = sample(KEY, denoise, solvers.sa_solver(tau=0.0, lower_order_final=False), grid, start)
        spread = np.hypot(grid.alpha * std, grid.sigma)
        exact = grid.alpha[-1] * mean + (start - grid.alpha[0] * mean) * spread[-1] / spread[0]
        errors.append(np.abs(ended - exact).max())
    assert np.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.3)
