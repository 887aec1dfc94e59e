"""From a checkpoint's scheduler_config.json to a Sampler: a noise schedule, a maker of grids, a solver, a wrapper.

`scheduler` says which options a class has; here is what they make. A new class is one entry there and one in CLASSES.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from .. import config, guidance
from .. import schedule as schedule_
from ..checks import check_whole, kind, shown
from ..guidance import Result
from ..schedule import Schedule
from ..types import Array, Grid, Json, NumPyArray, Solver
from . import scheduler
from .adams import lms, pndm
from .ddim import beside_old_noise, ddim
from .ddpm import ddpm
from .dpm import deis, dpm_multistep, dpm_singlestep
from .euler import dpmpp_sde, euler, euler_ancestral, heun, kdpm2, kdpm2_ancestral
from .lcm import lcm
from .sa import sa_solver
from .unipc import unipc


class Wrap(Protocol):
    """From a denoiser to one of the same kind: a Denoiser stays one, and so does a VarianceDenoiser."""

    def __call__(self, denoise: Callable[[Array, float], Result], /) -> Callable[[Array, float], Result]:
        """Change the x0 that the denoiser gives, and leave the variance that may stand beside it."""


def same(denoise: Callable[[Array, float], Result]) -> Callable[[Array, float], Result]:
    """Return the denoiser as it is."""
    return denoise


class Sampler(NamedTuple):
    """What a scheduler_config.json describes: `sample(key, wrap(denoise), solver, make_grid(20), x)`.

    Args:
        schedule: the noise schedule, with what the model predicts.
        make_grid: number of steps → Grid.
        solver: how to go from node to node.
        wrap: a denoiser → one of the same kind (a Denoiser stays one, and so does a VarianceDenoiser), whose x0 is
            clipped or thresholded where the class does so; otherwise it gives back the denoiser that it gets. What DDIM
            clips is part of its solver (see `from_config`).
    """

    schedule: Schedule
    make_grid: Callable[[int], Grid]
    solver: Solver
    wrap: Wrap = same

    def __repr__(self) -> str:
        """Show functions by name."""
        shown = (f"{name}={getattr(value, '__name__', repr(value))}" for name, value in self._asdict().items())
        return f"Sampler({', '.join(shown)})"


_FORMULAS = {
    "use_karras_sigmas": schedule_.karras,
    "use_exponential_sigmas": schedule_.uniform_lambda,
    "use_lu_lambdas": schedule_.uniform_lambda,
    "use_beta_sigmas": schedule_.beta,
}


def from_config(scheduler_config: Json) -> Sampler:
    """Make what a checkpoint's scheduler_config.json describes, each option as diffusers 0.42 takes it.

    An absent option has its class's default. A field of another class is ignored, since diffusers leaves such fields in
    a file that was saved by several classes. A grid of one step starts at the last training time (see
    `schedule.timesteps`). `wrap` clips or thresholds x0, except for DDIM: there diffusers combines the clipped x0 with
    the noise that belongs to the x0 before clipping (its use_clipped_model_output is False). No denoiser can do this,
    so it is part of the solver, `ddim.beside_old_noise`.

    Args:
        scheduler_config: the parsed file.
    Returns:
        Sampler(schedule, make_grid, solver, wrap).
    Raises:
        ValueError: one sentence that names the class, each field that no class has, or each option of this class that
            isn't supported, and what is.
        TypeError: it is no dict.
    Example:
        >>> schedule, make_grid, solver, wrap = px.solvers.from_config(px.load().config.scheduler)
        >>> make_grid(20)
        Grid(20 steps, t 999 → 0, σ/α 157.4 → 0)
    """
    if not isinstance(scheduler_config, Mapping):
        raise TypeError(
            f"scheduler_config must be a dict, a parsed scheduler_config.json, got {kind(scheduler_config)}"
        )
    name = scheduler_config.get("_class_name")
    if not isinstance(name, str) or name not in CLASSES:
        near = difflib.get_close_matches(shown(name)[:80], CLASSES, 1)
        raise ValueError(
            f"scheduler class {shown(name)} isn't supported (supported: {', '.join(CLASSES)}"
            + (f"; nearest: {near[0]})" if near else ")")
        )
    cls, make = CLASSES[name]
    options = config.read(cls, scheduler_config, fixed={}, ignored=KNOWN)
    made, change = make(options), _change(options)
    if change is None:
        return made
    if isinstance(options, scheduler.DDIM):
        return made._replace(solver=beside_old_noise(change))
    return made._replace(wrap=change)


def _dpm_multistep(o: scheduler.DPMSolverMultistep) -> Sampler:
    solver_type, algorithm = _dpm_names(o)
    solver = dpm_multistep(
        o.solver_order,
        solver_type,
        algorithm,
        lower_order_final=o.lower_order_final,
        euler_at_final=o.euler_at_final,
    )
    whole = () if o.beta_schedule == "squaredcos_cap_v2" else ("use_karras_sigmas", "use_lu_lambdas")
    return Sampler(*_on_sigmas(o, o.final_sigmas_type, rounded=whole), solver)


def _dpm_singlestep(o: scheduler.DPMSolverSinglestep) -> Sampler:
    solver_type, algorithm = _dpm_names(o)
    solver = dpm_singlestep(o.solver_order, solver_type, algorithm, lower_order_final=o.lower_order_final)
    return Sampler(*_on_sigmas(o, o.final_sigmas_type), solver)


def _dpm_names(o: scheduler.DPMSolverMultistep | scheduler.DPMSolverSinglestep) -> tuple[str, str]:
    """Solver type and algorithm. diffusers takes the names of its other classes, so that one file serves them all."""
    solver_type = "heun" if o.solver_type == "heun" else "midpoint"
    algorithm = "dpmsolver++" if o.algorithm_type == "deis" else o.algorithm_type
    if algorithm in ("dpmsolver", "sde-dpmsolver") and o.final_sigmas_type == "zero":
        raise ValueError(f"algorithm_type {algorithm!r} needs final_sigmas_type 'sigma_min', got 'zero'")
    return solver_type, algorithm


def _deis(o: scheduler.DEISMultistep) -> Sampler:
    return Sampler(*_on_sigmas(o, "sigma_min"), deis(o.solver_order, lower_order_final=o.lower_order_final))


def _unipc(o: scheduler.UniPCMultistep) -> Sampler:
    if o.thresholding and not o.predict_x0:
        raise ValueError("thresholding = True needs predict_x0 = True: diffusers doesn't threshold a predicted noise")
    variant = "bh2" if o.solver_type in ("midpoint", "heun", "logrho") else o.solver_type
    integrand = "x0" if o.predict_x0 else "epsilon"
    solver = unipc(
        o.solver_order,
        variant,
        integrand,
        lower_order_final=o.lower_order_final,
        disable_corrector=o.disable_corrector,
    )
    return Sampler(*_on_sigmas(o, o.final_sigmas_type), solver)


def _sa(o: scheduler.SASolver) -> Sampler:
    integrand = "x0" if o.algorithm_type == "data_prediction" else "epsilon"
    solver = sa_solver(o.predictor_order, o.corrector_order, integrand=integrand, lower_order_final=o.lower_order_final)
    return Sampler(*_on_sigmas(o, "sigma_min"), solver)


def _ddim(o: scheduler.DDIM) -> Sampler:
    return Sampler(*_on_times(o, "zero" if o.set_alpha_to_one else "sigma_min"), ddim())


def _ddpm(o: scheduler.DDPM) -> Sampler:
    # The square root of the variance, or the exponential of half its logarithm, or what diffusers does without a name.
    small = o.variance_type in (None, "fixed_small_log")
    return Sampler(*_on_times(o, "zero"), ddpm("fixed_small" if small else str(o.variance_type)))


def _pndm(o: scheduler.PNDM) -> Sampler:
    solver = pndm(runge_kutta=not o.skip_prk_steps)
    return Sampler(*_on_times(o, "zero" if o.set_alpha_to_one else "sigma_min"), solver)


def _lcm(o: scheduler.LCM) -> Sampler:
    schedule, n = _schedule(o, exact=True), o.original_inference_steps
    if n > schedule.steps:
        raise ValueError(f"original_inference_steps must be within 1 … {schedule.steps} (num_train_timesteps), got {n}")

    def make_grid(steps: int) -> Grid:
        check_whole("steps (of original_inference_steps)", steps, 1, n)
        origin = np.arange(n, 0, -1) * (schedule.steps // n) - 1
        t = origin[np.floor(np.linspace(0, n, steps, endpoint=False)).astype(int)]
        return schedule_.grid(schedule, t)

    return Sampler(schedule, make_grid, lcm(o.timestep_scaling))


def _fractional(solver: Callable[[], Solver], rounded: Collection[str] = ()) -> Callable[[Any], Sampler]:
    """The classes of k-diffusion, whose times are fractions."""

    def make(o: scheduler.Options) -> Sampler:
        final = o.final_sigmas_type if isinstance(o, scheduler.Ended) else "zero"
        return Sampler(*_on_sigmas(o, final, rounded=rounded, fractional=True), solver())

    return make


def _on_times(
    o: scheduler.DDIM | scheduler.DDPM | scheduler.PNDM, final: str
) -> tuple[Schedule, Callable[[int], Grid]]:
    """S whole times, t = 0 among them."""
    schedule = _schedule(o, exact=True)

    def make_grid(steps: int) -> Grid:
        t = schedule_.timesteps(schedule, steps, o.timestep_spacing, offset=o.steps_offset, skip_zero=False)
        return schedule_.grid(schedule, t, final=final)

    return schedule, make_grid


def _on_sigmas(
    o: scheduler.Options, final: str, rounded: Collection[str] = ("use_karras_sigmas",), fractional: bool = False
) -> tuple[Schedule, Callable[[int], Grid]]:
    """S times, or S values of σ/α, whose times for the model are found as k-diffusion finds them.

    Where `fractional`, times are fractions with t = 0 among them, and σ/α lies between that of the first and of the
    last of these; otherwise times are whole without t = 0, and σ/α lies between the schedule's ends.
    """
    schedule = _schedule(o)
    spacing, offset = (o.timestep_spacing, o.steps_offset) if isinstance(o, scheduler.Spaced) else ("linspace", 0)
    lowest = o.lambda_min_clipped if isinstance(o, scheduler.Cut) else -math.inf
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
        return schedule_.rho_grid(schedule, _FORMULAS[chosen](schedule, steps, **ends), final=final)

    return schedule, make_grid


def _chosen(o: scheduler.Options) -> str | None:
    """The name of the formula of σ/α."""
    chosen = [name for name in _FORMULAS if getattr(o, name, False)]
    if len(chosen) > 1:
        raise ValueError(f"only one of {', '.join(_FORMULAS)} can be true, got {' and '.join(chosen)}")
    if chosen and isinstance(o, scheduler.Sigmas):
        for name in ("sigma_min", "sigma_max"):
            if getattr(o, name) is not None:
                raise ValueError(f"{name} must be None where {chosen[0]} is true, got {getattr(o, name)!r}")
    return chosen[0] if chosen else None


def _model_time(schedule: Schedule, cut: Callable[[float], float]) -> Callable[[float], float]:
    """How diffusers finds the model's time of a ρ: linear in log ρ, then rounded, or cut off, or neither."""
    logs, times = np.log(schedule.rhos), np.arange(schedule.steps)
    return lambda t: float(cut(float(np.interp(math.log(schedule.rho(float(t))), logs, times))))


def _schedule(o: scheduler.Options, exact: bool = False) -> Schedule:
    """The noise schedule; where `exact`, zero terminal SNR is α = 0 rather than nearly so."""
    if isinstance(o, scheduler.Spaced) and o.steps_offset >= o.num_train_timesteps:
        raise ValueError(
            f"steps_offset must be under num_train_timesteps {o.num_train_timesteps}, got {o.steps_offset}"
        )
    with np.errstate(over="ignore"):
        schedule = schedule_.from_betas(_betas(o), scheduler.PREDICTIONS[o.prediction_type])
    if not np.isfinite(schedule.rhos[-1]):
        raise ValueError("beta_start, beta_end, num_train_timesteps or trained_betas leave no signal at the last time")
    if not (isinstance(o, scheduler.Rescaled) and o.rescale_betas_zero_snr):
        return schedule
    if exact and o.prediction_type == "epsilon":
        raise ValueError("rescale_betas_zero_snr needs prediction_type 'v_prediction' or 'sample', got 'epsilon'")
    # Solvers that divide by α get 2⁻²⁴ for ᾱ(T - 1) in diffusers, the others 0.
    return schedule_.zero_terminal_snr(schedule, 0.0 if exact else 2.0**-24)


def _betas(o: scheduler.Options) -> Sequence[float] | NumPyArray:
    T = o.num_train_timesteps
    if o.trained_betas is not None:
        if len(o.trained_betas) != T:
            raise ValueError(f"trained_betas must be num_train_timesteps = {T} numbers, got {len(o.trained_betas)}")
        return o.trained_betas
    if o.beta_schedule == "squaredcos_cap_v2":
        return schedule_.squaredcos_cap_v2(T)
    make = schedule_.linear if o.beta_schedule == "linear" else schedule_.scaled_linear
    return make(T, o.beta_start, o.beta_end)


def _change(o: scheduler.Options) -> Wrap | None:
    """What clips or thresholds the x0 of a denoiser."""
    if isinstance(o, scheduler.Thresholded) and o.thresholding:
        quantile, largest = o.dynamic_thresholding_ratio, o.sample_max_value

        def threshold(denoise: Callable[[Array, float], Result]) -> Callable[[Array, float], Result]:
            return guidance.threshold(denoise, quantile, largest)

        return threshold
    if isinstance(o, scheduler.Clipped) and o.clip_sample:
        bound = o.clip_sample_range

        def clip(denoise: Callable[[Array, float], Result]) -> Callable[[Array, float], Result]:
            return guidance.clip(denoise, bound)

        return clip
    return None


CLASSES: dict[str, tuple[type[scheduler.Options], Callable[[Any], Sampler]]] = {
    f"{options.__name__}Scheduler": (options, make)
    for options, make in (
        (scheduler.DDIM, _ddim),
        (scheduler.DDPM, _ddpm),
        (scheduler.DEISMultistep, _deis),
        (scheduler.DPMSolverMultistep, _dpm_multistep),
        (scheduler.DPMSolverSDE, _fractional(dpmpp_sde)),
        (scheduler.DPMSolverSinglestep, _dpm_singlestep),
        (scheduler.EulerAncestralDiscrete, _fractional(euler_ancestral)),
        (scheduler.EulerDiscrete, _fractional(euler)),
        (scheduler.HeunDiscrete, _fractional(heun)),
        (scheduler.KDPM2AncestralDiscrete, _fractional(kdpm2_ancestral, ("use_karras_sigmas",))),
        (scheduler.KDPM2Discrete, _fractional(kdpm2, ("use_karras_sigmas",))),
        (scheduler.LCM, _lcm),
        (scheduler.LMSDiscrete, _fractional(lms)),
        (scheduler.PNDM, _pndm),
        (scheduler.SASolver, _sa),
        (scheduler.UniPCMultistep, _unipc),
    )
}
"""Each class of diffusers by its name there: its options, and what they make."""
KNOWN = {field.name for options, _ in CLASSES.values() for field in fields(options)}
"""The fields that some class has."""
