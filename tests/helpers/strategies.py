"""What the property tests draw from: keys, schedules, grids, every solver, tiny latents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from pixart_fn import rng, schedule, solvers
from pixart_fn.types import Denoiser, Grid, Solver

DETERMINISTIC: dict[str, Callable[[], Solver]] = {
    "ddim": solvers.ddim,
    "euler": solvers.euler,
    "dpm_multistep order 1": lambda: solvers.dpm_multistep(1),
    "dpmpp_2m": solvers.dpmpp_2m,
    "dpm_multistep heun": lambda: solvers.dpm_multistep(solver_type="heun"),
    "dpm_multistep full order": lambda: solvers.dpm_multistep(lower_order_final=False),
    "dpm_multistep euler": lambda: solvers.dpm_multistep(euler_at_final=True),
    "dpm_multistep order 3 heun": lambda: solvers.dpm_multistep(3, "heun"),
    "dpmpp_3m": solvers.dpmpp_3m,
    "dpm_2m": solvers.dpm_2m,
    "deis": solvers.deis,
    "deis order 2": lambda: solvers.deis(2),
    "dpmpp_2s": solvers.dpmpp_2s,
    "dpm_singlestep heun": lambda: solvers.dpm_singlestep(solver_type="heun"),
    "dpm_singlestep order 3": lambda: solvers.dpm_singlestep(3, lower_order_final=False),
    "dpm_singlestep order 3 heun": lambda: solvers.dpm_singlestep(3, "heun", lower_order_final=False),
    "dpm_singlestep order 3 epsilon": lambda: solvers.dpm_singlestep(3, "heun", "dpmsolver", False),
    "heun": solvers.heun,
    "kdpm2": solvers.kdpm2,
    "lms": solvers.lms,
    "lms order 3": lambda: solvers.lms(3),
    "lms order 2": lambda: solvers.lms(2),
    "pndm": solvers.pndm,
    "pndm runge_kutta": lambda: solvers.pndm(True),
    "unipc": solvers.unipc,
    "unipc order 1": lambda: solvers.unipc(1),
    "unipc full order": lambda: solvers.unipc(2, lower_order_final=False),
    "unipc full order bh1": lambda: solvers.unipc(2, "bh1", lower_order_final=False),
    "unipc full order epsilon": lambda: solvers.unipc(2, integrand="epsilon", lower_order_final=False),
    "unipc order 3": lambda: solvers.unipc(3, lower_order_final=False),
    "sa_solver ode": lambda: solvers.sa_solver(tau=0.0, lower_order_final=False),
    "sa_solver ode epsilon": lambda: solvers.sa_solver(tau=0.0, integrand="epsilon", lower_order_final=False),
}
STOCHASTIC: dict[str, Callable[[], Solver]] = {
    "ddim eta 0.5": lambda: solvers.ddim(eta=0.5),
    "ddim eta 1": lambda: solvers.ddim(eta=1.0),
    "ddpm": solvers.ddpm,
    "ddpm fixed_large": lambda: solvers.ddpm("fixed_large"),
    "euler_ancestral": solvers.euler_ancestral,
    "kdpm2_ancestral": solvers.kdpm2_ancestral,
    "kdpm2 eta 0.5": lambda: solvers.kdpm2(0.5),
    "heun churn": lambda: solvers.heun(churn=10.0),
    "sde_dpmpp_2m": solvers.sde_dpmpp_2m,
    "sde order 1": lambda: solvers.dpm_multistep(1, algorithm="sde-dpmsolver++"),
    "sde heun": lambda: solvers.dpm_multistep(2, "heun", "sde-dpmsolver++"),
    "sde order 3": lambda: solvers.dpm_multistep(3, "exact", "sde-dpmsolver++"),
    "sde epsilon": lambda: solvers.dpm_multistep(algorithm="sde-dpmsolver"),
    "sde singlestep": lambda: solvers.dpm_singlestep(2, algorithm="sde-dpmsolver++"),
    "dpmpp_sde": solvers.dpmpp_sde,
    "dpmpp_2s_ancestral": solvers.dpmpp_2s_ancestral,
    "sa_solver": solvers.sa_solver,
    "sa_solver sde": lambda: solvers.sa_solver(tau=1.0),
    "sa_solver sde epsilon": lambda: solvers.sa_solver(tau=1.0, integrand="epsilon"),
}
CONSISTENT = {"lcm": solvers.lcm}
"""Not an integrator: x0 is mixed with x at every step, and noised anew."""
ROUGH = {"sa_solver sde epsilon"}
"""Unstable in large steps: the noise of an x that isn't the corrected one grows by σ/α from node to node."""
ADAPTIVE = {"dpm_adaptive": solvers.dpm_adaptive, "dpm_adaptive order 2": lambda: solvers.dpm_adaptive(2)}
"""One picture at a time."""
INTEGRATORS = {**DETERMINISTIC, **STOCHASTIC, **ADAPTIVE}
EVERY = {**solvers.SOLVERS, **INTEGRATORS, **CONSISTENT}
"""The whole table with its defaults, and the options that change a solver's arithmetic."""

keys = st.integers(0, 2**64 - 1).map(rng.key)

shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))


def one(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, of one picture where the solver takes one."""
    return (1, *shape[1:]) if name in ADAPTIVE else shape


@st.composite
def schedules(draw: st.DrawFn, prediction: str = "epsilon") -> schedule.Schedule:
    kind = draw(st.sampled_from((schedule.linear, schedule.scaled_linear, schedule.squaredcos_cap_v2)))
    steps = draw(st.integers(101, 1000))
    if kind is schedule.squaredcos_cap_v2:
        return schedule.from_betas(kind(steps), prediction)
    start = draw(st.floats(1e-5, 1e-3))
    return schedule.from_betas(kind(steps, start, draw(st.floats(2e-3, 0.03))), prediction)


@st.composite
def grids(draw: st.DrawFn, finals: tuple[str, ...] = ("zero",), noise: schedule.Schedule | None = None) -> Grid:
    """Of 1 to 100 steps: one of the usual spacings in t or in σ, or any falling times, whole or fractional."""
    noise = draw(schedules()) if noise is None else noise
    final = draw(st.sampled_from(finals))
    kind = draw(st.sampled_from(("timesteps", "sigmas", "any")))
    if kind == "timesteps":
        spacing, whole = draw(st.sampled_from(schedule.SPACINGS)), draw(st.booleans())
        t = schedule.timesteps(noise, draw(st.integers(1, 100)), spacing, skip_zero=draw(st.booleans()), whole=whole)
        return schedule.grid(noise, t, final=final)
    if kind == "sigmas":
        spacing = draw(st.sampled_from((schedule.karras, schedule.uniform_lambda, schedule.beta)))
        return schedule.rho_grid(noise, spacing(noise, draw(st.integers(1, 100))), final=final)
    # Multiples of 1/64: distinct times stay distinct in λ.
    t = draw(st.lists(st.integers(1, 64 * (noise.steps - 1)), min_size=1, max_size=100, unique=True))
    return schedule.grid(noise, np.array(sorted(t, reverse=True)) / 64, final=final)


def latents(seed: int, shape: tuple[int, ...], dtype: type = np.float64) -> np.ndarray:
    """Standard normal numbers that are none of the package's own."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def gaussian(mean: float, std: float, noise: schedule.Schedule) -> Denoiser:
    """E[x0 | x_t] of data ~ N(mean, std²): the perfect denoiser."""

    def denoise(x: np.ndarray, t: float) -> np.ndarray:
        alpha, sigma = noise.alpha(t), noise.sigma(t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return denoise
