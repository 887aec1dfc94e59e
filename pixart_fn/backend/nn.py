"""Layers as functions: the one place that knows which MindSpore op is right and fast on which device.

B batch, L tokens, D width, A heads, K head width, C channels, G groups, N pixels. All run inside `jit.block`. MindSpore
has no layer norm or einsum on the CPU: what stands here in their stead is noted at each. `convolution` is apart.

Products of matrices are in their weights' dtype, and so is what they give; norms and softmax are float32 in any case.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from ..types import Tree
from . import device, numpy2

numpy2.settle()  # every model imports this module before its first operation

ASCEND = device.is_ascend()
"""Whether ops run on an Ascend NPU; asked once, since the device can't change after the first op."""
FLASH_WIDTH = 16
"""Flash attention takes heads whose width is a multiple of this."""
FEW = 64
"""Rows up to which W xᵀ is faster than x Wᵀ, for which oneDNN first packs W."""


def linear(p: Tree, x: Tensor) -> Tensor:
    """x Wᵀ + b in the weight's dtype: (…, I) → (…, O) with weight (O, I) or (O, C, k, k) and maybe bias (O,)."""
    weight = p["weight"].reshape(p["weight"].shape[0], -1)
    flat = ops.cast(x.reshape(-1, x.shape[-1]), weight.dtype)
    if flat.shape[0] <= FEW:
        y = ops.transpose(ops.MatMul(transpose_b=True)(weight, flat), (1, 0))
    else:
        y = ops.MatMul(transpose_b=True)(flat, weight)
    if "bias" in p:
        y = ops.BiasAdd()(y, p["bias"])
    return y.reshape((*x.shape[:-1], weight.shape[0]))


def mean_last(x: Tensor) -> Tensor:
    """The mean over the last axis, kept: (…, D) → (…, 1). In two axes: with more, the CPU is 4× slower."""
    return ops.ReduceMean(True)(x.reshape(-1, x.shape[-1]), -1).reshape((*x.shape[:-1], 1))


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """(x − mean) / √(var + eps) over the last axis, without an affine part; of x's dtype."""
    wide = ops.cast(x, ms.float32)
    centred = wide - mean_last(wide)
    return ops.cast(centred * ops.rsqrt(mean_last(centred * centred) + eps), x.dtype)


def rms_norm(p: Tree, x: Tensor, eps: float) -> Tensor:
    """x / √(mean x² + eps) · weight over the last axis of float32 x: T5's norm, no mean and no bias."""
    return x * ops.rsqrt(mean_last(x * x) + eps) * ops.cast(p["weight"], ms.float32)


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The mean and variance of each group of channels over all pixels: (B, N, C) → two of (B, G), float32."""
    B, N, C = x.shape
    x = ops.cast(x, ms.float32)
    row = ops.ones((B, 1, N), x.dtype)  # a product: the CPU's reduction over a middle axis is 5× slower
    mean = ops.BatchMatMul()(row, x) / N
    centred = ops.BiasAdd()(x.reshape(N, C), -mean.reshape(C)).reshape(1, N, C) if B == 1 else x - mean
    square = (ops.BatchMatMul()(row, centred * centred) / N).reshape(B, groups, -1)
    mean = mean.reshape(B, groups, -1)
    group = ops.ReduceMean(True)(mean, -1)
    distance = mean - group
    return group.reshape(B, groups), ops.ReduceMean()(square + distance * distance, -1)


def group_affine(p: Tree, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Group norm with these moments, (B, G) each, as x · scale + shift with two of (B, C)."""
    B, groups = mean.shape
    weight = ops.cast(p["weight"], ms.float32).reshape(1, groups, -1)
    scale = weight * ops.rsqrt(variance + eps).reshape(B, groups, 1)
    shift = ops.cast(p["bias"], ms.float32).reshape(1, groups, -1) - scale * mean.reshape(B, groups, 1)
    return scale.reshape(B, -1), shift.reshape(B, -1)


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x · scale + shift in float32: (B, N, C) with (B, C) each."""
    B, _, C = x.shape
    x = ops.cast(x, ms.float32)
    if B == 1:
        return ops.BiasAdd()((x * scale).reshape(-1, C), shift.reshape(C)).reshape(x.shape)
    return x * scale.reshape(B, 1, C) + shift.reshape(B, 1, C)


def group_norm(p: Tree, x: Tensor, groups: int, eps: float) -> Tensor:
    """Normalise (B, N, C) over each group of channels and all pixels, then scale and shift each channel; float32."""
    mean, variance = group_moments(x, groups)
    scale, shift = group_affine(p, mean, variance, eps)
    return scale_shift(x, scale, shift)


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x). The op of that name takes a third longer on the CPU."""
    return x * ops.sigmoid(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """½x(1 + tanh(√(2/π)(x + 0.044715x³))), written as a sigmoid: 4× faster than MindSpore's op on the CPU."""
    return x * ops.sigmoid(x * (1.5957691216057308 + 0.07135481627159775 * (x * x)))


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, heads: int, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + bias) v for each head.

    Args:
        q: (B, L, A·K). k, v: (B, M, A·K). bias: broadcastable to (B, A, L, M), or None.
    Returns: (B, L, A·K).
    """
    return attend(split_heads(q * scale, heads), split_heads(k, heads), split_heads(v, heads), bias)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ + bias) v: (B, A, L, K) with two of (B, A, M, K) → (B, L, A·K)."""
    if flash(q.dtype) and (bias is None or bias.shape[1:3] == (1, 1)):
        return join_heads(mix_flash(q, k, v, bias))
    return join_heads(mix(q, k, v, bias))


def mix(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ + bias) v: (…, L, K) with two of (…, M, K) → (…, L, K)."""
    scores = ops.cast(ops.BatchMatMul(transpose_b=True)(q, k), ms.float32)  # (…, L, M)
    if bias is not None:
        scores = scores + bias
    return ops.BatchMatMul()(ops.cast(ops.Softmax(-1)(scores), v.dtype), v)


def flash(dtype: ms.Type) -> bool:
    """Whether attention in this dtype never holds its scores: on Ascend, whose kernel takes no float32."""
    return ASCEND and dtype != ms.float32


def mix_flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """`mix` of (B, A, L, K) by Ascend's flash attention. Where a bias (B, 1, 1, M) is below 0, it hides."""
    B, heads, L, K = q.shape
    padding = (0, -K % FLASH_WIDTH)  # zeros change neither scores nor the K channels that are kept
    hidden = None if bias is None else ops.broadcast_to(bias < 0, (B, 1, L, k.shape[2]))
    wide = [ops.pad(x, padding) if K % FLASH_WIDTH else x for x in (q, k, v)]
    return ops.flash_attention_score(*wide, heads, attn_mask=hidden, input_layout="BNSD")[:, :, :, :K]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, A·K) → (B, A, L, K)."""
    B, L, width = x.shape
    return ops.transpose(x.reshape(B, L, heads, width // heads), (0, 2, 1, 3))


def join_heads(x: Tensor) -> Tensor:
    """(B, A, L, K) → (B, L, A·K)."""
    B, _, L, _ = x.shape
    return ops.transpose(x, (0, 2, 1, 3)).reshape(B, L, -1)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift: (B, N, D) with (B, 1, D)."""
    return x * (1.0 + scale) + shift


def gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """x + gate · branch: (B, N, D) with gate (B, 1, D)."""
    return x + gate * branch
