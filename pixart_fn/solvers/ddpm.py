"""DDPM (arXiv:2006.11239): ancestral sampling, with a fixed variance or the one that the model learned."""

from __future__ import annotations

import math

import numpy as np

from .. import rng
from ..checks import check_option, kind
from ..types import Array, Denoiser, Grid, Key, Solver, StepInfo, VarianceDenoiser, VarianceSolver
from .linear import OneStepState, Row, adds_noise, combine, forward_only, maker, multistep, report, span

VARIANCES = ("fixed_small", "fixed_large", "learned_range")


@maker
def ddpm(variance: str = "fixed_small") -> Solver:
    """DDPM's ancestral step, over any nodes (arXiv:2006.11239, eq. 7).

    With β = 1 - α_i²/α_{i+1}²: x_{i+1} = (α_i σ_{i+1}² x_i/α_{i+1} + α_{i+1} β x0)/σ_i² + s ε.

    Args:
        variance: s² is the posterior's β σ_{i+1}²/σ_i² ("fixed_small"), β ("fixed_large"), or between the two in the
            logarithm, where the model says ("learned_range": IDDPM, arXiv:2102.09672, eq. 15, the sampler that PixArt-α
            was trained for, which takes a VarianceDenoiser); 0 at σ_{i+1} = 0.
    Returns:
        The solver, with one evaluation per step; for "learned_range" a VarianceSolver.
    Raises:
        ValueError: variance is not one of these.
    """
    check_option("variance (variance_type)", variance, VARIANCES)

    def row(grid: Grid, i: int, known: int) -> Row:
        a, b, beta, small = _posterior(grid, i)
        s = math.sqrt(small if variance == "fixed_small" else beta)
        return Row(a, (b,), s if grid.sigma[i + 1] else 0.0)

    def learned(
        key: Key, denoise: Denoiser | VarianceDenoiser, grid: Grid, i: int, state: OneStepState
    ) -> tuple[OneStepState, StepInfo]:
        return _learned_step(key, denoise, grid, i, state)

    return adds_noise(VarianceSolver(OneStepState, learned) if variance == "learned_range" else multistep(1, row))


def _posterior(grid: Grid, i: int) -> tuple[float, float, float, float]:
    """Weights of x and of x0 in the posterior's mean, β, and the posterior's variance."""
    forward_only(grid, i)
    alpha, sigma, alpha_next, sigma_next = span(grid, i)
    beta = max(0.0, 1 - (alpha / alpha_next) ** 2)
    a = alpha / alpha_next * (sigma_next / sigma) ** 2
    return a, alpha_next - a * alpha, beta, beta * (sigma_next / sigma) ** 2


def _learned_step(
    key: Key, denoise: Denoiser | VarianceDenoiser, grid: Grid, i: int, state: OneStepState
) -> tuple[OneStepState, StepInfo]:
    predicted = denoise(state.x, float(grid.t[i]))
    if not isinstance(predicted, tuple):
        raise TypeError(
            "ddpm('learned_range') takes a VarianceDenoiser, (x_t, t) → (x0, variance), as guidance.variance_denoiser"
            f" and px.text_variance_denoiser make; got {kind(predicted)} in place of the two"
        )
    x0, variance = predicted
    fraction = (variance + 1.0) * 0.5
    a, b, beta, small = _posterior(grid, i)
    x = combine(Row(a, (b,)), state.x, (x0,), key, i)
    if grid.sigma[i + 1] and beta:
        low, high = math.log(max(small, 1e-20)), math.log(beta)
        x = x + _exp(0.5 * (low + (high - low) * fraction)) * rng.normal_like(rng.fold_in(key, i), x)
    return OneStepState(x), report(grid, i, x, x0)


def _exp(x: Array) -> Array:
    return np.exp(x) if isinstance(x, np.ndarray) else x.exp()
