"""A small VAE's decoder on a CPU, with NumPy, for small pictures: strips of rows in a thread each.

H and W a picture's height and width, R rows of a strip, C channels in and O channels out; arrays are float32, channels
last. The same numbers as `vae.decode`, but for rounding; strips are the same ones for any number of CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from mindspore import Tensor
from numpy.lib.stride_tricks import as_strided

from .. import tree
from ..backend import jit
from ..backend import numpy_nn as nn
from ..backend.autodiff import recording
from ..backend.numpy_nn import Floats
from ..types import Tree
from .vae_checks import check_half
from .vae_config import Config, factor
from .vae_layers import EPS

PIXELS = 2**16
"""Of a picture, up to which this is no slower on two CPUs than what MindSpore compiles."""
STRIP = 2**20
"""Numbers in what a strip's product reads: fewer take more calls, more don't stay in a CPU's cache."""

Affine: TypeAlias = tuple[Floats, Floats]
"""A group norm as a scale and a shift, (C,) each."""
Each: TypeAlias = Callable[[Callable[[slice], Any], int, int], list[Any]]
"""(f, H, numbers that f reads for a row): f of each strip of rows."""


def fits(p: Tree, config: Config, z: Tensor) -> bool:
    """Whether latents are for `decode`: few, of a small VAE of plain float32 Tensors, on a CPU, without a gradient.

    Args:
        p: the VAE's tree.
        config: its configuration.
        z: (B, C, h, w).
    Returns:
        Whether they are.
    """
    if recording() or "decoder" not in p:
        return False
    leaves = [leaf for name in ("decoder", "post_quant_conv") if name in p for leaf in tree.leaves(p[name])]
    if not nn.computes(leaves):
        return False
    pixels = math.prod(z.shape[2:]) * factor(config) ** 2
    return bool(pixels <= PIXELS) and sum(math.prod(leaf.shape) for leaf in leaves) <= jit.SMALL


def decode(p: Tree, config: Config, z: Tensor) -> Tensor:
    """Decode latents to pictures, as `vae.decode` does.

    Args:
        p: the VAE's tree.
        config: its configuration.
        z: (B, C, h, w) float32, unscaled.
    Returns:
        (B, 3, H, W) float32.
    Raises:
        ValueError: p doesn't hold the decoder's tensors.
    """
    check_half(p, config, ("decoder.", "post_quant_conv."))
    with nn.threads(z.shape[2]) as in_threads:

        def each(f: Callable[[slice], Any], H: int, row: int) -> list[Any]:
            R = max(1, STRIP // row)
            return in_threads(f, [slice(i, min(i + R, H)) for i in range(0, H, R)])

        pictures = [_picture(p, config, latents, each) for latents in z.asnumpy().transpose(0, 2, 3, 1)]
    return Tensor.from_numpy(np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2)))


def _picture(p: Tree, config: Config, x: Floats, each: Each) -> Floats:
    """(h, w, C) → (H, W, 3)."""
    decoder, groups = p["decoder"], config.norm_num_groups
    if config.use_post_quant_conv:
        x = nn.linear(p["post_quant_conv"], x)
    x = _conv(decoder["conv_in"], x, each)
    middle = decoder["mid_block"]
    x = _resnet(middle["resnets"][0], x, groups, each)
    if config.mid_block_add_attention:
        x = _attention(middle["attentions"][0], x, groups, each)
    x = _resnet(middle["resnets"][1], x, groups, each)
    for level in decoder["up_blocks"]:
        for resnet in level["resnets"]:
            x = _resnet(resnet, x, groups, each)
        if "upsamplers" in level:
            x = _up(level["upsamplers"][0]["conv"], x, each)
    return _conv(decoder["conv_out"], x, each, _norm(decoder["conv_norm_out"], x, groups, each))


def _resnet(p: Tree, x: Floats, groups: int, each: Each) -> Floats:
    y = _conv(p["conv1"], x, each, _norm(p["norm1"], x, groups, each))
    y = _conv(p["conv2"], y, each, _norm(p["norm2"], y, groups, each))
    y += nn.linear(p["conv_shortcut"], x) if "conv_shortcut" in p else x
    return y


def _attention(p: Tree, x: Floats, groups: int, each: Each) -> Floats:
    """x + self-attention of its pixels with one head."""
    scale, shift = _norm(p["group_norm"], x, groups, each)
    h = (x * scale + shift).reshape(1, -1, x.shape[2])
    q, k, v = (nn.linear(p[name], h)[:, None] for name in ("to_q", "to_k", "to_v"))  # (1, 1, H·W, C)
    q *= np.float32(x.shape[2] ** -0.5)
    return x + nn.linear(p["to_out"][0], nn.attend(q, k, v)).reshape(x.shape)


def _norm(p: Tree, x: Floats, groups: int, each: Each) -> Affine:
    """The group norm of a whole picture (H, W, C)."""
    H, W, C = x.shape

    def moments(rows: slice) -> tuple[int, Floats, Floats]:
        part = x[rows].reshape(-1, C)
        mean = part.mean(0, dtype=np.float64)
        centred = part - mean.astype(np.float32)
        return len(part), mean, np.einsum("nc,nc->c", centred, centred)

    counts, means, squares = (np.array(values, np.float64) for values in zip(*each(moments, H, W * C), strict=True))
    weights = counts[:, None] / (H * W)
    mean = (weights * means).sum(0).reshape(groups, -1).mean(1, keepdims=True)  # (G, 1)
    away = (weights * (means.reshape(len(means), groups, -1) - mean).reshape(means.shape) ** 2).sum(0)
    variance = (squares.sum(0) / (H * W) + away).reshape(groups, -1).mean(1, keepdims=True)
    scale = p["weight"].asnumpy().reshape(groups, -1) / np.sqrt(variance + EPS)
    shift = p["bias"].asnumpy().reshape(groups, -1) - scale * mean
    return scale.ravel().astype(np.float32), shift.ravel().astype(np.float32)


def _conv(p: Tree, x: Floats, each: Each, norm: Affine | None = None) -> Floats:
    """A 3×3 convolution of (H, W, C), after group norm and SiLU where a norm is given."""
    (H, W, C), weight = x.shape, p["weight"].asnumpy()
    matrix = weight.transpose(2, 3, 1, 0).reshape(9 * C, -1)
    out = np.empty((H, W, len(weight)), np.float32)

    def strip(rows: slice) -> None:
        y = _windows(_framed(x, rows, norm), 0, 0, rows.stop - rows.start, W, 3) @ matrix
        y += p["bias"].asnumpy()
        out[rows] = y.reshape(-1, W, len(weight))

    each(strip, H, 9 * W * C)
    return out


def _up(p: Tree, x: Floats, each: Each) -> Floats:
    """Nearest neighbour ×2, then a 3×3 convolution: 2×2 convolutions of (H, W, C), one for each place among four."""
    (H, W, C), weight = x.shape, p["weight"].asnumpy().transpose(2, 3, 1, 0)  # (3, 3, C, O)
    out = np.empty((H, 2, W, 2, weight.shape[3]), np.float32)
    matrices = {}
    for a, b in np.ndindex(2, 2):
        rows = np.stack([weight[: 1 + a].sum(0), weight[1 + a :].sum(0)])  # (2, 3, C, O)
        both = np.stack([rows[:, : 1 + b].sum(1), rows[:, 1 + b :].sum(1)], 1)
        matrices[a, b] = both.reshape(4 * C, -1)

    def strip(rows: slice) -> None:
        h, R = _framed(x, rows, None), rows.stop - rows.start
        for (a, b), matrix in matrices.items():
            y = _windows(h, a, b, R, W, 2) @ matrix
            y += p["bias"].asnumpy()
            out[rows, a, :, b] = y.reshape(R, W, -1)

    each(strip, H, 4 * W * C)
    return out.reshape(2 * H, 2 * W, -1)


def _framed(x: Floats, rows: slice, norm: Affine | None) -> Floats:
    """Rows of (H, W, C) in a frame of their neighbours, or zeros beyond the picture, maybe normalised and activated."""
    H, W, C = x.shape
    low, high = max(rows.start - 1, 0), min(rows.stop + 1, H)
    part = x[low:high] if norm is None else nn.silu(x[low:high] * norm[0] + norm[1])
    framed = np.zeros((rows.stop - rows.start + 2, W + 2, C), np.float32)
    framed[low - rows.start + 1 : high - rows.start + 1, 1:-1] = part
    return framed


def _windows(framed: Floats, top: int, left: int, R: int, W: int, side: int) -> Floats:
    """The squares of `side` pixels that begin at R × W places of framed rows: (R·W, side²·C)."""
    start, (row, column, one) = framed[top:, left:], framed.strides
    C = framed.shape[2]
    return as_strided(start, (R, W, side, side * C), (row, column, row, one)).reshape(R * W, -1)
