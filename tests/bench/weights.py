"""Pipelines of released size with random weights, in diffusers layout: what the benchmark runs on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pixart_fn import checkpoint, rng, t5, transformer, tree, vae
from pixart_fn.params import Configs, Params

SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
}
XL = transformer.Config(sample_size=64, interpolation_scale=1)


def random_tree(shapes: dict[str, tuple[int, ...]]) -> dict:
    """Numbers of fan-in scale; tensors of one shape share them, so that 19 GB of a model take one GB of memory."""
    drawn: dict[tuple, np.ndarray] = {}

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if "norm" in name and name.endswith("weight"):
            return np.ones(shape, np.float32)
        scale = 0.3 if len(shape) == 1 or name.endswith("table") else math.prod(shape[1:]) ** -0.5
        if name.endswith("SelfAttention.q.weight"):
            scale /= 8  # T5 doesn't scale its scores
        if (shape, scale) not in drawn:
            drawn[shape, scale] = rng.normal(rng.fold_in(rng.key(0), len(drawn)), shape) * np.float32(scale)
        return drawn[shape, scale]

    return tree.nest({name: draw(name, shape) for name, shape in shapes.items()})


def folder(where: Path, layers: int) -> Path:
    """PixArt-XL-2-512x512, SD's VAE and a T5-XXL of so many layers, 0 for none; made unless it is there."""
    home = where / f"pixart-xl-t5-{layers}"
    if not (home / "model_index.json").is_file():
        text = t5.Config(num_layers=layers) if layers else None
        trees = {
            "text_encoder": text and random_tree(t5.shapes(text)),
            "transformer": random_tree(transformer.shapes(XL)),
            "vae": random_tree(vae.shapes(vae.Config())),
        }
        configs = Configs(text_encoder=text, transformer=XL, vae=vae.Config(), scheduler=SCHEDULER)
        tokenizer = checkpoint.load().tokenizer if layers else None
        checkpoint.save(Params(**trees, config=configs, tokenizer=tokenizer), home)
    return home
