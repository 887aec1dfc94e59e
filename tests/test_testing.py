"""px.testing: every property is seen to fail alone, the package's own solvers have all, and the data are known."""

from __future__ import annotations

import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from helpers import broken_solvers as broken
from helpers.strategies import ADAPTIVE, CONSISTENT, EVERY, ROUGH, STOCHASTIC
from helpers.tolerances import assert_close
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from pixart_fn import rng, schedule, solvers, testing
from pixart_fn.solvers import linear
from pixart_fn.testing import properties
from pixart_fn.types import Solver

NOISE = schedule.from_betas(schedule.linear())
NOISY = {*STOCHASTIC, *CONSISTENT, "ddpm", "dpmpp_2s_ancestral", "dpmpp_sde", "euler_ancestral", "kdpm2_ancestral"}
NOISY |= {"sa_solver", "sde_dpmpp_2m", "ddpm learned_range"}
EVEN_ALONE = {"dpm_singlestep order 3", "dpm_singlestep order 3 heun", "dpm_singlestep order 3 epsilon"}


def lacking(solver, **claims) -> dict[str, str]:
    """The properties that a solver lacks, with what is said of each."""
    try:
        testing.check_solver(solver, **{"examples": 1, **claims})
    except AssertionError as error:
        return dict(line.split(": ", 1) for line in str(error).splitlines())
    return {}


@pytest.mark.parametrize("name", sorted(broken.PROTOCOL))
def test_what_has_not_the_form_of_a_solver(name):
    make, said = broken.PROTOCOL[name]
    found = lacking(make())
    assert set(found) == {"protocol"} and said in found["protocol"]


@pytest.mark.parametrize("name", sorted(broken.ONE))
def test_one_property_alone_is_lacking(name):
    make, claims, said = broken.ONE[name]
    found = lacking(make(), **claims)
    assert set(found) == {name.split(":")[0]} and said in found[name.split(":")[0]]


def test_the_solvers_beside_the_broken_ones_are_right():
    """Or the tests above would find another mistake than the one that was made."""
    assert not lacking(broken.stepping())
    assert not lacking(broken.two_steps(even=False), order=2)
    assert not lacking(broken.two_steps(even=True), order=2, lengths=(1,))
    assert not lacking(broken.noisy(broken.fold), stochastic=True)


def test_noise_of_no_key():
    generator = np.random.default_rng(0)
    found = lacking(broken.noisy(lambda key, i, x: generator.standard_normal(x.shape)), stochastic=True)
    assert set(found) == {"pure", "batch", "key", "order"} and found["key"].startswith("the same key gives ends that")


def test_what_is_said_of_noise_that_is_not_claimed():
    found = lacking("ddpm")
    assert "say stochastic=True" in found["key"] and {*found} <= {"key", "order", "exact"}
    assert "leave out stochastic=True" in lacking("ddim", stochastic=True)["key"]


def test_what_a_solver_raises_is_one_line():
    def step(key, denoise, grid, i, state):
        if state.x.shape[-1] > 4:
            raise RuntimeError("too\nwide")
        return solvers.ddim().step(key, denoise, grid, i, state)

    found = lacking(Solver(solvers.ddim().init, step), stochastic=True)
    assert found["order"].startswith("the solver raises RuntimeError: too wide, on Grid(30 steps")


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def fails(*_):
    raise Unreadable


def strange(change):
    """DDIM whose state and StepInfo are changed."""
    return Solver(solvers.ddim().init, lambda *args: change(*solvers.ddim().step(*args), args[2]))


class Remembering(NamedTuple):
    x: object
    lock: object


def locked(state, info, grid):
    return Remembering(state.x, threading.Lock()), info


def in_place(state, info, grid):
    grid.t[0] = 5.0
    return state, info


def x0_in_place(state, info, grid):
    info.x0[...] = 3.0
    return state, info


@pytest.mark.parametrize(
    ("solver", "said"),
    [
        (Solver(solvers.ddim().init, fails), "protocol: the solver raises Unreadable:, on"),
        (strange(lambda state, info, _: (state._replace(x=[1.0]), info._replace(x=[1.0]))), "NumPy .* got a list"),
        (strange(lambda state, info, _: (state, info._replace(x=None))), "that holds numbers, as x is, got None"),
        (strange(lambda state, info, _: (state, info._replace(evaluations="2"))), "whole number of calls, got '2'"),
        (strange(lambda state, info, _: (state, info._replace(evaluations=1.5))), "whole number of calls, got 1.5"),
        (strange(in_place), r"in place, on Grid\(1 step, t 500 "),
        (strange(x0_in_place), r"in place, on Grid\(1 step, t 500 "),
        (
            Solver(
                lambda x: Remembering(x, threading.Lock()),
                lambda *args: locked(*solvers.ddim().step(*args[:4], solvers.ddim().init(args[4].x)), None),
            ),
            "pure: the state before step 0 must hold arrays and numbers, and can't be copied: TypeError",
        ),
    ],
)
def test_whatever_a_solver_gives_is_a_sentence_and_changes_nothing_of_the_next_check(solver, said):
    with pytest.raises(AssertionError, match=said):
        testing.check_solver(solver, examples=1, skip=["exact", "batch", "key", "order"])
    assert properties.ONE_STEP.grid.t[0] == 500.0


def test_a_solver_that_fails_now_and_then():
    others = [name for name in testing.PROPERTIES if name != "dtype"]
    (said,) = lacking(broken.fails_later(3), examples=5, skip=others).values()  # the third step is hypothesis's first
    assert "passes on the same case later" in said


def test_what_is_skipped_is_not_tried():
    report = testing.check_solver(broken.two_steps(even=True), 2, skip=["order"], examples=1)
    assert report.properties == ("protocol", "pure", "dtype", "exact", "batch", "key") and report.convergence is None
    assert repr(report).endswith("has the properties protocol, pure, dtype, exact, batch, key")


def test_a_report_is_read_at_once():
    report = testing.check_solver("heun", 2, examples=1)
    first, second = repr(report).splitlines()
    assert first == "heun() has the properties protocol, pure, dtype, exact, batch, key, order"
    assert second.startswith("measured order 2.00, from errors of ") and second.endswith(" after 120 steps")


def claims(name: str) -> dict:
    """What a solver of EVERY claims, of order 1 at least."""
    skip = ["exact"] if name in ROUGH else []
    if name in CONSISTENT:
        skip = ["exact", "order"]  # it isn't an integrator
    if name in ADAPTIVE:
        skip = ["batch", "order"]  # it takes one picture, and its own steps
    lengths = (1,) if name in EVEN_ALONE else (1, 2)
    return {"stochastic": name in NOISY, "skip": skip, "lengths": lengths}


TABLE = {**EVERY, "ddpm learned_range": lambda: solvers.ddpm("learned_range")}
OFTEN = ("ddim", "dpmpp_2m", "sde_dpmpp_2m", "ddpm learned_range", "lcm")


@pytest.mark.parametrize("name", OFTEN)
def test_the_packages_own_solvers_have_the_properties(name):
    assert lacking(TABLE[name](), **claims(name)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*TABLE} - {*OFTEN}))
def test_every_solver_of_the_package_has_the_properties(name):
    assert lacking(TABLE[name](), **claims(name), examples=2) == {}


# --- the order of convergence


def test_a_convergence_says_what_was_measured():
    found = testing.convergence("heun", [6, 12])
    assert found.steps == (6, 12) and found.evaluations == (12, 24)
    assert found.order == pytest.approx(math.log2(found.errors[0] / found.errors[1]))


def test_no_error_is_of_every_order_and_no_number_of_none():
    def follow(key, denoise, grid, i, state):
        """Along the exact path of the data that are measured with."""
        rest = grid._replace(t=grid.t[i:], alpha=grid.alpha[i:], sigma=grid.sigma[i:])
        x = testing.exact_gaussian(state.x, rest, mean, stds)[1]
        return state._replace(x=x), linear.report(grid, i, x, denoise(state.x, float(grid.t[i])))

    mean, stds = 0.3, np.array([0.25, 0.5, 1.0, 2.0])
    assert testing.convergence(Solver(linear.OneStepState, follow), [6, 12]).order == math.inf
    nowhere = broken.stepping(lambda grid, i, new, x0: new * np.nan)
    assert math.isnan(testing.convergence(nowhere, [6, 12]).order)


def test_the_draws_of_other_threads_stay_as_they_are():
    seen, plain = [], rng.normal
    with ThreadPoolExecutor(1) as pool:

        def noise(key, i, x):
            seen.append(pool.submit(rng.normal, rng.key(5), x.shape).result())
            return broken.fold(key, i, x)

        testing.convergence(broken.noisy(noise), [4, 8], stochastic=True)
    assert_close(seen[0], plain(rng.key(5), seen[0].shape), 0)
    assert rng.normal is plain


def test_too_many_draws_are_said():
    def many(key, i, x):
        return sum(broken.fold(rng.fold_in(key, n), i, x) for n in range(5))

    with pytest.raises(ValueError, match="draw at most four times per step"):
        testing.convergence(broken.noisy(many), [4, 8], stochastic=True)


# --- data that are known


@given(testing.schedules(), st.floats(0, 100), st.floats(-1, 1), st.floats(0.05, 2))
def test_a_gaussians_denoiser_by_bayes(noise, t, mean, std):
    """The mean of x0 over a fine lattice, weighted by N(x0; mean, std²) N(x; α x0, σ²)."""
    alpha, sigma, x = noise.alpha(t), noise.sigma(t), 0.7
    x0 = testing.Gaussian(mean, std, noise)(np.array([x]), t).item()
    lattice = x0 + np.linspace(-12, 12, 4001) * min(std, sigma / alpha)
    exponents = -(((lattice - mean) / std) ** 2) / 2 - ((x - alpha * lattice) / sigma) ** 2 / 2
    weights = np.exp(exponents - exponents.max())
    assert x0 == pytest.approx(np.sum(weights * lattice) / weights.sum(), abs=1e-9)


@pytest.mark.parametrize("t", [50.0, 400.0, 900.0])
def test_two_points_denoiser_by_bayes(t):
    alpha, sigma, x = NOISE.alpha(t), NOISE.sigma(t), np.array([0.4, -0.2, 0.01])
    near, far = (np.exp(-((x - alpha * at) ** 2) / (2 * sigma**2)) for at in (0.7, -0.7))
    denoise = testing.TwoPoints(0.7, NOISE)
    assert_close(denoise(x, t), 0.7 * (near - far) / (near + far))


def test_the_exact_path_by_runge_kutta():
    """dx̄/dρ = (x̄ - x0)/ρ for x̄ = x/α, in small steps of fourth order between two nodes."""
    grid = testing.lambda_grid(2, (1, 3))
    denoise, x = testing.Gaussian(0.3, np.array([0.5, 2.0]), grid.schedule), np.array([[1.5, -0.2]])
    path = testing.exact_gaussian(x, grid, 0.3, np.array([0.5, 2.0]))
    lam = -np.log(grid.sigma / grid.alpha)

    def slope(at, y):  # by λ
        rho = math.exp(-at)
        alpha = 1 / math.hypot(1, rho)
        gain = alpha * denoise.std**2 / (alpha**2 * denoise.std**2 + (alpha * rho) ** 2)
        return -(y - (0.3 + gain * (alpha * y - alpha * 0.3)))

    y, h = x / grid.alpha[0], (lam[1] - lam[0]) / 400
    for n in range(400):
        at = lam[0] + n * h
        a = slope(at, y)
        b = slope(at + h / 2, y + h / 2 * a)
        c = slope(at + h / 2, y + h / 2 * b)
        y = y + h / 6 * (a + 2 * b + 2 * c + slope(at + h, y + h * c))
    assert_close(path[0], x)
    assert_close(path[1], y * grid.alpha[1], 1e-9)


def test_a_grid_in_lambda():
    grid = testing.lambda_grid(6, (1, 2))
    lam = -np.log(grid.sigma / grid.alpha)
    assert_close(np.diff(lam), np.array([5, 10] * 3) / 9, 1e-4)  # ρ, not λ, is straight between two times
    assert_close(lam[[0, -1]], [-2.5, 2.5], 1e-12)
    assert_close(np.diff(grid.t), -120 * np.array([5, 10] * 3) / 9)


# --- strategies


def test_what_is_drawn_shrinks_to_the_simplest():
    first = settings(max_examples=1, database=None, phases=[Phase.generate])

    def simplest(strategy):
        return find(strategy, lambda drawn: True, settings=first)

    assert np.array_equal(simplest(testing.keys()), rng.key(0))
    assert simplest(testing.shapes()) == (1, 1, 1, 1)
    assert len(simplest(testing.grids()).t) == 2
    assert simplest(testing.denoisers(NOISE)) == testing.Constant(0.0)
    assert simplest(testing.schedules()).steps == 101


@given(st.data(), st.integers(1, 5))
def test_grids_are_what_was_asked_for(data, steps):
    grid = data.draw(testing.grids(schedule.FINALS, NOISE, steps))
    schedule.check_grid(grid)
    assert 1 <= len(grid.t) - 1 <= steps and grid.schedule == NOISE
    assert data.draw(testing.schedules("v")).prediction == "v"


def test_without_hypothesis_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    calls = (testing.keys, testing.shapes, testing.schedules, testing.grids)
    for call in (*calls, lambda: testing.denoisers(NOISE), lambda: testing.check_solver("ddim")):
        with pytest.raises(
            ImportError, match=r"^px.testing draws with hypothesis: pip install '\.\[testing\]' in a clone$"
        ):
            call()
    assert testing.convergence("ddim").order > 0.9
