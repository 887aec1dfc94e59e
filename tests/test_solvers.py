"""Solvers: a protocol and the properties that every one of them keeps, over all grids and schedules."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.strategies import (
    ADAPTIVE,
    CONSISTENT,
    DETERMINISTIC,
    EVERY,
    INTEGRATORS,
    ROUGH,
    STOCHASTIC,
    gaussian,
    grids,
    keys,
    latents,
    one,
    schedules,
    shapes,
)
from helpers.tolerances import assert_close, relative_error
from hypothesis import given
from hypothesis import strategies as st

from pixart_fn import guidance, rng, schedule, solvers, tree
from pixart_fn.backend import numpy2
from pixart_fn.sample import iterate, sample
from pixart_fn.types import SolverState, StepInfo

pytestmark = pytest.mark.filterwarnings("ignore:.* may draw noise on this grid:UserWarning")
KEY = rng.key(0)


def shrink(x: np.ndarray, t: float) -> np.ndarray:
    """A denoiser in one line."""
    return 0.9 * x


# --- mathematics


@given(st.data(), st.sampled_from(sorted({*INTEGRATORS} - {*ROUGH})), shapes, keys)
def test_exact_on_a_constant_denoiser(data, name, shape, key):
    """When x0 is known, every grid of every solver arrives at it; a deterministic one stays on the straight line."""
    shape = one(name, shape)
    grid, c, x = data.draw(grids(finals=schedule.FINALS)), latents(1, shape), latents(2, shape)
    infos = list(iterate(key, lambda x, t: c, INTEGRATORS[name](), grid, x))
    # σ/α falls from up to 1e4, and what is said of the noise holds its rounding
    if grid.sigma[-1] == 0:
        assert_close(infos[-1].x, c, 1e-9)
    if name not in STOCHASTIC:
        eps = (x - grid.alpha[0] * c) / grid.sigma[0]
        for i, info in enumerate(infos, start=1):
            assert_close(info.x, grid.alpha[i] * c + grid.sigma[i] * eps, 1e-9)


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_stochastic_solvers_reach_the_data(name):
    """From pure noise to N(0.3, 0.6²) in 400 steps: mean and variance within 5 standard errors."""
    noise, n = schedule.from_betas(schedule.linear()), 4000
    grid = schedule.grid(noise, schedule.timesteps(noise, 400))
    x = sample(rng.key(3), gaussian(0.3, 0.6, noise), EVERY[name](), grid, rng.normal(rng.key(4), (n,)))
    assert abs(x.mean() - 0.3) < 5 * 0.6 / n**0.5
    # β instead of the posterior's variance is too wide by O(1/S): exact only as S grows.
    bias = 0.02 if name == "ddpm fixed_large" else 0.0
    assert abs(x.var() / 0.36 - 1) < 5 * (2 / n) ** 0.5 + bias


@given(st.data(), shapes, keys)
def test_ddim_with_full_noise_is_ddpm(data, shape, key):
    noise = data.draw(schedules())
    grid, x = data.draw(grids(schedule=noise)), latents(0, shape)
    denoise = gaussian(0.3, 0.6, noise)
    first, second = (sample(key, denoise, solver, grid, x) for solver in (solvers.ddim(1.0), solvers.ddpm()))
    assert_close(first, second, 1e-9)  # 1 - α²/α² of neighbouring nodes loses digits, differently in the two formulas


# --- the protocol, over the table of all solvers


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys, st.sampled_from([np.float32, np.float64]))
def test_protocol(data, name, shape, key, dtype):
    noise = data.draw(schedules())
    grid, shape = data.draw(grids(finals=schedule.FINALS, schedule=noise)), one(name, shape)
    x = latents(0, shape, dtype)
    kept = x.copy()
    times = []

    def denoise(x, t):
        assert type(t) is float
        times.append(t)
        return gaussian(0.3, 0.6, noise)(x, t)

    solver = EVERY[name]()
    state = solver.init(x)
    assert isinstance(state, SolverState) and state.x is x
    for i in range(len(grid.t) - 1):
        before = len(times)
        state, info = solver.step(key, denoise, grid, i, state)
        assert isinstance(state, SolverState) and isinstance(info, StepInfo)
        assert info.x is state.x and info.x.shape == info.x0.shape == shape
        assert info.x.dtype == info.x0.dtype == dtype and np.isfinite(info.x).all()
        assert (info.t, info.alpha, info.sigma) == (grid.t[i], grid.alpha[i], grid.sigma[i])
        assert info.evaluations == len(times) - before
    assert np.array_equal(x, kept)
    assert all(0 <= t <= noise.steps - 1 for t in times)


@pytest.mark.parametrize("name", sorted(EVERY))
@pytest.mark.parametrize("final", schedule.FINALS)
def test_one_step(name, final):
    noise = schedule.from_betas(schedule.linear())
    grid, x = schedule.grid(noise, [999], final=final), latents(0, one(name, (2, 4, 3, 3)))
    got = sample(KEY, shrink, EVERY[name](), grid, x)
    assert got.shape == x.shape and np.isfinite(got).all()
    if final == "zero" and name not in ADAPTIVE:  # which takes many
        assert_close(got, shrink(x, 999.0), 1e-8 if name in CONSISTENT else 1e-12)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_solver_remembers_no_more_than_its_order_needs(name):
    noise = schedule.from_betas(schedule.linear())
    grid, solver = schedule.grid(noise, schedule.timesteps(noise, 20)), EVERY[name]()
    states = [info.state for info in iterate(KEY, shrink, solver, grid, latents(0, (1, 2)))]
    sizes = [len(tree.leaves(state)) for state in states]
    assert max(sizes) <= 5 and sizes[-1] <= max(sizes[:6])


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys)
def test_a_step_is_pure(data, name, shape, key):
    grid, x = data.draw(grids()), latents(0, one(name, shape))
    solver = EVERY[name]()
    state = solver.init(x)
    for i in range(min(3, len(grid.t) - 1)):
        (first, _), (second, _) = (solver.step(key, shrink, grid, i, state) for _ in range(2))
        assert np.array_equal(first.x, second.x)
        state = first


@given(st.data(), st.sampled_from(sorted({*EVERY} - {*ADAPTIVE})), shapes, keys)
def test_a_batch_is_its_samples_stacked(data, name, shape, key):
    noise = data.draw(schedules())
    grid, x = data.draw(grids(schedule=noise)), latents(0, shape, np.float32)
    key = rng.split(key, shape[0])
    denoise = gaussian(0.3, 0.6, noise)
    batch = sample(key, denoise, EVERY[name](), grid, x)
    singles = [sample(key[i : i + 1], denoise, EVERY[name](), grid, x[i : i + 1])[0] for i in range(shape[0])]
    assert np.array_equal(batch, singles)


@given(st.data(), st.sampled_from(sorted({*EVERY} - {*ADAPTIVE})), shapes, keys)
def test_linear_in_x_for_a_linear_denoiser(data, name, shape, key):
    noise = data.draw(schedules())
    grid = data.draw(grids(schedule=noise))
    x, y = latents(0, shape), latents(1, shape)
    denoise = gaussian(0.0, 0.6, noise)

    def run(x):
        return sample(key, denoise, EVERY[name](), grid, x)

    origin = run(0 * x)  # the noise alone, with this key
    whole, parts = run(2 * x - 3 * y) - origin, 2 * (run(x) - origin) - 3 * (run(y) - origin)
    # Of the samples' own size: what is left of x may be small. Adams weights over uneven nodes alternate and grow.
    assert np.abs(whole - parts).max() <= 1e-8 * max(np.abs(sampled).max() for sampled in (origin, run(x), run(y)))
    if name in DETERMINISTIC:
        assert not origin.any()


@given(st.data(), st.sampled_from(sorted({*EVERY} - {*ADAPTIVE})), shapes, keys)
def test_what_the_model_predicts_makes_no_difference(data, name, shape, key):
    """The same x0, said as noise or as v, gives the same sample: to the digits that dividing by α leaves."""
    noise = data.draw(schedules())
    grid, x = data.draw(grids(schedule=noise)), latents(0, shape)
    perfect = gaussian(0.3, 0.6, noise)
    expected = sample(key, perfect, EVERY[name](), grid, x)
    for prediction in ("epsilon", "v"):

        def model(x, t, prediction=prediction):
            return schedule.convert(perfect(x, t), x, noise.alpha(t), noise.sigma(t), "x0", prediction)

        got = sample(key, guidance.denoiser(model, noise, prediction), EVERY[name](), grid, x)
        # the noise's own rounding, multiplied by σ/α from node to node where an SDE's large steps are unstable
        assert_close(got, expected, 1e-4 if name in ROUGH else 1e-8)


@given(st.data(), st.sampled_from(sorted(DETERMINISTIC)), shapes, keys, keys)
def test_deterministic_solvers_ignore_the_key(data, name, shape, key, other):
    grid, x = data.draw(grids()), latents(0, shape)
    first, second = (sample(k, shrink, DETERMINISTIC[name](), grid, x) for k in (key, other))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_stochastic_solvers_use_the_key(name):
    noise = schedule.from_betas(schedule.linear())
    grid, x = schedule.grid(noise, [900, 500, 100]), latents(0, (1, 2, 2, 2))
    first, second = (sample(rng.key(k), shrink, STOCHASTIC[name](), grid, x) for k in (0, 1))
    assert relative_error(first, second) > 1e-3


# --- misuse


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: solvers.ddim(eta=1.5), r"eta must be within \[0, 1\], got 1.5"),
        (lambda: solvers.ddim(eta=-0.1), r"eta must be within \[0, 1\]"),
        (lambda: solvers.ddim(eta=math.nan), r"eta must be within \[0, 1\]"),
        (lambda: solvers.ddpm("learned"), "'fixed_large', 'learned_range', got 'learned'"),
        (lambda: solvers.dpm_multistep(4), r"order \(solver_order\) must be 1, 2 or 3, got 4; the nearest is 3"),
        (lambda: solvers.dpm_multistep(solver_type="bh2"), "solver_type must be one of 'midpoint', .*got 'bh2'"),
        (lambda: solvers.dpm_multistep(algorithm="dpm"), "algorithm .* must be one of 'dpmsolver', .*got 'dpm'"),
        (lambda: solvers.dpm_singlestep(algorithm="sde-dpmsolver"), "nearest is 'sde-dpmsolver"),
        (lambda: solvers.unipc(0), r"must be 1, 2 or 3, got 0; the nearest is 1"),
        (lambda: solvers.unipc(integrand="v"), "integrand .* must be one of 'x0', 'epsilon', got 'v'"),
        (lambda: solvers.sa_solver(corrector_order=5), "corrector_order must be 1 … 4, got 5; the nearest is 4"),
        (lambda: solvers.lms(5), "order must be 1 … 4, got 5; the nearest is 4"),
        (lambda: solvers.heun(churn=-1), "churn must be a finite number of at least 0, got -1"),
        (lambda: solvers.kdpm2(2), r"eta must be within \[0, 1\], got 2"),
        (lambda: solvers.dpmpp_sde(-1), r"eta must be within \[0, 1\], got -1"),
        (lambda: solvers.dpm_adaptive(4), "order must be 2 or 3, got 4; the nearest is 3"),
        (lambda: solvers.heun(churn=math.inf), "churn must be a finite number of at least 0, got inf"),
        (lambda: solvers.heun(churn=math.nan), "churn must be a finite number of at least 0, got nan"),
        (lambda: solvers.heun(s_noise=-1.0), "s_noise must be a finite number of at least 0, got -1.0"),
        (lambda: solvers.heun(rho_min=math.nan), "rho_min must be a finite number of at least 0, got nan"),
        (lambda: solvers.heun(rho_min=2.0, rho_max=1.0), "rho_max must be a number of at least 2, got 1.0"),
        (lambda: solvers.dpmpp_sde(s_noise=math.nan), "s_noise must be a finite number of at least 0, got nan"),
        (lambda: solvers.dpmpp_2s_ancestral(math.nan), r"eta must be within \[0, 1\], got nan"),
        (lambda: solvers.sa_solver(tau=math.nan), r"tau must be within \[0, 100\], got nan"),
        (lambda: solvers.lcm(sigma_data=0.0), r"sigma_data must be within \(0, 1e\+06\], got 0.0"),
        (lambda: solvers.lcm(timestep_scaling=math.inf), r"timestep_scaling must be within \(0, 1e\+06\], got inf"),
        (lambda: solvers.dpm_adaptive(rtol=math.nan), "rtol must be a finite number of at least 0, got nan"),
        (lambda: solvers.dpm_adaptive(atol=math.inf), "atol must be a finite number of at least 0, got inf"),
        (lambda: solvers.dpm_adaptive(first=0.0), "first must be a finite number above 0, got 0.0"),
        (lambda: solvers.dpm_adaptive(rtol=0, atol=0), "one of rtol and atol must be above 0"),
    ],
)
def test_options_out_of_range(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: solvers.ddim("0.5"), "eta must be a number, got '0.5'"),
        (lambda: solvers.kdpm2(True), "eta must be a number, got True"),
        (lambda: solvers.heun(churn=None), "churn must be a number, got None"),
        (lambda: solvers.dpm_multistep(2.0), r"order \(solver_order\) must be a whole number, got a float"),
        (lambda: solvers.unipc("2"), r"order \(solver_order\) must be a whole number, got '2'"),
        (lambda: solvers.lms(True), "order must be a whole number, got True"),
        (lambda: solvers.sa_solver(tau="1"), "tau must be a number, got '1'"),
        (lambda: solvers.dpm_adaptive(2.5), "order must be a whole number, got a float"),
    ],
)
def test_options_of_another_type(call, sentence):
    with pytest.raises(TypeError, match=sentence):
        call()


def test_adaptive_steps_are_those_of_one_picture():
    grid = schedule.grid(schedule.from_betas(schedule.linear()), [999])
    with pytest.raises(ValueError, match="dpm_adaptive draws one picture at a time, got 2"):
        sample(KEY, shrink, solvers.dpm_adaptive(), grid, latents(0, (2, 3)))


@pytest.mark.parametrize("name", sorted({**STOCHASTIC, **CONSISTENT}))
def test_noise_is_not_added_on_the_way_back(name):
    grid = schedule.reverse(schedule.grid(schedule.from_betas(schedule.linear()), [700, 500, 300]))
    with pytest.raises(ValueError, match="can't go back from clean to noisy"):
        sample(KEY, shrink, EVERY[name](), grid, latents(0, (1, 3)))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_between_the_nodes_lies_a_schedule(name):
    """A grid without one serves the solvers that look at its nodes alone; the others say what is missing."""
    grid = schedule.grid(schedule.from_betas(schedule.linear()), [900, 600, 300], final="sigma_min")
    grid, x = grid._replace(schedule=None), latents(0, (1, 3))
    if name.split()[0] in ("kdpm2", "kdpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpm_adaptive") or name in (
        "heun churn",
        "pndm runge_kutta",
    ):
        with pytest.raises(ValueError, match="between nodes, so the grid needs its schedule"):
            sample(KEY, shrink, EVERY[name](), grid, x)
    else:
        assert np.isfinite(sample(KEY, shrink, EVERY[name](), grid, x)).all()


@pytest.mark.parametrize("name", sorted(EVERY))
def test_from_pure_noise(name):
    """α = 0 at the first node: what works in x0 starts there, the others say that they can't."""
    noise = schedule.zero_terminal_snr(schedule.from_betas(schedule.linear(), "v"))
    grid, x = schedule.grid(noise, schedule.timesteps(noise, 8, "trailing")), latents(0, (1, 3))
    try:
        assert np.isfinite(sample(KEY, shrink, EVERY[name](), grid, x)).all()
    except ValueError as error:
        assert "can't start" in str(error) and name not in ("ddim", "ddpm", "dpmpp_2m", "dpmpp_3m", "unipc", "lcm")


def test_learned_range_lies_between_the_fixed_variances():
    """v = -1 is the posterior's variance, v = 1 is β; the rest is DDPM's step."""
    noise = schedule.from_betas(schedule.linear())
    grid, x = schedule.grid(noise, [900, 600, 300, 0]), latents(0, (2, 3, 2, 2))
    for v, fixed in ((-1.0, "fixed_small"), (1.0, "fixed_large")):

        def model(x, t, v=v):
            return np.concatenate([0.1 * x, np.full_like(x, v)], 1)

        denoise = guidance.variance_denoiser(model, noise)
        learned = sample(KEY, denoise, solvers.ddpm("learned_range"), grid, x)
        assert_close(learned, sample(KEY, guidance.denoiser(model, noise), solvers.ddpm(fixed), grid, x), 1e-6)
    with pytest.raises(TypeError, match=r"takes a VarianceDenoiser.* got an ndarray in place of"):
        sample(KEY, shrink, solvers.ddpm("learned_range"), grid, x)
    with pytest.raises(TypeError, match=r"which only px.solvers.ddpm.* takes; ddpm\(\) takes a Denoiser"):
        sample(KEY, denoise, solvers.ddpm(), grid, x)
    with pytest.raises(ValueError, match=r"denoise must give variance of the shape \(2, 3, 2, 2\) of x, got \(2, 3\)"):
        sample(KEY, lambda x, t: (x, x[..., 0, 0]), solvers.ddpm("learned_range"), grid, x)


# --- MindSpore


def test_tensors_take_the_same_steps():
    """Values and eager gradients of three steps, against NumPy and against the closed form of a linear denoiser."""
    numpy2.settle()
    ms = pytest.importorskip("mindspore")
    noise = schedule.from_betas(schedule.linear())
    grid = schedule.grid(noise, schedule.timesteps(noise, 3))
    denoise, x = gaussian(0.3, 0.6, noise), latents(0, (2, 4, 2, 2), np.float32)
    key = rng.split(KEY, 2)
    for name, solver in EVERY.items():
        if name in ADAPTIVE:
            continue

        def run(x, solver=solver):
            return sample(key, denoise, solver(), grid, x)

        got = run(ms.Tensor(x))
        assert got.dtype == ms.float32
        assert_close(got.asnumpy(), run(x))
        gradient = ms.grad(lambda x, run=run: run(x).sum())(ms.Tensor(x)).asnumpy()
        slope = (run(np.ones((2, 1))) - run(np.zeros((2, 1))))[0, 0]  # x ↦ slope · x + …, the same for every number
        # What works in the noise multiplies it by σ/α: from σ = 1 in three steps float32 keeps three digits.
        in_noise = "epsilon" in name or name.split()[0] in ("kdpm2", "kdpm2_ancestral", "pndm", "lms", "dpm_2m", "deis")
        assert_close(gradient, np.full_like(x, slope), 1e-3 if in_noise else 1e-5)
