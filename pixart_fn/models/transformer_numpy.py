"""A small transformer's evaluation on a CPU, with NumPy: each picture by itself, in a thread of its own.

Letters as in `transformer`, for one picture; the same numbers as there, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from mindspore import Tensor

from .. import tree
from ..backend import jit
from ..backend import numpy_nn as nn
from ..backend.autodiff import recording
from ..backend.numpy_nn import Floats
from ..types import Tree
from .transformer import MASKED, Captions
from .transformer_config import Config
from .transformer_embeddings import positions, sinusoid

PATCHES = 256
"""Of a picture, up to which this is no slower on two CPUs."""


def fits(p: Tree, config: Config) -> bool:
    """Whether a transformer is one for `evaluate`: small blocks of plain float32 Tensors, on a CPU.

    Args:
        p: its tree.
        config: its configuration; micro-conditions and compressed keys aren't here.
    Returns:
        Whether it is.
    """
    if config.kv_compression is not None or config.conditions or not nn.computes(tree.leaves(p)):
        return False
    return tree.size(p["transformer_blocks"][0]) <= jit.SMALL


def takes(config: Config, x: Tensor) -> bool:
    """Whether pictures x (B, C, h, w) are small enough, and no gradient is recorded."""
    return not recording() and math.prod(x.shape[2:]) <= PATCHES * config.patch_size**2


def captions(p: Tree, config: Config, text: Tensor, mask: Tensor) -> Captions:
    """Compute what all blocks' cross-attentions see of the text, as `transformer.captions` does.

    Args:
        p: the transformer's tree, as `numpy_nn.arrays` gives it.
        config: its configuration.
        text: (B, L, caption_channels) float32.
        mask: (B, L), with a real token in each row.
    Returns:
        Captions, whose keys and values are zero where a token isn't real.
    """
    states, real, A = text.asnumpy(), mask.asnumpy() != 0, config.num_attention_heads
    (B, L), to = real.shape, p["caption_projection"]

    def run(i: int) -> Floats:
        seen = np.zeros((2 * config.num_layers, A, L, config.attention_head_dim), np.float32)
        own = nn.linear(to["linear_2"], nn.gelu_tanh(nn.linear(to["linear_1"], states[i, real[i]])))
        for k, block in enumerate(p["transformer_blocks"]):
            for j, name in enumerate(("to_k", "to_v")):
                seen[2 * k + j][:, real[i]] = nn.split(nn.linear(block["attn2"][name], own), A)
        return seen

    both = nn.in_threads(run, B)
    keys, values = ([Tensor.from_numpy(both[:, k].copy()) for k in range(j, 2 * config.num_layers, 2)] for j in (0, 1))
    bias = np.where(real, np.float32(0), np.float32(MASKED))
    return Captions(keys, values, Tensor.from_numpy(bias.reshape(B, 1, 1, L)))


def evaluate(
    p: Tree, config: Config, x: Tensor, t: Tensor, context: Captions, residuals: Sequence[Tensor] = ()
) -> Tensor:
    """Evaluate the network as `transformer.evaluate` does.

    Args:
        p: the transformer's tree, as `numpy_nn.arrays` gives it.
        config: its configuration.
        x: (B, C, h, w) float32.
        t: (B,).
        context: what `transformer.captions` gave.
        residuals: as in `transformer.apply`.
    Returns:
        (B, out_channels, h, w) float32.
    """
    pictures, numbers, place = x.asnumpy(), sinusoid(t).asnumpy(), positions(config, *x.shape[2:]).asnumpy()
    real, added = context.bias.asnumpy()[:, 0, 0] == 0, [each.asnumpy() for each in residuals]  # (B, L)
    texts = [(k.asnumpy(), v.asnumpy()) for k, v in zip(context.keys, context.values, strict=True)]

    def run(row: int) -> Floats:
        condition, modulation = _conditioned(p["adaln_single"], numbers[row, None])
        y = _embedded(p["pos_embed"]["proj"], config, pictures[row])
        y += place[0]
        for i, (block, (k, v)) in enumerate(zip(p["transformer_blocks"], texts, strict=True)):
            if 0 < i <= len(added):
                y += added[i - 1][row]
            _block(block, config, y, modulation, k[row][:, real[row]], v[row][:, real[row]])
        return _unpatchified(config, _head(p, config, y, condition), x.shape[2:])

    return Tensor.from_numpy(nn.in_threads(run, len(pictures)))


def _conditioned(p: Tree, numbers: Floats) -> tuple[Floats, Floats]:
    """Embed the sinusoids of a time, (1, 256): (1, D), and what modulates the blocks, (6, D)."""
    emb = p["emb"]["timestep_embedder"]
    condition = nn.linear(emb["linear_2"], nn.silu(nn.linear(emb["linear_1"], numbers)))
    return condition, nn.linear(p["linear"], nn.silu(condition)).reshape(6, -1)


def _embedded(p: Tree, config: Config, x: Floats) -> Floats:
    """Embed patches: (C, h, w) → (N, D)."""
    (C, h, w), n = x.shape, config.patch_size
    patches = x.reshape(C, h // n, n, w // n, n).transpose(1, 3, 0, 2, 4)
    return nn.linear(p, patches.reshape(-1, C * n * n))


def _block(p: Tree, config: Config, x: Floats, modulation: Floats, k_text: Floats, v_text: Floats) -> None:
    """Go through a block, which changes x (N, D); a text's keys and values (A, L, K) are those of its real tokens."""
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = p["scale_shift_table"] + modulation
    A, root = config.num_attention_heads, np.float32(config.attention_head_dim**-0.5)
    to, across, mlp = p["attn1"], p["attn2"], p["ff"]["net"]
    h = _modulated(x, config, scale, shift)
    q, k, v = (nn.split(nn.linear(to[name], h), A) for name in ("to_q", "to_k", "to_v"))
    q *= root
    h = nn.linear(to["to_out"][0], nn.attend(q, k, v))
    h *= gate
    x += h

    q = nn.split(nn.linear(across["to_q"], x), A)
    q *= root
    x += nn.linear(across["to_out"][0], nn.attend(q, k_text, v_text))

    h = nn.linear(mlp["2"], nn.gelu_tanh(nn.linear(mlp["0"]["proj"], _modulated(x, config, scale_mlp, shift_mlp))))
    h *= gate_mlp
    x += h


def _head(p: Tree, config: Config, x: Floats, condition: Floats) -> Floats:
    """What leaves the blocks (N, D) → (N, p·p·out_channels)."""
    shift, scale = p["scale_shift_table"] + condition
    return nn.linear(p["proj_out"], _modulated(x, config, scale, shift))


def _unpatchified(config: Config, x: Floats, size: tuple[int, ...]) -> Floats:
    """Put patches together: (N, p·p·out_channels) → (out_channels, h, w)."""
    (h, w), n = size, config.patch_size
    latents: Floats = x.reshape(h // n, w // n, n, n, -1).transpose(4, 0, 2, 1, 3).reshape(-1, h, w)
    return latents


def _modulated(x: Floats, config: Config, scale: Floats, shift: Floats) -> Floats:
    """The norm of x (N, D) with a scale and a shift (D,)."""
    y = nn.layer_norm(x, config.norm_eps)
    y *= np.float32(1) + scale
    y += shift
    return y
