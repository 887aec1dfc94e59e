"""DPM-Solver++ (arXiv:2211.01095): exponential integrators of the diffusion ODE in x0 and λ."""

from __future__ import annotations

import numpy as np

from ..schedule import check_option
from ..types import Grid, Solver
from .linear import Row, multistep

SOLVER_TYPES = ("midpoint", "heun")


def dpmpp_2m(
    order: int = 2,
    solver_type: str = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Solver:
    """DPM-Solver++ 2M, the sampler of PixArt's checkpoints (arXiv:2211.01095, algorithm 2; options as in diffusers).

    With h = λ_{i+1} - λ_i and B = α_{i+1} (1 - e^{-h}):
    x_{i+1} = σ_{i+1}/σ_i · x_i + B · (x0_i + h/(2 h_{i-1}) · (x0_i - x0_{i-1})).

    The first step, and the last if σ ends at 0 (h is infinite there), are of order 1.

    Args:
        order: 2, or 1 for the first-order method, which is DDIM.
        solver_type: the factor of the difference: "midpoint" as above, "heun" (α_{i+1} h - B)/h_{i-1}.
        lower_order_final: take the last of fewer than 15 steps with order 1.
        euler_at_final: take the last step with order 1, however many there are.
    Raises:
        ValueError: order or solver_type is not one of these.
    """
    if order not in (1, 2):
        raise ValueError(f"order (solver_order) must be 1 or 2, got {order!r}; the nearest is {1 if order == 0 else 2}")
    check_option("solver_type", solver_type, SOLVER_TYPES)

    def row(grid: Grid, i: int, known: int) -> Row:
        (alpha, alpha_next), (sigma, sigma_next) = grid.alpha[i : i + 2], grid.sigma[i : i + 2]
        steps = len(grid.t) - 1
        a = sigma_next / sigma
        b = alpha_next - a * alpha  # B without h, which may be infinite
        final = i == steps - 1 and (euler_at_final or (lower_order_final and steps < 15) or sigma_next == 0)
        if order == 1 or known == 1 or final:
            return Row(a, (b,))
        h_last, h = np.diff(np.log(grid.alpha[i - 1 : i + 2] / grid.sigma[i - 1 : i + 2]))
        c = (0.5 * b * h if solver_type == "midpoint" else alpha_next * h - b) / h_last
        return Row(a, (b + c, -c))

    return multistep(order, row)
