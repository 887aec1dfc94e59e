"""Noise schedules, timesteps and grids: closed forms, invariants."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from helpers.strategies import grids, latents, schedules
from helpers.tolerances import assert_close
from hypothesis import given
from hypothesis import strategies as st

from pixart_fn import schedule

LINEAR = schedule.from_betas(schedule.linear())


@pytest.mark.parametrize(
    ("betas", "beta"),
    [
        (schedule.linear(1000, 1e-4, 0.02), lambda t: Fraction(1, 10**4) + (Fraction(2, 100) - Fraction(1, 10**4)) * t),
        (schedule.scaled_linear(1000, 1e-4, 0.04), lambda t: (Fraction(1, 100) + Fraction(19, 100) * t) ** 2),
    ],
)
def test_alpha_bar_is_the_exact_product(betas, beta):
    """Against rational arithmetic: nothing is lost where 1 - ᾱ is 1e-4 or ᾱ is 4e-5."""
    product, alpha_bar = Fraction(1), []
    for t in range(1000):
        # 64 digits are plenty and keep the fractions short.
        product = Fraction(round(product * (1 - beta(Fraction(t, 999))) * 10**64), 10**64)
        alpha_bar.append(product)
    noise = schedule.from_betas(betas)
    t = np.arange(1000)
    np.testing.assert_allclose(noise.alpha(t) ** 2, [float(a) for a in alpha_bar], rtol=1e-13)
    np.testing.assert_allclose(noise.sigma(t) ** 2, [float(1 - a) for a in alpha_bar], rtol=1e-13)
    np.testing.assert_allclose(noise.lam(t), [0.5 * math.log(a / (1 - a)) for a in alpha_bar], rtol=0, atol=1e-13)


def test_squared_cosine_follows_its_formula():
    noise = schedule.from_betas(schedule.squaredcos_cap_v2())
    u = np.arange(1, 900) / 1000
    f = np.cos((np.append(0, u) + 0.008) / 1.008 * math.pi / 2) ** 2
    assert_close(noise.alpha(np.arange(899)) ** 2, f[1:] / f[0], 1e-12)
    assert schedule.squaredcos_cap_v2().max() == 0.999


@given(schedules(), st.floats(0, 1))
def test_a_schedule_preserves_variance_and_loses_signal(noise, where):
    t = where * (noise.steps - 1)
    assert abs(noise.alpha(t) ** 2 + noise.sigma(t) ** 2 - 1) < 1e-15
    assert abs(noise.lam(t) - math.log(noise.alpha(t) / noise.sigma(t))) < 1e-12
    everywhere = np.arange(noise.steps)
    assert np.all(np.diff(noise.alpha(everywhere)) < 0) and np.all(np.diff(noise.lam(everywhere)) < 0)
    assert type(noise.alpha(t)) is float and type(noise.sigma(0)) is float and type(noise.lam(0)) is float


@given(schedules(), st.floats(0, 0.999))
def test_between_training_times_sigma_over_alpha_is_linear(noise, where):
    low, part = divmod(where * (noise.steps - 1), 1)
    ends = noise.sigma(np.array([low, low + 1])) / noise.alpha(np.array([low, low + 1]))
    got = noise.sigma(low + part) / noise.alpha(low + part)
    assert got == pytest.approx(ends[0] + part * (ends[1] - ends[0]), rel=1e-12)


@pytest.mark.parametrize("t", [-1e-9, 999.001, float("nan"), np.array([5.0, 1000.0])])
def test_times_outside_are_refused(t):
    with pytest.raises(ValueError, match=r"t must be within \[0, 999\], got"):
        LINEAR.alpha(t)


@pytest.mark.parametrize("betas", [[0.0, 0.1], [0.1, 1.0], [], [[0.1]], [float("nan")]])
def test_betas_that_are_none(betas):
    with pytest.raises((TypeError, ValueError), match=r"betas must be a list of .*number"):
        schedule.from_betas(betas)


def test_a_schedule_does_not_change():
    with pytest.raises(ValueError, match="read-only"):
        LINEAR.rhos[0] = 1


DPM_LINSPACE_20 = [999, 949, 899, 849, 799, 749, 699, 649, 599, 549, 500, 450, 400, 350, 300, 250, 200, 150, 100, 50]


@given(grids(finals=schedule.FINALS))
def test_grid_invariants(grid):
    assert grid.t.dtype == grid.alpha.dtype == grid.sigma.dtype == np.float64
    assert len(grid.t) == len(grid.alpha) == len(grid.sigma) >= 2
    assert np.abs(grid.alpha**2 + grid.sigma**2 - 1).max() < 1e-15
    assert grid.t[-1] == 0 and np.all(np.diff(grid.t[:-1]) < 0)
    assert np.all(np.diff(grid.sigma[:-1]) < 0) and grid.sigma[-1] <= grid.sigma[-2]


@given(schedules())
def test_a_grid_ends_where_it_is_told(noise):
    t = [noise.steps - 1, 3.5, 1]
    zero, least = schedule.grid(noise, t), schedule.grid(noise, t, final="sigma_min")
    assert (zero.alpha[-1], zero.sigma[-1]) == (1, 0)
    assert (least.alpha[-1], least.sigma[-1]) == (noise.alpha(0), noise.sigma(0))
    assert zero.t.tolist() == least.t.tolist() == [*t, 0]
    assert zero.alpha[1] == noise.alpha(3.5)


@pytest.mark.parametrize(
    ("t", "sentence"),
    [
        ([], "at least one number"),
        ([[1, 0]], "timesteps must be a list of numbers"),
        ([5, 5], "must fall strictly"),
        ([1, 5], "must fall strictly"),
        ([float("nan"), 1], "must fall strictly"),
        ([1000], r"t must be within \[0, 999\], got 1000"),
        ([5, -1], r"t must be within \[0, 999\], got -1"),
    ],
)
def test_timesteps_that_make_no_grid(t, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        schedule.grid(LINEAR, t)


@given(grids(), st.floats(1e-6, 1))
def test_truncate_keeps_the_tail(grid, strength):
    steps = len(grid.t) - 1
    if steps * strength + 1e-9 < 1:
        with pytest.raises(ValueError, match="strength must be within"):
            schedule.truncate(grid, strength)
        return
    tail = schedule.truncate(grid, strength)
    kept = len(tail.t) - 1
    assert kept <= steps * strength + 1e-6 < kept + 1
    for nodes, part in zip(grid[:3], tail[:3], strict=True):
        assert np.array_equal(nodes[steps - kept :], part)
    assert tail.skipped + kept == steps and tail.schedule is grid.schedule
    again = schedule.truncate(tail, 1 / kept)
    assert (len(again.t), again.skipped) == (2, steps - 1)
    assert schedule.reverse(tail).skipped == 0


@pytest.mark.parametrize(("steps", "strength", "kept"), [(50, 0.58, 29), (49, 1 / 49, 1), (20, 1, 20), (10, 0.25, 2)])
def test_truncate_counts_steps_as_people_do(steps, strength, kept):
    whole = schedule.grid(LINEAR, schedule.timesteps(LINEAR, steps))
    assert len(schedule.truncate(whole, strength).t) == kept + 1


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, float("nan")])
def test_strength_out_of_range(strength):
    with pytest.raises(ValueError, match=r"strength must be within \[1/20, 1\] for 20 steps, got"):
        schedule.truncate(schedule.grid(LINEAR, DPM_LINSPACE_20), strength)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: schedule.from_betas([0.1], "flow_prediction"), "must be one of 'epsilon', .*'flow_prediction'"),
        (lambda: schedule.timesteps(LINEAR, 5, "karras"), "timestep_spacing must be one of 'linspace'"),
        (lambda: schedule.grid(LINEAR, [5], final="one"), "final must be one of 'zero', 'sigma_min', got 'one'"),
    ],
)
def test_unknown_options(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_alpha_bar_is_that_of_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_schedule=kind).alphas_cumprod.double().numpy()
    ours = schedule.from_betas(getattr(schedule, kind)()).alpha(np.arange(1000)) ** 2
    # Theirs comes from β in float32: 1 - 0.999 keeps four digits at the noisy end of squared cosine.
    assert np.abs(ours / theirs - 1).max() < (2e-5 if kind == "squaredcos_cap_v2" else 1e-6)


# --- continuous time, parameterisations, grids in σ, zero terminal SNR, inversion


@given(schedules(), st.floats(0, 1))
def test_time_is_the_inverse_of_lambda(noise, where):
    t = where * (noise.steps - 1)
    assert noise.time(noise.lam(t)) == pytest.approx(t, abs=1e-9 * noise.steps)
    assert noise.lam(t) == pytest.approx(-math.log(noise.rho(t)), abs=1e-12)
    times = np.array([t, noise.steps - 1.0])
    np.testing.assert_allclose(noise.time(noise.lam(times)), times, atol=1e-9 * noise.steps)


@pytest.mark.parametrize("lam", [-6.0, 6.0, float("nan")])
def test_lambdas_outside_are_refused(lam):
    with pytest.raises(ValueError, match=r"λ must be within \[-5.05884, 4.60512\], got"):
        LINEAR.time(lam)


@given(st.floats(0.02, 1.55), st.sampled_from(schedule.PREDICTIONS), st.sampled_from(schedule.PREDICTIONS))
def test_parameterisations_round_trip(angle, source, target):
    """v is the derivative of x in the angle: x = cos φ x0 + sin φ ε, v = cos φ ε - sin φ x0."""
    alpha, sigma = math.cos(angle), math.sin(angle)
    x0, eps = latents(0, (2, 3)), latents(1, (2, 3))
    x = alpha * x0 + sigma * eps
    values = {"x0": x0, "epsilon": eps, "v": alpha * eps - sigma * x0}
    got = schedule.convert(values[source], x, alpha, sigma, source, target)
    assert_close(got, values[target])
    assert_close(schedule.convert(got, x, alpha, sigma, target, source), values[source])


@pytest.mark.parametrize(
    ("alpha", "sigma", "source", "target"),
    [
        (0.0, 1.0, "epsilon", "x0"),
        (1.0, 0.0, "x0", "epsilon"),
        (1.0, 0.0, "x0", "v"),
        (0.0, 1.0, "epsilon", "v"),
    ],
)
def test_what_does_not_follow_is_refused(alpha, sigma, source, target):
    with pytest.raises(ValueError, match="doesn't follow from"):
        schedule.convert(np.ones(2), np.ones(2), alpha, sigma, source, target)


def test_a_schedule_that_ends_in_pure_noise():
    """arXiv:2305.08891, algorithm 1, with the fractions of the test above as judge of ᾱ."""
    noise = schedule.zero_terminal_snr(LINEAR)
    root = np.sqrt(LINEAR.alpha(np.arange(1000)) ** 2)
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    assert noise.alpha(999) == 0 and noise.sigma(999) == 1 and noise.lam(999) == -math.inf
    assert_close(noise.alpha(np.arange(999)), expected[:-1])
    assert noise.alpha(0) == pytest.approx(LINEAR.alpha(0), rel=1e-14)
    assert schedule.zero_terminal_snr(LINEAR, 2.0**-24).alpha(999) == pytest.approx(2.0**-12, rel=1e-12)
    grid = schedule.grid(noise, schedule.timesteps(noise, 5, "trailing"))
    assert grid.alpha[0] == 0 and np.isfinite(grid.sigma).all()


def test_sigmas_by_their_formulas():
    ends = LINEAR.rhos[-1], LINEAR.rhos[0]
    karras = schedule.karras(LINEAR, 11)
    np.testing.assert_allclose(np.diff(karras ** (1 / 7)), (ends[1] ** (1 / 7) - ends[0] ** (1 / 7)) / 10, rtol=1e-10)
    even = schedule.uniform_lambda(LINEAR, 11)
    np.testing.assert_allclose(np.diff(-np.log(even)), -np.log(ends[1] / ends[0]) / 10, rtol=1e-10)
    beta = schedule.beta(LINEAR, 11)
    from scipy.stats import beta as distribution

    quantile = (beta - ends[1]) / (ends[0] - ends[1])
    np.testing.assert_allclose(distribution.cdf(quantile, 0.6, 0.6), np.linspace(1, 0, 11), atol=1e-10)
    for rhos in (karras, even, beta):
        assert (rhos[0], rhos[-1]) == (pytest.approx(ends[0]), pytest.approx(ends[1]))
        grid = schedule.rho_grid(LINEAR, rhos)
        np.testing.assert_allclose(grid.sigma[:-1] / grid.alpha[:-1], rhos, rtol=1e-12)
        np.testing.assert_allclose(LINEAR.sigma(grid.t[:-1]), grid.sigma[:-1], rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: schedule.karras(LINEAR, 0), "steps must be 1 … 1000000, got 0"),
        (
            lambda: schedule.karras(LINEAR, 5, first=1.0, last=2.0),
            "σ/α must fall from a finite first to a positive last",
        ),
        (
            lambda: schedule.rho_grid(LINEAR, [1.0, 2.0]),
            r"rhos \(σ/α\) must be a list of positive numbers that fall",
        ),
        (lambda: schedule.rho_grid(LINEAR, [1000.0, 2.0]), "λ must be within"),
        (lambda: schedule.rho_grid(LINEAR, []), "must be a list of at least one number"),
    ],
)
def test_sigmas_that_make_no_grid(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@given(grids(finals=schedule.FINALS))
def test_reversing_twice_is_the_same_grid(grid):
    back = schedule.reverse(grid)
    assert back.sigma[0] > 0 and np.all(np.diff(back.sigma) >= 0)
    again = schedule.reverse(back)
    for nodes, others in zip(grid[:3], again[:3], strict=True):
        assert np.array_equal(nodes[: len(others) - 1], others[:-1])
    assert (again.t[-1], again.sigma[-1]) == (0, grid.schedule.sigma(0.0))


def test_a_grid_without_a_schedule_cannot_be_reversed_from_zero():
    grid = schedule.grid(LINEAR, [5, 3])._replace(schedule=None)
    with pytest.raises(ValueError, match="a grid that ends at σ = 0 needs its schedule to be reversed"):
        schedule.reverse(grid)


# --- what grids and schedules show, and what is none


def test_a_grid_and_a_schedule_show_their_ends():
    whole = schedule.grid(LINEAR, DPM_LINSPACE_20)
    assert repr(whole) == "Grid(20 steps, t 999 → 0, σ/α 157.4 → 0)"
    assert repr(schedule.truncate(whole, 0.5)) == "Grid(10 of 20 steps, t 500 → 0, σ/α 3.443 → 0)"
    assert repr(schedule.reverse(whole)) == "Grid(20 steps, t 0 → 999, σ/α 0.01 → 157.4)"
    assert repr(schedule.grid(LINEAR, [0.5], final="sigma_min")) == "Grid(1 step, t 0.5 → 0, σ/α 0.01242 → 0.01)"
    assert repr(LINEAR) == "Schedule(1000 times, epsilon, λ -5.06 … 4.61)"
    noise = schedule.zero_terminal_snr(schedule.from_betas(schedule.linear(), "v"))
    assert repr(noise) == "Schedule(1000 times, v, λ -inf … 4.61)"
    assert repr(schedule.grid(noise, [999, 5])).startswith("Grid(2 steps, t 999 → 0, σ/α inf → 0)")


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: schedule.truncate([999, 0], 0.5), TypeError, "grid must be a Grid, .* makes; got a list"),
        (lambda: schedule.reverse(np.ones(3)), TypeError, "grid must be a Grid, .* makes; got an ndarray"),
        (
            lambda: schedule.truncate(schedule.grid(LINEAR, [5]), "0.5"),
            TypeError,
            "strength must be a number, got '0.5'",
        ),
        (lambda: schedule.truncate(schedule.grid(LINEAR, [5]), True), TypeError, "strength must be a number, got True"),
        (lambda: schedule.karras(LINEAR, 2.0), TypeError, "steps must be a whole number, got a float"),
        (lambda: schedule.karras(LINEAR, 5, power=0), ValueError, "power must be a finite number above 0, got 0"),
        (
            lambda: schedule.karras(LINEAR, 5, power=math.nan),
            ValueError,
            "power must be a finite number above 0, got nan",
        ),
        (lambda: schedule.uniform_lambda(LINEAR, 5, first="9"), TypeError, "first .* must be a number, got '9'"),
        (lambda: schedule.uniform_lambda(LINEAR, 5, last=math.nan), ValueError, "last .* must be a number .*, got nan"),
        (lambda: schedule.beta(LINEAR, 5, a=0.0), ValueError, "a must be a finite number above 0, got 0.0"),
        (lambda: schedule.beta(LINEAR, 5, b=-1), ValueError, "b must be a finite number above 0, got -1"),
        (
            lambda: schedule.zero_terminal_snr(LINEAR, math.nan),
            ValueError,
            "alpha_bar must be within .*, got nan",
        ),
        (lambda: schedule.grid(LINEAR, [5], final=None), ValueError, "final must be one of .*, got None"),
        (lambda: schedule.grid(LINEAR, [5], final=["zero"]), ValueError, r"final must be one of .*, got \['zero'\]"),
        (lambda: schedule.from_betas([0.1], []), ValueError, r"prediction must be one of .*, got \[\]"),
    ],
)
def test_arguments_of_another_kind(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
