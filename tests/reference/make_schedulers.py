"""Make schedulers.npz: what diffusers' schedulers do with a fixed sequence of model outputs.

    python tests/reference/make_schedulers.py

Needs the extra `reference`. Each case is a scheduler_config.json; the file holds, for 1, 2, 5, 20 and 50 steps one
after the other, the timesteps, the model's outputs and x_t after every evaluation; and every class's options.

The code that runs is diffusers', but its tables and samples are float64: as shipped they are float32, where 1 - ᾱ(0)
= 1e-4 keeps three digits and σ(0) is off by 8e-5. A test marked `reference` compares with diffusers as shipped.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pixart_fn import rng

FILE = Path(__file__).with_name("schedulers.npz")
STEPS = (1, 2, 5, 20, 50)
SHAPE = (1, 3, 1, 1)  # three channels: with a learned variance DPMSolverMultistepScheduler keeps just three
SEED = 20

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
V = {"prediction_type": "v_prediction"}
KARRAS, EXPONENTIAL, BETA = ({f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta"))
LEADING, TRAILING, LINSPACE = ({"timestep_spacing": name} for name in ("leading", "trailing", "linspace"))
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
ETA = 0.7

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "DPMSolverMultistepScheduler": {
        "": {},
        "order 1": {"solver_order": 1},
        "heun": {"solver_type": "heun"},
        "order 3": {"solver_order": 3},
        "order 3 long": {"solver_order": 3, "lower_order_final": False},
        "leading": {**LATENT, **LEADING, "steps_offset": 1},
        "trailing": TRAILING,
        "cosine": {**COSINE, "lambda_min_clipped": -5.1},
        "cosine trailing": {**COSINE, **TRAILING, "lambda_min_clipped": -5.1},
        "cosine karras": {**COSINE, **KARRAS, "lambda_min_clipped": -5.1},
        "sigma_min": SIGMA_MIN,
        "sigma_min heun": {**SIGMA_MIN, "solver_type": "heun", "lower_order_final": False},
        "sigma_min full order": {**SIGMA_MIN, "lower_order_final": False},
        "sigma_min euler": {**SIGMA_MIN, "euler_at_final": True},
        "sample": {"prediction_type": "sample"},
        "v": {**LATENT, **V},
        "trained_betas": {"trained_betas": [0.01 * 1.01**i for i in range(200)], "num_train_timesteps": 200},
        "learned_range": {"variance_type": "learned_range"},
        "karras": KARRAS,
        "exponential": EXPONENTIAL,
        "beta": BETA,
        "lu": {"use_lu_lambdas": True},
        "zero snr": {"rescale_betas_zero_snr": True, **V, **TRAILING},
        "thresholding": {"thresholding": True, "sample_max_value": 1.5},
        "dpmsolver": {"algorithm_type": "dpmsolver", **SIGMA_MIN},
        "dpmsolver heun": {"algorithm_type": "dpmsolver", **SIGMA_MIN, "solver_type": "heun"},
        "dpmsolver order 3": {"algorithm_type": "dpmsolver", **SIGMA_MIN, "solver_order": 3},
        "sde": {"algorithm_type": "sde-dpmsolver++"},
        "sde heun": {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        "sde order 1": {"algorithm_type": "sde-dpmsolver++", "solver_order": 1},
        "sde order 3": {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        "sde noise": {"algorithm_type": "sde-dpmsolver", **SIGMA_MIN},
        "sde noise heun": {"algorithm_type": "sde-dpmsolver", **SIGMA_MIN, "solver_type": "heun"},
    },
    "DPMSolverSinglestepScheduler": {
        "": {},
        "order 1": {"solver_order": 1},
        "order 3": {"solver_order": 3},
        "heun": {"solver_type": "heun"},
        "order 3 heun": {"solver_order": 3, "solver_type": "heun"},
        "lower_order_final": {"solver_order": 3, "lower_order_final": True, **SIGMA_MIN},
        "full groups": {**SIGMA_MIN},
        "karras": KARRAS,
        "exponential": EXPONENTIAL,
        "dpmsolver": {"algorithm_type": "dpmsolver", **SIGMA_MIN, "lower_order_final": True},
        "dpmsolver order 3": {"algorithm_type": "dpmsolver", "solver_order": 3, **SIGMA_MIN, "lower_order_final": True},
        "sde": {"algorithm_type": "sde-dpmsolver++"},
        "sde heun": {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        "sde order 3": {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        "sde order 3 heun": {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun"},
    },
    "DPMSolverSDEScheduler": {"": {}, "karras": KARRAS, "v": V, "leading": {**LEADING, "steps_offset": 1}},
    "DEISMultistepScheduler": {
        "": {},
        "order 1": {"solver_order": 1},
        "order 3": {"solver_order": 3},
        "order 3 long": {"solver_order": 3, "lower_order_final": False},
        "trailing": TRAILING,
        "karras": KARRAS,
    },
    "UniPCMultistepScheduler": {
        "": {},
        "bh1": {"solver_type": "bh1", **SIGMA_MIN},  # to σ = 0 its last step is NaN
        "order 1": {"solver_order": 1},
        "order 1 bh1": {"solver_order": 1, "solver_type": "bh1", **SIGMA_MIN},
        "order 3": {"solver_order": 3},
        "order 3 sigma_min": {"solver_order": 3, **SIGMA_MIN, "lower_order_final": False},
        "noise": {"predict_x0": False, **SIGMA_MIN},
        "noise bh1": {"predict_x0": False, **SIGMA_MIN, "solver_type": "bh1"},
        "uncorrected": {"disable_corrector": [0, 2]},
        "karras": KARRAS,
        "leading": {**LEADING, **LATENT, "steps_offset": 1},
        "zero snr": {"rescale_betas_zero_snr": True, **V, **TRAILING},
    },
    "SASolverScheduler": {
        "": {},
        "order 1": {"predictor_order": 1, "corrector_order": 1},
        "order 3": {"predictor_order": 3, "corrector_order": 3},
        "order 3 and 4": {"predictor_order": 3, "corrector_order": 4, "lower_order_final": False},
        "noise": {"algorithm_type": "noise_prediction"},
        "karras": KARRAS,
    },
    "DDIMScheduler": {
        "": {"clip_sample": False},
        "offset": {**LATENT, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
        "trailing": {**TRAILING, "clip_sample": False},
        "linspace": {**LINSPACE, "clip_sample": False},
        "sample": {"prediction_type": "sample", "clip_sample": False},
        "v": {**LATENT, **V, **TRAILING, "clip_sample": False},
        "eta": {**TRAILING, "clip_sample": False},
        "zero snr": {"rescale_betas_zero_snr": True, **V, **TRAILING, "clip_sample": False},
        "clip": {"clip_sample_range": 0.7},
        "clip v": {**LATENT, **V, **TRAILING},
        "threshold": {**TRAILING, "thresholding": True, "sample_max_value": 1.5},
    },
    "DDPMScheduler": {
        "": {"clip_sample": False},
        "log": {"variance_type": "fixed_small_log", "clip_sample": False},
        "null": {"variance_type": None, "clip_sample": False},
        "large": {"variance_type": "fixed_large", "clip_sample": False},
        "learned_range": {"variance_type": "learned_range", "clip_sample": False},
        "trailing": {**TRAILING, "clip_sample": False},
        "linspace": {**COSINE, **LINSPACE, "clip_sample": False},
        "v": {**LATENT, **V, "steps_offset": 1, "clip_sample": False},
        "clip": {"clip_sample_range": 1.2},
        "threshold": {"thresholding": True, "sample_max_value": 1.5},
    },
    "EulerDiscreteScheduler": {
        "": {},
        "karras": KARRAS,
        "exponential": EXPONENTIAL,
        "beta": BETA,
        "v": {**LATENT, **V, **LEADING, "steps_offset": 1},
        "sigma_min": SIGMA_MIN,
        "zero snr": {"rescale_betas_zero_snr": True, **V, **TRAILING},
    },
    "EulerAncestralDiscreteScheduler": {
        "": {},
        "v": {**LATENT, **V, **LEADING, "steps_offset": 1},
        "trailing": TRAILING,
    },
    "HeunDiscreteScheduler": {
        "": {},
        "karras": KARRAS,
        "v": {**V, **TRAILING},
        "sample": {"prediction_type": "sample"},
        "clip": {"clip_sample": True, "clip_sample_range": 1.2},
    },
    "KDPM2DiscreteScheduler": {"": {}, "karras": KARRAS, "v": {**V, **LEADING, "steps_offset": 1}},
    "KDPM2AncestralDiscreteScheduler": {"": {}, "karras": KARRAS, "v": {**V, **LEADING, "steps_offset": 1}},
    "LMSDiscreteScheduler": {"": {}, "karras": KARRAS, "v": {**LATENT, **V}, "trailing": TRAILING},
    "PNDMScheduler": {
        "": {},
        "plms": {"skip_prk_steps": True},
        "plms latent": {"skip_prk_steps": True, **LATENT, "steps_offset": 1, "set_alpha_to_one": True},
        "plms v": {"skip_prk_steps": True, **LATENT, **V, "steps_offset": 1},
    },
    "LCMScheduler": {
        "": {},
        "pixart": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        "v": V,
        "zero snr": {"rescale_betas_zero_snr": True, **V},
        "scaled": {"timestep_scaling": 0.01, "original_inference_steps": 100, "clip_sample": True},
    },
}
"""Every class and option that is compared."""

CASES: dict[str, dict[str, Any]] = {
    f"{name.removesuffix('Scheduler')} {variant}".rstrip(): {"_class_name": name, **options}
    for name, variants in VARIANTS.items()
    for variant, options in variants.items()
}

BROKEN = {"PNDM": (1, 2)}
"""Numbers of steps with which diffusers raises: Runge-Kutta needs four times."""


def eta_of(name: str) -> float:
    """DDIM's η is an argument of diffusers' step, not an option of its config."""
    return ETA if name == "DDIM eta" else 0.0


def trajectory(name: str, steps: int, exact: bool = True) -> dict[str, np.ndarray]:
    """Run one case: timesteps (N,), outputs (N, B, C or 2C, …) and x (N + 1, B, C, …) from diffusers.

    exact: let diffusers compute in float64.
    """
    import torch

    config = CASES[name]
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        module = _module(config["_class_name"])
        if exact:
            stack.enter_context(mock.patch.object(torch, "float32", torch.float64))
        scheduler = getattr(module, config["_class_name"]).from_config(config)
        with mock.patch.object(np, "float32", np.float64 if exact else np.float32):
            scheduler.set_timesteps(steps)
        source = Noise(torch)
        stack.enter_context(mock.patch.object(module, "randn_tensor", source.of_step, create=True))
        if hasattr(scheduler, "noise_sampler"):
            scheduler.noise_sampler = source.brownian
        x = torch.from_numpy(rng.normal(rng.key(SEED), SHAPE)).to(torch.float32) * _lift(scheduler, 0)
        xs, outputs = [(x / _lift(scheduler, 0)).numpy()], []
        for i, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            output = model(scaled.numpy(), float(t), config.get("variance_type") == "learned_range").astype(np.float32)
            options = {"eta": eta_of(name)} if eta_of(name) else {}
            x = scheduler.step(torch.from_numpy(output).to(torch.float32), t, x, **options).prev_sample
            xs.append((x / _lift(scheduler, i + 1)).numpy())
            outputs.append(output)
    return {"timesteps": scheduler.timesteps.numpy(), "outputs": np.stack(outputs), "x": np.stack(xs)}


def model(x: np.ndarray, t: float, learned_range: bool) -> np.ndarray:
    """A smooth made-up network."""
    output = 0.5 * np.tanh(x + 0.3) + 0.1 * np.cos(t / 100)
    return np.concatenate([output, output - 0.5], 1) if learned_range else output


class Noise:
    """Our noise of step k, for the k-th time that diffusers asks."""

    def __init__(self, torch):
        self.torch, self.steps, self.early = torch, 0, None

    def normal(self, key):
        return self.torch.from_numpy(rng.normal(key, SHAPE)).to(self.torch.float32)

    def of_step(self, *args, **kwargs):
        self.steps += 1
        return self.normal(rng.fold_in(rng.key(SEED), self.steps - 1))

    def brownian(self, start, end):
        """The first part of a path over σ, and then the whole, as `dpmpp_sde` draws them."""
        key = rng.fold_in(rng.key(SEED), self.steps)
        if self.early is None:
            self.early, self.middle = self.normal(key), end
            return self.early
        w = ((start - self.middle) / (start - end)) ** 0.5
        path = w * self.early + (1 - w * w) ** 0.5 * self.normal(rng.fold_in(key, 1))
        self.early, self.steps = None, self.steps + 1
        return path


@functools.cache
def _module(name: str) -> types.ModuleType:
    """The module of diffusers that defines a class."""
    import diffusers
    import diffusers.schedulers as package

    diffusers.utils.logging.set_verbosity_error()
    for path in Path(package.__file__).parent.glob("scheduling_*.py"):
        if f"class {name}(" in path.read_text("utf-8"):
            # Only the Brownian tree needs torchsde, and our noise takes its place.
            with mock.patch.dict(sys.modules, {"torchsde": types.ModuleType("torchsde")}):
                return importlib.import_module(f"{package.__name__}.{path.stem}")
    raise LookupError(name)


def _lift(scheduler, i: int) -> float:
    """√(1 + ρ²), by which the classes of k-diffusion scale x, after i evaluations."""
    if not hasattr(scheduler, "is_scale_input_called") and not hasattr(scheduler, "state_in_first_order"):
        return 1.0
    return float((scheduler.sigmas[i] ** 2 + 1) ** 0.5)


def registered() -> dict[str, dict[str, Any]]:
    """What the constructor of each class takes, with its defaults, as JSON keeps them."""
    return {
        name: {key: field.default for key, field in inspect.signature(getattr(_module(name), name)).parameters.items()}
        for name in VARIANTS
    }


def load_registered() -> dict[str, dict[str, Any]]:
    """What `registered` gave when the file was made."""
    with np.load(FILE) as file:
        return json.loads(str(file["registered"]))


def load() -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Read the file: case → steps → {timesteps, outputs, x}."""
    with np.load(FILE) as file:
        if json.loads(str(file["cases"])) != CASES:
            raise RuntimeError("schedulers.npz was made from other cases: run make_schedulers.py")
        arrays = dict(file)
    result: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for name in CASES:
        ends = np.cumsum(arrays[f"{name}/lengths"])[:-1]
        steps = steps_of(name)
        parts = {
            "timesteps": np.split(arrays[f"{name}/timesteps"], ends),
            "outputs": np.split(arrays[f"{name}/outputs"], ends),
            "x": np.split(arrays[f"{name}/x"], ends + np.arange(1, len(steps))),
        }
        result[name] = {n: {field: part[i] for field, part in parts.items()} for i, n in enumerate(steps)}
    return result


def steps_of(name: str) -> tuple[int, ...]:
    """The numbers of steps with which diffusers works."""
    return tuple(steps for steps in STEPS if steps not in BROKEN.get(name, ()))


def main() -> None:
    arrays = {"cases": np.array(json.dumps(CASES)), "registered": np.array(json.dumps(registered()))}
    for name in CASES:
        runs = [trajectory(name, steps) for steps in steps_of(name)]
        assert all(np.isfinite(run["x"]).all() for run in runs), name
        arrays[f"{name}/lengths"] = np.array([len(run["timesteps"]) for run in runs])  # "trailing" may have fewer
        for field in runs[0]:
            arrays[f"{name}/{field}"] = np.concatenate([run[field] for run in runs])
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
