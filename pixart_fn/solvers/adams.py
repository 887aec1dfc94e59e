"""Adams methods in the predicted ε: LMS over ρ = σ/α, and PNDM's over the number of the step."""

from __future__ import annotations

from ..checks import check_switch, check_whole
from ..types import Array, Denoiser, Grid, Key, Solver, SolverState, StepInfo
from .exponential import weights
from .linear import EpsilonMultistepState, Row, epsilon, maker, multistep, noisy_start, report, span
from .points import knows_schedule
from .stability import warns_of_errors

BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of the newest value and those before it, by order, where steps are equal."""


@maker
def lms(order: int = 4) -> Solver:
    """Linear multistep: the polynomial through the last ε, integrated over ρ (k-diffusion's LMS).

    x/α moves by ∫ ε dρ from node to node, whatever their distances. On grids of even times, whose steps stay long in ρ
    up to the end, it amplifies errors of x0 (10 times in 20 steps of the usual grid) and warns. Use it on a grid of
    `schedule.karras`.

    Args:
        order: how many ε are used, 1 (which is DDIM) to 4.
    Returns:
        The solver, with one evaluation per step.
    Raises:
        ValueError: order is not one of these.
    """
    check_whole("order", order, 1, 4)

    def row(grid: Grid, i: int, known: int) -> Row:
        alpha_next = grid.alpha[i + 1]
        rho = grid.sigma[i - known + 1 : i + 2] / grid.alpha[i - known + 1 : i + 2]
        step = rho[-1] - rho[-2]
        b = alpha_next * weights(step, 0.0, rho[-2::-1] - rho[-2]) if step else [0.0]
        return Row(alpha_next / grid.alpha[i], tuple(b))

    solver = multistep(order, row, "epsilon")
    if order == 1:  # which is DDIM
        return solver
    return warns_of_errors(solver, f"lms({order})", "dpmpp_2m(), or a grid of schedule.karras")


@maker
def pndm(runge_kutta: bool = False) -> Solver:
    """PNDM (arXiv:2202.09778): DDIM's step, eq. 9 there, along the ε that an Adams-Bashforth formula extrapolates.

    The formula takes the steps for equal, which keeps it at second order. The first steps are either one with two
    evaluations and then lower orders, as Stable Diffusion has it (PLMS), or the paper's Runge-Kutta, three of four.
    Like `lms`, it multiplies errors of x0 (15 times in 20 steps of the usual grid), and warns on any but fine grids.

    Args:
        runge_kutta: which of these; False is `skip_prk_steps` in diffusers. It looks between nodes at the middle t.
    Returns:
        The solver, with one evaluation per step, two in the first one, or four in the first three.
    Raises:
        TypeError: runge_kutta isn't True or False.
    """
    check_switch("runge_kutta", runge_kutta)

    def row(grid: Grid, i: int, known: int) -> Row:
        a, b = _ddim(*span(grid, i))
        return Row(a, tuple(b * w for w in BASHFORTH[known - 1]))

    adams = multistep(4, row, "epsilon")

    def step(
        key: Key, denoise: Denoiser, grid: Grid, i: int, state: EpsilonMultistepState
    ) -> tuple[SolverState, StepInfo]:
        last = i == len(grid.t) - 2
        if runge_kutta and len(state.past) < 3 and not last:
            return _runge_kutta(denoise, grid, i, state)
        if not runge_kutta and not state.past and not last:
            return _twice(denoise, grid, i, state)
        return adams.step(key, denoise, grid, i, state)

    checks = (noisy_start, knows_schedule) if runge_kutta else (noisy_start,)
    return warns_of_errors(Solver(EpsilonMultistepState, step, checks=checks), "pndm", "dpmpp_2m()")


def _ddim(alpha: float, sigma: float, alpha_next: float, sigma_next: float) -> tuple[float, float]:
    """Weights of x and of ε."""
    a = alpha_next / alpha
    return a, sigma_next - a * sigma


def _twice(
    denoise: Denoiser, grid: Grid, i: int, state: EpsilonMultistepState
) -> tuple[EpsilonMultistepState, StepInfo]:
    """There with the ε at node i, and again with the mean of it and of the ε there."""
    x, ends = state.x, span(grid, i)
    x0 = denoise(x, float(grid.t[i]))
    first = epsilon(x, x0, *ends[:2])
    a, b = _ddim(*ends)
    there = a * x + b * first
    second = epsilon(there, denoise(there, float(grid.t[i + 1])), *ends[2:])
    x = a * x + b * (0.5 * (first + second))
    return EpsilonMultistepState(x, (first,)), report(grid, i, x, x0, 2)


def _runge_kutta(
    denoise: Denoiser, grid: Grid, i: int, state: EpsilonMultistepState
) -> tuple[EpsilonMultistepState, StepInfo]:
    """Four ε: here, twice at the middle t, and at the next node."""
    if grid.schedule is None:
        raise ValueError(
            "pndm(runge_kutta=True) looks between nodes, so the grid needs its schedule: see schedule.grid"
        )
    alpha, sigma, alpha_next, sigma_next = span(grid, i)
    t, t_next = float(grid.t[i]), float(grid.t[i + 1])
    half = 0.5 * (t + t_next)
    middle = half, grid.schedule.alpha(half), grid.schedule.sigma(half)
    end = t_next, alpha_next, sigma_next

    def go(eps: Array, to: tuple[float, float, float]) -> Array:
        a, b = _ddim(alpha, sigma, *to[1:])
        return a * state.x + b * eps

    def epsilon_at(x: Array, place: tuple[float, float, float]) -> Array:
        return epsilon(x, denoise(x, place[0]), *place[1:])

    x0 = denoise(state.x, t)
    e1 = epsilon(state.x, x0, alpha, sigma)
    e2 = epsilon_at(go(e1, middle), middle)
    e3 = epsilon_at(go(e2, middle), middle)
    e4 = epsilon_at(go(e3, end), end)
    x = go((e1 + 2.0 * e2 + 2.0 * e3 + e4) * (1 / 6), end)
    return EpsilonMultistepState(x, (e1, *state.past)[:3]), report(grid, i, x, x0, 4)
