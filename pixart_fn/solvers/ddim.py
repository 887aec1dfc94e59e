"""DDIM (arXiv:2010.02502): from deterministic to ancestral sampling with one number."""

from __future__ import annotations

import math

from ..checks import check_number
from ..types import Grid, Solver
from .linear import Row, forward_only, maker, multistep, span


@maker
def ddim(eta: float = 0.0) -> Solver:
    """DDIM (arXiv:2010.02502, eq. 12 and 16): the direction to x_t kept, up to η times DDPM's noise put in its place.

    s = η · σ_{i+1}/σ_i · √(1 - α_i²/α_{i+1}²), x_{i+1} = α_{i+1} x0 + √(σ_{i+1}² - s²) · (x_i - α_i x0)/σ_i + s ε.

    Each step goes to the next node of the grid. (diffusers steps back by ⌊T/S⌋ instead, which misses the next
    timestep where the spacing is not that.)

    Args:
        eta: within [0, 1]: 0 is deterministic and ignores the key, 1 is `ddpm("fixed_small")`.
    Raises:
        ValueError: eta is outside [0, 1].
    """
    check_number("eta", eta, 0, 1)

    def row(grid: Grid, i: int, known: int) -> Row:
        alpha, sigma, alpha_next, sigma_next = span(grid, i)
        if eta:
            forward_only(grid, i)
        fresh = eta * math.sqrt(max(0.0, 1 - (alpha / alpha_next) ** 2)) / sigma  # s / σ_{i+1}; rounds over 1 at η = 1
        a = sigma_next / sigma * math.sqrt(max(0.0, 1 - fresh**2))
        return Row(a, (alpha_next - a * alpha,), sigma_next * fresh)

    return multistep(1, row)
