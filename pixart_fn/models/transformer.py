"""The PixArt transformer: ε and the learned variance of noisy latents, given text (arXiv:2310.00426, fig. 4).

B batch, C latent channels, h/w latent size, p patch, N = (h/p)(w/p) patches, D width, A heads, K = D/A head width,
L text tokens. Names and numerics are those of diffusers' PixArtTransformer2DModel.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, TypeAlias

import mindspore as ms
from mindspore import Tensor, ops

from ..backend import heads, jit, nn, stream
from ..backend.arrays import as_float, as_tensor, check_mask, check_weights
from ..checks import check_switch
from ..process.lock import exclusive
from ..public import public
from ..types import Tree
from . import compression, transformer_pull
from .transformer_checks import check_blocks, check_conditions, check_shape_of_times, check_times
from .transformer_checks import check_latents as check_latents
from .transformer_config import Compression as Compression
from .transformer_config import Config as Config
from .transformer_config import check_config as check_config
from .transformer_config import init as init
from .transformer_config import read_config as read_config
from .transformer_config import shapes as shapes
from .transformer_config import to_json as to_json
from .transformer_embeddings import positions as positions
from .transformer_embeddings import sinusoid as sinusoid

MASKED = -10000.0
"""What diffusers adds to the scores of padding."""

Tensors: TypeAlias = tuple[Tensor, ...]


class Captions(NamedTuple):
    """Text as the blocks see it."""

    keys: list[Tensor]
    """Of each block, (B, A, L, K)."""
    values: list[Tensor]
    """Of each block, (B, A, L, K)."""
    bias: Tensor
    """(B, 1, 1, L): 0 where a token is real, MASKED elsewhere."""


@public
@exclusive
def apply(
    p: Tree,
    config: Config,
    x: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    resolution: Tensor | None = None,
    aspect_ratio: Tensor | None = None,
    *,
    perturbed: Collection[int] = (),
    recompute: bool = True,
) -> Tensor:
    """Evaluate the network on noisy latents.

    Args:
        p: the transformer's tree; where `quantize` made it, each block becomes float32 when it is its turn.
        config: its configuration.
        x: (B, C, h, w), floating-point, h and w multiples of the patch size.
        t: (B,), in training-time units 0 … 999; fractions are fine.
        text: (B, L, caption_channels), floating-point.
        mask: (B, L), 1 where a token is real and 0 elsewhere.
        resolution: (B, 2), height and width in pixels, where the configuration has micro-conditions; None elsewhere.
        aspect_ratio: (B, 1), height / width, where the configuration has micro-conditions; None elsewhere.
        perturbed: the blocks, from 0, in which self-attention is the identity: each patch sees itself alone, as
            perturbed-attention guidance wants it (arXiv:2403.17377).
        recompute: what `value_and_grad` keeps until it goes backwards: the input of each block, which is then computed
            once more; or where False all that the gradient needs, which takes less time and some twenty times the
            memory. Blocks whose self-attention goes in parts, since there are many patches, or whose keys are
            compressed, are computed again anyway.
    Returns:
        (B, out_channels, h, w) float32: ε in the first C channels, then, if there are more, the learned variance.
    Raises:
        TypeError: config isn't a Config, an input isn't an array or a Tensor of such numbers, or perturbed no list of
            blocks.
        ValueError: p doesn't hold the tensors of the configuration; an input hasn't such a shape, or a time isn't
            finite; micro-conditions are missing, or given to a model without them; or there is no such block.
    """
    check_weights(p, shapes(config), "p", stored=True)
    check_switch("recompute", recompute)
    check_latents(config, x)
    x, mask, t = as_float(x, "x"), as_tensor(mask, "mask"), as_tensor(t, "t")
    check_times(t, len(x))
    check_blocks(config, perturbed)
    conditions = check_conditions(config, len(x), resolution, aspect_ratio)
    if mask.ndim != 2:
        raise ValueError(f"mask must have the shape (B, L), got {tuple(mask.shape)}")
    if len(x) != mask.shape[0]:
        raise ValueError(f"x has {len(x)} rows and the text has {mask.shape[0]}; they must be equal")
    context = captions(p, config, text, mask)
    return evaluate(p, config, x, t, context, *conditions, perturbed=perturbed, recompute=recompute)


@exclusive
def captions(p: Tree, config: Config, text: Tensor, mask: Tensor) -> Captions:
    """Compute what all blocks' cross-attentions see of the text: once for each prompt, for every step.

    Args:
        p: the transformer's tree.
        config: its configuration.
        text: (B, L, caption_channels), floating-point.
        mask: (B, L), 1 where a token is real and 0 elsewhere.
    Returns:
        Captions, for `evaluate`.
    Raises:
        TypeError: text or mask isn't an array or a Tensor of such numbers.
        ValueError: text or mask hasn't such a shape, or a row of the mask has no real token.
    """
    text, mask = as_float(text, "text"), as_tensor(mask, "mask")
    if text.ndim != 3 or text.shape[2] != config.caption_channels:
        raise ValueError(f"text must have the shape (B, L, {config.caption_channels}), got {tuple(text.shape)}")
    if tuple(mask.shape) != tuple(text.shape[:2]):
        raise ValueError(f"mask must have the shape {tuple(text.shape[:2])} of the text, got {tuple(mask.shape)}")
    check_mask(mask, "mask")
    text = _project(stream.tensors(p["caption_projection"]), text)  # (B, L, D)
    attentions = ({"k": block["attn2"]["to_k"], "v": block["attn2"]["to_v"]} for block in p["transformer_blocks"])
    seen = [_keys_values(attention, text, config=config) for attention in stream.each(attentions)]
    keys, values = (list(each) for each in zip(*seen, strict=True))
    return Captions(keys, values, ((1.0 - mask.float()) * MASKED).reshape(mask.shape[0], 1, 1, mask.shape[1]))


@exclusive
def evaluate(
    p: Tree,
    config: Config,
    x: Tensor,
    t: Tensor,
    context: Captions,
    resolution: Tensor | None = None,
    aspect_ratio: Tensor | None = None,
    *,
    perturbed: Collection[int] = (),
    recompute: bool = True,
) -> Tensor:
    """Evaluate the network on noisy latents and the text as `captions` gives it.

    Args:
        p: the transformer's tree.
        config: its configuration.
        x: (B, C, h, w), floating-point, h and w multiples of the patch size.
        t: (B,), in training-time units 0 … 999; fractions are fine.
        context: what `captions` gave.
        resolution: as in `apply`.
        aspect_ratio: as in `apply`.
        perturbed: as in `apply`.
        recompute: as in `apply`.
    Returns:
        (B, out_channels, h, w) float32.
    Raises:
        TypeError, ValueError: as `apply`.
    """
    check_latents(config, x)
    x, t = as_float(x, "x"), as_tensor(t, "t").float()
    check_shape_of_times(t, len(x))
    check_blocks(config, perturbed)
    conditions = check_conditions(config, len(x), resolution, aspect_ratio)
    numbers = (sinusoid(t), *(sinusoid(each.reshape(-1)) for each in conditions))
    condition, modulation = _condition(stream.tensors(p["adaln_single"]), numbers)  # (B, D) and (B, 6·D)
    h, w = x.shape[2:]
    x = _embed(p["pos_embed"]["proj"], x, positions(config, h, w), config=config)  # (B, N, D)
    compressing, narrow = _compressing(config, h, w)
    blocks = stream.each(map(_without_captions, p["transformer_blocks"]))
    for i, (weights, keys, values) in enumerate(zip(blocks, context.keys, context.values, strict=True)):
        text, alone = (keys, values, context.bias), i in perturbed
        if i in compressing and not alone:
            x = _compressed_block(weights, x, modulation, text, config=narrow)
        else:
            x = _block(weights, x, modulation, text, config=config, alone=alone, recompute=recompute)
    head = {"scale_shift_table": p["scale_shift_table"], "proj_out": stream.tensors(p["proj_out"])}
    return unpatchify(_head(head, x, condition, config=config), config, h, w)


@public
def quantize(p: Tree) -> Tree:
    """Round a transformer's matrices to int8 with one scale for each row, which takes a quarter of float32's memory.

    Each block becomes float32 again when it is its turn, so this saves memory, not arithmetic. Tables, biases, the
    patches' convolution and the compression of keys stay as they are.

    Args:
        p: the transformer's tree; adapters have to be merged before.
    Returns:
        A tree for `apply`, and for Params.
    Raises:
        TypeError: a leaf is neither a Tensor nor one that is read block by block.
    """
    return stream.quantize_matrices(p, lambda name: name.endswith(".weight"))


def unpatchify(x: Tensor, config: Config, h: int, w: int) -> Tensor:
    """Put patches together.

    Args:
        x: (B, N, p·p·out_channels).
        config: the transformer's configuration.
        h: height of the latents.
        w: width of the latents.
    Returns:
        (B, out_channels, h, w).
    """
    p, C = config.patch_size, config.out_channels
    x = x.reshape(-1, h // p, w // p, p, p, C)  # (B, rows, columns, p, q, C)
    return ops.transpose(x, (0, 5, 1, 3, 2, 4)).reshape(-1, C, h, w)


# --- what is compiled: the block first, then what stands around the blocks --------------------------------------------


def _before_attention(
    p: Tree, x: Tensor, modulation: Tensor, config: Config | compression.Block
) -> tuple[Tensors, Tensors]:
    """Modulated queries, keys and values of x (B, N, D): each (B, N, D); and what the gradient needs."""
    shift, scale, _, _, _, _ = transformer_pull.modulations(p, modulation)
    normal, inverse = nn.normalized(x, config.norm_eps)
    h = nn.modulate(normal, scale, shift)  # (B, N, D)
    to = p["attn1"]
    return (nn.linear(to["to_q"], h), nn.linear(to["to_k"], h), nn.linear(to["to_v"], h)), (normal, inverse)


def _after_attention(
    p: Tree, x: Tensor, h: Tensor, modulation: Tensor, text: Tensors, config: Config
) -> tuple[Tensor, Tensors]:
    """x + gated self-attention h, then + cross-attention to the text, then + gated MLP: (B, N, D)."""
    _, _, gate, shift, scale, gate_mlp = transformer_pull.modulations(p, modulation)
    update = nn.linear(p["attn1"]["to_out"][0], h)  # (B, N, D)
    x = x + nn.along_tokens(gate, x) * update

    keys, values, bias = text  # (B, A, L, K), (B, A, L, K), (B, 1, 1, L)
    q = nn.linear(p["attn2"]["to_q"], x) * config.attention_head_dim**-0.5  # (B, N, D)
    q = heads.split(q, config.num_attention_heads)  # (B, A, N, K)
    h, weights = heads.attend(q, keys, values, bias)  # (B, N, D), (B, A, N, L)
    x = x + nn.linear(p["attn2"]["to_out"][0], h)  # neither norm nor gate

    normal, inverse = nn.normalized(x, config.norm_eps)
    wide = nn.linear(p["ff"]["net"]["0"]["proj"], nn.modulate(normal, scale, shift))  # (B, N, 4·D)
    active, slope = nn.gelu_tanh_slope(wide)
    change = nn.linear(p["ff"]["net"]["2"], active)
    kept = (update, q, weights, h, normal, inverse, active, slope, change)
    return x + nn.along_tokens(gate_mlp, x) * change, kept


_block = heads.attention_block(
    _before_attention, _after_attention, transformer_pull.pull, read_before=("scale_shift_table", "attn1")
)


def _before_compressed(p: Tree, x: Tensor, modulation: Tensor, config: compression.Block) -> tuple[Tensors, Tensors]:
    """`_before_attention` where keys and values are compressed to (B, M, D)."""
    (q, k, v), kept = _before_attention(p, x, modulation, config)
    return (q, compression.compress(p["attn1"], k, config), compression.compress(p["attn1"], v, config)), kept


_compressed_block = heads.attention_block(
    _before_compressed, _after_attention, None, read_before=("scale_shift_table", "attn1")
)


def _compressing(config: Config, h: int, w: int) -> tuple[Collection[int], compression.Block | None]:
    """The blocks that compress their keys and values, and what their graph is made for."""
    how, rows, columns = config.kv_compression, h // config.patch_size, w // config.patch_size
    if how is None:
        return (), None
    compression.check_size(how, (rows, columns))
    heads = config.num_attention_heads, config.attention_head_dim
    return how.layers, compression.Block(*heads, config.norm_eps, how.sampling, how.factor, rows, columns)


def _without_captions(block: Tree) -> Tree:
    """A block without what `captions` has used."""
    cross = {name: block["attn2"][name] for name in ("to_q", "to_out")}
    return {"scale_shift_table": block["scale_shift_table"], "attn1": block["attn1"], "attn2": cross, "ff": block["ff"]}


@jit.block
def _condition(p: Tree, numbers: tuple[Tensor, ...], config: None) -> tuple[Tensor, Tensor]:
    """Embed time, and where they are there resolution and aspect ratio: (B, D), and (B, 6·D) for the blocks."""
    condition = _embed_number(p["emb"]["timestep_embedder"], numbers[0])  # (B, D)
    if len(numbers) > 1:
        B = condition.shape[0]
        size = _embed_number(p["emb"]["resolution_embedder"], numbers[1]).reshape(B, -1)  # (B, 2·D/3)
        ratio = _embed_number(p["emb"]["aspect_ratio_embedder"], numbers[2]).reshape(B, -1)  # (B, D/3)
        condition = condition + ops.cat((size, ratio), 1)
    return condition, nn.linear(p["linear"], nn.silu(condition))


def _embed_number(p: Tree, sinusoids: Tensor) -> Tensor:
    return nn.linear(p["linear_2"], nn.silu(nn.linear(p["linear_1"], sinusoids)))


@jit.block
def _project(p: Tree, text: Tensor, config: None) -> Tensor:
    return nn.linear(p["linear_2"], nn.gelu_tanh(nn.linear(p["linear_1"], text)))


@jit.block
def _keys_values(p: Tree, text: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    A = config.num_attention_heads
    return heads.split(nn.linear(p["k"], text), A), heads.split(nn.linear(p["v"], text), A)


@jit.block
def _embed(p: Tree, x: Tensor, position: Tensor, config: Config) -> Tensor:
    B, C, h, w = x.shape
    n = config.patch_size
    x = ops.transpose(x.reshape(B, C, h // n, n, w // n, n), (0, 2, 4, 1, 3, 5))  # (B, rows, columns, C, p, q)
    x = nn.linear(p, x.reshape(B, -1, C * n * n))  # (B, N, D)
    return ops.cast(x + position, x.dtype)


@jit.block
def _head(p: Tree, x: Tensor, condition: Tensor, config: Config) -> Tensor:
    table = p["scale_shift_table"] + condition.reshape(x.shape[0], 1, -1)  # (B, 2, D)
    shift, scale = ops.split(table, 1, axis=1)
    return ops.cast(nn.linear(p["proj_out"], nn.modulate(nn.layer_norm(x, config.norm_eps), scale, shift)), ms.float32)
