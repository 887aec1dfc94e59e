"""From a checkpoint's scheduler_config.json to a schedule, a maker of grids and a solver."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np

from .. import config, guidance
from .. import schedule as schedule_
from ..schedule import Schedule, check_option
from ..types import Denoiser, Grid, Solver
from .adams import lms, pndm
from .ddim import ddim
from .ddpm import ddpm
from .dpm import deis, dpm_multistep, dpm_singlestep
from .euler import dpmpp_sde, euler, euler_ancestral, heun, kdpm2, kdpm2_ancestral
from .lcm import lcm
from .sa import sa_solver
from .unipc import unipc

Sampler: TypeAlias = tuple[Schedule, Callable[[int], Grid], Solver]

_OFF = (False, None)
_FIXED: dict[str, Collection] = {
    "interpolation_type": ("linear",),
    "shift_terminal": (None,),
    "sigma_max": (None,),
    "sigma_min": (None,),
    "solver_p": (None,),
    "tau_func": (None,),
    "timestep_type": ("discrete",),
    "use_dynamic_shifting": _OFF,
    "use_flow_sigmas": _OFF,
}
# Without meaning as long as the options above are off; a seed is the key's business.
_IGNORED = ("flow_shift", "time_shift_type", "noise_sampler_seed")
_SIGMAS = {
    "use_karras_sigmas": schedule_.karras,
    "use_exponential_sigmas": schedule_.uniform_lambda,
    "use_lu_lambdas": schedule_.uniform_lambda,
    "use_beta_sigmas": schedule_.beta,
}
_COMMON = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")


@dataclass(frozen=True)
class _Options:
    """What the classes share, and what only some have; names and defaults are diffusers'."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "linspace"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False
    use_lu_lambdas: bool | None = False
    final_sigmas_type: str = "zero"
    lambda_min_clipped: float = -math.inf
    variance_type: str | None = None
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    clip_sample: bool = False
    clip_sample_range: float = 1.0


@dataclass(frozen=True)
class _Multistep(_Options):
    solver_order: int = 2
    solver_type: str = "midpoint"
    algorithm_type: str = "dpmsolver++"
    lower_order_final: bool = True
    euler_at_final: bool = False


@dataclass(frozen=True)
class _Singlestep(_Options):
    solver_order: int = 2
    solver_type: str = "midpoint"
    algorithm_type: str = "dpmsolver++"
    lower_order_final: bool = False


@dataclass(frozen=True)
class _DEIS(_Options):
    solver_order: int = 2
    solver_type: str = "logrho"
    algorithm_type: str = "deis"
    lower_order_final: bool = True


@dataclass(frozen=True)
class _UniPC(_Options):
    solver_order: int = 2
    solver_type: str = "bh2"
    predict_x0: bool = True
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()


@dataclass(frozen=True)
class _SA(_Options):
    predictor_order: int = 2
    corrector_order: int = 2
    algorithm_type: str = "data_prediction"
    lower_order_final: bool = True


@dataclass(frozen=True)
class _DDIM(_Options):
    timestep_spacing: str = "leading"
    clip_sample: bool = True
    set_alpha_to_one: bool = True


@dataclass(frozen=True)
class _DDPM(_Options):
    timestep_spacing: str = "leading"
    variance_type: str | None = "fixed_small"
    clip_sample: bool = True


@dataclass(frozen=True)
class _PNDM(_Options):
    timestep_spacing: str = "leading"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False


@dataclass(frozen=True)
class _Narrow(_Options):
    """Heun, KDPM2 and DPM-SDE start from other β."""

    beta_start: float = 0.00085
    beta_end: float = 0.012


@dataclass(frozen=True)
class _LCM(_Narrow):
    beta_schedule: str = "scaled_linear"
    timestep_spacing: str = "leading"
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    set_alpha_to_one: bool = True  # of no step: the last gives x0


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
    options_of, has, make = CLASSES[name]
    options: Any = config.read(options_of, scheduler_config, fixed=_FIXED, ignored=_IGNORED)
    default = options_of()
    for field in fields(_Options):
        value = getattr(options, field.name)
        if field.name not in (*_COMMON, *has.split()) and value != getattr(default, field.name) and value is not None:
            raise ValueError(f"{name} has no option {field.name}, got {value!r}; leave it out")
    check_option("final_sigmas_type", options.final_sigmas_type, schedule_.FINALS)
    check_option("timestep_spacing", options.timestep_spacing, schedule_.SPACINGS)
    schedule, make_grid, solver = make(options)
    if options.thresholding:
        solver = _wrapped(solver, guidance.threshold, options.dynamic_thresholding_ratio, options.sample_max_value)
    elif options.clip_sample:
        solver = _wrapped(solver, guidance.clip, options.clip_sample_range)
    return schedule, make_grid, solver


def _dpm_multistep(o: _Multistep) -> Sampler:
    algorithm = "dpmsolver++" if o.algorithm_type == "deis" else o.algorithm_type
    solver_type = "midpoint" if o.solver_type in ("logrho", "bh1", "bh2") else o.solver_type
    check_option("solver_type", solver_type, ("midpoint", "heun"))
    solver = dpm_multistep(o.solver_order, solver_type, algorithm, o.lower_order_final, o.euler_at_final)
    if algorithm in ("dpmsolver", "sde-dpmsolver") and o.final_sigmas_type == "zero":
        raise ValueError(f"algorithm_type {algorithm!r} needs final_sigmas_type 'sigma_min', got 'zero'")
    round_ = o.beta_schedule != "squaredcos_cap_v2"
    return *_on_sigmas(o, rounded=("use_karras_sigmas", "use_lu_lambdas") if round_ else ()), solver


def _dpm_singlestep(o: _Singlestep) -> Sampler:
    if o.algorithm_type == "dpmsolver" and o.final_sigmas_type == "zero":
        raise ValueError("algorithm_type 'dpmsolver' needs final_sigmas_type 'sigma_min', got 'zero'")
    check_option("solver_type", o.solver_type, ("midpoint", "heun"))
    solver = dpm_singlestep(o.solver_order, o.solver_type, o.algorithm_type, o.lower_order_final)
    return *_on_sigmas(o), solver


def _deis(o: _DEIS) -> Sampler:
    # diffusers takes the names of its other classes for logrho, so that one config serves them all.
    check_option("solver_type", o.solver_type, ("logrho", "midpoint", "heun", "bh1", "bh2"))
    check_option("algorithm_type", o.algorithm_type, ("deis", "dpmsolver", "dpmsolver++"))
    solver = deis(o.solver_order, o.lower_order_final)
    return *_on_sigmas(replace(o, final_sigmas_type="sigma_min")), solver


def _unipc(o: _UniPC) -> Sampler:
    variant = "bh2" if o.solver_type in ("midpoint", "heun", "logrho") else o.solver_type
    of = "x0" if o.predict_x0 else "noise"
    return *_on_sigmas(o), unipc(o.solver_order, variant, of, o.lower_order_final, o.disable_corrector)


def _sa(o: _SA) -> Sampler:
    check_option("algorithm_type", o.algorithm_type, ("data_prediction", "noise_prediction"))
    of = "x0" if o.algorithm_type == "data_prediction" else "noise"
    solver = sa_solver(o.predictor_order, o.corrector_order, of=of, lower_order_final=o.lower_order_final)
    return *_on_sigmas(replace(o, final_sigmas_type="sigma_min")), solver


def _ddim(o: _DDIM) -> Sampler:
    # diffusers clips x0 and keeps the ε of the x0 that wasn't: no step of any x0, and wrong for latents anyway.
    _refuse_clipping(o)
    return *_on_times(o, "zero" if o.set_alpha_to_one else "sigma_min"), ddim()


def _ddpm(o: _DDPM) -> Sampler:
    # The square root of the variance, or the exponential of half its logarithm: two names for one number.
    variance = "fixed_small" if o.variance_type == "fixed_small_log" else str(o.variance_type)
    return *_on_times(o, "zero"), ddpm(variance)


def _pndm(o: _PNDM) -> Sampler:
    return *_on_times(o, "zero" if o.set_alpha_to_one else "sigma_min"), pndm(not o.skip_prk_steps)


def _lcm(o: _LCM) -> Sampler:
    schedule, n = _schedule(o, exact=True), o.original_inference_steps

    def make_grid(steps: int) -> Grid:
        if not 1 <= steps <= n:
            raise ValueError(f"steps must be within 1 … {n} (original_inference_steps), got {steps}")
        origin = np.arange(n, 0, -1) * (schedule.steps // n) - 1
        t = origin[np.floor(np.linspace(0, n, steps, endpoint=False)).astype(int)]
        return schedule_.grid(schedule, t)

    return schedule, make_grid, lcm(o.timestep_scaling)


def _fractional(solver: Callable[[], Solver], rounded: Collection[str] = ()) -> Callable[[Any], Sampler]:
    """The classes of k-diffusion, whose times are fractions."""

    def make(o: _Options) -> Sampler:
        return *_on_sigmas(o, rounded=rounded, fractional=True), solver()

    return make


def _on_times(o: _Options, final: str) -> tuple[Schedule, Callable[[int], Grid]]:
    """S whole times, t = 0 among them."""
    schedule = _schedule(o, exact=True)

    def make_grid(steps: int) -> Grid:
        t = schedule_.timesteps(schedule, steps, o.timestep_spacing, offset=o.steps_offset, skip_zero=False)
        return schedule_.grid(schedule, t, final=final)

    return schedule, make_grid


def _on_sigmas(
    o: _Options, rounded: Collection[str] = ("use_karras_sigmas",), fractional: bool = False
) -> tuple[Schedule, Callable[[int], Grid]]:
    """S times, or S values of σ/α, whose times the model is told as k-diffusion finds them.

    fractional: fractions of a step, t = 0 among them, and sigmas between the first and the last of these; otherwise
    whole times without t = 0, and sigmas between the schedule's ends.
    """
    # A learned variance is more channels of the model's output, which guidance.denoiser leaves out.
    if o.variance_type not in (None, "learned", "learned_range"):
        raise ValueError(f"variance_type must be None, 'learned' or 'learned_range', got {o.variance_type!r}")
    schedule = _schedule(o)
    chosen = [name for name in _SIGMAS if getattr(o, name)]
    if len(chosen) > 1:
        raise ValueError(f"only one of {', '.join(_SIGMAS)} can be true, got {' and '.join(chosen)}")
    if chosen:
        cut = np.round if chosen[0] in rounded else float if fractional else int
        schedule = replace(schedule, told=_told(schedule, cut))

    def make_grid(steps: int) -> Grid:
        t = schedule_.timesteps(
            schedule,
            steps,
            o.timestep_spacing,
            offset=o.steps_offset,
            skip_zero=not fractional,
            whole=not fractional,
            lam_min=o.lambda_min_clipped,
        )
        if not chosen or (fractional and steps == 1):
            return schedule_.grid(schedule, t, final=o.final_sigmas_type)
        ends = {"first": schedule.rho(float(t[0])), "last": schedule.rho(float(t[-1]))} if fractional else {}
        return schedule_.sigma_grid(schedule, _SIGMAS[chosen[0]](schedule, steps, **ends), final=o.final_sigmas_type)

    return schedule, make_grid


def _told(schedule: Schedule, cut: Callable[[float], float]) -> Callable[[float], float]:
    """How diffusers finds the model's time of a σ: linear in log σ, then rounded, or cut off, or neither."""
    logs, times = np.log(schedule.ratio), np.arange(schedule.steps)
    return lambda t: float(cut(float(np.interp(math.log(schedule.rho(float(t))), logs, times))))


def _schedule(o: _Options, exact: bool = False) -> Schedule:
    check_option("beta_schedule", o.beta_schedule, BETAS)
    schedule = schedule_.from_betas(_betas(o), o.prediction_type)
    if not o.rescale_betas_zero_snr:
        return schedule
    if exact and o.prediction_type == "epsilon":
        raise ValueError("rescale_betas_zero_snr needs prediction_type 'v_prediction' or 'sample', got 'epsilon'")
    # Solvers that divide by α get 2⁻²⁴ for ᾱ(T - 1) in diffusers, the others 0.
    return schedule_.zero_terminal_snr(schedule, 0.0 if exact else 2.0**-24)


def _betas(o: _Options) -> Sequence[float] | np.ndarray:
    if o.trained_betas is not None:
        return o.trained_betas
    if o.beta_schedule == "squaredcos_cap_v2":
        return schedule_.squaredcos_cap_v2(o.num_train_timesteps)
    make = schedule_.linear if o.beta_schedule == "linear" else schedule_.scaled_linear
    return make(o.num_train_timesteps, o.beta_start, o.beta_end)


def _refuse_clipping(o: _Options) -> None:
    for name in ("clip_sample", "thresholding"):
        if getattr(o, name):
            raise ValueError(
                f"{name} = True isn't supported for DDIM: it clips to [-1, 1], which latents exceed; set it false"
            )


def _wrapped(solver: Solver, wrap: Callable[..., Denoiser], *options: float) -> Solver:
    """The solver whose denoiser is wrapped."""

    def step(key, denoise, grid, i, state):
        return solver.step(key, wrap(denoise, *options), grid, i, state)

    return solver._replace(step=step)


_SPACED = "timestep_spacing steps_offset "
_KARRAS = "use_karras_sigmas use_exponential_sigmas use_beta_sigmas "
_THRESHOLD = "thresholding dynamic_thresholding_ratio sample_max_value "
_CLIP = "clip_sample clip_sample_range "
_ZERO = "rescale_betas_zero_snr "
_CUT = "lambda_min_clipped variance_type "
_FINAL = "final_sigmas_type "

CLASSES: dict[str, tuple[type, str, Callable[[Any], Sampler]]] = {
    "DDIMScheduler": (_DDIM, _SPACED + _CLIP + _THRESHOLD + _ZERO, _ddim),
    "DDPMScheduler": (_DDPM, _SPACED + _CLIP + _THRESHOLD + _ZERO + "variance_type", _ddpm),
    "DEISMultistepScheduler": (_DEIS, _SPACED + _KARRAS + _THRESHOLD, _deis),
    "DPMSolverMultistepScheduler": (
        _Multistep,
        _SPACED + _KARRAS + _THRESHOLD + _ZERO + _CUT + _FINAL + "use_lu_lambdas",
        _dpm_multistep,
    ),
    "DPMSolverSDEScheduler": (_Narrow, _SPACED + _KARRAS, _fractional(dpmpp_sde)),
    "DPMSolverSinglestepScheduler": (_Singlestep, _KARRAS + _THRESHOLD + _CUT + _FINAL, _dpm_singlestep),
    "EulerAncestralDiscreteScheduler": (_Options, _SPACED + _ZERO, _fractional(euler_ancestral)),
    "EulerDiscreteScheduler": (_Options, _SPACED + _KARRAS + _ZERO + _FINAL, _fractional(euler)),
    "HeunDiscreteScheduler": (_Narrow, _SPACED + _KARRAS + _CLIP, _fractional(heun)),
    "KDPM2AncestralDiscreteScheduler": (_Narrow, _SPACED + _KARRAS, _fractional(kdpm2_ancestral, _KARRAS.split()[:1])),
    "KDPM2DiscreteScheduler": (_Narrow, _SPACED + _KARRAS, _fractional(kdpm2, _KARRAS.split()[:1])),
    "LCMScheduler": (_LCM, _CLIP + _THRESHOLD + _ZERO, _lcm),
    "LMSDiscreteScheduler": (_Options, _SPACED + _KARRAS, _fractional(lms)),
    "PNDMScheduler": (_PNDM, _SPACED, _pndm),
    "SASolverScheduler": (_SA, _SPACED + _KARRAS + _THRESHOLD + _CUT, _sa),
    "UniPCMultistepScheduler": (_UniPC, _SPACED + _KARRAS + _THRESHOLD + _ZERO + _FINAL, _unipc),
}
"""Each class of diffusers: its options and their defaults, which of the shared ones it has, and what makes the rest."""
