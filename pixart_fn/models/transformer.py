"""The PixArt transformer: ε and the learned variance of noisy latents, given text (arXiv:2310.00426, fig. 4).

B batch, C latent channels, h/w latent size, p patch, N = (h/p)(w/p) patches, D width, A heads, K = D/A head width,
L text tokens. Names and numerics are those of diffusers' PixArtTransformer2DModel.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeAlias, overload

import mindspore as ms
from mindspore import Tensor, ops

from ..backend import heads, jit, nn, stream
from ..backend.arrays import as_float, as_tensor, check_mask, check_weights
from ..checks import check_switch
from ..process.lock import exclusive
from ..public import public
from ..types import Tree
from . import transformer_blocks
from .transformer_blocks import USUAL as USUAL
from .transformer_blocks import Ways as Ways
from .transformer_checks import check_conditions, check_shape_of_times, check_times, check_ways
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


@overload
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
    skipped: Collection[int] = (),
    blurred: Collection[int] = (),
    blur_sigma: float = math.inf,
    residuals: Sequence[Tensor] = (),
    recompute: bool = True,
) -> Tensor: ...
@overload
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
    skipped: Collection[int] = (),
    blurred: Collection[int] = (),
    blur_sigma: float = math.inf,
    residuals: Sequence[Tensor] = (),
    collect: Collection[str],
    recompute: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]: ...
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
    skipped: Collection[int] = (),
    blurred: Collection[int] = (),
    blur_sigma: float = math.inf,
    residuals: Sequence[Tensor] = (),
    collect: Collection[str] | None = None,
    recompute: bool = True,
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """Evaluate the network on noisy latents.

    Args:
        p: the transformer's tree; if `quantize` made it, each block is turned into float32 before it is evaluated.
        config: its configuration.
        x: (B, C, h, w), floating-point, h and w multiples of the patch size.
        t: (B,), in training-time units 0 … 999; fractions are fine.
        text: (B, L, caption_channels), floating-point.
        mask: (B, L), 1 where a token is real and 0 elsewhere.
        resolution: (B, 2), height and width in pixels, where the configuration has micro-conditions; None elsewhere.
        aspect_ratio: (B, 1), height / width, where the configuration has micro-conditions; None elsewhere.
        perturbed: the blocks, from 0, in which self-attention is the identity, so that each patch sees only itself, for
            perturbed-attention guidance (arXiv:2403.17377).
        skipped: the blocks that are left out, for skip-layer guidance.
        blurred: the blocks whose queries of self-attention are blurred over the picture, for smoothed-energy guidance
            (arXiv:2408.00760).
        blur_sigma: the blur's deviation in patches, above 0; infinite for the mean of all patches.
        residuals: each (B, N, D): what is added to what enters the second block, the third and so on, as a ControlNet
            makes it.
        collect: names of what is returned beside the result: "block3" for what leaves the fourth block, (B, N, D);
            "block3/self" and "block3/cross" for the softmax of its self-attention, (B, A, N, N), or with fewer keys
            where they are compressed, and of its cross-attention, (B, A, N, L). Attention that is collected isn't
            computed in parts.
        recompute: what `value_and_grad` keeps for the backward pass. With True it keeps the input of each block, which
            is then computed again; with False it keeps all that the gradient needs, which takes less time and about
            twenty times the memory. A block is computed again in either case where its self-attention is computed in
            parts, since there are many patches, or is collected, blurred or perturbed, or where its keys are
            compressed.
    Returns:
        (B, out_channels, h, w) float32: ε in the first C channels, then, if there are more, the learned variance. With
        `collect`, that and a dict of what was asked for.
    Raises:
        TypeError: config isn't a Config, an input isn't an array or a Tensor of such numbers, or blocks aren't a list.
        ValueError: p doesn't hold the tensors of the configuration; an input hasn't such a shape, or a time isn't
            finite; micro-conditions are missing, or given to a model without them; there is no such block or name, or
            a block is named for two changes.
    """
    check_weights(p, shapes(config), "p", stored=True)
    check_switch("recompute", recompute)
    check_latents(config, x)
    x, mask, t = as_float(x, "x"), as_tensor(mask, "mask"), as_tensor(t, "t")
    check_times(t, len(x))
    ways = Ways(perturbed, skipped, blurred, blur_sigma, residuals, () if collect is None else collect, recompute)
    ways = check_ways(config, ways, x)
    conditions = check_conditions(config, len(x), resolution, aspect_ratio)
    if mask.ndim != 2:
        raise ValueError(f"mask must have the shape (B, L), got {tuple(mask.shape)}")
    if len(x) != mask.shape[0]:
        raise ValueError(f"x has {len(x)} rows and the text has {mask.shape[0]}; they must be equal")
    out, collected = watch(p, config, x, t, captions(p, config, text, mask), *conditions, ways=ways)
    return out if collect is None else (out, collected)


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


def evaluate(
    p: Tree,
    config: Config,
    x: Tensor,
    t: Tensor,
    context: Captions,
    resolution: Tensor | None = None,
    aspect_ratio: Tensor | None = None,
    *,
    ways: Ways = USUAL,
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
        ways: the other arguments of `apply`.
    Returns:
        (B, out_channels, h, w) float32.
    Raises:
        TypeError, ValueError: as `apply`.
    """
    return watch(p, config, x, t, context, resolution, aspect_ratio, ways=ways)[0]


@exclusive
def watch(
    p: Tree,
    config: Config,
    x: Tensor,
    t: Tensor,
    context: Captions,
    resolution: Tensor | None = None,
    aspect_ratio: Tensor | None = None,
    *,
    ways: Ways = USUAL,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Do as `evaluate`, and give what `ways` collects beside it."""
    check_latents(config, x)
    x, t = as_float(x, "x"), as_tensor(t, "t").float()
    check_shape_of_times(t, len(x))
    h, w = x.shape[2:]
    plan = transformer_blocks.plan(check_ways(config, ways, x), config, h, w)
    conditions = check_conditions(config, len(x), resolution, aspect_ratio)
    condition, modulation = conditioned(p, t, *conditions)  # (B, D) and (B, 6·D)
    x = embedded(p, config, x)  # (B, N, D)
    collected: dict[str, Tensor] = {}
    blocks = stream.each(map(transformer_blocks.without_captions, p["transformer_blocks"]))
    for i, (weights, keys, values) in enumerate(zip(blocks, context.keys, context.values, strict=True)):
        x, seen = transformer_blocks.block(plan, i, weights, x, modulation, (keys, values, context.bias))
        collected |= seen
    head = {"scale_shift_table": p["scale_shift_table"], "proj_out": stream.tensors(p["proj_out"])}
    return unpatchify(_head(head, x, condition, config=config), config, h, w), collected


def conditioned(p: Tree, t: Tensor, *conditions: Tensor) -> tuple[Tensor, Tensor]:
    """Embed the time and the micro-conditions: (B, D), and what modulates the blocks, (B, 6·D)."""
    numbers = (sinusoid(t), *(sinusoid(each.reshape(-1)) for each in conditions))
    return _condition(stream.tensors(p["adaln_single"]), numbers)


def embedded(p: Tree, config: Config, x: Tensor) -> Tensor:
    """Embed the patches of x (B, C, h, w) and their places: (B, N, D)."""
    return _embed(p["pos_embed"]["proj"], x, positions(config, *x.shape[2:]), config=config)


@public
def quantize(p: Tree) -> Tree:
    """Round a transformer's matrices to int8 with one scale for each row, which takes a quarter of float32's memory.

    Each block is turned into float32 again before it is evaluated, so this saves memory, not time. Tables, biases, the
    patches' convolution and the compression of keys become float32. `px.save` writes the rounded weights as float32.
    Training and adapters need the tree that isn't quantized.

    Args:
        p: the transformer's tree, in any dtype; adapters have to be merged before.
    Returns:
        A tree for `apply`, and for Params.
    Raises:
        TypeError: it isn't a transformer's tree, or a leaf is neither a Tensor nor one that is read block by block.
    """
    return stream.quantize_matrices(p, "transformer_blocks", lambda name: name.endswith(".weight"))


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


# --- what is compiled around the blocks -------------------------------------------------------------------------------


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
