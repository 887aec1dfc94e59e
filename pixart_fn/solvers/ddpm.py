"""DDPM (arXiv:2006.11239): ancestral sampling."""

from __future__ import annotations

import math

from ..schedule import check_option
from ..types import Grid, Solver
from .linear import Row, multistep

VARIANCES = ("fixed_small", "fixed_large")


def ddpm(variance: str = "fixed_small") -> Solver:
    """DDPM's ancestral step, over any nodes (arXiv:2006.11239, eq. 7).

    With β = 1 - α_i²/α_{i+1}²: x_{i+1} = (α_i σ_{i+1}² x_i/α_{i+1} + α_{i+1} β x0)/σ_i² + s ε.

    Args:
        variance: s² is the posterior's β σ_{i+1}²/σ_i² ("fixed_small") or β ("fixed_large"); 0 at σ_{i+1} = 0.
    Raises:
        ValueError: variance is not one of these.
    """
    check_option("variance (variance_type)", variance, VARIANCES)

    def row(grid: Grid, i: int, known: int) -> Row:
        (alpha, alpha_next), (sigma, sigma_next) = grid.alpha[i : i + 2], grid.sigma[i : i + 2]
        beta = 1 - (alpha / alpha_next) ** 2
        a = alpha / alpha_next * (sigma_next / sigma) ** 2
        s = math.sqrt(beta) * (sigma_next / sigma if variance == "fixed_small" else 1.0)
        return Row(a, (alpha_next - a * alpha,), s if sigma_next else 0.0)

    return multistep(1, row)
