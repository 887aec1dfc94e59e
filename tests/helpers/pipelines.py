"""A pipeline's files, tiny and with random weights, as the released ones are laid out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pixart_fn import t5, transformer, tree, vae

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

CONFIGS = {
    "text_encoder": {
        "architectures": ["T5EncoderModel"],
        "d_model": 16,
        "d_kv": 8,
        "num_heads": 2,
        "d_ff": 32,
        "num_layers": 2,
        "feed_forward_proj": "gated-gelu",
        "vocab_size": 32,
    },
    "transformer": {
        "_class_name": "Transformer2DModel",
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 8,
        "caption_channels": 16,
        "cross_attention_dim": 16,
        "norm_type": "ada_norm_single",
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
}
MODULES = {"text_encoder": t5, "transformer": transformer, "vae": vae}
FILES = {"text_encoder": "model", "transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
SCHEDULER = {"_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.0001, "num_train_timesteps": 1000}
INDEX = {
    "_class_name": "PixArtAlphaPipeline",
    "_diffusers_version": "0.22.0.dev0",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def arrays(name: str, dtype=np.float32) -> dict[str, np.ndarray]:
    """Random weights with the names and shapes of the tiny configuration."""
    random = np.random.default_rng(len(name))
    shapes = MODULES[name].shapes(MODULES[name].read_config(CONFIGS[name]))
    return {key: random.normal(size=shape).astype(dtype) for key, shape in shapes.items()}


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def weights_file(folder: Path, name: str) -> Path:
    return folder / name / f"{FILES[name]}.safetensors"


def flat(weights) -> dict[str, np.ndarray]:
    """The arrays of a tree, or of a file as the safetensors library reads it, by name."""
    leaves = weights if any("." in name for name in weights) else dict(tree.items(weights))
    return {name: np.asarray(leaf.asnumpy() if isinstance(leaf, Tensor) else leaf) for name, leaf in leaves.items()}


def assert_same(weights, expected: dict[str, np.ndarray]) -> None:
    found = flat(weights)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def shard(
    pipeline: Path,
    weights: dict[str, np.ndarray] | None = None,
    file: str = "model-0000{}-of-00002.safetensors",
    index: str = "model.safetensors.index.json",
) -> list[Path]:
    """Put the text encoder's weights into two files and an index."""
    weights = arrays("text_encoder") if weights is None else weights
    weights_file(pipeline, "text_encoder").unlink(missing_ok=True)
    names = sorted(weights)
    halves = {file.format(1): names[::2], file.format(2): names[1::2]}
    for name, part in halves.items():
        save_file({key: weights[key] for key in part}, pipeline / "text_encoder" / name)
    weight_map = {key: name for name, part in halves.items() for key in part}
    write_json(pipeline / "text_encoder" / index, {"metadata": {}, "weight_map": weight_map})
    return [pipeline / "text_encoder" / name for name in halves]
