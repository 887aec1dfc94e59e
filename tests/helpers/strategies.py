"""Every solver with its options, tiny latents, and the strategies of px.testing that the property tests draw from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pixart_fn import solvers, testing
from pixart_fn.testing import grids as grids
from pixart_fn.testing import schedules as schedules
from pixart_fn.types import Solver

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

keys, shapes = testing.keys(), testing.shapes()
gaussian = testing.Gaussian


def one(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, of one picture where the solver takes one."""
    return (1, *shape[1:]) if name in ADAPTIVE else shape


def latents(seed: int, shape: tuple[int, ...], dtype: type = np.float64) -> np.ndarray:
    """Standard normal numbers that are none of the package's own."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
