"""Gradients of layers by hand: what a cotangent of the output becomes at the input, and at the weights.

Written by hand a block's gradient can keep what its forward pass has computed, and is faster: MindSpore's own gradient
of a bias takes ten times as long on the CPU. Letters as in `nn` and `heads`; all of it runs inside a `jit.block`.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from ..types import Tree
from . import nn


def linear(p: Tree, x: Tensor, dy: Tensor) -> tuple[Tensor, Tree]:
    """The gradient of `nn.linear` with a bias.

    Args:
        p: weight (O, I) and bias (O,).
        x: (…, I), its input.
        dy: (…, O), the cotangent of its output.
    Returns:
        The cotangent of x, of x's dtype, and the gradient of p.
    """
    weight = p["weight"]
    x_rows = ops.cast(x.reshape(-1, x.shape[-1]), weight.dtype)
    dy_rows = ops.cast(dy.reshape(-1, dy.shape[-1]), weight.dtype)
    dx = ops.cast(ops.MatMul()(dy_rows, weight).reshape(x.shape), x.dtype)
    row = ops.ones((1, dy_rows.shape[0]), weight.dtype)  # a product: sums over rows are slower
    gradient = {"weight": ops.MatMul(transpose_a=True)(dy_rows, x_rows), "bias": ops.MatMul()(row, dy_rows).reshape(-1)}
    return dx, gradient


def layer_norm(normal: Tensor, inverse: Tensor, dy: Tensor) -> Tensor:
    """The cotangent of x where `nn.normalized(x, eps)` gave (normal, inverse) and its output has the cotangent dy."""
    wide, d = ops.cast(normal, ms.float32), ops.cast(dy, ms.float32)
    centre = nn.along_last(nn.mean_last(d), d)
    d = d - centre - wide * nn.along_last(nn.mean_last(d * wide), d)
    return ops.cast(nn.along_last(inverse, d) * d, normal.dtype)


def mix(q: Tensor, k: Tensor, v: Tensor, weights: Tensor, y: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """The gradient of `heads.mix`.

    Args:
        q: (B, A, L, K).
        k: (B, A, M, K).
        v: (B, A, M, K).
        weights: the softmax, (B, A, L, M).
        y: (B, A, L, K), its output.
        dy: (B, A, L, K), the cotangent of y.
    Returns:
        The cotangents of q, k, v and of the scores with their bias, (B, A, L, M).
    """
    dweights = ops.cast(ops.BatchMatMul(transpose_b=True)(dy, v), ms.float32)
    wide = ops.cast(weights, ms.float32)
    if q.dtype == ms.float32:
        # the softmax's gradient subtracts Σ weights · dweights over M, which is Σ y · dy over the fewer K
        centre = nn.mean_last(y * dy) * float(y.shape[-1])
    else:  # y is rounded, and the gradients of the keys' biases would no more add up to zero
        centre = nn.mean_last(wide * dweights) * float(wide.shape[-1])
    scores = ops.cast(wide * (dweights - centre), q.dtype)
    dv = ops.BatchMatMul(transpose_a=True)(weights, dy)
    return ops.BatchMatMul()(scores, k), ops.BatchMatMul(transpose_a=True)(scores, q), dv, scores


def sum_tokens(x: Tensor) -> Tensor:
    """(B, N, D) → (B, 1, D), as a product: the CPU's reduction over a middle axis is slower."""
    return ops.BatchMatMul()(ops.ones((x.shape[0], 1, x.shape[1]), x.dtype), x)
