"""A small transformer's evaluation on a CPU, with NumPy: each picture by itself, in a thread of its own.

Letters as in `transformer`, for one picture; the same numbers as there, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mindspore import Tensor

from .. import tree
from ..backend import jit
from ..backend import numpy_nn as nn
from ..backend.arrays import as_float
from ..backend.autodiff import recording
from ..backend.numpy_nn import Floats
from ..types import Tree
from .transformer import MASKED, Captions
from .transformer_config import Config
from .transformer_embeddings import frequencies, positions

PATCHES = 256
"""Of a picture, up to which this is no slower on two CPUs."""


class Text(NamedTuple):
    """What a block's cross-attention makes of a picture's text: queries' weights times keys, and values times weights.

    A text has few tokens, so that this takes a tenth of what queries and the product after attention take.
    """

    scores: Floats
    """(D, A·L)."""
    bias: Floats
    """(A·L,)."""
    values: Floats
    """(A·L, D)."""


class Small(NamedTuple):
    """A transformer with its texts, as `evaluate` takes it."""

    p: Tree
    """As `numpy_nn.arrays` gives it."""
    texts: list[list[Text]]
    """Of each picture and block."""


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
    return not recording() and is_small(config, x.shape[2:])


def is_small(config: Config, latent: Sequence[int]) -> bool:
    """Whether latents of a size (h, w) have at most `PATCHES`."""
    return math.prod(latent) <= PATCHES * config.patch_size**2


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


@nn.quiet
def prepare(p: Tree, config: Config, context: Captions) -> Small:
    """Prepare a transformer for `evaluate`.

    Args:
        p: its tree, as `numpy_nn.arrays` gives it.
        config: its configuration.
        context: what `captions` or `transformer.captions` gave.
    Returns:
        A Small.
    """
    real, D, root = context.bias.asnumpy()[:, 0, 0] == 0, config.width, np.float32(config.attention_head_dim**-0.5)
    texts: list[list[Text]] = [[] for _ in real]
    for block, keys, values in zip(p["transformer_blocks"], context.keys, context.values, strict=True):
        (queries, out), A = (block["attn2"][name] for name in ("to_q", "to_out")), config.num_attention_heads
        split = queries["weight"].reshape(A, -1, D), queries["bias"].reshape(A, -1, 1)
        joined = out[0]["weight"].reshape(D, A, -1).transpose(1, 2, 0)  # (A, K, D)
        for own, seen, k, v in zip(texts, real, keys.asnumpy(), values.asnumpy(), strict=True):
            k, v = k[:, seen] * root, v[:, seen]
            own.append(Text((k @ split[0]).reshape(-1, D).T, (k @ split[1]).ravel(), (v @ joined).reshape(-1, D)))
    return Small(p, texts)


def evaluate(small: Small, config: Config, x: Tensor, t: Tensor, residuals: Sequence[Tensor] = ()) -> Tensor:
    """Evaluate the network as `transformer.evaluate` does.

    Args:
        small: the transformer with B texts, from `prepare`.
        config: its configuration.
        x: (B, C, h, w), floating-point.
        t: (B,).
        residuals: as in `transformer.apply`.
    Returns:
        (B, out_channels, h, w) float32.
    Raises:
        TypeError: x doesn't hold floating-point numbers.
    """
    p, pictures, place = small.p, as_float(x, "x").asnumpy(), positions(config, *x.shape[2:]).asnumpy()[0]
    angles, added = t.asnumpy()[:, None] * frequencies(), [each.asnumpy() for each in residuals]

    def run(row: int) -> Floats:
        numbers = np.concatenate([np.cos(angles[row]), np.sin(angles[row])])[None]
        condition, modulation = _conditioned(p["adaln_single"], numbers)
        y = _embedded(p["pos_embed"]["proj"], config, pictures[row])
        y += place
        for i, (block, text) in enumerate(zip(p["transformer_blocks"], small.texts[row], strict=True)):
            if 0 < i <= len(added):
                y += added[i - 1][row]
            _block(block, config, y, modulation, text)
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


def _block(p: Tree, config: Config, x: Floats, modulation: Floats, text: Text) -> None:
    """Go through a block, which changes x (N, D)."""
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = p["scale_shift_table"] + modulation
    to, mlp, A = p["attn1"], p["ff"]["net"], config.num_attention_heads
    h = _modulated(x, config, scale, shift)
    q, k, v = (nn.split(nn.linear(to[name], h), A) for name in ("to_q", "to_k", "to_v"))
    q *= np.float32(config.attention_head_dim**-0.5)
    h = nn.linear(to["to_out"][0], nn.attend(q, k, v))
    h *= gate
    x += h

    scores = x @ text.scores
    scores += text.bias
    x += nn.softmax(scores.reshape(len(x), A, -1)).reshape(scores.shape) @ text.values
    x += p["attn2"]["to_out"][0]["bias"]

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
