"""How much noise there is at which time: noise schedules, times to visit, and grids, in NumPy's float64.

Everything preserves variance: x_t = α(t) x0 + σ(t) ε with α² + σ² = 1, λ = log(α/σ), and ρ = σ/α, which the EDM papers
call σ. Time counts training steps, t = 0 … T - 1, and may be fractional.

`noise` makes a Schedule from β, `spacing` chooses times or values of ρ, and `grids` makes a Grid of either.
"""

from __future__ import annotations

from .grids import FINALS, check_grid, grid, reverse, rho_grid, truncate
from .noise import (
    PREDICTIONS,
    Schedule,
    check_schedule,
    convert,
    from_betas,
    linear,
    scaled_linear,
    squaredcos_cap_v2,
    zero_terminal_snr,
)
from .spacing import AYS, SPACINGS, ays, beta, karras, timesteps, uniform_lambda

__all__ = [
    "AYS",
    "FINALS",
    "PREDICTIONS",
    "SPACINGS",
    "Schedule",
    "ays",
    "beta",
    "check_grid",
    "check_schedule",
    "convert",
    "from_betas",
    "grid",
    "karras",
    "linear",
    "reverse",
    "rho_grid",
    "scaled_linear",
    "squaredcos_cap_v2",
    "timesteps",
    "truncate",
    "uniform_lambda",
    "zero_terminal_snr",
]
