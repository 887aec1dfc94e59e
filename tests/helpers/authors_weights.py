"""Weights as PixArt's authors name them, restated from the modules of PixArt-sigma (nets/PixArt.py, PixArt_blocks.py)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Model(NamedTuple):
    """A small one of the released kinds.

    Args:
        tokens: of the learned null caption.
        base: patches along a side of the table of positions; None for a file without.
        scale: by which positions are divided.
        micro: whether it sees resolution and aspect ratio.
        compressed: the blocks with a convolution of keys and values.
        dtype: of the weights.
    """

    tokens: int = 120
    base: int | None = None
    scale: float = 1.0
    micro: bool = False
    compressed: tuple[int, ...] = ()
    dtype: type = np.float32
    width: int = 24
    captions: int = 16
    layers: int = 2


MODELS = {
    "α-256": Model(base=16),
    "α-256 in half": Model(base=16, dtype=np.float16),
    "α-1024": Model(micro=True),
    "Σ-256": Model(tokens=300),
    "Σ-256 compressed": Model(tokens=300, compressed=(1,)),
    "Σ-512": Model(tokens=300, base=8, scale=2.0, dtype=np.float16),
}
HEADS = 2


def positions(width: int, base: int, scale: float) -> np.ndarray:
    """(1, base², width) float32, as the authors' get_2d_sincos_pos_embed gives it."""
    side = np.arange(base, dtype=np.float32) / scale
    omega = 1 / 10000 ** (np.arange(width // 4) / (width / 4))

    def embed(at: np.ndarray) -> np.ndarray:
        angle = at.reshape(-1, 1) * omega
        return np.concatenate([np.sin(angle), np.cos(angle)], 1)

    x, y = np.meshgrid(side, side)
    return np.concatenate([embed(x), embed(y)], 1)[None].astype(np.float32)


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the state dict, in its order, but for the table of positions."""
    D, C = model.width, model.captions
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inner: int, outer: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outer, inner), (outer,)

    def embedder(name: str, width: int) -> None:
        linear(f"{name}.mlp.0", 256, width)
        linear(f"{name}.mlp.2", width, width)

    found["x_embedder.proj.weight"], found["x_embedder.proj.bias"] = (D, 4, 2, 2), (D,)
    embedder("t_embedder", D)
    linear("t_block.1", D, 6 * D)
    found["y_embedder.y_embedding"] = (model.tokens, C)
    linear("y_embedder.y_proj.fc1", C, D)
    linear("y_embedder.y_proj.fc2", D, D)
    if model.micro:
        embedder("csize_embedder", D // 3)
        embedder("ar_embedder", D // 3)
    for i in range(model.layers):
        found[f"blocks.{i}.scale_shift_table"] = (6, D)
        linear(f"blocks.{i}.attn.qkv", D, 3 * D)
        linear(f"blocks.{i}.attn.proj", D, D)
        if i in model.compressed:
            found |= {f"blocks.{i}.attn.sr.weight": (D, 1, 2, 2), f"blocks.{i}.attn.sr.bias": (D,)}
            found |= {f"blocks.{i}.attn.norm.weight": (D,), f"blocks.{i}.attn.norm.bias": (D,)}
        linear(f"blocks.{i}.cross_attn.q_linear", D, D)
        linear(f"blocks.{i}.cross_attn.kv_linear", D, 2 * D)
        linear(f"blocks.{i}.cross_attn.proj", D, D)
        linear(f"blocks.{i}.mlp.fc1", D, 4 * D)
        linear(f"blocks.{i}.mlp.fc2", 4 * D, D)
    found["final_layer.scale_shift_table"] = (2, D)
    linear("final_layer.linear", D, 2 * 2 * 8)
    return found


def state(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of a model, of the size that its kind of weight has."""
    random = np.random.default_rng(seed)
    weights = {}
    if model.base:
        weights["pos_embed"] = positions(model.width, model.base, model.scale).astype(model.dtype)
    for name, shape in shapes(model).items():
        scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
        weights[name] = (random.normal(size=shape) * scale).astype(model.dtype)
    return weights
