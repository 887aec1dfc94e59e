"""A solver's default options are those that its authors, diffusers 0.42 or k-diffusion give it."""

from __future__ import annotations

import inspect
import math

import pytest

from pixart_fn import solvers
from pixart_fn.solvers.sa import middle_noise

DEFAULTS = {
    "ddim": {"eta": 0.0},  # DDIMScheduler.step
    "ddpm": {"variance": "fixed_small"},  # DDPMScheduler
    "deis": {"order": 3, "lower_order_final": True},  # the paper's; DEISMultistepScheduler has order 2
    "dpm_adaptive": {"order": 3, "rtol": 0.05, "atol": 0.0078, "first": 0.05},  # k-diffusion's sample_dpm_adaptive
    "dpm_multistep": {
        "order": 2,
        "solver_type": "midpoint",
        "algorithm": "dpmsolver++",
        "lower_order_final": True,
        "euler_at_final": False,
    },  # DPMSolverMultistepScheduler
    "dpm_singlestep": {
        "order": 2,
        "solver_type": "midpoint",
        "algorithm": "dpmsolver++",
        "lower_order_final": True,  # DPMSolverSinglestepScheduler has False, and turns it on where it must
    },
    "dpmpp_2s_ancestral": {"eta": 1.0},  # k-diffusion's sample_dpmpp_2s_ancestral
    "dpmpp_sde": {"eta": 1.0, "s_noise": 1.0},  # k-diffusion's sample_dpmpp_sde
    "euler_ancestral": {"eta": 1.0},  # k-diffusion's sample_euler_ancestral
    "heun": {"churn": 0.0, "rho_min": 0.0, "rho_max": math.inf, "s_noise": 1.0},  # k-diffusion's sample_heun
    "kdpm2": {"eta": 0.0},
    "lcm": {"timestep_scaling": 10.0, "sigma_data": 0.5},  # LCMScheduler
    "lms": {"order": 4},  # LMSDiscreteScheduler.step
    "pndm": {"runge_kutta": False},  # Stable Diffusion's skip_prk_steps
    "sa_solver": {
        "predictor_order": 2,
        "corrector_order": 2,
        "tau": middle_noise,
        "integrand": "x0",
        "lower_order_final": True,
    },  # SASolverScheduler
    "unipc": {
        "order": 2,
        "variant": "bh2",
        "integrand": "x0",
        "lower_order_final": True,
        "disable_corrector": (),
    },  # UniPCMultistepScheduler
}


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_defaults(name):
    parameters = inspect.signature(solvers.SOLVERS[name]).parameters
    assert {key: parameter.default for key, parameter in parameters.items()} == DEFAULTS.get(name, {})
