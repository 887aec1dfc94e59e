"""Solvers that are wrong in one way each: DDIM, or a method close by, with the mistake that its name says."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import pixart_fn as px
from pixart_fn.solvers import linear


def stepping(change=lambda grid, i, new, x0: new, prepare=lambda key, i, x: x, denoised=lambda x0: x0, report=None):
    """DDIM whose x is prepared before the step, whose x0 is changed, whose new x is, or whose StepInfo is."""

    def step(key, denoise, grid, i, state):
        x = prepare(key, i, state.x)
        first = denoise(x, float(grid.t[i]))
        x0 = denoised(first)
        alpha, sigma, alpha_next, sigma_next = linear.span(grid, i)
        new = change(grid, i, sigma_next / sigma * (x - alpha * x0) + alpha_next * x0, x0)
        info = linear.report(grid, i, new, first)
        return linear.OneStepState(new), report(info, grid, i) if report else info

    return px.Solver(linear.OneStepState, step)


def noisy(noise):
    """Ancestral Euler, η = 1, whose noise is `noise(key, i, x)`."""

    def step(key, denoise, grid, i, state):
        x0 = denoise(state.x, float(grid.t[i]))
        rho, after = (grid.sigma[j] / grid.alpha[j] for j in (i, i + 1))
        up = after * (1 - (after / rho) ** 2) ** 0.5
        down = (after**2 - up**2) ** 0.5
        new = state.x / grid.alpha[i] * float(down / rho) + float(1 - down / rho) * x0
        new = float(grid.alpha[i + 1]) * (new + float(up) * noise(key, i, state.x) if up else new)
        new = new.astype(state.x.dtype)
        return linear.OneStepState(new), linear.report(grid, i, new, x0)

    return px.Solver(linear.OneStepState, step)


def two_steps(even: bool):
    """DPM-Solver++ 2M, which either presumes that every step is as long as the one before, or doesn't."""

    def row(grid, i, known):
        alpha, sigma, alpha_next, sigma_next = linear.span(grid, i)
        a = sigma_next / sigma
        b = alpha_next - a * alpha
        if known == 1 or sigma_next == 0:
            return linear.Row(a, (b,))
        lam = linear.lambdas(grid)
        half = 0.5 if even else 0.5 * (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1])
        return linear.Row(a, (b * (1 + half), -b * half))

    return linear.multistep(2, row)


def remembers():
    """The mean of x0 and the one before is taken from a variable of its own, in the place of a state."""
    kept = {}

    def step(key, denoise, grid, i, state):
        x0 = denoise(state.x, float(grid.t[i]))
        mean = x0 if i == 0 else 0.5 * (x0 + kept["x0"])
        kept["x0"] = x0
        alpha, sigma, alpha_next, sigma_next = linear.span(grid, i)
        new = sigma_next / sigma * (state.x - alpha * mean) + alpha_next * mean
        return linear.OneStepState(new), linear.report(grid, i, new, x0)

    return px.Solver(linear.OneStepState, step)


def in_place():
    """The new x is computed in the memory of the old one."""

    def step(key, denoise, grid, i, state):
        x0 = denoise(state.x, float(grid.t[i]))
        alpha, sigma, alpha_next, sigma_next = linear.span(grid, i)
        new = sigma_next / sigma * (state.x - alpha * x0) + alpha_next * x0
        state.x[...] = 0
        return linear.OneStepState(new), linear.report(grid, i, new, x0)

    return px.Solver(linear.OneStepState, step)


class Twice(NamedTuple):
    """A state that is the start doubled."""

    x: np.ndarray


def doubled():
    return stepping()._replace(init=lambda x: Twice(2 * x))


def emptied():
    """The x that init takes over is set to 0."""

    def init(x):
        kept = x.copy()
        x[...] = 0
        return linear.OneStepState(kept)

    return stepping()._replace(init=init)


def calling_twice():
    """The denoiser is called a second time for nothing."""

    def step(key, denoise, grid, i, state):
        denoise(state.x, float(grid.t[i]))
        return stepping().step(key, denoise, grid, i, state)

    return px.Solver(linear.OneStepState, step)


def at_numpy_times():
    """The denoiser is given a NumPy number, with which float32 becomes float64 in NumPy 2."""

    def step(key, denoise, grid, i, state):
        x0 = denoise(state.x, grid.t[i])
        return linear.OneStepState(x0), linear.report(grid, i, x0, x0)

    return px.Solver(linear.OneStepState, step)


def two_nodes_ahead(grid, i, new, x0):
    return new + 0 * grid.t[min(i + 2, 2)]


def stops_short(grid, i, new, x0):
    """The step to σ = 0 is left out."""
    return new if grid.sigma[i + 1] else np.zeros_like(new)


def fails_later(calls=40):
    """The x after so many steps of any sampling is float16."""
    taken = []

    def change(grid, i, new, x0):
        taken.append(i)
        return new.astype(np.float16) if len(taken) == calls else new

    return stepping(change)


def fold(key, i, x):
    return px.rng.normal_like(px.fold_in(key, i), x)


PROTOCOL = {
    "its first x is another": (doubled, "the field x of the state that init returns must be the x"),
    "it needs two steps": (lambda: stepping(two_nodes_ahead), "the solver raises IndexError"),
    "it tells of another node": (
        lambda: stepping(report=lambda info, grid, i: info._replace(t=float(grid.t[i + 1]))),
        "of the StepInfo of step 0 must be",
    ),
    "it tells of another x": (
        lambda: stepping(report=lambda info, grid, i: info._replace(x=info.x + 1)),
        "x of the StepInfo of step 0 isn't x of the state",
    ),
    "it tells of another x0": (
        lambda: stepping(report=lambda info, grid, i: info._replace(x0=0.5 * info.x0)),
        "x0 of step 0 isn't what the denoiser gave",
    ),
    "it tells of too few calls": (
        lambda: stepping(report=lambda info, grid, i: info._replace(evaluations=0)),
        "x0 of step 0 isn't what the denoiser gave at the first of its 0 calls",
    ),
    "it calls twice and says once": (
        calling_twice,
        "the steps say that they call the denoiser 1 times, and they call it 2 times",
    ),
    "it ends without a number": (lambda: stepping(lambda grid, i, new, x0: new * np.nan), "must be finite"),
    "it gives NumPy's times": (at_numpy_times, "denoise must be called with a float within"),
}
"""What has not even the form of a solver, and what is said of it."""

ONE = {
    "pure: in place": (in_place, {}, "step 0 changes an array of the state"),
    "pure: init": (emptied, {}, "the x that init is given is changed in place"),
    "pure: remembers": (remembers, {}, "taken twice from one state"),
    "dtype": (
        lambda: stepping(lambda grid, i, new, x0: new.astype(np.float64)),
        {},
        "step 0 makes float64 of float32",
    ),
    "exact": (lambda: stepping(stops_short), {}, "and it ends 1 off, on Grid(1 step, t 500"),
    "batch": (
        lambda: stepping(denoised=lambda x0: (0.9 * x0 + 0.1 * x0.mean(0)).astype(x0.dtype)),
        {},
        "away from where it ends alone",
    ),
    "key: another": (
        lambda: noisy(lambda key, i, x: np.broadcast_to(fold(px.key(0), i, x[:1]), x.shape)),
        {"stochastic": True},
        "another key gives the same end",
    ),
    "order: claimed": (stepping, {"order": 2}, "2 is claimed and 0.98 is measured"),
    "order: even steps": (lambda: two_steps(even=True), {"order": 2}, "2 is claimed and 0.92 is measured"),
    "order: one noise": (
        lambda: noisy(lambda key, i, x: fold(key, 0, x)),
        {"stochastic": True},
        "1 is claimed and -1.08 is measured",
    ),
}
"""What lacks one property alone, which is the first word of the name; with its claims and what is said."""
