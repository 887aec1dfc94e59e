"""What the property tests draw from: keys, schedules, grids, every solver, tiny latents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from pixart_fn import rng, schedule, solvers
from pixart_fn.types import Denoiser, Grid, Solver

DETERMINISTIC: dict[str, Callable[[], Solver]] = {
    "ddim": solvers.ddim,
    "dpmpp_2m": solvers.dpmpp_2m,
    "dpmpp_2m order 1": lambda: solvers.dpmpp_2m(order=1),
    "dpmpp_2m heun": lambda: solvers.dpmpp_2m(solver_type="heun"),
    "dpmpp_2m full order": lambda: solvers.dpmpp_2m(lower_order_final=False),
    "dpmpp_2m euler": lambda: solvers.dpmpp_2m(euler_at_final=True),
}
STOCHASTIC: dict[str, Callable[[], Solver]] = {
    "ddim eta 0.5": lambda: solvers.ddim(eta=0.5),
    "ddim eta 1": lambda: solvers.ddim(eta=1.0),
    "ddpm": solvers.ddpm,
    "ddpm fixed_large": lambda: solvers.ddpm("fixed_large"),
}
EVERY = {**solvers.SOLVERS, **DETERMINISTIC, **STOCHASTIC}
"""The whole table with its defaults, and the options that change a solver's arithmetic."""

keys = st.integers(0, 2**64 - 1).map(rng.key)

shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))


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
    """Of 1 to 100 steps: one of the usual spacings, or any falling times, whole or fractional."""
    noise = draw(schedules()) if noise is None else noise
    final = draw(st.sampled_from(finals))
    if draw(st.booleans()):
        spacing = draw(st.sampled_from(schedule.SPACINGS))
        t = schedule.timesteps(noise, draw(st.integers(1, 100)), spacing, skip_zero=draw(st.booleans()))
        return schedule.grid(noise, t, final=final)
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
