"""Latent consistency models (arXiv:2310.04378): x0 in one evaluation, better in a few."""

from __future__ import annotations

from ..checks import check_number
from ..types import Grid, Solver
from .linear import Row, adds_noise, forward_only, maker, multistep


@maker
def lcm(timestep_scaling: float = 10.0, sigma_data: float = 0.5) -> Solver:
    """Take the consistency function's value and noise it again for the next node (arXiv:2310.04378, algorithm 3).

    With τ = timestep_scaling · t: x0' = σ_d²/(τ² + σ_d²) x + τ/√(τ² + σ_d²) x0, and x_{i+1} = α_{i+1} x0' + σ_{i+1} ε,
    but for the last step, which gives x0' itself. PixArt-LCM takes 4 such steps without guidance.

    Args:
        timestep_scaling: of t in the boundary condition, above 0; with 0, x0 would count for nothing.
        sigma_data: σ_d, the data's standard deviation, above 0.
    Returns:
        The solver, with one evaluation per step.
    Raises:
        ValueError: one of them is outside its range.
    """
    check_number("timestep_scaling", timestep_scaling, 0, 1e6, above=True)
    check_number("sigma_data", sigma_data, 0, 1e6, above=True)

    def row(grid: Grid, i: int, known: int) -> Row:
        forward_only(grid, i)
        tau = timestep_scaling * float(grid.t[i])
        skip, out = sigma_data**2 / (tau**2 + sigma_data**2), tau / (tau**2 + sigma_data**2) ** 0.5
        if i == len(grid.t) - 2:
            return Row(skip, (out,))
        return Row(grid.alpha[i + 1] * skip, (grid.alpha[i + 1] * out,), grid.sigma[i + 1])

    return adds_noise(multistep(1, row))
