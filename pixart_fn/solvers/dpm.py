"""DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095), multistep and singlestep, with or without noise.

`dpmpp_*` integrate the predicted x0, `dpm*` the predicted ε; `sde_*` solve the reverse SDE instead of the ODE.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..checks import check_option, check_switch, check_whole
from ..types import Grid, Solver
from .exponential import first_order, line, moments, polynomial
from .linear import Row, adds_noise, lambdas, maker, multistep, singlestep

ALGORITHMS = {
    "dpmsolver": ("epsilon", 0.0),
    "dpmsolver++": ("x0", 0.0),
    "sde-dpmsolver": ("epsilon", 1.0),
    "sde-dpmsolver++": ("x0", 1.0),
}
"""What is integrated, and τ."""
SOLVER_TYPES = ("midpoint", "heun", "exact")


@maker
def dpm_multistep(
    order: int = 2,
    solver_type: str = "midpoint",
    algorithm: str = "dpmsolver++",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> Solver:
    """DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095) with the predictions of earlier steps.

    Options and their names are those of diffusers. The first steps, and the last if σ ends at 0 (h is infinite there),
    are of a lower order.

    Args:
        order: 1 (which is DDIM), 2 or 3.
        solver_type: the weight of the difference in second order: half of the first-order weight ("midpoint", what
            PixArt's checkpoints say), or that of the exact integral ("heun"). In third order both take diffusers'
            weights, in which the second difference counts half of what the integral says: they converge with order 2.
            "exact" integrates the polynomial, and converges with order 3.
        algorithm: "dpmsolver++" (in x0), "dpmsolver" (in ε), and both with "sde-" before.
        lower_order_final: a grid of fewer than 15 steps, before `schedule.truncate`, ends with orders 2 and 1.
        euler_at_final: take the last step with order 1, however many there are.
    Returns:
        The solver, with one evaluation per step.
    Raises:
        TypeError: an option has the wrong type.
        ValueError: order, solver_type or algorithm is not one of these.
    """
    integrand, tau = _check(order, solver_type, algorithm, lower_order_final)
    check_switch("euler_at_final", euler_at_final)

    def row(grid: Grid, i: int, known: int) -> Row:
        steps = len(grid.t) - 1
        short = lower_order_final and steps + grid.skipped < 15
        final = i == steps - 1 and (euler_at_final or short or grid.sigma[i + 1] == 0)
        k = 1 if final else min(order, known, 2 if short and i == steps - 2 else 3)
        return _row(grid, i, i + 1, [i - j for j in range(k)], solver_type, integrand, tau)

    solver = multistep(order, row, integrand)
    return adds_noise(solver) if tau else solver


@maker
def dpm_singlestep(
    order: int = 2,
    solver_type: str = "midpoint",
    algorithm: str = "dpmsolver++",
    lower_order_final: bool = True,
) -> Solver:
    """DPM-Solver (arXiv:2206.00927) and DPM-Solver++ (arXiv:2211.01095) in groups of `order` nodes.

    Each step goes from the x of its group's first node. The order holds where the nodes of a group divide it evenly in
    λ (`schedule.uniform_lambda`).

    Args:
        order: nodes in a group, 1 (which is DDIM), 2 or 3.
        solver_type: as in `dpm_multistep`; the third-order weights are the exact ones here, except "midpoint"'s, which
            leave the middle node out, right where nodes divide λ evenly.
        algorithm: "dpmsolver++", "dpmsolver" or "sde-dpmsolver++".
        lower_order_final: end with smaller groups; it must be so where the steps don't divide into groups or σ ends
            at 0, and then is. Groups are those of the whole grid, before `schedule.truncate`.
    Returns:
        The solver, with one evaluation per step.
    Raises:
        TypeError: an option has the wrong type.
        ValueError: order, solver_type or algorithm is not one of these.
    """
    integrand, tau = _check(order, solver_type, algorithm, lower_order_final)
    if algorithm == "sde-dpmsolver":
        raise ValueError("algorithm 'sde-dpmsolver' has no singlestep form; the nearest is 'sde-dpmsolver++'")

    def order_at(grid: Grid, i: int) -> int:
        steps = len(grid.t) - 1 + grid.skipped
        return group_orders(steps, order, lower_order_final, grid.sigma[-1] == 0)[grid.skipped + i]

    def row(grid: Grid, i: int, k: int) -> Row:
        start = i - k + 1
        if k == 3 and solver_type == "midpoint":
            b = _row(grid, start, i + 1, [i, start], "exact", integrand, tau)
            return b if len(b.b) == 1 else b._replace(b=(b.b[0], 0.0, b.b[1]))
        if k == 2 and solver_type == "midpoint":
            first, lam = first_order(grid, start, i + 1, integrand, tau), lambdas(grid)
            half = 0.5 * first.b[0] * (lam[i + 1] - lam[start])
            b = line(first, -half, lam[i] - lam[start])  # from m_1, the group's first, towards m_0
            return b._replace(b=b.b[::-1])
        return _row(grid, start, i + 1, [i - j for j in range(k)], "exact", integrand, tau)

    solver = singlestep(order_at, row, integrand)
    return adds_noise(solver) if tau else solver


@maker
def dpmpp_2m() -> Solver:
    """DPM-Solver++ 2M, the sampler of PixArt's checkpoints (arXiv:2211.01095, algorithm 2).

    With h = λ_{i+1} - λ_i and B = α_{i+1} (1 - e^{-h}):
    x_{i+1} = σ_{i+1}/σ_i · x_i + B · (x0_i + h/(2 h_{i-1}) · (x0_i - x0_{i-1})).

    Returns:
        The solver, with one evaluation per step.
    Example:
        >>> px.solvers.dpmpp_2m() == px.solvers.dpmpp_2m()
        True
    """
    return dpm_multistep()


@maker
def dpmpp_3m() -> Solver:
    """DPM-Solver++ 3M with the exact integral of the parabola through three x0 (arXiv:2211.01095, eq. 9).

    Returns:
        The solver, with one evaluation per step.
    """
    return dpm_multistep(3, "exact")


@maker
def sde_dpmpp_2m() -> Solver:
    """SDE-DPM-Solver++ 2M (arXiv:2211.01095, sec. 5): 2M on the reverse SDE.

    Returns:
        The solver, with one evaluation per step.
    """
    return dpm_multistep(algorithm="sde-dpmsolver++")


@maker
def dpmpp_2s() -> Solver:
    """DPM-Solver++ 2S (arXiv:2211.01095, algorithm 1), over pairs of nodes.

    Returns:
        The solver, with one evaluation per step.
    """
    return dpm_singlestep()


@maker
def dpm_2m() -> Solver:
    """DPM-Solver 2M: multistep in the predicted ε (arXiv:2206.00927, eq. 3.4).

    Returns:
        The solver, with one evaluation per step.
    """
    return dpm_multistep(algorithm="dpmsolver")


@maker
def deis(order: int = 3, lower_order_final: bool = True) -> Solver:
    """DEIS in log ρ (arXiv:2204.13902, sec. 3.3), which is DPM-Solver in the predicted ε with exact integrals.

    Args:
        order: 1, 2 or 3.
        lower_order_final: as in `dpm_multistep`.
    Returns:
        The solver, with one evaluation per step.
    Raises:
        ValueError: order is not one of these.
    """
    return dpm_multistep(order, "exact", "dpmsolver", lower_order_final)


def group_orders(steps: int, order: int, lower_order_final: bool, to_zero: bool) -> list[int]:
    """How many nodes of its group each step uses: [1, 2, 3, 1, 2, 3, …, 1], with ends as in diffusers.

    Args:
        steps: S, of the whole grid.
        order: nodes in a group, 1 to 3.
        lower_order_final: whether to end with smaller groups.
        to_zero: whether σ ends at 0, where the last step is of order 1.
    Returns:
        S numbers.
    """
    group = list(range(1, order + 1))
    if not lower_order_final and not to_zero and steps % order == 0:
        return group * (steps // order)
    whole, rest = divmod(steps, order)
    if rest == 0 and order > 1:
        tail = [*group[:-1], 1]
        return group * (whole - 1) + tail
    orders = group * whole + group[:rest]
    return [*orders[:-1], 1] if to_zero else orders


def _check(order: int, solver_type: str, algorithm: str, lower_order_final: bool) -> tuple[str, float]:
    check_whole("order (solver_order)", order, 1, 3)
    check_option("solver_type", solver_type, SOLVER_TYPES)
    check_option("algorithm (algorithm_type)", algorithm, tuple(ALGORITHMS))
    check_switch("lower_order_final", lower_order_final)
    return ALGORITHMS[algorithm]


def _row(grid: Grid, start: int, end: int, nodes: Sequence[int], solver_type: str, integrand: str, tau: float) -> Row:
    first, lam = first_order(grid, start, end, integrand, tau), lambdas(grid)
    h = lam[end] - lam[start]
    if len(nodes) == 1 or h == 0 or not np.isfinite(h):
        return first
    distance = lam[nodes[0]] - lam[nodes[1]]
    if len(nodes) == 2 and solver_type == "midpoint":
        return line(first, 0.5 * first.b[0] * h, distance)
    exact = polynomial(grid, start, end, nodes, integrand, tau)
    if len(nodes) < 3 or solver_type == "exact" or not np.isfinite(lam[nodes[2]]):
        return exact
    # diffusers' third order: the exact one less half of what the second difference adds to the tangent at m_0.
    kappa = 1 + tau**2
    tangent = _tangent(distance, lam[nodes[1]] - lam[nodes[2]])
    slope = h * h * moments(h * (kappa if integrand == "x0" else -1.0), 2)[1]  # ∫_0^h e^{c(u-h)} u du
    scale = kappa * (grid.alpha[end] if integrand == "x0" else -grid.sigma[end])
    linear = np.array([first.b[0], 0.0, 0.0]) + scale * slope * tangent
    return first._replace(b=tuple((np.array(exact.b) + linear) / 2))


def _tangent(h0: float, h1: float) -> NDArray[np.float64]:
    """Weights of m_0, m_1, m_2 in the slope at m_0 of the parabola through them, which are h0 and then h1 apart."""
    return np.array([1 / h0 + 1 / (h0 + h1), -1 / h0 - 1 / h1, h0 / (h1 * (h0 + h1))])
