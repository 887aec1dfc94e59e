"""A golden: a tiny model's config.json and weights, and what the reference implementation computed with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent

SCHEDULER: dict[str, Any] = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "solver_order": 2,
    "solver_type": "midpoint",
    "timestep_spacing": "linspace",
}
"""The fields of the released checkpoints' scheduler_config.json that decide the sampling run."""


class Case(NamedTuple):
    """A model and the inputs and outputs of one or more scenarios, such as a square picture and an oblong one."""

    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    values: dict[str, dict[str, np.ndarray]]


def save(case: Case, name: str) -> None:
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(case.config, indent=2, sort_keys=True) + "\n")
    save_file(case.weights, folder / "weights.safetensors")
    for scenario, arrays in case.values.items():
        np.savez_compressed(folder / f"{scenario}.npz", **arrays)


def load(name: str) -> Case:
    folder = HERE / name
    values = {path.stem: dict(np.load(path)) for path in sorted(folder.glob("*.npz"))}
    config = json.loads((folder / "config.json").read_text())
    return Case(config, load_file(folder / "weights.safetensors"), values)
