"""From a checkpoint's scheduler_config.json to a schedule, a maker of grids and a solver."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .. import config
from ..schedule import (
    SPACINGS,
    Schedule,
    check_option,
    from_betas,
    grid,
    linear,
    scaled_linear,
    squaredcos_cap_v2,
    timesteps,
)
from ..types import Grid, Solver
from .ddim import ddim
from .ddpm import ddpm
from .dpmpp import dpmpp_2m

Sampler: TypeAlias = tuple[Schedule, Callable[[int], Grid], Solver]

_OFF = (False, None)
_FIXED: dict[str, Collection] = {
    "algorithm_type": ("dpmsolver++",),
    "clip_sample": _OFF,
    "rescale_betas_zero_snr": _OFF,
    "thresholding": _OFF,
    "use_beta_sigmas": _OFF,
    "use_dynamic_shifting": _OFF,
    "use_exponential_sigmas": _OFF,
    "use_flow_sigmas": _OFF,
    "use_karras_sigmas": _OFF,
    "use_lu_lambdas": _OFF,
}
# Without meaning as long as the options above are off.
_IGNORED = ("clip_sample_range", "dynamic_thresholding_ratio", "flow_shift", "sample_max_value", "time_shift_type")


@dataclass(frozen=True)
class _Options:
    """What the classes share; names and defaults are diffusers'."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0


@dataclass(frozen=True)
class _Multistep(_Options):
    timestep_spacing: str = "linspace"
    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigmas_type: str = "zero"
    lambda_min_clipped: float = -math.inf
    variance_type: str | None = None


@dataclass(frozen=True)
class _DDIM(_Options):
    set_alpha_to_one: bool = True


@dataclass(frozen=True)
class _DDPM(_Options):
    variance_type: str = "fixed_small"


def from_config(scheduler_config: dict[str, Any]) -> Sampler:
    """Make what a checkpoint's scheduler_config.json describes, each option as diffusers 0.42 takes it.

    Args:
        scheduler_config: the parsed file; an absent option has its class's default.
    Returns:
        (schedule, make_grid, solver): the noise schedule with the model's prediction type, steps → Grid, and the
        solver.
    Raises:
        ValueError: one sentence that names the class or each option that isn't supported, and what is.
    """
    name = scheduler_config.get("_class_name")
    if name not in CLASSES:
        nearest = difflib.get_close_matches(str(name), CLASSES, 1, cutoff=0.0)
        raise ValueError(
            f"scheduler class {name!r} isn't supported (supported: {', '.join(CLASSES)}; nearest: {nearest[0]})"
        )
    return CLASSES[name](scheduler_config)


def _multistep(json: dict[str, Any]) -> Sampler:
    options = config.read(_Multistep, json, fixed=_FIXED, ignored=_IGNORED)
    # A learned variance is more channels of the model's output, which guidance.denoiser leaves out.
    if options.variance_type not in (None, "learned", "learned_range"):
        raise ValueError(f"variance_type must be None, 'learned' or 'learned_range', got {options.variance_type!r}")
    check_option("final_sigmas_type", options.final_sigmas_type, ("zero", "sigma_min"))
    schedule = _schedule(options)
    solver = dpmpp_2m(options.solver_order, options.solver_type, options.lower_order_final, options.euler_at_final)

    def make_grid(steps: int) -> Grid:
        t = timesteps(
            schedule,
            steps,
            options.timestep_spacing,
            offset=options.steps_offset,
            lam_min=options.lambda_min_clipped,
        )
        return grid(schedule, t, final=options.final_sigmas_type)

    return schedule, make_grid, solver


def _ddim(json: dict[str, Any]) -> Sampler:
    # diffusers clips to [-1, 1] unless it is told not to: right for pixels, wrong for latents.
    options = config.read(_DDIM, {"clip_sample": True, **json}, fixed=_FIXED, ignored=_IGNORED)
    return _ancestral(options, ddim(), "zero" if options.set_alpha_to_one else "sigma_min")


def _ddpm(json: dict[str, Any]) -> Sampler:
    options = config.read(_DDPM, {"clip_sample": True, **json}, fixed=_FIXED, ignored=_IGNORED)
    # The square root of the variance, or the exponential of half its logarithm: two names for one number.
    variance = "fixed_small" if options.variance_type == "fixed_small_log" else options.variance_type
    return _ancestral(options, ddpm(variance), "zero")


def _ancestral(options: _Options, solver: Solver, final: str) -> Sampler:
    schedule = _schedule(options)

    def make_grid(steps: int) -> Grid:
        t = timesteps(schedule, steps, options.timestep_spacing, offset=options.steps_offset, skip_zero=False)
        return grid(schedule, t, final=final)

    return schedule, make_grid, solver


def _schedule(options: _Options) -> Schedule:
    check_option("beta_schedule", options.beta_schedule, ("linear", "scaled_linear", "squaredcos_cap_v2"))
    check_option("timestep_spacing", options.timestep_spacing, SPACINGS)
    return from_betas(_betas(options), options.prediction_type)


def _betas(options: _Options) -> Sequence[float] | np.ndarray:
    if options.trained_betas is not None:
        return options.trained_betas
    if options.beta_schedule == "squaredcos_cap_v2":
        return squaredcos_cap_v2(options.num_train_timesteps)
    make = linear if options.beta_schedule == "linear" else scaled_linear
    return make(options.num_train_timesteps, options.beta_start, options.beta_end)


CLASSES: dict[str, Callable[[dict[str, Any]], Sampler]] = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "DPMSolverMultistepScheduler": _multistep,
}
