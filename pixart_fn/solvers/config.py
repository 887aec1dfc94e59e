"""From a checkpoint's scheduler_config.json to a schedule, a maker of grids and a solver."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeAlias

import numpy as np

from .. import config, guidance
from .. import schedule as schedule_
from ..checks import check_option, check_whole, kind
from ..schedule import Schedule
from ..types import Denoiser, Grid, Json, Key, Solver, SolverState, StepInfo
from . import scheduler as of
from .adams import lms, pndm
from .ddim import ddim
from .ddpm import ddpm
from .dpm import deis, dpm_multistep, dpm_singlestep
from .euler import dpmpp_sde, euler, euler_ancestral, heun, kdpm2, kdpm2_ancestral
from .lcm import lcm
from .sa import sa_solver
from .unipc import unipc

Sampler: TypeAlias = tuple[Schedule, Callable[[int], Grid], Solver]

_PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
_SIGMAS = {
    "use_karras_sigmas": schedule_.karras,
    "use_exponential_sigmas": schedule_.uniform_lambda,
    "use_lu_lambdas": schedule_.uniform_lambda,
    "use_beta_sigmas": schedule_.beta,
}


def from_config(scheduler_config: Json) -> Sampler:
    """Make what a checkpoint's scheduler_config.json describes, each option as diffusers 0.42 takes it.

    An absent option has its class's default. A field of another class is ignored whatever it holds, since diffusers
    leaves those of every class that a file has gone through. Where a class clips or thresholds x0, its step uses that
    x0; DDIM's puts it beside the noise of the x0 that isn't clipped, as diffusers does unless it is told
    use_clipped_model_output. One step starts at the last training time (see `schedule.timesteps`).

    Args:
        scheduler_config: the parsed file.
    Returns:
        (schedule, make_grid, solver): the noise schedule with the model's prediction type, steps → Grid, and the
        solver.
    Raises:
        ValueError: one sentence that names the class, each field that no class has, or each option of this class that
            isn't supported, and what is.
        TypeError: it is no dict.
    """
    if not isinstance(scheduler_config, Mapping):
        raise TypeError(
            f"scheduler_config must be a dict, a parsed scheduler_config.json, got {kind(scheduler_config)}"
        )
    name = scheduler_config.get("_class_name")
    if not isinstance(name, str) or name not in CLASSES:
        nearest = difflib.get_close_matches(str(name), CLASSES, 1, cutoff=0.0)
        raise ValueError(
            f"scheduler class {name!r} isn't supported (supported: {', '.join(CLASSES)}; nearest: {nearest[0]})"
        )
    options_of, make = CLASSES[name]
    options = config.read(options_of, scheduler_config, fixed={}, ignored=KNOWN)
    schedule, make_grid, solver = make(options)
    return schedule, make_grid, _clipping(options, solver)


def _dpm_multistep(o: of.DPMSolverMultistep) -> Sampler:
    solver_type, algorithm = _dpm_names(o)
    solver = dpm_multistep(o.solver_order, solver_type, algorithm, o.lower_order_final, o.euler_at_final)
    whole = () if o.beta_schedule == "squaredcos_cap_v2" else ("use_karras_sigmas", "use_lu_lambdas")
    return *_on_sigmas(o, o.final_sigmas_type, rounded=whole), solver


def _dpm_singlestep(o: of.DPMSolverSinglestep) -> Sampler:
    solver_type, algorithm = _dpm_names(o)
    solver = dpm_singlestep(o.solver_order, solver_type, algorithm, o.lower_order_final)
    return *_on_sigmas(o, o.final_sigmas_type), solver


def _dpm_names(o: of.DPMSolverMultistep | of.DPMSolverSinglestep) -> tuple[str, str]:
    """Solver type and algorithm. diffusers takes the names of its other classes, so that one file serves them all."""
    solver_type = "midpoint" if o.solver_type in ("logrho", "bh1", "bh2") else o.solver_type
    check_option("solver_type", solver_type, ("midpoint", "heun"))
    algorithm = "dpmsolver++" if o.algorithm_type == "deis" else o.algorithm_type
    if algorithm in ("dpmsolver", "sde-dpmsolver") and o.final_sigmas_type == "zero":
        raise ValueError(f"algorithm_type {algorithm!r} needs final_sigmas_type 'sigma_min', got 'zero'")
    return solver_type, algorithm


def _deis(o: of.DEISMultistep) -> Sampler:
    return *_on_sigmas(o, "sigma_min"), deis(o.solver_order, o.lower_order_final)


def _unipc(o: of.UniPCMultistep) -> Sampler:
    if o.thresholding and not o.predict_x0:
        raise ValueError("thresholding = True needs predict_x0 = True: diffusers doesn't threshold a predicted noise")
    variant = "bh2" if o.solver_type in ("midpoint", "heun", "logrho") else o.solver_type
    said = "x0" if o.predict_x0 else "noise"
    solver = unipc(o.solver_order, variant, said, o.lower_order_final, o.disable_corrector)
    return *_on_sigmas(o, o.final_sigmas_type), solver


def _sa(o: of.SASolver) -> Sampler:
    said = "x0" if o.algorithm_type == "data_prediction" else "noise"
    solver = sa_solver(o.predictor_order, o.corrector_order, of=said, lower_order_final=o.lower_order_final)
    return *_on_sigmas(o, "sigma_min"), solver


def _ddim(o: of.DDIM) -> Sampler:
    return *_on_times(o, "zero" if o.set_alpha_to_one else "sigma_min"), ddim()


def _ddpm(o: of.DDPM) -> Sampler:
    # The square root of the variance, or the exponential of half its logarithm, or what diffusers does without a name.
    small = o.variance_type in (None, "fixed_small_log")
    return *_on_times(o, "zero"), ddpm("fixed_small" if small else str(o.variance_type))


def _pndm(o: of.PNDM) -> Sampler:
    return *_on_times(o, "zero" if o.set_alpha_to_one else "sigma_min"), pndm(not o.skip_prk_steps)


def _lcm(o: of.LCM) -> Sampler:
    schedule, n = _schedule(o, exact=True), o.original_inference_steps
    if n > schedule.steps:
        raise ValueError(f"original_inference_steps must be within 1 … {schedule.steps} (num_train_timesteps), got {n}")

    def make_grid(steps: int) -> Grid:
        check_whole("steps (of original_inference_steps)", steps, 1, n)
        origin = np.arange(n, 0, -1) * (schedule.steps // n) - 1
        t = origin[np.floor(np.linspace(0, n, steps, endpoint=False)).astype(int)]
        return schedule_.grid(schedule, t)

    return schedule, make_grid, lcm(o.timestep_scaling)


def _fractional(solver: Callable[[], Solver], rounded: Collection[str] = ()) -> Callable[[Any], Sampler]:
    """The classes of k-diffusion, whose times are fractions."""

    def make(o: of.Options) -> Sampler:
        final = o.final_sigmas_type if isinstance(o, of.Ended) else "zero"
        return *_on_sigmas(o, final, rounded=rounded, fractional=True), solver()

    return make


def _on_times(o: of.DDIM | of.DDPM | of.PNDM, final: str) -> tuple[Schedule, Callable[[int], Grid]]:
    """S whole times, t = 0 among them."""
    schedule = _schedule(o, exact=True)

    def make_grid(steps: int) -> Grid:
        t = schedule_.timesteps(schedule, steps, o.timestep_spacing, offset=o.steps_offset, skip_zero=False)
        return schedule_.grid(schedule, t, final=final)

    return schedule, make_grid


def _on_sigmas(
    o: of.Options, final: str, rounded: Collection[str] = ("use_karras_sigmas",), fractional: bool = False
) -> tuple[Schedule, Callable[[int], Grid]]:
    """S times, or S values of σ/α, whose times the model is told as k-diffusion finds them.

    fractional: fractions of a step, t = 0 among them, and sigmas between the first and the last of these; otherwise
    whole times without t = 0, and sigmas between the schedule's ends.
    """
    schedule = _schedule(o)
    spacing, offset = (o.timestep_spacing, o.steps_offset) if isinstance(o, of.Spaced) else ("linspace", 0)
    lowest = o.lambda_min_clipped if isinstance(o, of.Cut) else -math.inf
    if np.count_nonzero(-np.log(schedule.rhos) >= lowest) < 2:
        raise ValueError(f"lambda_min_clipped must leave two times: λ falls from {schedule.lam(0):.4g}, got {lowest}")
    chosen = _chosen(o)
    if chosen:
        cut = np.round if chosen in rounded else float if fractional else int
        schedule = replace(schedule, model_time=_model_time(schedule, cut))

    def make_grid(steps: int) -> Grid:
        whole = not fractional
        t = schedule_.timesteps(schedule, steps, spacing, offset=offset, skip_zero=whole, whole=whole, lam_min=lowest)
        if not chosen or (fractional and steps == 1):
            return schedule_.grid(schedule, t, final=final)
        ends = {"first": schedule.rho(float(t[0])), "last": schedule.rho(float(t[-1]))} if fractional else {}
        return schedule_.rho_grid(schedule, _SIGMAS[chosen](schedule, steps, **ends), final=final)

    return schedule, make_grid


def _chosen(o: of.Options) -> str | None:
    """The name of the formula of σ/α."""
    chosen = [name for name in _SIGMAS if getattr(o, name, False)]
    if len(chosen) > 1:
        raise ValueError(f"only one of {', '.join(_SIGMAS)} can be true, got {' and '.join(chosen)}")
    if chosen and isinstance(o, of.Sigmas):
        for name in ("sigma_min", "sigma_max"):
            if getattr(o, name) is not None:
                raise ValueError(f"{name} must be None where {chosen[0]} is true, got {getattr(o, name)!r}")
    return chosen[0] if chosen else None


def _model_time(schedule: Schedule, cut: Callable[[float], float]) -> Callable[[float], float]:
    """How diffusers finds the model's time of a σ: linear in log σ, then rounded, or cut off, or neither."""
    logs, times = np.log(schedule.rhos), np.arange(schedule.steps)
    return lambda t: float(cut(float(np.interp(math.log(schedule.rho(float(t))), logs, times))))


def _schedule(o: of.Options, exact: bool = False) -> Schedule:
    if isinstance(o, of.Spaced) and o.steps_offset >= o.num_train_timesteps:
        raise ValueError(
            f"steps_offset must be under num_train_timesteps {o.num_train_timesteps}, got {o.steps_offset}"
        )
    with np.errstate(over="ignore"):
        schedule = schedule_.from_betas(_betas(o), _PREDICTIONS[o.prediction_type])
    if not np.isfinite(schedule.rhos[-1]):
        raise ValueError("beta_start, beta_end, num_train_timesteps or trained_betas leave no signal at the last time")
    if not (isinstance(o, of.Rescaled) and o.rescale_betas_zero_snr):
        return schedule
    if exact and o.prediction_type == "epsilon":
        raise ValueError("rescale_betas_zero_snr needs prediction_type 'v_prediction' or 'sample', got 'epsilon'")
    # Solvers that divide by α get 2⁻²⁴ for ᾱ(T - 1) in diffusers, the others 0.
    return schedule_.zero_terminal_snr(schedule, 0.0 if exact else 2.0**-24)


def _betas(o: of.Options) -> Sequence[float] | np.ndarray:
    T = o.num_train_timesteps
    if o.trained_betas is not None:
        if len(o.trained_betas) != T:
            raise ValueError(f"trained_betas must be num_train_timesteps = {T} numbers, got {len(o.trained_betas)}")
        return o.trained_betas
    if o.beta_schedule == "squaredcos_cap_v2":
        return schedule_.squaredcos_cap_v2(T)
    make = schedule_.linear if o.beta_schedule == "linear" else schedule_.scaled_linear
    return make(T, o.beta_start, o.beta_end)


def _clipping(o: of.Options, solver: Solver) -> Solver:
    """The solver whose x0 is clipped as the options say; DDIM's step then starts from α x0 + σ ε with the old ε."""
    if isinstance(o, of.Thresholded) and o.thresholding:
        ratio, most = o.dynamic_thresholding_ratio, o.sample_max_value

        def wrap(denoise: Denoiser) -> Denoiser:
            return guidance.threshold(denoise, ratio, most)
    elif isinstance(o, of.Clipped) and o.clip_sample:
        largest = o.clip_sample_range

        def wrap(denoise: Denoiser) -> Denoiser:
            return guidance.clip(denoise, largest)
    else:
        return solver

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: SolverState) -> tuple[SolverState, StepInfo]:
        if not isinstance(o, of.DDIM):
            return solver.step(key, wrap(denoise), grid, i, state)
        x0 = denoise(state.x, float(grid.t[i]))
        clipped = wrap(lambda x, t: x0)(state.x, float(grid.t[i]))
        moved = state.x + float(grid.alpha[i]) * (clipped - x0)
        return solver.step(key, lambda x, t: clipped, grid, i, state._replace(x=moved))

    return solver._replace(step=step)


_KARRAS = ("use_karras_sigmas",)
CLASSES: dict[str, tuple[type[of.Options], Callable[[Any], Sampler]]] = {
    "DDIMScheduler": (of.DDIM, _ddim),
    "DDPMScheduler": (of.DDPM, _ddpm),
    "DEISMultistepScheduler": (of.DEISMultistep, _deis),
    "DPMSolverMultistepScheduler": (of.DPMSolverMultistep, _dpm_multistep),
    "DPMSolverSDEScheduler": (of.DPMSolverSDE, _fractional(dpmpp_sde)),
    "DPMSolverSinglestepScheduler": (of.DPMSolverSinglestep, _dpm_singlestep),
    "EulerAncestralDiscreteScheduler": (of.EulerAncestralDiscrete, _fractional(euler_ancestral)),
    "EulerDiscreteScheduler": (of.EulerDiscrete, _fractional(euler)),
    "HeunDiscreteScheduler": (of.HeunDiscrete, _fractional(heun)),
    "KDPM2AncestralDiscreteScheduler": (of.KDPM2Discrete, _fractional(kdpm2_ancestral, _KARRAS)),
    "KDPM2DiscreteScheduler": (of.KDPM2Discrete, _fractional(kdpm2, _KARRAS)),
    "LCMScheduler": (of.LCM, _lcm),
    "LMSDiscreteScheduler": (of.LMSDiscrete, _fractional(lms)),
    "PNDMScheduler": (of.PNDM, _pndm),
    "SASolverScheduler": (of.SASolver, _sa),
    "UniPCMultistepScheduler": (of.UniPCMultistep, _unipc),
}
"""Each class of diffusers: its options, and what makes the rest of them."""
KNOWN = {field.name for options, _ in CLASSES.values() for field in fields(options)}
"""The fields that some class has."""
