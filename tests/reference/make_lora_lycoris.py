"""Write lora_lycoris.npz: python -m tests.reference.make_lora_lycoris, with torch and lycoris-lora 3.1 installed.

Each case is a layer that LyCORIS adapts: its weight "W", the layer's tensors as LyCORIS stores them, and "merged", the
weight with the adapter. What LyCORIS adds to a weight is what its `get_weight` gives: its `get_diff_weight` of LoHa and
LoKr multiplies by alpha / rank a second time, which its forward step doesn't.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lycoris.modules import full, locon, loha, lokr
from torch import nn

OUT = Path(__file__).with_name("lora_lycoris.npz")
LINEAR, LONG, CONVOLUTION = (6, 5), (24, 18), (12, 4, 2, 2)
ALGORITHMS = {"locon": locon.LoConModule, "loha": loha.LohaModule, "lokr": lokr.LokrModule, "full": full.FullModule}
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "locon": ("locon", LINEAR, {}),
    "locon rows": ("locon", LINEAR, {"weight_decompose": True, "wd_on_out": True}),
    "locon columns": ("locon", LINEAR, {"weight_decompose": True}),
    "locon convolution": ("locon", CONVOLUTION, {}),
    "locon convolution rows": ("locon", CONVOLUTION, {"weight_decompose": True, "wd_on_out": True}),
    "locon convolution columns": ("locon", CONVOLUTION, {"weight_decompose": True}),
    "locon convolution core": ("locon", CONVOLUTION, {"use_tucker": True}),
    "loha": ("loha", LINEAR, {}),
    "loha rows": ("loha", LINEAR, {"weight_decompose": True, "wd_on_out": True}),
    "loha columns": ("loha", LINEAR, {"weight_decompose": True}),
    "loha convolution": ("loha", CONVOLUTION, {}),
    "loha convolution columns": ("loha", CONVOLUTION, {"weight_decompose": True}),
    "loha convolution core": ("loha", CONVOLUTION, {"use_tucker": True}),
    "lokr": ("lokr", LONG, {}),
    "lokr two products": ("lokr", LONG, {"decompose_both": True, "lora_dim": 1}),
    "lokr two matrices": ("lokr", LONG, {"full_matrix": True}),
    "lokr factor": ("lokr", LONG, {"factor": 2}),
    "lokr square root": ("lokr", LONG, {"rs_lora": True}),
    "lokr columns": ("lokr", LONG, {"weight_decompose": True}),
    "lokr convolution": ("lokr", CONVOLUTION, {"lora_dim": 1}),
    "lokr convolution core": ("lokr", CONVOLUTION, {"lora_dim": 1, "use_tucker": True}),
    "full": ("full", LINEAR, {}),
    "full convolution": ("full", CONVOLUTION, {}),
}


def layer(shape: tuple[int, ...]) -> nn.Module:
    out, inner, *sides = shape
    return nn.Conv2d(inner, out, tuple(sides), bias=False) if sides else nn.Linear(inner, out, bias=False)


@torch.no_grad()
def case(name: str) -> dict[str, np.ndarray]:
    algorithm, shape, options = CASES[name]
    torch.manual_seed(list(CASES).index(name))
    own = layer(shape)
    adapted = ALGORITHMS[algorithm]("lora_x", own, 1.0, **{"lora_dim": 2, "alpha": 3.0, **options}).eval()
    for parameter in adapted.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape) + (parameter.ndim == len(shape) and 1 in parameter.shape))
    if algorithm == "full":
        return {
            "W": own.weight.numpy(),
            "diff": adapted.weight.numpy(),
            "merged": (own.weight + adapted.weight).numpy(),
        }
    stored = adapted.custom_state_dict() if hasattr(adapted, "custom_state_dict") else adapted.state_dict()
    change = adapted.make_weight() * adapted.scale if algorithm == "locon" else adapted.get_weight(shape)
    merged = own.weight + change.reshape(shape)
    if adapted.wd:
        merged = adapted.apply_weight_decompose(merged)
    arrays = {what: leaf.numpy() for what, leaf in stored.items()}
    return {"W": own.weight.numpy(), **arrays, "merged": merged.numpy()}


if __name__ == "__main__":
    np.savez_compressed(OUT, **{f"{name}|{what}": leaf for name in CASES for what, leaf in case(name).items()})
