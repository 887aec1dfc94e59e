"""scheduler_config.json: the options of every class, what other classes leave in a file, what is refused."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import warnings
from dataclasses import asdict, fields

import numpy as np
import pytest
from helpers.strategies import gaussian, latents
from reference import make_schedulers as golden

from pixart_fn import rng, solvers
from pixart_fn.sample import sample
from pixart_fn.solvers.config import CLASSES, KNOWN

KEY = rng.key(0)

RELEASED = {
    "_class_name": "DPMSolverMultistepScheduler",
    "_diffusers_version": "0.22.0.dev0",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "lambda_min_clipped": -math.inf,
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_type": "midpoint",
    "steps_offset": 0,
    "thresholding": False,
    "timestep_spacing": "linspace",
    "trained_betas": None,
    "use_karras_sigmas": False,
    "use_lu_lambdas": False,
    "variance_type": None,
}
"""Every field that the released checkpoints carry."""
NAMES = sorted(CLASSES)


def test_the_released_config():
    noise, make_grid, solver, wrap = solvers.from_config(RELEASED)
    grid = make_grid(20)
    assert noise.prediction == "epsilon" and noise.steps == 1000
    assert grid.t.tolist() == [*range(999, 500, -50), *range(500, 0, -50), 0]
    assert (grid.alpha[-1], grid.sigma[-1]) == (1, 0)
    assert grid.alpha[0] == pytest.approx(4.0358e-5**0.5, rel=1e-4)  # √ᾱ(999) of DDPM's schedule
    x = latents(0, (1, 4, 2, 2))
    mine = sample(KEY, wrap(gaussian(0.3, 0.6, noise)), solver, grid, x)
    assert np.array_equal(mine, sample(KEY, gaussian(0.3, 0.6, noise), solvers.dpmpp_2m(), grid, x))


# --- fields of other classes

SDXL_TURNED = {
    **RELEASED,
    "clip_sample": False,
    "interpolation_type": "linear",
    "set_alpha_to_one": False,
    "sigma_max": None,
    "sigma_min": None,
    "skip_prk_steps": True,
    "timestep_type": "discrete",
    "rescale_betas_zero_snr": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "final_sigmas_type": "zero",
    "flow_shift": 1.0,
    "use_flow_sigmas": False,
}
"""DPMSolverMultistepScheduler.from_config(the EulerDiscreteScheduler that SDXL ships), saved."""


def test_a_file_that_has_gone_through_other_classes():
    ours, released = solvers.from_config(SDXL_TURNED), solvers.from_config(RELEASED)
    assert np.array_equal(ours.schedule.rhos, released.schedule.rhos)
    assert ours.make_grid(7).t.tolist() == released.make_grid(7).t.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_field_is_ignored_whatever_it_holds(name):
    options = {field.name for field in fields(CLASSES[name][0])}
    foreign = KNOWN - options
    assert len(foreign) > 10
    expected = solvers.from_config({"_class_name": name})
    for value in (True, "nonsense", None, -1, [math.nan], {"a": 1}):
        sampler = solvers.from_config({"_class_name": name, **dict.fromkeys(foreign, value)})
        assert np.array_equal(sampler.schedule.rhos, expected.schedule.rhos)
        assert sampler.make_grid(5).t.tolist() == expected.make_grid(5).t.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_field_of_no_class_is_reported(name):
    with pytest.raises(ValueError, match=r"unknown field 'num_train_timestep' = 7 \(nearest: 'num_train_timesteps'\)"):
        solvers.from_config({"_class_name": name, "num_train_timestep": 7})
    with pytest.raises(ValueError, match="unknown field 'skip_prk_step' = True"):
        solvers.from_config({"_class_name": name, "skip_prk_step": True})


@pytest.mark.parametrize(
    ("config", "grid"),
    [
        ({"_class_name": "DPMSolverSinglestepScheduler", "timestep_spacing": "trailing"}, [999, 666, 333, 0]),
        ({"_class_name": "EulerAncestralDiscreteScheduler", "use_karras_sigmas": True}, [999, 499.5, 0, 0]),
        ({"_class_name": "DDIMScheduler", "use_karras_sigmas": True}, [666, 333, 0, 0]),
        ({"_class_name": "LCMScheduler", "timestep_spacing": "nonsense", "steps_offset": "x"}, [999, 679, 339, 0]),
    ],
)
def test_what_a_class_does_not_use_changes_nothing(config, grid):
    assert solvers.from_config(config).make_grid(3).t.tolist() == grid


def test_sigma_min_is_read_where_a_formula_of_sigmas_is():
    """diffusers asks every class for the file's sigma_min and sigma_max there, whichever class wrote them."""
    for name in NAMES:
        options = {field.name for field in fields(CLASSES[name][0])}
        solvers.from_config({"_class_name": name, "sigma_min": 0.03, "sigma_max": 80})
        for formula in {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"} & options:
            for field in ("sigma_min", "sigma_max"):
                with pytest.raises(ValueError, match=f"{field} must be None where {formula} is true, got 0.03"):
                    solvers.from_config({"_class_name": name, formula: True, field: 0.03})


def test_options_and_defaults_are_those_of_diffusers():
    """Exactly, but for the two names that diffusers reads without registering them."""
    registered = golden.load_registered()
    assert sorted(registered) == NAMES
    for name, (options, _) in CLASSES.items():
        ours = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(options()).items()}
        extra = {"sigma_min", "sigma_max"} & set(ours) - set(registered[name])
        assert ours == {**registered[name], **dict.fromkeys(extra)}, name
        solvers.from_config({"_class_name": name, **registered[name]})


@pytest.mark.reference
def test_the_options_are_what_diffusers_registers_today():
    pytest.importorskip("diffusers")
    assert golden.registered() == golden.load_registered()


@pytest.mark.reference
def test_every_file_that_from_config_of_diffusers_leaves_is_read():
    """All pairs of classes, but those that diffusers refuses: DPM-Solver's and SA-Solver's algorithms."""
    pytest.importorskip("diffusers")
    read = 0
    for name, other in itertools.product(NAMES, NAMES):
        old, new = (getattr(golden._module(each), each) for each in (other, name))
        file = json.loads(old().to_json_string())  # unlike its `config`, this carries the defaults over
        with warnings.catch_warnings(), contextlib.suppress(NotImplementedError, ValueError):
            warnings.simplefilter("ignore")
            file = json.loads(new.from_config(file).to_json_string())
        if file["_class_name"] == name:
            solvers.from_config(file)
            read += 1
    assert read == 16 * 16 - 8


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "isn't supported .*nearest: DPMSolverMultistepScheduler"),
        ({"_class_name": "TCDScheduler"}, "scheduler class 'TCDScheduler' isn't supported"),
        ({"_class_name": None}, "scheduler class None isn't supported"),
        ({"_class_name": ["DDIMScheduler"]}, r"scheduler class \['DDIMScheduler'\] isn't supported"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas must be None or False, got True"),
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting must be None or False, got True"),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "only one of .* got use_karras_sigmas and use_beta"),
        ({"algorithm_type": "dpmsolver"}, "algorithm_type 'dpmsolver' needs final_sigmas_type 'sigma_min', got 'zero'"),
        ({"algorithm_type": "sde-dpmsolver"}, "algorithm_type 'sde-dpmsolver' needs final_sigmas_type 'sigma_min'"),
        ({"algorithm_type": "euler"}, "algorithm .* must be one of 'dpmsolver', .*got 'euler'"),
        ({"solver_order": 4}, "solver_order.* must be 1, 2 or 3, got 4; the nearest is 3"),
        ({"solver_type": "trapezoid"}, "solver_type must be a string among 'midpoint', 'heun', .*, got 'trapezoid'"),
        ({"variance_type": "small"}, "variance_type must be None or a string among 'fixed_small', .*, got 'small'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type must be a string among .*got 'flow_prediction'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule must be a string among .*got 'sigmoid'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing must be a string among .*got 'karras'"),
        ({"final_sigmas_type": "one"}, "final_sigmas_type must be a string among .*got 'one'"),
        ({"solver_ordre": 2}, "unknown field 'solver_ordre' = 2 .*nearest: 'solver_order'"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "variance_type.*got 'learned'"),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log"}, "variance_type.*got 'fixed_large_log'"),
        ({"_class_name": "DDPMScheduler", "rescale_betas_zero_snr": True}, "needs prediction_type 'v_prediction'"),
        ({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}, "must be 'linear', got 'log_l"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type must be 'discrete'"),
        (
            {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh3"},
            "solver_type must be .*, got 'bh3'",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "thresholding": True, "predict_x0": False},
            "thresholding = True needs predict_x0 = True",
        ),
        (
            {"_class_name": "DEISMultistepScheduler", "solver_type": "rho"},
            "solver_type must be a string among 'midpoint', 'heun', 'logrho'",
        ),
        ({"_class_name": "SASolverScheduler", "predictor_order": 4}, "predictor_order must be 1, 2 or 3"),
        ({"_class_name": "SASolverScheduler", "algorithm_type": "dpmsolver++"}, "algorithm_type must be .*'data_pred"),
    ],
)
def test_what_is_not_supported_is_named(changes, sentence):
    base = RELEASED if "_class_name" not in changes else {}
    with pytest.raises(ValueError, match=sentence):
        solvers.from_config({**base, **changes})


LCM, DDIM, UNIPC = ({"_class_name": f"{name}Scheduler"} for name in ("LCM", "DDIM", "UniPCMultistep"))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"steps_offset": "1"}, "steps_offset must be a whole number of at least 0, got '1'"),
        ({"steps_offset": -1}, "steps_offset must be a whole number of at least 0, got -1"),
        ({"steps_offset": None}, "steps_offset must be a whole number of at least 0, got None"),
        ({"steps_offset": True}, "steps_offset must be a whole number of at least 0, got True"),
        ({"steps_offset": 1000}, "steps_offset must be under num_train_timesteps 1000, got 1000"),
        ({"num_train_timesteps": 1000.5}, r"num_train_timesteps must be a whole number within 2 … 100000, got 1000\.5"),
        ({"num_train_timesteps": 1}, "num_train_timesteps must be .*, got 1$"),
        ({"num_train_timesteps": 100_001}, "num_train_timesteps must be .*, got 100001"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps must be .*, got 1000000000000"),
        ({"beta_start": math.nan}, r"beta_start must be a finite number within \(0, 1\), got nan"),
        ({"beta_start": 0}, r"beta_start must be a finite number within \(0, 1\), got 0"),
        ({"beta_end": 1}, r"beta_end must be a finite number within \(0, 1\), got 1"),
        ({"beta_end": 10**400}, r"beta_end must be a finite number within \(0, 1\), got 1000"),
        ({"beta_end": "0.02"}, r"beta_end must be a finite number within \(0, 1\), got '0\.02'"),
        ({"beta_end": 0.99999}, "leave no signal at the last time"),
        ({"trained_betas": ["a"] * 1000}, "trained_betas must be None or a list, each entry a finite number within"),
        ({"trained_betas": [0.5] * 999 + [1.0]}, "trained_betas must be None or a list, each entry a finite number"),
        ({"trained_betas": 0.1}, "trained_betas must be None or a list"),
        ({"trained_betas": [0.1] * 10}, "trained_betas must be num_train_timesteps = 1000 numbers, got 10"),
        ({"prediction_type": None}, "prediction_type must be a string among .*, got None"),
        ({"prediction_type": ["epsilon"]}, "prediction_type must be a string among .*, got .'epsilon'"),
        ({"thresholding": None}, "thresholding must be True or False, got None"),
        ({"thresholding": 1}, "thresholding must be True or False, got 1"),
        ({"use_karras_sigmas": "yes"}, "use_karras_sigmas must be None or True or False, got 'yes'"),
        ({"lambda_min_clipped": math.nan}, "lambda_min_clipped must be a number or -inf, got nan"),
        ({"lambda_min_clipped": "-inf"}, "lambda_min_clipped must be a number or -inf, got '-inf'"),
        ({"lambda_min_clipped": 4.6}, r"lambda_min_clipped must leave two times: λ falls from 4\.605, got 4\.6"),
        ({"dynamic_thresholding_ratio": 0}, r"dynamic_thresholding_ratio must be a finite number within \(0, 1\]"),
        ({"dynamic_thresholding_ratio": 1.01}, "dynamic_thresholding_ratio must be"),
        ({"sample_max_value": 0.99}, r"sample_max_value must be a finite number of at least 1, got 0\.99"),
        ({"solver_order": 2.0}, r"solver_order must be a whole number, got 2\.0"),
        ({"solver_type": 3}, "solver_type must be a string among 'midpoint', .*, got 3"),
        ({**DDIM, "clip_sample_range": 0}, "clip_sample_range must be a finite number above 0, got 0"),
        ({**DDIM, "set_alpha_to_one": None}, "set_alpha_to_one must be True or False, got None"),
        (
            {**LCM, "original_inference_steps": 0},
            "original_inference_steps must be a whole number of at least 1, got 0",
        ),
        ({**LCM, "original_inference_steps": 1001}, r"must be within 1 … 1000 \(num_train_timesteps\), got 1001"),
        ({**LCM, "timestep_scaling": 0}, "timestep_scaling must be a finite number above 0, got 0"),
        ({**UNIPC, "disable_corrector": [0, -1]}, "disable_corrector must be a list, each entry a whole number of at"),
        ({**UNIPC, "disable_corrector": 2}, "disable_corrector must be a list"),
        ({**UNIPC, "disable_corrector": None}, "disable_corrector must be a list"),
        ({**UNIPC, "solver_p": {}}, "solver_p must be None, got {}"),
        ({"beta_ende": 1, "steps_offset": -1}, "unknown field 'beta_ende' = 1 .*; steps_offset must be"),
    ],
)
def test_a_value_of_the_wrong_kind_is_one_sentence(config, sentence):
    """At once, so that `load` can report it before any work."""
    with pytest.raises(ValueError, match=sentence):
        solvers.from_config({"_class_name": "DPMSolverMultistepScheduler", **config})


def test_a_config_is_a_dict():
    for other in ("scheduler_config.json", None, [RELEASED]):
        with pytest.raises(TypeError, match="scheduler_config must be a dict, a parsed"):
            solvers.from_config(other)


def test_values_at_the_ends_of_their_ranges():
    for config in (
        {"num_train_timesteps": 2},
        {"num_train_timesteps": 100_000, "beta_end": 0.0005},
        {"steps_offset": 999},
        {"dynamic_thresholding_ratio": 1, "sample_max_value": 1},
        {"lambda_min_clipped": 4.2},  # λ is 4.605, 4.211, 3.965, …
        {"lambda_min_clipped": -5, "use_karras_sigmas": None, "use_flow_sigmas": None},
        {"trained_betas": np.full(1000, 0.01), "variance_type": "fixed_small"},
        {"variance_type": "learned"},
        {**LCM, "original_inference_steps": 1000},
        {**LCM, "original_inference_steps": 1},
        {**UNIPC, "disable_corrector": []},
    ):
        sampler = solvers.from_config({"_class_name": "DPMSolverMultistepScheduler", **config})
        assert len(sampler.make_grid(1).t) == 2


FOREIGN = [
    *(("DPMSolverMultistep", {"solver_type": name}, "midpoint") for name in ("logrho", "bh1", "bh2")),
    *(("DPMSolverSinglestep", {"solver_type": name}, "midpoint") for name in ("logrho", "bh1", "bh2")),
    *((f"DPMSolver{kind}step", {"algorithm_type": "deis"}, "midpoint") for kind in ("Multi", "Single")),
    *(("UniPCMultistep", {"solver_type": name}, "bh2") for name in ("midpoint", "heun", "logrho")),
    *(("DEISMultistep", {"solver_type": name}, "logrho") for name in ("midpoint", "heun", "bh1", "bh2")),
    *(("DEISMultistep", {"algorithm_type": name}, "logrho") for name in ("dpmsolver", "dpmsolver++")),
]


@pytest.mark.parametrize(("name", "foreign", "solver_type"), FOREIGN)
def test_names_of_other_classes_that_diffusers_translates(name, foreign, solver_type):
    """One file serves DPM-Solver, DEIS and UniPC: each takes its own for what it doesn't know."""
    x, model = latents(0, (1, 3)), gaussian(0.3, 0.6, solvers.from_config(RELEASED).schedule)
    ends = []
    for options in (foreign, {"solver_type": solver_type}):
        sampler = solvers.from_config({"_class_name": f"{name}Scheduler", **options})
        ends.append(sample(KEY, model, sampler.solver, sampler.make_grid(5), x))
    assert np.array_equal(*ends)


def test_lcm_takes_no_more_steps_than_it_was_distilled_with():
    make_grid = solvers.from_config({"_class_name": "LCMScheduler", "beta_schedule": "linear"}).make_grid
    assert make_grid(4).t.tolist() == [999, 759, 499, 259, 0]
    with pytest.raises(ValueError, match=r"steps \(of original_inference_steps\) must be 1 … 50, got 51"):
        make_grid(51)
