"""What a class-conditional DiT computes at t = 500 without a class, for PixArt's start from it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from .case import Case
from .make_forward import case
from .make_models import arrays, normal, randomise

TIME, CLASSES = 500, 10


def dit(seed: int, **overrides: Any) -> DiTTransformer2DModel:
    """A DiT whose blocks have embedders of their own: in the released ones these are copies of each other."""
    fields: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "sample_size": 8}
    fields |= {"out_channels": 8, "num_embeds_ada_norm": CLASSES, "norm_eps": 1e-6, **overrides}
    model = DiTTransformer2DModel(**fields).eval()
    randomise(model, seed)
    return model


@torch.no_grad()
def without_class(model: nn.Module, x: Tensor) -> Tensor:
    t, null = torch.full((len(x),), TIME), torch.full((len(x),), CLASSES)
    return model(x, timestep=t, class_labels=null, return_dict=False)[0]


def make_dit(seed: int) -> Case:
    """`original` is the same model with the frequencies of t that the DiT was trained with."""
    model, x = dit(seed), normal(seed + 1, 2, 4, 8, 8)
    out = without_class(model, x)
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return case(model, start=arrays(x=x, diffusers=out, original=without_class(model, x)))
