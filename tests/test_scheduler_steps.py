"""What a scheduler_config.json makes: one step and two of every class, and clipping."""

from __future__ import annotations

import itertools
from dataclasses import fields

import numpy as np
import pytest
from helpers.strategies import gaussian, latents
from helpers.tolerances import assert_close

from pixart_fn import rng, solvers
from pixart_fn.sample import iterate
from pixart_fn.schedule import SPACINGS
from pixart_fn.solvers.config import CLASSES

KEY = rng.key(0)
NAMES = sorted(CLASSES)


def variants(name: str) -> list[dict]:
    """Every spacing, every formula of sigmas, both ends: what decides a class's grid."""
    options = {field.name for field in fields(CLASSES[name][0])}
    spacings = SPACINGS if "timestep_spacing" in options and name != "LCMScheduler" else ("linspace",)
    formulas = [*({"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"} & options), None]
    finals = ("zero", "sigma_min") if "final_sigmas_type" in options else (None,)
    offsets = (0, 1) if "steps_offset" in options else (0,)
    return [
        {
            **{"_class_name": name, "timestep_spacing": spacing, "steps_offset": offset, "clip_sample": False},
            **({formula: True} if formula else {}),
            **({"final_sigmas_type": final} if final else {}),
        }
        for spacing, formula, final, offset in itertools.product(spacings, formulas, finals, offsets)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_one_step_from_noise_is_what_the_model_says_there(name):
    """From the last training time, whatever the spacing: x = α_S x0 + σ_S ε, where S is the grid's end."""
    for config in variants(name):
        noise, make_grid, solver, wrap = solvers.from_config(config)
        grid, x = make_grid(1), latents(0, (1, 2, 2, 2))
        assert grid.t.shape == (2,) and grid.t[0] == pytest.approx(999, abs=1e-9), config
        assert_close(grid.sigma[0] / grid.alpha[0], noise.rho(999.0))
        (info,) = iterate(KEY, wrap(gaussian(0.3, 0.6, noise)), solver, grid, x)
        x0 = gaussian(0.3, 0.6, noise)(x, 999.0)
        eps = (x - noise.alpha(999.0) * x0) / noise.sigma(999.0)
        # LCM mixes x into x0: 0.25/(9990² + 0.25) of it.
        assert_close(info.x0, x0, 1e-12)
        assert_close(info.x, grid.alpha[-1] * x0 + grid.sigma[-1] * eps, 1e-8 if name == "LCMScheduler" else 1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_start_as_near_to_noise_as_the_spacing_says(name):
    for config in variants(name):
        grid = solvers.from_config(config).make_grid(2)
        start = {"linspace": 999, "trailing": 999, "leading": 500}[config["timestep_spacing"]]
        assert len(grid.t) == 3 and np.all(np.diff(grid.t) <= 0) and grid.t[0] >= start - 1e-9, config


def test_an_lcm_of_other_steps_starts_at_the_last_that_it_was_distilled_at():
    make_grid = solvers.from_config({"_class_name": "LCMScheduler", "original_inference_steps": 30}).make_grid
    assert make_grid(1).t.tolist() == [30 * 33 - 1, 0]


# --- clipping


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_clipped_by_default_as_in_diffusers(name):
    """It ruins latents, but it is what a file without clip_sample says."""
    _, make_grid, solver, wrap = solvers.from_config({"_class_name": name})
    run = list(iterate(KEY, wrap(lambda x, t: 99 * x), solver, make_grid(10), latents(0, (1, 2))))
    assert all(np.abs(info.x0).max() == 1 for info in run) and np.abs(run[-1].x).max() == 1


def test_ddim_keeps_the_noise_of_the_x0_that_is_not_clipped():
    _, make_grid, solver, wrap = solvers.from_config({"_class_name": "DDIMScheduler", "clip_sample_range": 0.5})
    grid, x = make_grid(4), latents(0, (1, 3))
    x0 = 3 * x
    eps = (x - grid.alpha[0] * x0) / grid.sigma[0]
    info = next(iterate(KEY, wrap(lambda x, t: 3 * x), solver, grid, x))
    assert_close(info.x0, x0.clip(-0.5, 0.5))
    assert_close(info.x, grid.alpha[1] * x0.clip(-0.5, 0.5) + grid.sigma[1] * eps)


CLIPS = [
    ({"_class_name": "DDPMScheduler", "clip_sample_range": 0.5}, lambda x0: x0.clip(-0.5, 0.5)),
    ({"_class_name": "HeunDiscreteScheduler", "clip_sample": True}, lambda x0: x0.clip(-1, 1)),
    ({"_class_name": "UniPCMultistepScheduler", "thresholding": True}, lambda x0: x0.clip(-1, 1)),
    ({"_class_name": "LCMScheduler", "clip_sample": True, "clip_sample_range": 2}, lambda x0: x0.clip(-2, 2)),
    ({"_class_name": "HeunDiscreteScheduler"}, lambda x0: x0),
    ({"_class_name": "DDIMScheduler", "clip_sample": False}, lambda x0: x0),
]


@pytest.mark.parametrize(("config", "clipped"), CLIPS)
def test_what_clips_wraps_the_denoiser_and_no_solver_does(config, clipped):
    sampler, x = solvers.from_config(config), latents(0, (1, 5))
    assert_close(sampler.wrap(lambda x, t: 3 * x)(x, 500.0), clipped(3 * x))
    bare = next(iterate(KEY, lambda x, t: 3 * x, sampler.solver, sampler.make_grid(4), x))
    assert_close(bare.x0, 3 * x)
    info = next(iterate(KEY, sampler.wrap(lambda x, t: 3 * x), sampler.solver, sampler.make_grid(4), x))
    assert_close(info.x0, clipped(3 * x))
