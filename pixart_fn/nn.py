"""Layers as functions: the one place that knows which MindSpore op is right and fast on which device.

B batch, L tokens, D width, A heads, K head width, C channels, G groups, H/W. All run inside `jit.block`. MindSpore
has no layer norm, einsum or usable convolution on the CPU: what stands here in their stead is noted at each.
"""

from __future__ import annotations

import mindspore.nn as cells
from mindspore import Tensor, ops

from .types import Tree

STRIP = 2**24
"""Numbers in the patches that a convolution gathers at a time: 64 MiB."""
SMALL = 16
"""The width of a picture, in pixels, up to which slices are gathered instead."""


def linear(p: Tree, x: Tensor) -> Tensor:
    """x Wᵀ + b: (…, I) → (…, O) with weight (O, I) and, where p has it, bias (O,)."""
    weight = p["weight"]
    y = ops.MatMul(transpose_b=True)(x.reshape(-1, x.shape[-1]), weight)
    if "bias" in p:
        y = ops.BiasAdd()(y, p["bias"])
    return y.reshape((*x.shape[:-1], weight.shape[0]))


def mean_last(x: Tensor) -> Tensor:
    """The mean over the last axis, kept: (…, D) → (…, 1). In two axes: with more, the CPU is 4× slower."""
    return ops.ReduceMean(True)(x.reshape(-1, x.shape[-1]), -1).reshape((*x.shape[:-1], 1))


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """(x − mean) / √(var + eps) over the last axis, without an affine part."""
    centred = x - mean_last(x)
    return centred * ops.rsqrt(mean_last(centred * centred) + eps)


def rms_norm(p: Tree, x: Tensor, eps: float) -> Tensor:
    """x / √(mean x² + eps) · weight over the last axis: T5's norm, no mean and no bias."""
    return x * ops.rsqrt(mean_last(x * x) + eps) * p["weight"]


def group_norm(p: Tree, x: Tensor, groups: int, eps: float) -> Tensor:
    """Normalise (B, C, H, W) over each group of channels and all pixels, then scale and shift each channel."""
    B, C, H, W = x.shape
    flat = x.reshape(B * groups, -1)  # (B·G, C/G·H·W)
    centred = flat - ops.ReduceMean(True)(flat, -1)
    flat = centred * ops.rsqrt(ops.ReduceMean(True)(centred * centred, -1) + eps)
    return flat.reshape(B, C, H, W) * p["weight"].reshape(1, C, 1, 1) + p["bias"].reshape(1, C, 1, 1)


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
    B, L, width = q.shape
    q, k, v = _heads(q * scale, heads), _heads(k, heads), _heads(v, heads)
    scores = ops.BatchMatMul(transpose_b=True)(q, k)  # (B, A, L, M)
    if bias is not None:
        scores = scores + bias
    weights = ops.Softmax(-1)(scores)
    return ops.transpose(ops.BatchMatMul()(weights, v), (0, 2, 1, 3)).reshape(B, L, width)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, A·K) → (B, A, L, K)."""
    B, L, width = x.shape
    return ops.transpose(x.reshape(B, L, heads, width // heads), (0, 2, 1, 3))


def conv2d(p: Tree, x: Tensor) -> Tensor:
    """The convolution of (B, I, H, W) with weight (O, I, k, k), k odd, and bias (O,); the size is kept."""
    return ops.BiasAdd()(_convolve(x, p["weight"]), p["bias"])


def conv2d_down(p: Tree, x: Tensor) -> Tensor:
    """The 3×3 convolution with stride 2 after padding one row below and one column to the right: H, W are halved."""
    B, _, H, W = x.shape
    weight = p["weight"]
    columns = ops.unfold(_pad(x, 0, 1), 3, stride=2)
    y = ops.matmul(weight.reshape(weight.shape[0], -1), columns)
    return ops.BiasAdd()(y.reshape(B, weight.shape[0], H // 2, W // 2), p["bias"])


def upsample(x: Tensor) -> Tensor:
    """Nearest neighbour ×2: (B, C, H, W) → (B, C, 2H, 2W)."""
    B, C, H, W = x.shape
    return ops.broadcast_to(x.reshape(B, C, H, 1, W, 1), (B, C, H, 2, W, 2)).reshape(B, C, 2 * H, 2 * W)


class _Convolution(cells.Cell):
    """Patches times weights: oneDNN's convolution falls into its reference kernel on AVX-512, 100× slower.

    A stateless Cell because that is how a function gets its own backward inside jit: gathering the cotangent's
    patches is three times faster than the scatter that autodiff would derive.
    """

    def construct(self, x, weight):
        return _product(weight, x)

    def bprop(self, x, weight, y, dy):
        out, channels, k, _ = weight.shape
        dx = _product(ops.transpose(ops.reverse(weight, (2, 3)), (1, 0, 2, 3)), dy)
        dweight = _outer_product(dy, x, k)
        if _small(x):
            return dx, ops.transpose(dweight.reshape(out, k, k, channels), (0, 3, 1, 2))
        return dx, dweight.reshape(weight.shape)


_convolve = _Convolution()


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """Weights (O, C, k, k) times the patches of (B, C, H, W), a strip of rows at a time: (B, O, H, W)."""
    B, _, H, W = x.shape
    out, _, k, _ = weight.shape
    rows, strips = _rows(weight, x), _strips(x.shape, k)
    if len(strips) == 1:
        return ops.matmul(rows, _patches(x, k)).reshape(B, out, H, W)
    padded = _pad(x, k // 2, k // 2)
    parts: list[Tensor] = []
    for top, n in strips:
        parts.append(ops.matmul(rows, _strip(padded, top, n, k, parts)))
    return ops.cat(parts, 2).reshape(B, out, H, W)


def _outer_product(dy: Tensor, x: Tensor, k: int) -> Tensor:
    """Σ over pictures and pixels of dy (B, O, H, W) times the patches of x (B, C, H, W): (O, C·k·k), strip by strip."""
    B, out, H, W = dy.shape
    product, strips = ops.BatchMatMul(transpose_b=True), _strips(x.shape, k)
    if len(strips) == 1:
        return product(dy.reshape(B, out, H * W), _patches(x, k)).sum(0)
    padded = _pad(x, k // 2, k // 2)
    parts: list[Tensor] = []
    for top, n in strips:
        dy_strip = ops.slice(dy, (0, 0, top, 0), (B, out, n, W)).reshape(B, out, n * W)
        parts.append(product(dy_strip, _strip(padded, top, n, k, parts)).sum(0))
    return ops.addn(parts)


@ops.constexpr
def _strips(shape: tuple[int, ...], k: int) -> tuple[tuple[int, int], ...]:
    """The first row and the height of each strip of a picture whose patches are at most STRIP numbers."""
    B, C, H, W = shape
    height = H if k == 1 or W <= SMALL else max(1, STRIP // (B * C * k * k * W))
    return tuple((top, min(height, H - top)) for top in range(0, H, height))


def _strip(padded: Tensor, top: int, n: int, k: int, before: list[Tensor]) -> Tensor:
    """The patches of n rows, gathered once those before are used: else MindSpore gathers all strips first."""
    B, C, _, width = padded.shape
    if before:
        padded = ops.Depend()(padded, before[-1])
    return ops.unfold(ops.slice(padded, (0, 0, top, 0), (B, C, n + k - 1, width)), k)


def _small(x: Tensor) -> bool:
    """Where slices are gathered faster than by unfold, which works a picture row at a time."""
    return x.shape[3] <= SMALL


def _patches(x: Tensor, k: int) -> Tensor:
    """The k×k neighbourhood of each pixel, zeros outside: (B, C, H, W) → (B, k·k·C, H·W).

    The rows are ordered (tap, channel) where `_small`, else (channel, tap).
    """
    B, C, H, W = x.shape
    if k == 1:
        return x.reshape(B, C, H * W)
    if not _small(x):
        return ops.unfold(x, k, padding=k // 2)
    padded = _pad(x, k // 2, k // 2)
    taps = [ops.slice(padded, (0, 0, n // k, n % k), (B, C, H, W)) for n in range(k * k)]
    return ops.cat(taps, 1).reshape(B, k * k * C, H * W)


def _pad(x: Tensor, before: int, after: int) -> Tensor:
    """Zeros around the pictures. Not `ops.pad`: its kernel now and then reads a size of -1 and never returns."""
    return ops.Pad(((0, 0), (0, 0), (before, after), (before, after)))(x)


def _rows(weight: Tensor, x: Tensor) -> Tensor:
    """(O, I, k, k) → (O, I·k·k) in the order of x's `_patches`."""
    if _small(x):
        weight = ops.transpose(weight, (0, 2, 3, 1))
    return weight.reshape(weight.shape[0], -1)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift: (B, N, D) with (B, 1, D)."""
    return x * (1.0 + scale) + shift


def gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """x + gate · branch: (B, N, D) with gate (B, 1, D)."""
    return x + gate * branch
