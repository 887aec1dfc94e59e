"""Layers as functions: the one place that knows which MindSpore op is right and fast on which device.

B batch, L and M tokens, D width, A heads, K = D/A head width, C channels, G groups, N pixels or patches, I and O a
matrix's inputs and outputs. All but `attention_block` run inside a `jit.block`. MindSpore has no layer norm or einsum
on the CPU: what stands here in their stead is noted at each. `convolution` is apart.

Products of matrices are in their weights' dtype, and so is what they give; norms and softmax are float32 in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import mindspore as ms
from mindspore import Tensor, ops

from ..types import Tree
from . import device, jit, numpy2

numpy2.settle()  # every model imports this module before its first operation

ASCEND = device.is_ascend()
"""Whether ops run on an Ascend NPU; asked once, since the device can't change after the first op."""
FLASH_WIDTH = 16
"""Flash attention takes heads whose width is a multiple of this."""
FEW = 96
"""Rows up to which it is W xᵀ, for which oneDNN needn't pack W, and which it sums in the same order for any rows."""
SCORES = 2**25
"""Numbers in the scores of a block's self-attention that are in memory at a time: 128 MiB."""
ROWS = 2**11
"""Tokens of all pictures that go through the rest of a block at a time, where its self-attention goes in parts."""

Context: TypeAlias = tuple[Tensor, ...]
"""What a block sees beside its tokens, such as a text's keys and values."""


# --- products and norms -----------------------------------------------------------------------------------------------


def linear(p: Tree, x: Tensor) -> Tensor:
    """x Wᵀ + b in the weight's dtype.

    Args:
        p: weight (O, I) or (O, C, k, k) with C·k·k = I, and maybe bias (O,).
        x: (…, I).
    Returns:
        (…, O), of the weight's dtype.
    """
    weight = p["weight"].reshape(p["weight"].shape[0], -1)  # (O, I)
    flat = ops.cast(x.reshape(-1, x.shape[-1]), weight.dtype)  # (rows, I)
    if flat.shape[0] <= FEW:
        y = ops.transpose(ops.MatMul(transpose_b=True)(weight, flat), (1, 0))
    else:
        y = ops.MatMul(transpose_b=True)(flat, weight)
    if "bias" in p:
        y = ops.BiasAdd()(y, p["bias"])
    return y.reshape((*x.shape[:-1], weight.shape[0]))


def mean_last(x: Tensor) -> Tensor:
    """The mean over the last axis, which stays with the length 1: (…, D) → (…, 1)."""
    # over a matrix: with more axes the CPU is 4× slower
    return ops.ReduceMean(True)(x.reshape(-1, x.shape[-1]), -1).reshape((*x.shape[:-1], 1))


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """(x − mean) / √(variance + eps) over the last axis, without an affine part (arXiv:1607.06450).

    Args:
        x: (…, D).
        eps: positive.
    Returns:
        (…, D), of x's dtype; computed in float32.
    """
    wide = ops.cast(x, ms.float32)
    centred = wide - mean_last(wide)
    return ops.cast(centred * ops.rsqrt(mean_last(centred * centred) + eps), x.dtype)


def rms_norm(p: Tree, x: Tensor, eps: float) -> Tensor:
    """x / √(mean x² + eps) · weight over the last axis: T5's norm, without mean and bias (arXiv:1910.07467).

    Args:
        p: weight (D,).
        x: (…, D) float32.
        eps: positive.
    Returns:
        (…, D) float32.
    """
    return x * ops.rsqrt(mean_last(x * x) + eps) * ops.cast(p["weight"], ms.float32)


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The mean and the variance of each group of channels over all pixels.

    Args:
        x: (B, N, C).
        groups: G, which divides C.
    Returns:
        mean and variance, each (B, G) float32.
    """
    B, N, C = x.shape
    x = ops.cast(x, ms.float32)
    row = ops.ones((B, 1, N), x.dtype)  # a product: the CPU's reduction over a middle axis is 5× slower
    mean = ops.BatchMatMul()(row, x) / N  # (B, 1, C)
    centred = ops.BiasAdd()(x.reshape(N, C), -mean.reshape(C)).reshape(1, N, C) if B == 1 else x - mean
    square = (ops.BatchMatMul()(row, centred * centred) / N).reshape(B, groups, -1)  # (B, G, C/G)
    mean = mean.reshape(B, groups, -1)  # (B, G, C/G)
    group = ops.ReduceMean(True)(mean, -1)  # (B, G, 1)
    distance = mean - group
    return group.reshape(B, groups), ops.ReduceMean()(square + distance * distance, -1)


def group_affine(p: Tree, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Group norm with given moments as x · scale + shift, channel by channel.

    Args:
        p: weight and bias, each (C,).
        mean: (B, G) float32.
        variance: (B, G) float32.
        eps: positive.
    Returns:
        scale and shift, each (B, C) float32.
    """
    B, groups = mean.shape
    weight = ops.cast(p["weight"], ms.float32).reshape(1, groups, -1)
    scale = weight * ops.rsqrt(variance + eps).reshape(B, groups, 1)
    shift = ops.cast(p["bias"], ms.float32).reshape(1, groups, -1) - scale * mean.reshape(B, groups, 1)
    return scale.reshape(B, -1), shift.reshape(B, -1)


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x · scale + shift, channel by channel.

    Args:
        x: (B, N, C).
        scale: (B, C) float32.
        shift: (B, C) float32.
    Returns:
        (B, N, C) float32.
    """
    B, _, C = x.shape
    x = ops.cast(x, ms.float32)
    if B == 1:
        return ops.BiasAdd()((x * scale).reshape(-1, C), shift.reshape(C)).reshape(x.shape)
    return x * scale.reshape(B, 1, C) + shift.reshape(B, 1, C)


def group_norm(p: Tree, x: Tensor, groups: int, eps: float) -> Tensor:
    """Normalise over each group of channels and all pixels, then scale and shift each channel (arXiv:1803.08494).

    Args:
        p: weight and bias, each (C,).
        x: (B, N, C).
        groups: G, which divides C.
        eps: positive.
    Returns:
        (B, N, C) float32.
    """
    mean, variance = group_moments(x, groups)
    scale, shift = group_affine(p, mean, variance, eps)
    return scale_shift(x, scale, shift)


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x), of any shape. MindSpore's op of that name takes a third longer on the CPU."""
    return x * ops.sigmoid(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """½x(1 + tanh(√(2/π)(x + 0.044715x³))), of any shape (arXiv:1606.08415).

    It is written as a sigmoid, which is 4× faster than MindSpore's op on the CPU.
    """
    return x * ops.sigmoid(x * (1.5957691216057308 + 0.07135481627159775 * (x * x)))


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift: what adaptive norms do to a normalised x (arXiv:2212.09748).

    Args:
        x: (B, N, D).
        scale: (B, 1, D).
        shift: (B, 1, D).
    Returns:
        (B, N, D).
    """
    return x * (1.0 + scale) + shift


# --- attention --------------------------------------------------------------------------------------------------------


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, heads: int, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + bias) v for each head (arXiv:1706.03762, eq. 1).

    Args:
        q: (B, L, A·K).
        k: (B, M, A·K).
        v: (B, M, A·K).
        bias: broadcastable to (B, A, L, M) float32, or None.
        heads: A.
        scale: of the products, 1/√K in most models.
    Returns:
        (B, L, A·K).
    """
    return attend(split_heads(q * scale, heads), split_heads(k, heads), split_heads(v, heads), bias)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """`attention` of heads that are split, with a q that is scaled.

    Args:
        q: (B, A, L, K).
        k: (B, A, M, K).
        v: (B, A, M, K).
        bias: broadcastable to (B, A, L, M) float32, or None.
    Returns:
        (B, L, A·K).
    """
    if flash(q.dtype) and (bias is None or bias.shape[1:3] == (1, 1)):
        return join_heads(mix_flash(q, k, v, bias))
    return join_heads(mix(q, k, v, bias))


def mix(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ + bias) v, whose scores are in memory as a whole.

    Args:
        q: (…, L, K).
        k: (…, M, K).
        v: (…, M, K).
        bias: broadcastable to (…, L, M) float32, or None.
    Returns:
        (…, L, K).
    """
    scores = ops.cast(ops.BatchMatMul(transpose_b=True)(q, k), ms.float32)  # (…, L, M)
    if bias is not None:
        scores = scores + bias
    return ops.BatchMatMul()(ops.cast(ops.Softmax(-1)(scores), v.dtype), v)


def flash(dtype: ms.Type) -> bool:
    """Whether attention in this dtype never holds its scores: on Ascend, whose kernel takes no float32."""
    return ASCEND and dtype != ms.float32


def mix_flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """`mix` by Ascend's flash attention (arXiv:2205.14135).

    Args:
        q: (B, A, L, K) float16 or bfloat16.
        k: (B, A, M, K).
        v: (B, A, M, K).
        bias: (B, 1, 1, M), which hides the tokens where it is below 0, or None.
    Returns:
        (B, A, L, K).
    """
    B, heads, L, K = q.shape
    padding = (0, -K % FLASH_WIDTH)  # zeros change neither scores nor the K channels that are kept
    hidden = None if bias is None else ops.broadcast_to(bias < 0, (B, 1, L, k.shape[2]))
    wide = [ops.pad(x, padding) if K % FLASH_WIDTH else x for x in (q, k, v)]
    return ops.flash_attention_score(*wide, heads, attn_mask=hidden, input_layout="BNSD")[:, :, :, :K]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, A·K) → (B, A, L, K) with A = heads."""
    B, L, width = x.shape
    return ops.transpose(x.reshape(B, L, heads, width // heads), (0, 2, 1, 3))


def join_heads(x: Tensor) -> Tensor:
    """(B, A, L, K) → (B, L, A·K)."""
    B, _, L, _ = x.shape
    return ops.transpose(x, (0, 2, 1, 3)).reshape(B, L, -1)


def attention_block(
    before: Callable[..., tuple[Tensor, Tensor, Tensor]], after: Callable[..., Tensor], read_before: Sequence[str]
) -> Callable[..., Tensor]:
    """Compile a transformer's block, given what it does before and after its self-attention.

    It is one graph. Where the scores would be more than SCORES numbers it is three: `before`, then attention of a few
    heads or a few queries at a time, then `after` of about ROWS tokens at a time, so that memory doesn't grow with N².

    Args:
        before: (p, x, condition, config) → q, k, v, each (B, N, D), in MindSpore's compiled subset of Python.
        after: (p, x, h, condition, context, config) → (B, N, D), each token by itself; h (B, N, D) is what the
            self-attention gave. Written likewise.
        read_before: the names in p of all that `before` reads.
    Returns:
        call(p, x, condition, context, config, alone=False) → (B, N, D), with x (B, N, D), a Tensor `condition`, a
        tuple of Tensors `context`, and a config with num_attention_heads and attention_head_dim. Where `alone`, each
        token sees itself alone: self-attention gives v.
    """

    @jit.block
    def whole(p: Tree, x: Tensor, condition: Tensor, context: Context, config: Any) -> Tensor:
        q, k, v = before(p, x, condition, config)
        h = attention(q, k, v, None, config.num_attention_heads, config.attention_head_dim**-0.5)
        return after(p, x, h, condition, context, config)

    @jit.block
    def each_alone(p: Tree, x: Tensor, condition: Tensor, context: Context, config: Any) -> Tensor:
        _, _, v = before(p, x, condition, config)
        return after(p, x, v, condition, context, config)

    @jit.block
    def first(p: Tree, x: Tensor, condition: Tensor, config: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = before(p, x, condition, config)
        q, heads = q * config.attention_head_dim**-0.5, config.num_attention_heads
        return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)

    @jit.block
    def last(p: Tree, x: Tensor, h: Tensor, condition: Tensor, context: Context, config: Any) -> Tensor:
        return after(p, x, join_heads(h), condition, context, config)

    def call(p: Tree, x: Tensor, condition: Tensor, context: Context, config: Any, alone: bool = False) -> Tensor:
        B, N, _ = x.shape
        if alone:
            return each_alone(p, x, condition, context, config=config)
        if flash(x.dtype) or B * config.num_attention_heads * N * N <= SCORES:
            return whole(p, x, condition, context, config=config)
        h = _mix_in_parts(*first({name: p[name] for name in read_before}, x, condition, config=config))
        rows = max(1, ROWS // B)
        parts = zip(_parts(x, 1, rows), _parts(h, 2, rows), strict=True)
        return ops.cat([last(p, *part, condition, context, config=config) for part in parts], 1)

    return call


def _mix_in_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`mix` of (B, A, N, K), some heads at a time, and some queries where the scores of one head are too many."""
    B, A, N, K = q.shape
    heads = max(1, SCORES // (N * N))
    sets = zip(*(_parts(x.reshape(B * A, N, K), 0, heads) for x in (q, k, v)), strict=True)
    out = [ops.cat([_mix(queries, k, v) for queries in _parts(q, 1, SCORES // N)], 1) for q, k, v in sets]
    return ops.cat(out, 0).reshape(B, A, N, K)


@jit.block
def _mix(q: Tensor, k: Tensor, v: Tensor, config: Any) -> Tensor:
    return mix(q, k, v, None)


def _parts(x: Tensor, axis: int, size: int) -> tuple[Tensor, ...]:
    """x in parts of at most `size` along an axis, as equal as can be."""
    n = x.shape[axis]
    return ops.split(x, -(-n // -(-n // size)), axis) if size < n else (x,)
