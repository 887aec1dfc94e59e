"""Tiny (or full-size) reference models with random weights, none of them zero and all activations of order one."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel
from torch import nn
from transformers import T5Config, T5EncoderModel


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Draw every parameter anew: the libraries start tables, gates and biases at zero or one, which hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(generator=generator)
        if name.endswith("bias") or name.endswith("scale_shift_table"):
            parameter.mul_(0.3)
        elif parameter.ndim == 1:
            parameter.mul_(0.2).add_(1)
        elif "shared" not in name and "relative_attention_bias" not in name:
            parameter.div_(math.sqrt(parameter[0].numel()))


def t5(seed: int, **overrides: Any) -> T5EncoderModel:
    """An encoder whose attention logits are of order one, which T5 leaves to the weights since it doesn't scale."""
    fields = {"vocab_size": 100, "d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128, "num_layers": 3}
    config = T5Config(**{**fields, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, **overrides})
    config._attn_implementation = "eager"
    model = T5EncoderModel(config).eval()
    randomise(model, seed)
    with torch.no_grad():
        for block in model.encoder.block:
            block.layer[0].SelfAttention.q.weight.div_(math.sqrt(config.d_kv))
    return model


def transformer(seed: int, **overrides: Any) -> PixArtTransformer2DModel:
    fields = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 3, "sample_size": 8}
    fields |= {"in_channels": 4, "out_channels": 8, "caption_channels": 48, **overrides}
    width = fields["num_attention_heads"] * fields["attention_head_dim"]
    model = PixArtTransformer2DModel(cross_attention_dim=width, **fields).eval()
    randomise(model, seed)
    return model


def vae(seed: int, **overrides: Any) -> AutoencoderKL:
    fields: dict[str, Any] = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    fields |= {"latent_channels": 4, **overrides}
    levels = len(fields["block_out_channels"])
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    model = AutoencoderKL(**blocks, **fields).eval()
    randomise(model, seed)
    return model


def config_of(model: nn.Module) -> dict[str, Any]:
    """The config.json that the library would write beside the weights."""
    if isinstance(model, T5EncoderModel):
        return json.loads(model.config.to_json_string())
    return json.loads(model.to_json_string())


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}


def prefix_mask(lengths: list[int], L: int) -> torch.Tensor:
    """(B, L) int64 with the first lengths[b] tokens of row b real."""
    return (torch.arange(L)[None] < torch.tensor(lengths)[:, None]).long()


def arrays(**tensors: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
