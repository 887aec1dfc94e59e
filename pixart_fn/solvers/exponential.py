"""Exponential integrators: one step of an equation whose linear part is solved exactly and whose rest is a polynomial.

In λ the diffusion ODE is linear but for the network. Its solution from node i to i + 1 (arXiv:2206.00927, eq. 3.4;
arXiv:2211.01095, eq. 9; with noise arXiv:2309.05019, eq. 12), h = λ_{i+1} - λ_i, with κ = 1 + τ²:

    in x0:     σ_{i+1}/σ_i e^{-τ²h} x_i + α_{i+1} κ ∫_0^h e^{κ(u-h)} x0(λ_i + u) du + σ_{i+1} √(1 - e^{-2τ²h}) ε'
    in ε:      α_{i+1}/α_i x_i - σ_{i+1} κ ∫_0^h e^{-(u-h)} ε(λ_i + u) du + τ σ_{i+1} √(e^{2h} - 1) ε'

A method replaces x0(λ) or ε(λ) by the polynomial through the values at some nodes. DPM-Solver, DPM-Solver++, DEIS,
UniPC and SA-Solver differ in the nodes, in κ, and in where they take a simpler weight than the exact one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..types import Grid
from .linear import Row, forward_only, lambdas


def moments(z: float, n: int) -> NDArray[np.float64]:
    """∫_0^1 e^{z(v-1)} v^k dv for k < n: φ-functions but for a factor (arXiv:2211.01095, app. A).

    Args:
        z: any number.
        n: how many, at least 1.
    Returns:
        float64 (n,).
    """
    if abs(z) < 1:  # the recursion below would divide rounding by z
        return np.array(
            [sum(math.factorial(k) / math.factorial(k + 1 + j) * (-z) ** j for j in range(20)) for k in range(n)]
        )
    out = [-math.expm1(-z) / z]
    for k in range(1, n):
        out.append((1 - k * out[-1]) / z)
    return np.array(out)


def weights(h: float, c: float, offsets: Sequence[float]) -> NDArray[np.float64]:
    """∫_0^h e^{c(u-h)} ℓ_j(u) du for the Lagrange polynomials through `offsets`: how much each value counts.

    Args:
        h: the length of the step, not 0.
        c: of the kernel.
        offsets: (n,), where the values lie, all different; u = 0 is the start of the step.
    Returns:
        float64 (n,).
    """
    nodes = np.asarray(offsets, float) / h
    return h * np.linalg.solve(np.vander(nodes, increasing=True).T, moments(c * h, len(nodes)))


def first_order(grid: Grid, start: int, end: int, integrand: str = "x0", tau: float = 0.0) -> Row:
    """The row from one node to another with the polynomial of degree 0: exact where the prediction is constant.

    Args:
        grid: S steps.
        start: the node that the step leaves.
        end: the node that it reaches.
        integrand: what is integrated, the predicted "x0" or "epsilon".
        tau: τ, how much noise, at least 0; 0 is the ODE, 1 the reverse SDE.
    Returns:
        The coefficients, with one b.
    Raises:
        ValueError: a step with noise goes from clean to noisy.
    """
    (alpha, alpha_next), (sigma, sigma_next) = grid.alpha[[start, end]], grid.sigma[[start, end]]
    kappa = 1 + tau**2
    if tau:
        forward_only(grid, start)
    if integrand == "x0":
        ratio = sigma_next * alpha / (sigma * alpha_next)  # e^{-h}
        a = sigma_next / sigma * ratio ** (tau**2)
        # 1 - ratio^(2τ²) is below 0 by rounding where h is 0
        return Row(a, (alpha_next - a * alpha,), sigma_next * math.sqrt(max(0.0, 1 - ratio ** (2 * tau**2))))
    a = alpha_next / alpha
    b = sigma_next - a * sigma
    if sigma_next == 0:
        return Row(a, (b,))  # noise added here would stay in the picture
    return Row(a, (kappa * b,), tau * math.sqrt(max(0.0, (a * sigma) ** 2 - sigma_next**2)))


def polynomial(grid: Grid, start: int, end: int, nodes: Sequence[int], integrand: str = "x0", tau: float = 0.0) -> Row:
    """The row from one node to another with the polynomial through the values at `nodes`, which is integrated exactly.

    Nodes at λ = ±∞ have no say; across an infinite h the first node's value alone counts, across h = 0 none.

    Args:
        grid: S steps.
        start: the node that the step leaves.
        end: the node that it reaches.
        nodes: where the values are known, the newest first.
        integrand: what is integrated, the predicted "x0" or "epsilon".
        tau: τ, how much noise, at least 0; 0 is the ODE, 1 the reverse SDE.
    Returns:
        The coefficients, with at most one b for each node.
    Raises:
        ValueError: a step with noise goes from clean to noisy.
    """
    row, lam = first_order(grid, start, end, integrand, tau), lambdas(grid)
    h = lam[end] - lam[start]
    nodes = [j for j in nodes if np.isfinite(lam[j])]
    if len(nodes) < 2 or h == 0 or not np.isfinite(h):
        return row
    kappa, offsets = 1 + tau**2, lam[nodes] - lam[start]
    if integrand == "x0":
        return row._replace(b=tuple(grid.alpha[end] * kappa * weights(h, kappa, offsets)))
    return row._replace(b=tuple(-grid.sigma[end] * kappa * weights(h, -1.0, offsets)))


def line(row: Row, slope: float, distance: float) -> Row:
    """A first-order row with slope · (m_0 - m_1)/distance added: second order with a weight of one's own.

    Args:
        row: with one b.
        slope: the weight of the difference.
        distance: how far m_0 is from m_1 in λ.
    Returns:
        The row with two b; as it is where slope or distance is infinite.
    """
    if not np.isfinite(slope) or not np.isfinite(distance):
        return row
    c = slope / distance
    return row._replace(b=(row.b[0] + c, -c))
