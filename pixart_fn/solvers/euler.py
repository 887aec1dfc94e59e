"""Euler, Heun and midpoint in (x/α, σ/α), where the ODE is dx̃/dρ = ε: the solvers of EDM (arXiv:2206.00364) and of
k-diffusion, deterministic and ancestral, with one or two evaluations per step.

Euler's method in these variables is DDIM; what differs is the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from .. import rng
from ..checks import check_number
from ..types import Array, Denoiser, Grid, Key, Solver, StepInfo
from .ddim import ddim
from .linear import OneStepState, add_noise, epsilon, forward_only, maker, noisy_to_clean, report
from .points import Point, between, knows_schedule, move, move_by_x0, node, predictions, signal_at_start
from .stability import spread, warns


def ancestral(start: float, end: float, eta: float) -> tuple[float, float]:
    """How far to go without noise, and how much to add, to arrive at ρ = end as the SDE does (k-diffusion).

    ρ_up = η · √(ρ'² (ρ² - ρ'²)/ρ²), ρ_down = √(ρ'² - ρ_up²).

    Args:
        start: ρ = σ/α at the start of the step, above 0.
        end: ρ' at its end, at least 0.
        eta: η within [0, 1].
    Returns:
        (ρ_down, ρ_up).
    """
    up = min(end, eta * math.sqrt(max(0.0, end**2 * (start**2 - end**2) / start**2)))
    return math.sqrt(max(0.0, end**2 - up**2)), up


@maker
def euler() -> Solver:
    """Euler's method for dx̃/dρ = ε, which is DDIM (EDM, arXiv:2206.00364, sec. 4).

    Returns:
        The solver, with one evaluation per step.
    """
    return ddim()


@maker
def euler_ancestral(eta: float = 1.0) -> Solver:
    """Euler to ρ_down and noise up to the next ρ (k-diffusion's `euler_ancestral`): DDIM with η, in other words.

    Args:
        eta: within [0, 1]; 1 adds DDPM's noise.
    Returns:
        The solver, with one evaluation per step.
    Raises:
        ValueError: eta is outside [0, 1].
    """
    return ddim(eta)


@maker
def heun(churn: float = 0.0, rho_min: float = 0.0, rho_max: float = math.inf, s_noise: float = 1.0) -> Solver:
    """EDM's stochastic sampler (arXiv:2206.00364, algorithm 2): Heun's method, after a step back into more noise.

    Without churn it is deterministic and of second order.

    Args:
        churn: S_churn: ρ grows by the factor 1 + γ first, γ = min(S_churn/S, √2 - 1), though not beyond the schedule's
            end. S counts the steps of the whole grid, before `schedule.truncate`.
        rho_min: S_tmin: churn only where ρ = σ/α is at least this.
        rho_max: S_tmax: churn only where ρ is at most this.
        s_noise: S_noise: the standard deviation of the noise that is added, at least 0.
    Returns:
        The solver, with two evaluations per step, and one where a step ends at σ = 0.
    Raises:
        ValueError: an option is negative, NaN or infinite (rho_max may be), or rho_max is under rho_min.
    """
    check_number("churn", churn, 0)
    check_number("s_noise", s_noise, 0)
    check_number("rho_min", rho_min, 0)
    check_number("rho_max", rho_max, rho_min, math.inf)

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: OneStepState) -> tuple[OneStepState, StepInfo]:
        here, there, x = node(grid, i), node(grid, i + 1), state.x
        if churn:
            forward_only(grid, i)
        if churn and rho_min <= here.rho <= rho_max:
            gamma = min(churn / (len(grid.t) - 1 + grid.skipped), math.sqrt(2) - 1)
            hat = between(grid, here.rho * (1 + gamma))
            scale = s_noise * math.sqrt(max(0.0, hat.rho**2 - here.rho**2))
            x = add_noise((hat.alpha / here.alpha) * x, hat.alpha * scale, key, i)
            here = hat
        x0, eps = predictions(denoise, x, here)
        if there.rho == 0:
            return OneStepState(x0), report(grid, i, x0, x0)
        following = move_by_x0(x, x0, here, there)
        eps = 0.5 * (eps + predictions(denoise, following, there)[1])
        following = move(x, eps, here, there)
        return OneStepState(following), report(grid, i, following, x0, 2)

    checks = (signal_at_start, noisy_to_clean, knows_schedule) if churn else (signal_at_start,)
    return Solver(OneStepState, step, checks=checks)


@maker
def kdpm2(eta: float = 0.0) -> Solver:
    """DPM-Solver-2 (arXiv:2206.00927, algorithm 1) as in k-diffusion: the ε at the middle λ carries the whole step.

    Args:
        eta: within [0, 1]: 0 is deterministic, 1 `kdpm2_ancestral`.
    Returns:
        The solver, with two evaluations per step, and one where a step ends at σ = 0.
    Raises:
        ValueError: eta is outside [0, 1].
    """

    def carry(x: Array, half: Array, x0: Array, here: Point, middle: Point, end: Point) -> Array:
        return move(x, epsilon(half, x0, middle.alpha, middle.alpha * middle.rho), here, end)

    def complaint(grid: Grid, i: int, state: OneStepState) -> str:
        error = _midpoint_error(grid, eta) if i == 0 and eta else 0.0
        if error <= 0.3:
            return ""
        return (
            f"kdpm2 with eta={eta:g} may draw noise on this grid: it multiplies what x0 changes by within a step to up "
            f"to {error:.2g} times the data's standard deviation; take dpmpp_2s_ancestral(), or shorter steps"
        )

    return warns(_midpoint(eta, carry), complaint)


def _midpoint_error(grid: Grid, eta: float) -> float:
    """The largest (ρ_i - ρ_down)/ρ_mid · Δ, where Δ is what the spread of x0 shrinks by up to the middle of a step.

    As x/α moves by (ρ_down - ρ_i) (x/α - x0)_mid/ρ_mid, what x0 changes by within the step is multiplied.
    """
    errors = [0.0]
    for start, end in pairwise((grid.sigma / grid.alpha).tolist()):
        if end > 0:
            down, _ = ancestral(start, end, eta)
            middle = math.sqrt(start * down)
            errors.append((start - down) / middle * (spread(start) - spread(middle)))
    return max(errors)


@maker
def kdpm2_ancestral() -> Solver:
    """`kdpm2` to ρ_down, and noise up to the next ρ.

    It amplifies the change of x0 within a step, and warns where it does so strongly: in 10 steps of the usual grid, but
    not in 20, and where the last node but one is t = 0 or 1. `dpmpp_2s_ancestral` doesn't amplify it.

    Returns:
        The solver, with two evaluations per step, and one where a step ends at σ = 0.
    """
    return kdpm2(eta=1.0)


@maker
def dpmpp_2s_ancestral(eta: float = 1.0) -> Solver:
    """DPM-Solver++ 2S to ρ_down, and noise up to the next ρ (k-diffusion): the x0 at the middle λ carries the step.

    Args:
        eta: within [0, 1]: 0 is DPM-Solver++ 2S (arXiv:2211.01095, algorithm 1).
    Returns:
        The solver, with two evaluations per step, and one where a step ends at σ = 0.
    Raises:
        ValueError: eta is outside [0, 1].
    """
    return _midpoint(eta, lambda x, half, x0, here, middle, end: move_by_x0(x, x0, here, end))


def _midpoint(eta: float, carry: Callable[[Array, Array, Array, Point, Point, Point], Array]) -> Solver:
    """DDIM to the middle λ, and from the start to ρ_down with what is predicted there; then noise up to the next ρ."""
    check_number("eta", eta, 0, 1)

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: OneStepState) -> tuple[OneStepState, StepInfo]:
        here, there, x = node(grid, i), node(grid, i + 1), state.x
        if eta:
            forward_only(grid, i)
        x0 = denoise(x, here.t)
        if there.rho == 0:
            return OneStepState(x0), report(grid, i, x0, x0)
        down, up = ancestral(here.rho, there.rho, eta)
        middle = between(grid, math.sqrt(here.rho * down))
        half = move_by_x0(x, x0, here, middle)
        following = carry(x, half, denoise(half, middle.t), here, middle, there._replace(rho=down))
        following = add_noise(following, there.alpha * up, key, i)
        return OneStepState(following), report(grid, i, following, x0, 2)

    noisy = (noisy_to_clean,) if eta else ()
    return Solver(OneStepState, step, checks=(signal_at_start, knows_schedule, *noisy))


@maker
def dpmpp_sde(eta: float = 1.0, s_noise: float = 1.0) -> Solver:
    """DPM-Solver++ (SDE) of k-diffusion: a midpoint method in x0 on the reverse SDE (arXiv:2211.01095, sec. 5).

    The noise of the half step is the first part of the Brownian path whose whole is the step's.

    Args:
        eta: how much of the SDE's noise is added, within [0, 1].
        s_noise: the standard deviation of what is added, at least 0.
    Returns:
        The solver, with two evaluations per step, and one where a step ends at σ = 0.
    Raises:
        ValueError: eta is outside [0, 1], or s_noise is negative.
    """
    check_number("eta", eta, 0, 1)
    check_number("s_noise", s_noise, 0)

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: OneStepState) -> tuple[OneStepState, StepInfo]:
        here, there, x = node(grid, i), node(grid, i + 1), state.x
        forward_only(grid, i)
        x0 = denoise(x, here.t)
        if there.rho == 0 or here.rho == there.rho:
            following = x0 if there.rho == 0 else x
            return OneStepState(following), report(grid, i, following, x0)
        middle = between(grid, math.sqrt(here.rho * there.rho))
        whole = here.rho - there.rho
        w = math.sqrt((here.rho - middle.rho) / whole)
        keys = rng.fold_in(key, i), rng.fold_in(rng.fold_in(key, i), 1)
        early, late = (rng.normal_like(k, x) for k in keys)

        def go(x0: Array, to: Point, brownian: Array) -> Array:
            down, up = ancestral(here.rho, to.rho, eta)
            ratio = down / here.rho
            moved = (to.alpha / here.alpha * ratio) * x + (to.alpha * (1 - ratio)) * x0
            return moved + (to.alpha * up * s_noise) * brownian if up else moved

        half = denoise(go(x0, middle, early), middle.t)
        following = go(half, there, w * early + math.sqrt(1 - w * w) * late)
        return OneStepState(following), report(grid, i, following, x0, 2)

    return Solver(OneStepState, step, checks=(signal_at_start, knows_schedule, noisy_to_clean))
