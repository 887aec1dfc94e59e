"""Layers as functions: the one place that knows which MindSpore op is right and fast on which device.

B batch, D width, C channels, G groups, N pixels or patches, I and O a matrix's inputs and outputs. All of it runs
inside a `jit.block`. MindSpore has no layer norm or einsum on the CPU: what stands here in their stead is noted.
`heads` and `convolution` are apart, and `pullbacks` has the gradients of what `transformer` is made of.

Products of matrices are in their weights' dtype, and so is what they give; norms and softmax are float32 in any case.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from ..types import Tree
from . import device, numpy2, runtime
from .private import GeLUGrad, SigmoidGrad

runtime.ready()  # every model imports this module before its first operation
numpy2.settle()

DEVICE = device.traits()
"""What is known of the device in use; asked once, since it can't change after the first operation."""
GELU = 1.5957691216057308, 0.07135481627159775
"""2√(2/π) and 0.044715 times that, since ½(1 + tanh u) is the sigmoid of 2u."""
FEW = 96
"""Rows up to which it is W xᵀ, for which oneDNN needn't pack W, and which it sums in the same order for any rows."""


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
    if flat.shape[0] <= FEW and not DEVICE.fused:
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


def along_last(x: Tensor, like: Tensor) -> Tensor:
    """Repeat (…, 1) to (…, D): the CPU's arithmetic with an axis of length 1 is up to three times slower."""
    if DEVICE.fused:
        return x
    return ops.tile(x, (*(1,) * (x.ndim - 1), like.shape[-1]))


def along_tokens(x: Tensor, like: Tensor) -> Tensor:
    """Repeat (B, 1, D) to (B, N, D), for the same reason."""
    if DEVICE.fused:
        return x
    return ops.tile(x, (1, like.shape[1], 1))


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """(x − mean) / √(variance + eps) over the last axis, without an affine part (arXiv:1607.06450).

    Args:
        x: (…, D).
        eps: positive.
    Returns:
        (…, D), of x's dtype; computed in float32.
    """
    return normalized(x, eps)[0]


def normalized(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`layer_norm`, and what its gradient needs beside it.

    Args:
        x: (…, D).
        eps: positive.
    Returns:
        (…, D), of x's dtype, and 1/√(variance + eps), (…, 1) float32.
    """
    wide = ops.cast(x, ms.float32)
    if DEVICE.fused:
        D = x.shape[-1]
        normal, _, variance = ops.LayerNorm(-1, -1, eps)(wide, ops.ones((D,), ms.float32), ops.zeros((D,), ms.float32))
        return ops.cast(normal, x.dtype), ops.rsqrt(variance.reshape((*x.shape[:-1], 1)) + eps)
    centred = wide - along_last(mean_last(wide), x)
    inverse = ops.rsqrt(mean_last(centred * centred) + eps)
    return ops.cast(centred * along_last(inverse, x), x.dtype), inverse


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

    It is written as a sigmoid, which is 4× faster than MindSpore's op on the CPU, but on a GPU it is that op.
    """
    return gelu_tanh_slope(x)[0]


def gelu_tanh_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """`gelu_tanh` and its derivative at x, which a graph that doesn't use it leaves out."""
    if DEVICE.fused:
        y = ops.GeLU()(x)
        return y, GeLUGrad()(ops.ones_like(x), x, y)
    square = x * x
    weight = ops.sigmoid(x * (GELU[0] + GELU[1] * square))
    # the sigmoid's own gradient is one operation: x · weight · (1 - weight)
    inner = SigmoidGrad()(weight, x)
    return x * weight, weight + inner * (GELU[0] + (3 * GELU[1]) * square)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift: what adaptive norms do to a normalised x (arXiv:2212.09748).

    Args:
        x: (B, N, D).
        scale: (B, 1, D).
        shift: (B, 1, D).
    Returns:
        (B, N, D).
    """
    return x * along_tokens(1.0 + scale, x) + along_tokens(shift, x)
