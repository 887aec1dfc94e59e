"""DDIM (arXiv:2010.02502): from deterministic to ancestral sampling with one number."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..checks import check_number
from ..types import Denoiser, Grid, Key, Solver, SolverState, StepInfo
from .linear import MultistepState, Row, adds_noise, forward_only, maker, multistep, span


@maker
def ddim(eta: float = 0.0) -> Solver:
    """DDIM (arXiv:2010.02502, eq. 12 and 16): the ε in x_t is kept, or up to η times DDPM's noise put in its place.

    s = η · σ_{i+1}/σ_i · √(1 - α_i²/α_{i+1}²), x_{i+1} = α_{i+1} x0 + √(σ_{i+1}² - s²) · (x_i - α_i x0)/σ_i + s ε.

    Each step goes to the next node of the grid. (diffusers steps back by ⌊T/S⌋ instead, which misses the next
    timestep where the spacing is not that.)

    Args:
        eta: within [0, 1]: 0 is deterministic and ignores the key, 1 is `ddpm("fixed_small")`.
    Returns:
        The solver, with one evaluation per step.
    Raises:
        ValueError: eta is outside [0, 1].
    """
    check_number("eta", eta, 0, 1)

    def row(grid: Grid, i: int, known: int) -> Row:
        alpha, sigma, alpha_next, sigma_next = span(grid, i)
        if eta:
            forward_only(grid, i)
        share = eta * math.sqrt(max(0.0, 1 - (alpha / alpha_next) ** 2)) / sigma  # s / σ_{i+1}; rounds over 1 at η = 1
        a = sigma_next / sigma * math.sqrt(max(0.0, 1 - share**2))
        return Row(a, (alpha_next - a * alpha,), sigma_next * share)

    return adds_noise(multistep(1, row)) if eta else multistep(1, row)


def beside_old_noise(change: Callable[[Denoiser], Denoiser]) -> Solver:
    """DDIM to a changed x0, such as a clipped one, beside the ε of the x0 that the denoiser gives.

    x_{i+1} = α_{i+1} x0' + σ_{i+1} (x_i - α_i x0)/σ_i, as diffusers' DDIMScheduler has it, unless it is called with
    use_clipped_model_output.

    Args:
        change: Denoiser → the denoiser whose x0 is changed, for example `guidance.clip`.
    Returns:
        The solver, with one evaluation per step; its StepInfo holds the changed x0.
    """
    solver = ddim()

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: MultistepState) -> tuple[SolverState, StepInfo]:
        x0 = denoise(state.x, float(grid.t[i]))
        changed = change(lambda x, t: x0)(state.x, float(grid.t[i]))
        moved = state.x + float(grid.alpha[i]) * (changed - x0)
        return solver.step(key, lambda x, t: changed, grid, i, MultistepState(moved))

    name = getattr(change, "__name__", type(change).__name__)
    return solver._replace(step=step, name=f"ddim.beside_old_noise({name})")
