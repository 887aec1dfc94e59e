"""Make schedulers.npz: what diffusers' schedulers do with a fixed sequence of model outputs.

    python tests/reference/make_schedulers.py

Needs the extra `reference`. Each case is a scheduler_config.json; the file holds, for 1, 2, 5, 20 and 50 steps one
after the other, the timesteps, the model's outputs and x_t at every node.

The code that runs is diffusers', but its tables and samples are float64: as shipped they are float32, where 1 - ᾱ(0)
= 1e-4 keeps three digits and σ(0) is off by 8e-5. A test marked `reference` compares with diffusers as shipped.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pixart_fn import rng

FILE = Path(__file__).with_name("schedulers.npz")
STEPS = (1, 2, 5, 20, 50)
SHAPE = (1, 3, 2, 1)  # three channels: with a learned variance DPMSolverMultistepScheduler keeps just three
SEED = 20

DPM = {"_class_name": "DPMSolverMultistepScheduler"}
DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False}
DDPM = {"_class_name": "DDPMScheduler", "clip_sample": False}
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
ETA = 0.7

CASES: dict[str, dict[str, Any]] = {
    "dpm": DPM,
    "dpm order 1": {**DPM, "solver_order": 1},
    "dpm heun": {**DPM, "solver_type": "heun"},
    "dpm leading": {**DPM, **LATENT, "timestep_spacing": "leading", "steps_offset": 1},
    "dpm trailing": {**DPM, "timestep_spacing": "trailing"},
    "dpm cosine": {**DPM, **COSINE, "lambda_min_clipped": -5.1},
    "dpm cosine trailing": {**DPM, **COSINE, "lambda_min_clipped": -5.1, "timestep_spacing": "trailing"},
    "dpm sigma_min": {**DPM, "final_sigmas_type": "sigma_min"},
    "dpm sigma_min heun": {**DPM, "final_sigmas_type": "sigma_min", "solver_type": "heun", "lower_order_final": False},
    "dpm sigma_min full order": {**DPM, "final_sigmas_type": "sigma_min", "lower_order_final": False},
    "dpm sigma_min euler": {**DPM, "final_sigmas_type": "sigma_min", "euler_at_final": True},
    "dpm sample": {**DPM, "prediction_type": "sample"},
    "dpm v": {**DPM, **LATENT, "prediction_type": "v_prediction"},
    "dpm trained_betas": {**DPM, "trained_betas": [0.01 * 1.01**i for i in range(200)], "num_train_timesteps": 200},
    "dpm learned_range": {**DPM, "variance_type": "learned_range"},
    "ddim": DDIM,
    "ddim offset": {**DDIM, **LATENT, "steps_offset": 1, "set_alpha_to_one": False},
    "ddim trailing": {**DDIM, "timestep_spacing": "trailing"},
    "ddim linspace": {**DDIM, "timestep_spacing": "linspace"},
    "ddim sample": {**DDIM, "prediction_type": "sample"},
    "ddim v": {**DDIM, **LATENT, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    "ddim eta": {**DDIM, "timestep_spacing": "trailing"},
    "ddpm": DDPM,
    "ddpm log": {**DDPM, "variance_type": "fixed_small_log"},
    "ddpm large": {**DDPM, "variance_type": "fixed_large"},
    "ddpm trailing": {**DDPM, "timestep_spacing": "trailing"},
    "ddpm linspace": {**DDPM, **COSINE, "timestep_spacing": "linspace"},
    "ddpm v": {**DDPM, **LATENT, "prediction_type": "v_prediction", "steps_offset": 1},
}


def eta_of(name: str) -> float:
    """DDIM's η is an argument of diffusers' step, not an option of its config."""
    return ETA if name == "ddim eta" else 0.0


def trajectory(name: str, steps: int, exact: bool = True) -> dict[str, np.ndarray]:
    """Run one case: timesteps (S,), outputs (S, B, C or 2C, …) and x (S + 1, B, C, …) from diffusers.

    exact: let diffusers compute in float64.
    """
    import diffusers
    import torch

    config = CASES[name]
    key = rng.key(SEED)
    with contextlib.ExitStack() as stack:
        if exact:
            stack.enter_context(mock.patch.object(torch, "float32", torch.float64))
        scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
        with mock.patch.object(np, "float32", np.float64 if exact else np.float32):
            scheduler.set_timesteps(steps)
        x = torch.from_numpy(rng.normal(key, SHAPE)).to(torch.float32)
        xs, outputs = [x.numpy()], []
        for i, t in enumerate(scheduler.timesteps):
            output = model(x.numpy(), int(t), config.get("variance_type") == "learned_range").astype(np.float32)
            noise = torch.from_numpy(rng.normal(rng.fold_in(key, i), SHAPE)).to(torch.float32)
            x = _step(scheduler, torch.from_numpy(output).to(torch.float32), t, x, noise, eta_of(name))
            xs.append(x.numpy())
            outputs.append(output)
    return {"timesteps": scheduler.timesteps.numpy(), "outputs": np.stack(outputs), "x": np.stack(xs)}


def model(x: np.ndarray, t: int, learned_range: bool) -> np.ndarray:
    """A smooth made-up network."""
    output = 0.5 * np.tanh(x + 0.3) + 0.1 * np.cos(t / 100)
    return np.concatenate([output, output - 0.5], 1) if learned_range else output


def _step(scheduler, output, t, x, noise, eta):
    import diffusers.schedulers.scheduling_ddpm as ddpm

    if isinstance(scheduler, ddpm.DDPMScheduler):  # the only one of the three whose step takes no noise
        with mock.patch.object(ddpm, "randn_tensor", lambda *args, **kwargs: noise):
            return scheduler.step(output, t, x).prev_sample
    if eta:
        return scheduler.step(output, t, x, eta=eta, variance_noise=noise).prev_sample
    return scheduler.step(output, t, x).prev_sample


def load() -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Read the file: case → steps → {timesteps, outputs, x}."""
    with np.load(FILE) as file:
        if json.loads(str(file["cases"])) != CASES:
            raise RuntimeError("schedulers.npz was made from other cases: run make_schedulers.py")
        arrays = dict(file)
    result: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for name in CASES:
        ends = np.cumsum(arrays[f"{name}/lengths"])[:-1]
        parts = {
            "timesteps": np.split(arrays[f"{name}/timesteps"], ends),
            "outputs": np.split(arrays[f"{name}/outputs"], ends),
            "x": np.split(arrays[f"{name}/x"], ends + np.arange(1, len(STEPS))),
        }
        result[name] = {steps: {field: part[i] for field, part in parts.items()} for i, steps in enumerate(STEPS)}
    return result


def main() -> None:
    arrays = {"cases": np.array(json.dumps(CASES))}
    for name in CASES:
        runs = [trajectory(name, steps) for steps in STEPS]
        arrays[f"{name}/lengths"] = np.array([len(run["timesteps"]) for run in runs])  # "trailing" may have fewer
        for field in runs[0]:
            arrays[f"{name}/{field}"] = np.concatenate([run[field] for run in runs])
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
