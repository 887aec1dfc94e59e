"""Solvers: diffusers' numbers, closed forms, orders of convergence, and a protocol that every solver keeps."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import make_schedulers as golden
from strategies import DETERMINISTIC, EVERY, STOCHASTIC, gaussian, grids, keys, latents, schedules, shapes
from tolerances import RELATIVE, assert_close, relative_error

from pixart_fn import guidance, rng, schedule, solvers
from pixart_fn.sample import iterate, sample
from pixart_fn.types import Grid, SolverState, StepInfo

GOLDENS = golden.load()
KEY = rng.key(0)

# diffusers' DDIM goes back by ⌊T/S⌋ whatever the next timestep is: with linspace it lands beside its own nodes.
MISSES_ITS_NODES = ("ddim linspace",)


def shrink(x: np.ndarray, t: float) -> np.ndarray:
    """A denoiser in one line."""
    return 0.9 * x


def ours(name: str, steps: int, run: dict[str, np.ndarray], dtype: type) -> list[StepInfo]:
    """Our steps on a golden's model outputs."""
    noise, make_grid, solver = solvers.from_config(golden.CASES[name])
    if golden.eta_of(name):
        solver = solvers.ddim(golden.eta_of(name))
    grid = make_grid(steps)
    assert grid.t[:-1].tolist() == run["timesteps"].tolist()
    outputs = iter(run["outputs"].astype(dtype))
    denoise = guidance.denoiser(lambda x, t: next(outputs), noise)
    return list(iterate(rng.key(golden.SEED), denoise, solver, grid, run["x"][0].astype(dtype)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in golden.CASES if name not in MISSES_ITS_NODES])
def test_every_step_is_that_of_diffusers(name, dtype):
    stochastic = name.startswith("ddpm") or golden.eta_of(name)
    # The noise is float32 in both; with it float64 runs share only what float32 holds.
    tolerance = RELATIVE["float32" if stochastic else np.dtype(dtype).name]
    for steps, run in GOLDENS[name].items():
        infos = ours(name, steps, run, dtype)
        assert all(info.x.dtype == dtype for info in infos)
        for info, x in zip(infos, run["x"][1:], strict=True):
            assert_close(info.x, x, tolerance)


@pytest.mark.parametrize("name", MISSES_ITS_NODES)
def test_where_diffusers_misses_its_nodes_the_closed_form_is_the_judge(name):
    run = GOLDENS[name][20]
    infos = ours(name, 20, run, np.float64)
    noise = solvers.from_config(golden.CASES[name])[0]
    x = run["x"][0]
    for i, info in enumerate(infos):
        t, eps = float(run["timesteps"][i]), run["outputs"][i].astype(np.float64)
        x0 = (x - noise.sigma(t) * eps) / noise.alpha(t)
        last = i == len(infos) - 1
        following = 0.0 if last else float(run["timesteps"][i + 1])
        x = x0 if last else noise.alpha(following) * x0 + noise.sigma(following) * eps
        assert_close(info.x, x)
    assert relative_error(infos[-1].x, run["x"][-1]) > 0.01


@pytest.mark.reference
@pytest.mark.parametrize("name", [name for name in golden.CASES if name not in MISSES_ITS_NODES])
def test_diffusers_as_shipped(name):
    """Its float32 tables have σ(0) off by 8e-5 and β = 0.999 by 6e-5: that is the difference that is left."""
    pytest.importorskip("diffusers")
    for steps in golden.STEPS:
        run = golden.trajectory(name, steps, exact=False)
        for info, x in zip(ours(name, steps, run, np.float32), run["x"][1:], strict=True):
            assert_close(info.x, x, 2e-5)


@pytest.mark.reference
def test_goldens_are_what_the_script_makes():
    pytest.importorskip("diffusers")
    for name in golden.CASES:
        for field, value in golden.trajectory(name, 5).items():
            assert_close(GOLDENS[name][5][field], value, RELATIVE["float64"])


# --- mathematics


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys)
def test_exact_on_a_constant_denoiser(data, name, shape, key):
    """When x0 is known, every grid of every solver arrives at it; a deterministic one stays on the straight line."""
    grid, c, x = data.draw(grids()), latents(1, shape), latents(2, shape)
    infos = list(iterate(key, lambda x, t: c, EVERY[name](), grid, x))
    assert np.array_equal(infos[-1].x, c)
    if name in DETERMINISTIC:
        eps = (x - grid.alpha[0] * c) / grid.sigma[0]
        for i, info in enumerate(infos, start=1):
            assert_close(info.x, grid.alpha[i] * c + grid.sigma[i] * eps)


def order_of(name: str) -> float:
    """The slope of log(error) over log(step) on the ODE of Gaussian data, whose solution is known."""
    mean, std, ends = 0.3, 0.6, (-2.5, 2.5)

    def moments(lam):
        alpha = 1 / np.sqrt(1 + np.exp(-2 * lam))
        return alpha, alpha * np.exp(-lam), alpha * mean, np.sqrt((alpha * std) ** 2 + (alpha * np.exp(-lam)) ** 2)

    def denoise(x, t):
        alpha, _, centre, spread = moments(-t)
        return mean + alpha * std**2 / spread**2 * (x - centre)

    x, errors, counts = np.array([1.7]), [], (20, 40, 80, 160)
    for steps in counts:
        lam = np.linspace(*ends, steps + 1)
        alpha, sigma, centre, spread = moments(lam)
        got = sample(KEY, denoise, DETERMINISTIC[name](), Grid(-lam, alpha, sigma), x)
        errors.append(abs(got - (centre[-1] + spread[-1] / spread[0] * (x - centre[0])))[0])
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", sorted(DETERMINISTIC))
def test_order_of_convergence(name):
    declared = 1 if name in ("ddim", "dpmpp_2m order 1") else 2
    assert abs(order_of(name) - declared) < 0.25


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
    grid, x = data.draw(grids(noise=noise)), latents(0, shape)
    denoise = gaussian(0.3, 0.6, noise)
    one, other = (sample(key, denoise, solver, grid, x) for solver in (solvers.ddim(1.0), solvers.ddpm()))
    assert_close(one, other, 1e-9)  # 1 - α²/α² of neighbouring nodes loses digits, differently in the two formulas


def test_second_order_pays():
    """What the method is for: at 20 steps its error is a small part of DDIM's."""
    noise = schedule.from_betas(schedule.linear())
    denoise, x = gaussian(0.3, 0.6, noise), latents(0, (64,))
    fine = schedule.grid(noise, schedule.timesteps(noise, 900))
    coarse = schedule.grid(noise, schedule.timesteps(noise, 20))
    exact = sample(KEY, denoise, solvers.dpmpp_2m(), fine, x)
    first, second = (sample(KEY, denoise, s, coarse, x) for s in (solvers.ddim(), solvers.dpmpp_2m()))
    assert relative_error(second, exact) < 0.3 * relative_error(first, exact)


# --- the protocol, over the table of all solvers


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys, st.sampled_from([np.float32, np.float64]))
def test_protocol(data, name, shape, key, dtype):
    noise = data.draw(schedules())
    grid = data.draw(grids(finals=schedule.FINALS, noise=noise))
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
    grid, x = schedule.grid(noise, [999], final=final), latents(0, (2, 4, 3, 3))
    got = sample(KEY, shrink, EVERY[name](), grid, x)
    assert got.shape == x.shape and np.isfinite(got).all()
    if final == "zero":
        assert np.array_equal(got, shrink(x, 999.0))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_solver_remembers_no_more_than_its_order_needs(name):
    grid = schedule.grid(schedule.from_betas(schedule.linear()), [900, 700, 500, 300])
    solver = EVERY[name]()
    state = solver.init(latents(0, (1, 2)))
    for i in range(3):
        state, _ = solver.step(KEY, shrink, grid, i, state)
    assert len(state.history) == (1 if name.startswith("dpmpp_2m") and "order 1" not in name else 0)


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys)
def test_a_step_is_pure(data, name, shape, key):
    grid, x = data.draw(grids()), latents(0, shape)
    solver = EVERY[name]()
    state = solver.init(x)
    for i in range(min(3, len(grid.t) - 1)):
        (one, _), (two, _) = (solver.step(key, shrink, grid, i, state) for _ in range(2))
        assert np.array_equal(one.x, two.x)
        state = one


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys)
def test_a_batch_is_its_samples_stacked(data, name, shape, key):
    noise = data.draw(schedules())
    grid, x = data.draw(grids(noise=noise)), latents(0, shape, np.float32)
    key = rng.split(key, shape[0])
    denoise = gaussian(0.3, 0.6, noise)
    batch = sample(key, denoise, EVERY[name](), grid, x)
    singles = [sample(key[i : i + 1], denoise, EVERY[name](), grid, x[i : i + 1])[0] for i in range(shape[0])]
    assert np.array_equal(batch, singles)


@given(st.data(), st.sampled_from(sorted(EVERY)), shapes, keys)
def test_linear_in_x_for_a_linear_denoiser(data, name, shape, key):
    noise = data.draw(schedules())
    grid = data.draw(grids(noise=noise))
    x, y = latents(0, shape), latents(1, shape)
    denoise = gaussian(0.0, 0.6, noise)

    def run(x):
        return sample(key, denoise, EVERY[name](), grid, x)

    origin = run(0 * x)  # the noise alone, with this key
    assert_close(run(2 * x - 3 * y) - origin, 2 * (run(x) - origin) - 3 * (run(y) - origin), 1e-9)
    if name in DETERMINISTIC:
        assert not origin.any()


@given(st.data(), st.sampled_from(sorted(DETERMINISTIC)), shapes, keys, keys)
def test_deterministic_solvers_ignore_the_key(data, name, shape, key, other):
    grid, x = data.draw(grids()), latents(0, shape)
    one, two = (sample(k, shrink, DETERMINISTIC[name](), grid, x) for k in (key, other))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_stochastic_solvers_use_the_key(name):
    noise = schedule.from_betas(schedule.linear())
    grid, x = schedule.grid(noise, [900, 500, 100]), latents(0, (1, 2, 2, 2))
    one, two = (sample(rng.key(k), shrink, STOCHASTIC[name](), grid, x) for k in (0, 1))
    assert relative_error(one, two) > 1e-3


# --- misuse


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: solvers.ddim(eta=1.5), r"eta must be within \[0, 1\], got 1.5"),
        (lambda: solvers.ddim(eta=-0.1), r"eta must be within \[0, 1\]"),
        (lambda: solvers.ddim(eta=math.nan), r"eta must be within \[0, 1\]"),
        (lambda: solvers.ddpm("learned_range"), "'fixed_small', 'fixed_large', got 'learned_range'"),
        (lambda: solvers.dpmpp_2m(order=3), r"order \(solver_order\) must be 1 or 2, got 3; the nearest is 2"),
        (lambda: solvers.dpmpp_2m(solver_type="bh2"), "solver_type must be one of 'midpoint', 'heun', got 'bh2'"),
    ],
)
def test_options_out_of_range(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


# --- scheduler_config.json

RELEASED = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": "0.22.0.dev0",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "lambda_min_clipped": -math.inf,
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_type": "midpoint",
    "steps_offset": 0,
    "thresholding": False,
    "timestep_spacing": "linspace",
    "trained_betas": None,
    "use_karras_sigmas": False,
    "use_lu_lambdas": False,
    "variance_type": None,
}
"""Every field that the released checkpoints carry."""


def test_the_released_config():
    noise, make_grid, solver = solvers.from_config(RELEASED)
    grid = make_grid(20)
    assert noise.prediction == "epsilon" and noise.steps == 1000
    assert grid.t.tolist() == [*range(999, 500, -50), *range(500, 0, -50), 0]
    assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)
    assert grid.alpha[0] == pytest.approx(4.0358e-5**0.5, rel=1e-4)  # √ᾱ(999) of DDPM's schedule
    x = latents(0, (1, 4, 2, 2))
    mine = sample(KEY, gaussian(0.3, 0.6, noise), solver, grid, x)
    assert np.array_equal(mine, sample(KEY, gaussian(0.3, 0.6, noise), solvers.dpmpp_2m(), grid, x))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_class_name": "DPMSolverSinglestepScheduler"}, "'DPMSolverSinglestepScheduler' .*nearest: DPMSolverMulti"),
        ({"_class_name": "PNDMScheduler"}, "scheduler class 'PNDMScheduler' isn't supported"),
        ({"_class_name": None}, "scheduler class None isn't supported"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas = True isn't supported"),
        ({"use_exponential_sigmas": True}, "use_exponential_sigmas = True isn't supported"),
        ({"use_beta_sigmas": True}, "use_beta_sigmas = True isn't supported"),
        ({"use_lu_lambdas": True}, "use_lu_lambdas = True isn't supported"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas = True isn't supported"),
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting = True isn't supported"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True isn't supported"),
        ({"thresholding": True}, "thresholding = True isn't supported"),
        (
            {"algorithm_type": "sde-dpmsolver++"},
            r"algorithm_type = 'sde-dpmsolver\+\+' isn't supported .*'dpmsolver\+\+'",
        ),
        ({"solver_order": 3}, "solver_order.* must be 1 or 2, got 3"),
        ({"solver_type": "logrho"}, "solver_type must be one of 'midpoint', 'heun', got 'logrho'"),
        ({"variance_type": "fixed_small"}, "variance_type must be None, 'learned' or 'learned_range'"),
        ({"prediction_type": "flow_prediction"}, "prediction.* must be one of .*got 'flow_prediction'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule must be one of .*got 'sigmoid'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing must be one of .*got 'karras'"),
        ({"final_sigmas_type": "one"}, "final_sigmas_type must be one of .*got 'one'"),
        ({"solver_ordre": 2}, "unknown field 'solver_ordre' = 2 .*nearest: 'solver_order'"),
        ({"_class_name": "DDIMScheduler", "clip_sample": True}, "clip_sample = True isn't supported"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, "variance_type.*got 'learned_range'"),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log"}, "variance_type.*got 'fixed_large_log'"),
    ],
)
def test_what_is_not_supported_is_named(changes, sentence):
    base = RELEASED if "_class_name" not in changes else {"_class_name": None, "clip_sample": False}
    with pytest.raises(ValueError, match=sentence):
        solvers.from_config({**base, **changes})


def test_an_absent_option_has_the_default_of_diffusers():
    """DDIM and DDPM clip to [-1, 1] unless they are told not to, which ruins latents."""
    for name in ("DDIMScheduler", "DDPMScheduler"):
        with pytest.raises(ValueError, match="clip_sample = True isn't supported"):
            solvers.from_config({"_class_name": name})


@pytest.mark.reference
def test_every_option_of_diffusers_is_known():
    diffusers = pytest.importorskip("diffusers")
    for name in ("DPMSolverMultistepScheduler", "DDIMScheduler", "DDPMScheduler"):
        options = {key: field.default for key, field in inspect.signature(getattr(diffusers, name)).parameters.items()}
        if "clip_sample" in options:
            options["clip_sample"] = False
        solvers.from_config({"_class_name": name, **options})


# --- MindSpore


def test_tensors_take_the_same_steps():
    """Values and eager gradients of three steps, against NumPy and against the closed form of a linear denoiser."""
    ms = pytest.importorskip("mindspore")
    noise = schedule.from_betas(schedule.linear())
    grid = schedule.grid(noise, schedule.timesteps(noise, 3))
    denoise, x = gaussian(0.3, 0.6, noise), latents(0, (2, 4, 2, 2), np.float32)
    key = rng.split(KEY, 2)
    for solver in EVERY.values():

        def run(x, solver=solver):
            return sample(key, denoise, solver(), grid, x)

        got = run(ms.Tensor(x))
        assert got.dtype == ms.float32
        assert_close(got.asnumpy(), run(x))
        gradient = ms.grad(lambda x, run=run: run(x).sum())(ms.Tensor(x)).asnumpy()
        slope = (run(np.ones((2, 1))) - run(np.zeros((2, 1))))[0, 0]  # x ↦ slope · x + …, the same for every number
        assert_close(gradient, np.full_like(x, slope), 1e-5)
