"""A VAE on a CPU, with NumPy: strips of a picture's rows in a thread each.

H and W a picture's height and width, C channels in and O channels out; arrays are float32, channels last. The same
numbers as in `vae`, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mindspore import Tensor

from .. import tree
from ..backend import numpy_conv as conv
from ..backend import numpy_nn as nn
from ..backend.autodiff import recording
from ..backend.numpy_conv import Each, Moments, Picture
from ..backend.numpy_nn import Floats
from ..types import Tree
from .vae_config import EPS, Config
from .vae_layers import SCORES

HALVES = {"encoder": ("encoder", "quant_conv"), "decoder": ("decoder", "post_quant_conv")}


def fits(p: Tree, half: str) -> bool:
    """Whether a half of a VAE, "encoder" or "decoder", is plain float32 Tensors, on a CPU, without a gradient."""
    return not recording() and nn.computes(tree.leaves(_half(p, half)))


def encode(p: Tree, config: Config, x: Tensor) -> Tensor:
    """Encode pictures as `vae.encode` does.

    Args:
        p: the VAE's tree.
        config: its configuration.
        x: (B, 3, H, W) float32, checked as there.
    Returns:
        (B, 2C, h, w) float32, the mean and the logarithm of the variance before it is clamped.
    """
    return _each_picture(_encoded, nn.arrays(_half(p, "encoder")), config, x)


def decode(p: Tree, config: Config, z: Tensor) -> Tensor:
    """Decode latents to pictures, as `vae.decode` does.

    Args:
        p: the VAE's tree.
        config: its configuration.
        z: (B, C, h, w) float32, unscaled, and checked as there.
    Returns:
        (B, 3, H, W) float32.
    """
    return _each_picture(_decoded, nn.arrays(_half(p, "decoder")), config, z)


def _half(p: Tree, half: str) -> Tree:
    return {name: p[name] for name in HALVES[half] if name in p}


def _each_picture(f: Callable[[Tree, Config, Floats, Each], Floats], p: Tree, config: Config, x: Tensor) -> Tensor:
    with nn.threads(x.shape[2]) as each:
        found = [f(p, config, picture, each) for picture in x.asnumpy().transpose(0, 2, 3, 1)]
    return Tensor.from_numpy(np.ascontiguousarray(np.stack(found).transpose(0, 3, 1, 2)))


def _encoded(p: Tree, config: Config, x: Floats, each: Each) -> Floats:
    """(H, W, 3) → (h, w, 2C)."""
    encoder, groups = p["encoder"], config.norm_num_groups
    y = conv.same(encoder["conv_in"], x, each)
    for level in encoder["down_blocks"]:
        for resnet in level["resnets"]:
            y = _resnet(resnet, y, groups, each)
        if "downsamplers" in level:
            y = conv.down(level["downsamplers"][0]["conv"], y.x, each)
    y = _middle(encoder["mid_block"], config, y, each)
    z = conv.same(encoder["conv_out"], y.x, each, conv.group_norm(encoder["conv_norm_out"], y, groups, EPS)).x
    return _pointwise(p["quant_conv"], z) if config.use_quant_conv else z


def _decoded(p: Tree, config: Config, z: Floats, each: Each) -> Floats:
    """(h, w, C) → (H, W, 3)."""
    decoder, groups = p["decoder"], config.norm_num_groups
    if config.use_post_quant_conv:
        z = _pointwise(p["post_quant_conv"], z)
    y = _middle(decoder["mid_block"], config, conv.same(decoder["conv_in"], z, each), each)
    for level in decoder["up_blocks"]:
        for resnet in level["resnets"]:
            y = _resnet(resnet, y, groups, each)
        if "upsamplers" in level:
            y = conv.up(level["upsamplers"][0]["conv"], y.x, each)
    return conv.same(decoder["conv_out"], y.x, each, conv.group_norm(decoder["conv_norm_out"], y, groups, EPS)).x


def _pointwise(p: Tree, x: Floats) -> Floats:
    return nn.linear(p, x.reshape(-1, x.shape[2])).reshape(*x.shape[:2], -1)


def _middle(p: Tree, config: Config, x: Picture, each: Each) -> Picture:
    groups = config.norm_num_groups
    x = _resnet(p["resnets"][0], x, groups, each)
    if config.mid_block_add_attention:
        x = _attention(p["attentions"][0], x, groups, each)
    return _resnet(p["resnets"][1], x, groups, each)


def _resnet(p: Tree, picture: Picture, groups: int, each: Each) -> Picture:
    def shortcut(rows: slice) -> Floats:
        part = picture.x[rows]
        return _pointwise(p["conv_shortcut"], part) if "conv_shortcut" in p else part

    inner = conv.same(p["conv1"], picture.x, each, conv.group_norm(p["norm1"], picture, groups, EPS))
    return conv.same(p["conv2"], inner.x, each, conv.group_norm(p["norm2"], inner, groups, EPS), shortcut)


def _attention(p: Tree, picture: Picture, groups: int, each: Each) -> Picture:
    """x + self-attention of its pixels with one head."""
    (scale, shift), (H, W, C) = conv.group_norm(p["group_norm"], picture, groups, EPS), picture.x.shape
    x, root = picture.x.reshape(-1, C), np.float32(C**-0.5)
    k, v, out = (np.empty_like(x) for _ in range(3))

    def seen(rows: slice) -> None:
        h = x[rows] * scale + shift
        k[rows], v[rows] = nn.linear(p["to_k"], h), nn.linear(p["to_v"], h)

    def strip(rows: slice) -> Moments:
        q = nn.linear(p["to_q"], x[rows] * scale + shift)
        q *= root
        out[rows] = nn.linear(p["to_out"][0], nn.attend(q[None], k[None], v[None]))
        out[rows] += x[rows]
        return conv.moments(out[rows, None])

    each(seen, conv.strips(H * W, C))
    found = each(strip, conv.strips(H * W, H * W, SCORES))
    return Picture(out.reshape(H, W, C), found)
