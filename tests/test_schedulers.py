"""The solvers of a scheduler_config.json: diffusers' own numbers, class by class and option by option."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tolerances import RELATIVE, assert_close, relative_error
from reference import make_schedulers as golden

from pixart_fn import guidance, rng, solvers
from pixart_fn.sample import iterate
from pixart_fn.types import StepInfo, VarianceSolver

GOLDENS = golden.load()

WRONG = {
    "DDIM linspace": "it goes back by ⌊T/S⌋ whatever the next timestep is, and lands beside its own nodes",
    "PNDM plms v": "it extrapolates v and turns it into noise at the step's start: first order (ours is of second)",
    "DPMSolverMultistep sde order 3": "the parabola's weight has +1/2 where the integral has -1/2",
    "DPMSolverSinglestep sde order 3 heun": "the same",
}
"""Where diffusers is wrong: test_convergence and the closed forms below are the judge."""
ENDS_IN_NOISE = {("DEISMultistep karras", 1), ("SASolver karras", 1)}
"""One step from σ_max to σ_max; ours goes to the schedule's own σ_min."""
AT_ZERO = (
    *("DDIM", "DDPM", "PNDM", "DPMSolverSDE", "EulerDiscrete", "EulerAncestralDiscrete"),
    *("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete"),
)
TAKES_NOISE_FOR_DATA = {
    (name, 1)
    for name, config in golden.CASES.items()
    if config.get("timestep_spacing") == "leading"
    or (name.split()[0] in AT_ZERO and config.get("timestep_spacing") != "trailing")
}
"""One step of pure noise, which the model is told is x_t at t = 0, the offset or T/2; ours is the noisiest time's."""
BETWEEN = ("DPMSolverSDE", "KDPM2Discrete", "KDPM2AncestralDiscrete")
"""Evaluate between nodes, at a t that diffusers interpolates in log σ: ours is where the schedule has that σ."""

CANCELS = {
    "DPMSolverMultistep beta",
    "DPMSolverSinglestep dpmsolver order 3",
    "UniPCMultistep order 3 sigma_min",
    "SASolver order 3 and 4",
    "HeunDiscrete v",
    "KDPM2Discrete",
    "KDPM2Discrete karras",
    "KDPM2AncestralDiscrete",
    "KDPM2AncestralDiscrete v",
    "LMSDiscrete v",
    "PNDM plms",
    "LCM",
}
"""Within 4e-6 in float32 instead of 1e-6: weights of alternating signs, or few steps from σ = 1, cost two more bits."""

SIGMAS = ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")

COMPARED = [(name, steps) for name in golden.CASES for steps in golden.steps_of(name)]
RIGHT = [case for case in COMPARED if case[0] not in WRONG and case not in ENDS_IN_NOISE | TAKES_NOISE_FOR_DATA]


def ours(
    name: str, steps: int, run: dict[str, np.ndarray], dtype: type, interpolated: float = 1e-9
) -> list[tuple[StepInfo, np.ndarray]]:
    """Our steps on a golden's model outputs, each with diffusers' x after as many evaluations."""
    noise, make_grid, solver, wrap = solvers.from_config(golden.CASES[name])
    if golden.eta_of(name):
        solver = solvers.ddim(golden.eta_of(name))
    grid, times, outputs = make_grid(steps), [], iter(run["outputs"].astype(dtype))

    def model(x, t):
        times.append(t)
        return next(outputs)

    make = guidance.variance_denoiser if isinstance(solver, VarianceSolver) else guidance.denoiser
    denoise = wrap(make(model, noise))
    infos = list(iterate(rng.key(golden.SEED), denoise, solver, grid, run["x"][0].astype(dtype)))
    compare_times(name, np.array(times), run["timesteps"], interpolated)
    return [(info, run["x"][n]) for info, n in zip(infos, np.cumsum([i.evaluations for i in infos]), strict=True)]


def compare_times(name: str, times: np.ndarray, theirs: np.ndarray, interpolated: float) -> None:
    """Identical, but for the interpolation's last digits; halfway, within what rounding and log σ may differ.

    interpolated: how far times may be that diffusers interpolates; a float32 table may round to another whole one.
    """
    assert times.shape == theirs.shape
    off = np.abs(times - theirs)
    if name.split()[0] in BETWEEN:
        assert off[1::2].max(initial=0) <= (0.5 if "karras" in name else 0.01) + 0.01 * (interpolated > 1e-9)
        off = off[::2]
    next_whole = 1 if interpolated > 1e-9 and is_cut(name) else 0
    assert off.max() <= (interpolated if theirs.dtype.kind == "f" else next_whole)


def is_cut(name: str) -> bool:
    """Whether the model's whole times are cut from fractions."""
    return any(golden.CASES[name].get(f"use_{kind}") for kind in SIGMAS)


def tolerance(name: str, steps: int, dtype: type) -> float:
    """1e-6 in float32 and 2e-12 in float64, but for what is listed."""
    family = name.split()[0]
    if dtype == np.float32:
        # From σ = 1 to 0.01 at once x/α grows 160 times, and cancels, in theirs as in ours.
        if steps == 2 and family in ("HeunDiscrete", "KDPM2AncestralDiscrete"):
            return 4e-5
        # Clipped, x0 and a noise that doesn't follow from it add up to nearly 0.
        if name in ("DDIM clip", "DDIM threshold"):
            return 1e-4
        return 4e-6 if name in CANCELS else RELATIVE["float32"]
    # The noise is float32 in both, and LCM's τ in theirs: with them float64 runs share only what float32 holds.
    random = family in ("DDPM", "LCM", "EulerAncestralDiscrete", "SASolver", *BETWEEN)
    return RELATIVE["float32"] if random or "sde" in name or name == "DDIM eta" else 2 * RELATIVE["float64"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "steps"), RIGHT)
def test_every_step_is_that_of_diffusers(name, steps, dtype):
    for info, x in ours(name, steps, GOLDENS[name][steps], dtype):
        assert info.x.dtype == dtype
        assert_close(info.x, x, tolerance(name, steps, dtype))


@pytest.mark.parametrize("name", sorted(WRONG))
def test_where_diffusers_is_wrong_we_differ(name):
    steps = ours(name, 20, GOLDENS[name][20], np.float64)
    assert max(relative_error(info.x, x) for info, x in steps) > 0.01


@pytest.mark.parametrize(("name", "steps"), sorted(ENDS_IN_NOISE))
def test_one_step_ends_without_noise(name, steps):
    ((info, theirs),) = ours(name, steps, GOLDENS[name][steps], np.float64)
    assert np.array_equal(theirs, GOLDENS[name][steps]["x"][0])  # they haven't moved
    noise, make_grid, *_ = solvers.from_config(golden.CASES[name])
    start = GOLDENS[name][steps]["x"][0]
    sigma, alpha = noise.sigma(0.0), noise.alpha(0.0)
    eps = (start - make_grid(1).alpha[0] * info.x0) / make_grid(1).sigma[0]
    assert_close(info.x, alpha * info.x0 + sigma * eps)


@pytest.mark.parametrize(("name", "steps"), sorted(TAKES_NOISE_FOR_DATA & set(COMPARED)))
def test_one_step_starts_in_noise(name, steps):
    assert GOLDENS[name][steps]["timesteps"][0] in (501, 1, pytest.approx(0, abs=1e-9))
    noise, make_grid, *_ = solvers.from_config(golden.CASES[name])
    assert make_grid(steps).t.tolist() == [noise.steps - 1, 0]


def test_ddim_goes_to_its_next_node():
    name = "DDIM linspace"
    run = GOLDENS[name][20]
    noise = solvers.from_config(golden.CASES[name]).schedule
    x = run["x"][0]
    for i, (info, _) in enumerate(ours(name, 20, run, np.float64)):
        t, eps = float(run["timesteps"][i]), run["outputs"][i].astype(np.float64)
        x0 = (x - noise.sigma(t) * eps) / noise.alpha(t)
        following = float(run["timesteps"][i + 1]) if i < 19 else None
        x = x0 if following is None else noise.alpha(following) * x0 + noise.sigma(following) * eps
        assert_close(info.x, x)


SHIPPED = {
    "DPMSolverMultistep cosine karras": 1e-4,
    "SASolver order 3 and 4": 2e-3,  # its closed forms cancel in float32
    "EulerDiscrete zero snr": 5e-4,  # 1 - 2⁻²⁴ is the float32 next to 1
    "HeunDiscrete clip": 1e-3,
    "DDIM clip": 1e-4,  # nearly 0
    "DDIM threshold": 5e-4,
}
LOOSE = ("exponential", "lu", "karras", "order 3", "2Ancestral")
"""Where sigmas are powers or logarithms of the table's ends, its errors grow."""


@pytest.mark.reference
@pytest.mark.parametrize(("name", "steps"), RIGHT)
def test_diffusers_as_shipped(name, steps):
    """Its float32 tables have σ(0) off by 8e-5 and β = 0.999 by 6e-5: that is the difference that is left."""
    pytest.importorskip("diffusers")
    run = golden.trajectory(name, steps, exact=False)
    for info, x in ours(name, steps, run, np.float32, interpolated=0.01):
        assert_close(info.x, x, SHIPPED.get(name, 7e-5 if any(word in name for word in LOOSE) else 2e-5))


@pytest.mark.reference
def test_goldens_are_what_the_script_makes():
    pytest.importorskip("diffusers")
    for name in golden.CASES:
        for field, value in golden.trajectory(name, 5).items():
            assert_close(GOLDENS[name][5][field], value, RELATIVE["float64"])
