"""The gradients of a VAE's layers on whole pictures, by hand; `vae_layers` has the layers, whose lines go back here.

Letters as in `vae_layers`. A name that begins with d is the cotangent of what the rest of it names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from mindspore import Tensor, ops

from ..backend import convolution, convolution_pull, heads, jit, nn, pullbacks
from ..types import Tree
from .vae_config import EPS, Config

Kept: TypeAlias = tuple[Tensor, ...]
"""What a layer computed and its gradient needs."""


def block(f: Callable[..., tuple[Tensor, Kept]], pull: Callable[..., Any]) -> Callable[..., Any]:
    """Make a block with a gradient by hand, or with MindSpore's own where convolutions are the device's.

    Args:
        f: (p, *inputs, config, *tables) → output, kept.
        pull: as `jit.block` takes it.
    Returns:
        The block.
    """
    if not convolution.is_native():
        return jit.block(f, pull)

    def alone(p: Tree, *tensors: Any) -> Tensor:
        return f(p, *tensors)[0]

    alone.__qualname__ = f.__qualname__
    return jit.block(alone)


def normed(norm: Tree, x: Tensor, config: Config) -> tuple[Tensor, Kept]:
    """Group norm of (B, H, W, C) as (B, H·W, C) float32; kept are each group's mean and 1/deviation, (B, G)."""
    mean, variance = nn.group_moments(flat(x), config.norm_num_groups)
    scale, shift = nn.group_affine(norm, mean, variance, EPS)
    return nn.scale_shift(flat(x), scale, shift), (mean, ops.rsqrt(variance + EPS))


def normed_conv(
    norm: Tree, p: Tree, x: Tensor, config: Config, forward: Tensor, backward: Tensor
) -> tuple[Tensor, Kept]:
    """Group norm, SiLU and a 3×3 convolution, (B, H, W, O); kept are the norm, its moments and the rows."""
    u, moments = normed(norm, x, config)
    h = nn.silu(u).reshape(x.shape)
    row = ops.zeros((h.shape[0], 1, h.shape[2], h.shape[3]), h.dtype)
    rows = ops.cat((row, h, row), 1)  # (B, H + 2, W, C)
    matrices = convolution.same_matrices(p["weight"], x.shape[1])
    return biased(convolution.same(rows, matrices, forward, backward), p), (u, *moments, rows)


def pull_normed_conv(p: Tree, inputs: tuple[Tensor], kept: Kept, dy: Tensor, config: Config, *tables: Tensor) -> Any:
    """Go back through `normed_conv`: the gradients of p, {"norm", "conv"}, and of x."""
    dx, dnorm, dconv = _pull_normed_conv(p["norm"], p["conv"], inputs[0], kept, dy, config, tables)
    return {"norm": dnorm, "conv": dconv}, dx


def pull_resnet(p: Tree, inputs: tuple[Tensor], kept: Kept, dy: Tensor, config: Config, *tables: Tensor) -> Any:
    """Go back through `vae_layers.resnet` of one strip: the gradients of p and x."""
    (x,), inner = inputs, kept[4]
    dinner, dnorm2, dconv2 = _pull_normed_conv(p["norm2"], p["conv2"], inner, kept[5:], dy, config, tables[2:])
    dx, dnorm1, dconv1 = _pull_normed_conv(p["norm1"], p["conv1"], x, kept[:4], dinner, config, tables[:2])
    if "conv_shortcut" not in p:
        return {"norm1": dnorm1, "conv1": dconv1, "norm2": dnorm2, "conv2": dconv2}, dx + ops.cast(dy, x.dtype)
    dshortcut, own = linear(p["conv_shortcut"], x, dy)
    gradient = {"norm1": dnorm1, "conv1": dconv1, "norm2": dnorm2, "conv2": dconv2, "conv_shortcut": own}
    return gradient, dx + dshortcut


def pull_attention(p: Tree, inputs: tuple[Tensor], kept: Kept, dy: Tensor, config: Config) -> Any:
    """Go back through `vae_layers.attention` of one strip: the gradients of p and x."""
    x, (h, mean, inverse, q, k, v, weights, mixed) = inputs[0], kept
    dout = flat(dy)
    dmixed, to_out = linear(p["to_out"][0], mixed, dout)
    y, dy_ = heads.split(mixed, 1), heads.split(dmixed, 1)
    dq, dk, dv, _ = pullbacks.mix(q, k, v, weights, y, dy_)
    through_q, to_q = linear(p["to_q"], h, heads.join(dq) * x.shape[3] ** -0.5)
    through_k, to_k = linear(p["to_k"], h, heads.join(dk))
    through_v, to_v = linear(p["to_v"], h, heads.join(dv))
    dx, dnorm = _pull_normed(p["group_norm"], x, mean, inverse, through_q + through_k + through_v)
    gradient = {"group_norm": dnorm, "to_q": to_q, "to_k": to_k, "to_v": to_v, "to_out": [to_out]}
    return gradient, dx + ops.cast(dy, x.dtype)


def pull_conv(p: Tree, inputs: tuple[Kept], kept: Kept, dy: Tensor, config: None, *tables: Tensor) -> Any:
    """Go back through a 3×3 convolution of a strip between its neighbours: the gradients of p and the three."""
    rows = ops.cat(inputs[0], 1)
    drows, dconv = _pull_rows(p, rows, dy, tables)
    return dconv, _parted(ops.cast(drows, rows.dtype))


def pull_up(p: Tree, inputs: tuple[Kept], kept: Kept, dy: Tensor, config: None, *tables: Tensor) -> Any:
    """Go back through an upsampling and its convolution, whose weight is four matrices."""
    rows = ops.cat(inputs[0], 1)
    drows, dmatrices = convolution_pull.up(rows, p["weight"], dy, *tables)
    return _with_bias(p, dmatrices, dy), _parted(ops.cast(drows, rows.dtype))


def pull_down(p: Tree, inputs: tuple[Kept], kept: Kept, dy: Tensor, config: None, *tables: Tensor) -> Any:
    """Go back through a convolution with stride 2, whose weight is a matrix."""
    rows = ops.cat(inputs[0], 1)
    drows, dmatrix = convolution_pull.down(rows, p["weight"][0], dy, *tables)
    return _with_bias(p, (dmatrix,), dy), _parted(ops.cast(drows, rows.dtype))


def pull_pointwise(p: Tree, inputs: tuple[Tensor], kept: Kept, dy: Tensor, config: Any) -> Any:
    """Go back through a 1×1 convolution."""
    dx, gradient = linear(p, inputs[0], dy)
    return gradient, dx


def linear(p: Tree, x: Tensor, dy: Tensor) -> tuple[Tensor, Tree]:
    """`pullbacks.linear` where the weight may be a 1×1 kernel and the bias missing."""
    weight = p["weight"].reshape(p["weight"].shape[0], -1)
    dx, gradient = pullbacks.linear({"weight": weight}, x, dy)
    dweight = gradient["weight"].reshape(p["weight"].shape)
    if "bias" not in p:
        return dx, {"weight": dweight}
    return dx, {"weight": dweight, "bias": gradient["bias"]}


def biased(y: Tensor, p: Tree) -> Tensor:
    """Add the bias, where there is one, to (B, R, W, O)."""
    if "bias" not in p:
        return y
    return ops.BiasAdd()(y.reshape(-1, y.shape[3]), p["bias"]).reshape(y.shape)


def flat(x: Tensor) -> Tensor:
    """(B, R, W, C) → (B, R·W, C)."""
    return x.reshape(x.shape[0], -1, x.shape[3])


def _pull_normed_conv(
    norm: Tree, p: Tree, x: Tensor, kept: Kept, dy: Tensor, config: Config, tables: Kept
) -> tuple[Tensor, Tree, Tree]:
    """dx and the gradients of the norm and the convolution."""
    u, mean, inverse, rows = kept
    drows, dconv = _pull_rows(p, rows, dy, tables)
    B, R, W, C = rows.shape
    dh = flat(ops.slice(ops.cast(drows, u.dtype), (0, 1, 0, 0), (B, R - 2, W, C)))
    weight = ops.sigmoid(u)
    dx, dnorm = _pull_normed(norm, x, mean, inverse, dh * weight * (1.0 + u * (1.0 - weight)))
    return dx, dnorm, dconv


def _pull_normed(norm: Tree, x: Tensor, mean: Tensor, inverse: Tensor, dy: Tensor) -> tuple[Tensor, Tree]:
    """dx (B, H, W, C) and the gradient of a group norm with these moments, where dy is (B, H·W, C)."""
    (B, G), (_, N, C) = mean.shape, dy.shape
    each, dy = ops.ones((1, 1, C // G), dy.dtype), ops.cast(dy, inverse.dtype)
    centre, slope = (mean.reshape(B, G, 1) * each).reshape(B, 1, C), (inverse.reshape(B, G, 1) * each).reshape(B, 1, C)
    normal = (ops.cast(flat(x), dy.dtype) - centre) * slope
    row = ops.ones((B, 1, N), dy.dtype)  # products: the CPU's reductions over a middle axis are slower
    one, other = ops.BatchMatMul()(row, dy), ops.BatchMatMul()(row, dy * normal)  # (B, 1, C)
    scale = ops.cast(norm["weight"], dy.dtype).reshape(1, 1, C)
    level = (ops.ReduceMean(True)((scale * one / N).reshape(B, G, -1), -1) * each).reshape(B, 1, C)
    tilt = (ops.ReduceMean(True)((scale * other / N).reshape(B, G, -1), -1) * each).reshape(B, 1, C)
    dx = slope * (scale * dy - level - normal * tilt)
    dweight, dbias = ops.ReduceSum()(other, 0).reshape(C), ops.ReduceSum()(one, 0).reshape(C)
    gradient = {"weight": ops.cast(dweight, norm["weight"].dtype), "bias": ops.cast(dbias, norm["bias"].dtype)}
    return ops.cast(dx, x.dtype).reshape(x.shape), gradient


def _pull_rows(p: Tree, rows: Tensor, dy: Tensor, tables: Kept) -> tuple[Tensor, Tree]:
    """The cotangent of rows and the gradient of a 3×3 convolution."""
    matrices = convolution.same_matrices(p["weight"], rows.shape[1] - 2)
    drows, dmatrices = convolution_pull.same(rows, matrices, dy, *tables)
    return drows, _with_bias(p, convolution_pull.kernel(dmatrices, p["weight"]), dy)


def _with_bias(p: Tree, dweight: Any, dy: Tensor) -> Tree:
    if "bias" not in p:
        return {"weight": dweight}
    dy = ops.cast(dy.reshape(-1, dy.shape[3]), p["bias"].dtype)
    row = ops.ones((1, dy.shape[0]), dy.dtype)
    return {"weight": dweight, "bias": ops.MatMul()(row, dy).reshape(-1)}


def _parted(rows: Tensor) -> Any:
    """A strip with its neighbours as three."""
    B, R, W, C = rows.shape
    above, below = ops.slice(rows, (0, 0, 0, 0), (B, 1, W, C)), ops.slice(rows, (0, R - 1, 0, 0), (B, 1, W, C))
    return (above, ops.slice(rows, (0, 1, 0, 0), (B, R - 2, W, C)), below)
