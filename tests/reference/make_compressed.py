"""A transformer whose last block compresses its keys and values, as PixArt-Σ's authors do it, around diffusers' block.

diffusers has no such attention, so its processor is written here from the paper and the authors' description of the
four ways: torch's own depthwise convolution, LayerNorm, nearest interpolation and strides.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from .case import Case
from .make_forward import apply_transformer
from .make_gradients import gradients
from .make_models import arrays, config_of, normal, prefix_mask, randomise, transformer, weights_of

FACTOR, ROWS, COLUMNS = 2, 4, 5
"""An odd number of columns: the last is left out."""


class Compressing:
    """diffusers' processor of self-attention with fewer keys and values."""

    def __init__(self, sampling: str):
        self.sampling = sampling

    def compress(self, attention: Attention, x: Tensor) -> Tensor:
        if self.sampling == "uniform_every":
            return x[:, ::FACTOR]
        x = x.unflatten(1, (ROWS, COLUMNS)).permute(0, 3, 1, 2)
        if self.sampling == "conv":
            return attention.norm(attention.sr(x).flatten(2).transpose(1, 2))
        if self.sampling == "ave":
            x = F.interpolate(x, scale_factor=1 / FACTOR, mode="nearest")
        else:
            x = x[:, :, ::FACTOR, : COLUMNS // FACTOR * FACTOR : FACTOR]
        return x.flatten(2).transpose(1, 2)

    def __call__(self, attention: Attention, x: Tensor, *args: object, **options: object) -> Tensor:
        q, k, v = attention.to_q(x), attention.to_k(x), attention.to_v(x)
        k, v = self.compress(attention, k), self.compress(attention, v)
        q, k, v = (each.unflatten(2, (attention.heads, -1)).transpose(1, 2) for each in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return attention.to_out[0](h)


def make(seed: int, sampling: str) -> Case:
    model = transformer(seed, attention_head_dim=8, num_layers=2, caption_channels=24, interpolation_scale=1)
    attention = model.transformer_blocks[1].attn1
    if sampling == "conv":
        attention.sr, attention.norm = nn.Conv2d(32, 32, FACTOR, FACTOR, groups=32), nn.LayerNorm(32)
        randomise(model, seed)
    attention.processor = Compressing(sampling)
    t, mask = torch.tensor([700, 20]), prefix_mask([7, 3], 7)
    inputs = {"x": normal(seed + 1, 2, 4, 2 * ROWS, 2 * COLUMNS), "text": normal(seed + 2, 2, 7, 24)}
    apply = gradients(model, lambda x, text: apply_transformer(model, x, t, text, mask), seed + 3, inputs)
    compressed = {"sampling": sampling, "scale_factor": FACTOR, "kv_compress_layer": [1]}
    config = {**config_of(model), "kv_compress_config": compressed}
    return Case(config, weights_of(model), {"apply": apply | arrays(t=t, mask=mask)})
