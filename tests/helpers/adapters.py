"""A tree of three modules, adapters of it with numbers in them, and the formula of LoRA and DoRA written out."""

from __future__ import annotations

import numpy as np
from helpers import trees

from pixart_fn import rng, tree
from pixart_fn.models import lora

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

KEY = rng.key(0)
NAMES = ("attn1.to_q", "attn2.to_v", "proj")


def weights() -> dict[str, np.ndarray]:
    return {
        "attn1.to_q.weight": trees.normal(1, 4, 3),
        "attn1.to_q.bias": trees.normal(2, 4),
        "attn2.to_v.weight": trees.normal(3, 2, 4),
        "proj.weight": trees.normal(4, 4, 2, 2, 2),
        "table": trees.normal(5, 2, 3),
    }


def model():
    return trees.tensors(tree.nest(weights()))


def filled(config: lora.Config, p=None, seed: int = 0) -> lora.Adapter:
    """An adapter with numbers in place of the zeros of B, and with other magnitudes than the rows of W have."""
    adapter = lora.init(KEY, model() if p is None else p, config)

    def other(name, leaf):
        i = sum(name.encode()) + seed
        noise = trees.normal(i, *leaf.shape)
        return ms.Tensor(np.abs(noise) + 0.5 if "magnitude" in name else 0.3 * noise)

    return tree.map_with_path(other, adapter)


def expected(W, A, B, magnitude, scale):
    """The weight with the adapter, written out."""
    out = W.reshape(len(W), -1).astype(np.float64) + scale * (B.reshape(len(W), -1) @ A.reshape(len(A), -1))
    if magnitude is not None:
        out = out / np.linalg.norm(out, axis=1, keepdims=True) * magnitude.reshape(-1, 1)
    return out.reshape(W.shape)


ALL = {"targets": ("to_q", "to_v", "proj"), "rank": 2, "alpha": 3.0}
CONFIGS = {
    "lora": (lora.Config(**ALL), 1.5),
    "dora": (lora.Config(**ALL, dora=True), 1.5),
    "rslora": (lora.Config(**ALL, rslora=True), 3 / 2**0.5),
}


def each(adapter, name):
    leaves = trees.numbers(adapter.weights)
    return [leaves.get(f"{name}.lora_{what}.weight") for what in ("A", "B", "magnitude_vector")]
