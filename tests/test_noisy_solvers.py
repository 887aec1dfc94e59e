"""Solvers that draw noise where steps are long: the bound that says so, by hand, and where it warns."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from helpers.strategies import EVERY, ROUGH, gaussian, latents, one

from pixart_fn import rng, schedule, solvers
from pixart_fn.sample import iterate, sample
from pixart_fn.solvers.euler import _midpoint_error
from pixart_fn.solvers.stability import error_beyond_x0, spread

LINEAR = schedule.from_betas(schedule.linear())


def usual(steps: int, **options) -> schedule.Grid:
    return schedule.grid(LINEAR, schedule.timesteps(LINEAR, steps, **options))


def karras(steps: int) -> schedule.Grid:
    return schedule.rho_grid(LINEAR, schedule.karras(LINEAR, steps))


def warned(solver, grid, **options) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(iterate(rng.key(0), lambda x, t: 0.9 * x, solver, grid, np.ones((1, 2)), **options))
    assert all(each.category is UserWarning and each.filename == __file__ for each in caught)
    return [str(each.message) for each in caught]


def test_the_bound_by_hand():
    """LMS-2 over ρ = 2, 1, 0: x_2 = x_1 - (3/2 ε_1 - 1/2 ε_0) with x_1 = x_0 - ε_0."""
    grid = schedule.rho_grid(LINEAR, [2.0, 1.0])
    c = np.array([0.5 - 1.5 * 0.5 - 0.25, 1.5])  # of x0_0: from x_1, through ε_1 = x_1 - x0_1, and from ε_0
    e = (c - [0, 1]) * [2 / 5**0.5, 1 / 2**0.5]
    expected = (e @ e + 2 * e[0] * e[1] * math.exp(-0.5 * (math.log(2) / 0.25) ** 2)) ** 0.5
    assert error_beyond_x0(solvers.lms(2), grid, 0) == pytest.approx(expected, rel=1e-9)
    assert spread(2.0) == pytest.approx(2 / 5**0.5, rel=1e-15)


def test_the_bound_is_the_deviation_of_sampled_errors():
    """20 steps of the usual grid with x0 of correlated random errors: the end's deviation from the last x0."""
    grid, n = usual(20), 20000
    rho = (grid.sigma / grid.alpha)[:-1]
    lam, deviation = -np.log(rho), rho / np.hypot(1, rho)
    covariance = np.exp(-0.5 * ((lam[:, None] - lam) / 0.25) ** 2) * deviation * deviation[:, None]
    errors = np.random.default_rng(0).multivariate_normal(np.zeros(20), covariance, n).T
    predicted = iter(errors[:, None])
    solver = solvers.lms()
    with pytest.warns(UserWarning, match="may draw noise"):
        x = sample(rng.key(0), lambda x, t: next(predicted), solver, grid, np.zeros((1, n)))
    assert (x - errors[-1]).std() == pytest.approx(error_beyond_x0(solver, grid, 0), rel=0.02)


@pytest.mark.filterwarnings("ignore:.* may draw noise on this grid:UserWarning")
@pytest.mark.parametrize("name", sorted({*EVERY} - {"dpm_adaptive", "dpm_adaptive order 2", "lcm"}))
def test_who_ends_with_x0_is_not_beyond_it(name):
    """The others go along noises to σ = 0, if their last step isn't of first order."""
    error = error_beyond_x0(EVERY[name](), usual(20), 0)
    beyond = name.split()[0] in ("lms", "pndm") or name in ("unipc full order epsilon", "sa_solver ode epsilon", *ROUGH)
    assert error > 0.2 if beyond else error < 1e-12


def test_where_multistep_methods_of_the_noise_warn():
    """LMS errs by 1.06 deviations in 20 even steps, and by 0.02 on Karras' sigmas; PNDM by 1.3 and by 5."""
    (said,) = warned(solvers.lms(), usual(20))
    assert said == (
        "lms(4) may draw noise on this grid: where each predicted x0 errs by as much as the noise hides, the picture "
        "errs by 1.1 times the data's standard deviation; take dpmpp_2m(), or a grid of schedule.karras"
    )
    for solver, grid in ((solvers.pndm(), usual(20)), (solvers.pndm(), karras(20)), (solvers.pndm(True), usual(20))):
        (said,) = warned(solver, grid)
        assert said.startswith("pndm may draw noise") and said.endswith("take dpmpp_2m()")
    for make in (solvers.sa_solver, solvers.unipc):
        (said,) = warned(make(integrand="epsilon", lower_order_final=False), usual(5))
        assert said.startswith(f"{make.__name__}(integrand='epsilon') may draw noise") and said.endswith(
            f"take {make.__name__}()"
        )
        assert not warned(make(lower_order_final=False), usual(5))
    for solver, grid in (
        (solvers.lms(), karras(20)),
        (solvers.lms(2), usual(20)),
        (solvers.lms(1), usual(20)),
        (solvers.lms(), usual(50)),
        (solvers.pndm(), usual(50)),
        (solvers.lms(), usual(1)),
        (solvers.lms(), schedule.reverse(usual(20))),
    ):
        assert not warned(solver, grid)


def test_where_an_ancestral_midpoint_warns():
    """It multiplies by (ρ - ρ_down)/ρ_mid: over ρ = 3, 1 the shares are ρ_down = 1/3, ρ_mid = 1."""
    grid = schedule.rho_grid(LINEAR, [3.0, 1.0])
    expected = (3 - 1 / 3) / 1.0 * (3 / 10**0.5 - 1 / 2**0.5)
    assert _midpoint_error(grid, 1.0) == pytest.approx(expected, rel=1e-12)
    (said,) = warned(solvers.kdpm2_ancestral(), usual(10))
    assert said == (
        "kdpm2 with eta=1 may draw noise on this grid: it multiplies what x0 changes by within a step to up to 0.43 "
        "times the data's standard deviation; take dpmpp_2s_ancestral(), or shorter steps"
    )
    assert len(warned(solvers.kdpm2_ancestral(), usual(20, skip_zero=False))) == 1  # ρ from 0.2 to 0.01 at the end
    assert not warned(solvers.kdpm2_ancestral(), usual(20))
    assert not warned(solvers.kdpm2(), usual(10)) and not warned(solvers.dpmpp_2s_ancestral(), usual(10))


def test_only_a_start_warns():
    grid = usual(20)
    with pytest.warns(UserWarning, match="may draw noise"):
        infos = list(iterate(rng.key(0), gaussian(0.3, 0.6, LINEAR), solvers.lms(), grid, latents(0, (1, 2))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(iterate(rng.key(0), gaussian(0.3, 0.6, LINEAR), solvers.lms(), grid, infos[4].state, start=5))
    assert len(warned(solvers.lms(), grid, start=5)) == 1


@pytest.mark.parametrize("name", sorted({*solvers.SOLVERS} - {"lms", "pndm", "kdpm2_ancestral"}))
def test_the_others_serve_every_grid(name):
    for grid in (usual(10), usual(20), karras(10)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sample(rng.key(0), gaussian(0.3, 0.6, LINEAR), solvers.SOLVERS[name](), grid, latents(0, one(name, (2, 3))))
