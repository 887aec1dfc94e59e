"""Readers of configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers import pipelines

import pixart_fn as px
from pixart_fn import solvers, t5, transformer, vae
from pixart_fn.checkpoint.layout import COMPONENTS, read_json, shards

from .target import JSON, Target, dumped


def _config(module: Any) -> Callable[[bytes, Path], Any]:
    def read(content: bytes, folder: Path) -> Any:
        (folder / "config.json").write_bytes(content)
        config = module.read_config(read_json(folder / "config.json"))
        module.read_config(module.to_json(config))
        return module.shapes(config)

    return read


def _scheduler(content: bytes, folder: Path) -> Any:
    (folder / "scheduler_config.json").write_bytes(content)
    sampler = solvers.from_config(read_json(folder / "scheduler_config.json"))
    grid = sampler.make_grid(2)
    for _ in px.iterate(px.key(0), sampler.wrap(lambda x, t: 0.5 * x), sampler.solver, grid, np.ones((1, 1, 2, 2))):
        return repr(sampler)


def _schedulers() -> list[bytes]:
    named = [{"_class_name": name} for name in solvers.config.CLASSES]
    full = {
        "_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
        "num_train_timesteps": 1000, "trained_betas": None, "lambda_min_clipped": -float("inf"), "solver_order": 2,
        "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "use_karras_sigmas": True, "steps_offset": 0,
    }  # fmt: skip
    betas = {"_class_name": "DDIMScheduler", "num_train_timesteps": 4, "trained_betas": [0.1, 0.2, 0.3, 0.4]}
    return dumped(*named, full, betas, {"_class_name": "LCMScheduler", "original_inference_steps": 50})


def _index(content: bytes, folder: Path) -> Any:
    (folder / "model.safetensors.index.json").write_bytes(content)
    for name in shards(folder / "model.safetensors.index.json", COMPONENTS["text_encoder"]):
        assert (folder / name).resolve().parent == folder.resolve(), name


TARGETS = {
    "config-t5": Target(lambda: dumped(pipelines.CONFIGS["text_encoder"]), _config(t5), JSON, named=False),
    "config-transformer": Target(
        lambda: dumped(pipelines.CONFIGS["transformer"], transformer.to_json(transformer.Config())),
        _config(transformer),
        JSON,
        named=False,
    ),
    "config-vae": Target(
        lambda: dumped(pipelines.CONFIGS["vae"], vae.to_json(vae.Config())), _config(vae), JSON, named=False
    ),
    "scheduler": Target(_schedulers, _scheduler, JSON, named=False),
    "index": Target(
        lambda: dumped({"metadata": {}, "weight_map": {"shared.weight": "model-1.safetensors", "a": "b.safetensors"}}),
        _index,
        JSON,
    ),
}
