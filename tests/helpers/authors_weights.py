"""Weights as PixArt's authors name them, and their formula: restated from PixArt-sigma's nets/PixArtMS.py."""

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


# --- the authors' formula, in float64 ---------------------------------------------------------------------------------


def forward(
    w: dict[str, np.ndarray], model: Model, x: np.ndarray, t: np.ndarray, y: np.ndarray, base: int, scale: float
) -> np.ndarray:
    """PixArtMS.forward: latents (B, 4, h, w), times (B,), captions (B, L, C) without padding → (B, 8, h, w)."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    B, _, h, width = x.shape
    rows, columns, D = h // 2, width // 2, model.width
    patches = x.reshape(B, 4, rows, 2, columns, 2).transpose(0, 2, 4, 1, 3, 5).reshape(B, rows * columns, 16)
    x = patches @ w["x_embedder.proj.weight"].reshape(D, 16).T + w["x_embedder.proj.bias"]
    x = x + _places(D, rows, columns, base, scale)
    t = _embed(w, "t_embedder", t)
    if model.micro:
        size = np.broadcast_to(np.array([[8.0 * h, 8.0 * width]]), (B, 2))
        ratio = np.full((B, 1), h / width)
        both = [_embed(w, f"{name}_embedder", v).reshape(B, -1) for name, v in (("csize", size), ("ar", ratio))]
        t = t + np.concatenate(both, 1)
    t0 = _linear(w, "t_block.1", _silu(t)).reshape(B, 6, D)
    y = _linear(w, "y_embedder.y_proj.fc2", _gelu(_linear(w, "y_embedder.y_proj.fc1", y)))
    for i in range(model.layers):
        x = _block(w, f"blocks.{i}", x, y, t0, (rows, columns))
    shift, scaled = np.split(w["final_layer.scale_shift_table"] + t[:, None], 2, 1)
    x = _linear(w, "final_layer.linear", _norm(x) * (1 + scaled) + shift)
    x = x.reshape(B, rows, columns, 2, 2, 8)
    return np.einsum("nhwpqc->nchpwq", x).reshape(B, 8, h, width)


def _block(w: dict, name: str, x: np.ndarray, y: np.ndarray, t: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    a, b, c, d, e, f = np.split(w[f"{name}.scale_shift_table"] + t, 6, 1)
    q, k, v = np.split(_linear(w, f"{name}.attn.qkv", _norm(x) * (1 + b) + a), 3, -1)
    if f"{name}.attn.sr.weight" in w:
        k, v = (_compressed(w, f"{name}.attn", each, sides) for each in (k, v))
    x = x + c * _linear(w, f"{name}.attn.proj", _attention(q, k, v))
    k, v = np.split(_linear(w, f"{name}.cross_attn.kv_linear", y), 2, -1)
    seen = _attention(_linear(w, f"{name}.cross_attn.q_linear", x), k, v)
    x = x + _linear(w, f"{name}.cross_attn.proj", seen)
    return x + f * _linear(w, f"{name}.mlp.fc2", _gelu(_linear(w, f"{name}.mlp.fc1", _norm(x) * (1 + e) + d)))


def _compressed(w: dict, name: str, x: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    B, _, D = x.shape
    x = x.reshape(B, sides[0] // 2, 2, sides[1] // 2, 2, D)
    x = np.einsum("bhpwqd,dpq->bhwd", x, w[f"{name}.sr.weight"][:, 0]).reshape(B, -1, D) + w[f"{name}.sr.bias"]
    return _norm(x, 1e-5) * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]


def _attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    q, k, v = (each.reshape(*each.shape[:2], HEADS, -1).transpose(0, 2, 1, 3) for each in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / q.shape[-1] ** 0.5
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    out = (scores / scores.sum(-1, keepdims=True)) @ v
    return out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)


def _places(D: int, rows: int, columns: int, base: int, scale: float) -> np.ndarray:
    omega = 1 / 10000 ** (np.arange(D // 4) / (D / 4))
    y, x = (np.arange(n) / (n / base) / scale for n in (rows, columns))
    x, y = (each.reshape(-1, 1) * omega for each in np.meshgrid(x, y))
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], 1)


def _embed(w: dict, name: str, numbers: np.ndarray) -> np.ndarray:
    angle = numbers.reshape(-1, 1) * np.exp(-np.log(10000) * np.arange(128) / 128)
    sines = np.concatenate([np.cos(angle), np.sin(angle)], 1)
    return _linear(w, f"{name}.mlp.2", _silu(_linear(w, f"{name}.mlp.0", sines)))


def _linear(w: dict, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(x: np.ndarray, epsilon: float = 1e-6) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
