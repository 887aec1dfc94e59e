"""The VAE's layers on pictures in strips, so that what a layer needs beside its input and output stays in the cache.

B batch, H and W a picture's height and width, R rows of a strip, C channels in and O channels out, G groups.

A picture is a list of strips of its rows, each (B, R, W, C) with channels last; a small one is a single strip, whose
layers are compiled in one piece. Group norm sees the whole picture: first each strip's moments, then the layer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from mindspore import Tensor, ops

from ..backend import convolution, heads, jit, nn
from ..types import Tree
from . import vae_pull
from .vae_config import EPS, Config

STRIP = nn.DEVICE.strip
"""Numbers in a strip: 4 MiB on a CPU, for its cache; on a GPU or Ascend, up to 1024 px, the whole picture."""
SCORES = nn.DEVICE.vae_scores
"""Numbers in the scores of the queries that attend at a time: 16 MiB on a CPU."""

Picture = list[Tensor]
Rows = tuple[Tensor, ...]
"""The row above a strip, the strip, the row below, and maybe (1,) each what these two rows count, 0 or 1."""
Affine = tuple[Tensor, Tensor]
"""A group norm as a scale and a shift, (B, C) each."""


class Prepared(NamedTuple):
    """What all strips share of group norm, SiLU and a convolution."""

    weights: Tree
    """The convolution's matrices and bias."""
    affine: Affine
    """The whole picture's group norm."""
    tables: tuple[Tensor, ...]


def channels_last(x: Tensor) -> Picture:
    """(B, C, H, W) → a picture of one strip."""
    return [ops.transpose(x, (0, 2, 3, 1))]


def channels_first(picture: Picture) -> Tensor:
    """A picture → (B, C, H, W) float32."""
    return ops.cat([ops.transpose(strip, (0, 3, 1, 2)).float() for strip in picture], 2)


def conv(p: Tree, picture: Picture) -> Picture:
    """A 3×3 convolution.

    Args:
        p: weight (O, C, 3, 3) and maybe bias (O,).
        picture: of C channels.
    Returns:
        A picture of O channels.
    """
    O, C = p["weight"].shape[:2]
    picture = cut(picture, STRIP, max(O, C))
    tables = same_tables(picture[0], C)
    return [_conv(p, rows[:3], tables=tables) for rows in between(picture)]


def down(p: Tree, picture: Picture) -> Picture:
    """A 3×3 convolution with stride 2 after padding one row below and one column to the right.

    Args:
        p: weight (O, C, 3, 3) and maybe bias (O,).
        picture: of C channels; H and W are even.
    Returns:
        A picture of O channels, half as high and half as wide.
    """
    picture = cut(picture, STRIP, p["weight"].shape[1], 2)
    B, R, W, _ = picture[0].shape
    weights = {**p, "weight": _matrices(p["weight"])}
    tables = convolution.index_tables("down", B, R, W)
    return [_down(weights, rows[:3], tables=tables) for rows in between(picture)]


def up(p: Tree, picture: Picture) -> Picture:
    """Nearest neighbour ×2, then a 3×3 convolution.

    Args:
        p: weight (O, C, 3, 3) and maybe bias (O,).
        picture: of C channels.
    Returns:
        A picture of O channels, twice as high and twice as wide.
    """
    picture = cut(picture, STRIP, 2 * p["weight"].shape[1])
    B, R, W, _ = picture[0].shape
    weights = {**p, "weight": _up_matrices(p["weight"])}
    tables = convolution.index_tables("up", B, R, W)
    return [_up(weights, rows[:3], tables=tables) for rows in between(picture)]


def norm_conv(norm: Tree, p: Tree, picture: Picture, config: Config) -> Picture:
    """Group norm, SiLU and a 3×3 convolution.

    Args:
        norm: the group norm's weight and bias, each (C,).
        p: the convolution's weight (O, C, 3, 3) and bias (O,).
        picture: of C channels.
        config: the VAE's configuration.
    Returns:
        A picture of O channels.
    """
    O, C = p["weight"].shape[:2]
    picture = cut(picture, STRIP, max(O, C))
    if len(picture) == 1:
        tables = same_tables(picture[0], C)
        return [_norm_conv_whole({"norm": norm, "conv": p}, picture[0], config=config, tables=tables)]
    return _norm_conv_strips(norm, p, picture, config)


def resnet(p: Tree, picture: Picture, config: Config) -> Picture:
    """x + what two `norm_conv` make of it; x goes through a 1×1 convolution where the channels change.

    Args:
        p: norm1, conv1, norm2 and conv2, and conv_shortcut where C ≠ O.
        picture: of C channels.
        config: the VAE's configuration.
    Returns:
        A picture of O channels.
    """
    O, C = p["conv1"]["weight"].shape[:2]
    picture = cut(picture, STRIP, max(O, C))
    if len(picture) == 1:
        tables = (*same_tables(picture[0], C), *same_tables(picture[0], O))
        return [_resnet_whole(p, picture[0], config=config, tables=tables)]
    inner = _norm_conv_strips(p["norm1"], p["conv1"], picture, config)
    weights, affine, tables = _prepare(p["norm2"], p["conv2"], inner, config)
    if "conv_shortcut" in p:
        weights = {**weights, "conv_shortcut": p["conv_shortcut"]}
    return [
        _norm_conv_added(weights, rows, affine, strip, config=config, tables=tables)
        for rows, strip in zip(between(inner), picture, strict=True)
    ]


def attention(p: Tree, picture: Picture, config: Config) -> Picture:
    """x + self-attention of its pixels with one head; queries go a strip at a time, so no picture is too large.

    Args:
        p: group_norm, to_q, to_k, to_v and to_out, of C channels.
        picture: of C channels.
        config: the VAE's configuration.
    Returns:
        A picture of C channels.
    """
    B, H, W = picture[0].shape[0], sum(strip.shape[1] for strip in picture), picture[0].shape[2]
    picture = cut(picture, SCORES, B * H * W)
    if len(picture) == 1:
        return [_attention_whole(p, picture[0], config=config)]
    affine = _norm(p["group_norm"], picture, config)
    seen = [_keys_values({"k": p["to_k"], "v": p["to_v"]}, strip, affine, config=config) for strip in picture]
    keys, values = (ops.cat(parts, 1) for parts in zip(*seen, strict=True))  # (B, H·W, C) each
    own = {"q": p["to_q"], "out": p["to_out"][0]}
    return [_attend(own, strip, affine, keys, values, config=config) for strip in picture]


def cut(picture: Picture, limit: int, width: int, multiple: int = 1) -> Picture:
    """The picture in equal strips of whole rows, B · R · W · width ≤ limit, of even height where it can be."""
    B, own, W, _ = picture[0].shape
    H, most = own * len(picture), max(multiple, limit // (B * W * width))
    R = max((R for R in range(multiple, min(H, most) + 1, multiple) if H % R == 0), key=lambda R: (R % 2 == 0, R))
    if most >= H:
        R = H
    if own == R:
        return picture
    if own % R:
        picture = [ops.cat(picture, 1)]
    return [part for strip in picture for part in ops.split(strip, R, axis=1)]


def between(picture: Picture) -> Iterator[Rows]:
    """Each strip between its neighbours, which count 0 beyond the picture's edges."""
    B, R, W, C = picture[0].shape
    (nothing, zero, one), last = _edge(B, W, C, picture[0].dtype), len(picture) - 1
    for i, strip in enumerate(picture):
        above = ops.slice(picture[i - 1], (0, R - 1, 0, 0), (B, 1, W, C)) if i > 0 else nothing
        below = ops.slice(picture[i + 1], (0, 0, 0, 0), (B, 1, W, C)) if i < last else nothing
        yield above, strip, below, one if i > 0 else zero, one if i < last else zero


@functools.lru_cache(maxsize=32)
def _edge(B: int, W: int, C: int, dtype: object) -> tuple[Tensor, Tensor, Tensor]:
    """A row of zeros, and (1,) each a zero and a one; making them takes as long as a small layer."""
    return ops.zeros((B, 1, W, C), dtype), ops.zeros((1,)), ops.ones((1,))


def same_tables(strip: Tensor, C: int) -> tuple[Tensor, ...]:
    B, R, W, _ = strip.shape
    return convolution.same_tables(B, R, W, C)


def _norm(p: Tree, picture: Picture, config: Config) -> Affine:
    """The whole picture's group norm."""
    moments = [_moments(strip, config=config) for strip in picture]
    means, variances = (ops.stack(parts) for parts in zip(*moments, strict=True))  # (strips, B, G)
    return _affine(p, means, variances, config=config)


def _prepare(norm: Tree, p: Tree, picture: Picture, config: Config) -> Prepared:
    affine = _norm(norm, picture, config)
    R, C = picture[0].shape[1], p["weight"].shape[1]
    matrices = (_winograd_matrices if convolution.uses_winograd(R, C) else _matrices)(p["weight"])
    return Prepared({"matrices": matrices, "bias": p["bias"]}, affine, same_tables(picture[0], C))


def _norm_conv_strips(norm: Tree, p: Tree, picture: Picture, config: Config) -> Picture:
    """`norm_conv` of a picture in several strips."""
    weights, affine, tables = _prepare(norm, p, picture, config)
    return [_norm_conv(weights, rows, affine, config=config, tables=tables) for rows in between(picture)]


# --- blocks -------------------------------------------------------------------------------------------------------


@jit.block
def _matrices(weight: Tensor, config: Config) -> tuple[Tensor, ...]:
    return (convolution.kernel_matrix(weight),)


@jit.block
def _winograd_matrices(weight: Tensor, config: Config) -> tuple[Tensor, ...]:
    return convolution.winograd_matrices(weight)


@jit.block
def _up_matrices(weight: Tensor, config: Config) -> tuple[Tensor, ...]:
    return convolution.up_matrices(weight)


def _convolved(p: Tree, rows: Rows, config: None, forward: Tensor, backward: Tensor) -> tuple[Tensor, vae_pull.Kept]:
    return convolved(p, rows, forward, backward), ()


_conv = vae_pull.block(_convolved, vae_pull.pull_conv)


def _halved(p: Tree, rows: Rows, config: None, forward: Tensor, backward: Tensor) -> tuple[Tensor, vae_pull.Kept]:
    return vae_pull.biased(convolution.down(ops.cat(rows, 1), p["weight"][0], forward, backward), p), ()


_down = vae_pull.block(_halved, vae_pull.pull_down)


def _doubled(p: Tree, rows: Rows, config: None, *tables: Tensor) -> tuple[Tensor, vae_pull.Kept]:
    return vae_pull.biased(convolution.up(ops.cat(rows, 1), p["weight"], *tables), p), ()


_up = vae_pull.block(_doubled, vae_pull.pull_up)


@jit.block
def _moments(x: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    return nn.group_moments(vae_pull.flat(x), config.norm_num_groups)


@jit.block
def _affine(p: Tree, means: Tensor, variances: Tensor, config: Config) -> Affine:
    mean = ops.ReduceMean()(means, 0)
    distance = means - mean
    return nn.group_affine(p, mean, ops.ReduceMean()(variances + distance * distance, 0), EPS)


@jit.block
def _norm_conv(p: Tree, rows: Rows, affine: Affine, config: Config, *tables: Tensor) -> Tensor:
    return vae_pull.biased(convolution.same(_active_rows(rows, affine), p["matrices"], *tables), p)


@jit.block
def _norm_conv_added(p: Tree, rows: Rows, affine: Affine, x: Tensor, config: Config, *tables: Tensor) -> Tensor:
    y = vae_pull.biased(convolution.same(_active_rows(rows, affine), p["matrices"], *tables), p)
    return _shortcut(p, x) + y


def _normed_conv(p: Tree, x: Tensor, config: Config, *tables: Tensor) -> tuple[Tensor, vae_pull.Kept]:
    return vae_pull.normed_conv(p["norm"], p["conv"], x, config, *tables)


_norm_conv_whole = vae_pull.block(_normed_conv, vae_pull.pull_normed_conv)


def _two_convs(p: Tree, x: Tensor, config: Config, *tables: Tensor) -> tuple[Tensor, vae_pull.Kept]:
    inner, first = vae_pull.normed_conv(p["norm1"], p["conv1"], x, config, *tables[:2])
    y, second = vae_pull.normed_conv(p["norm2"], p["conv2"], inner, config, *tables[2:])
    return _shortcut(p, x) + y, (*first, inner, *second)


_resnet_whole = vae_pull.block(_two_convs, vae_pull.pull_resnet)


def _attended(p: Tree, x: Tensor, config: Config) -> tuple[Tensor, vae_pull.Kept]:
    h, moments = vae_pull.normed(p["group_norm"], x, config)
    q = heads.split(nn.linear(p["to_q"], h) * x.shape[3] ** -0.5, 1)  # (B, 1, H·W, C)
    k, v = heads.split(nn.linear(p["to_k"], h), 1), heads.split(nn.linear(p["to_v"], h), 1)
    mixed, weights = heads.attend(q, k, v, None)
    return x + nn.linear(p["to_out"][0], mixed).reshape(x.shape), (h, *moments, q, k, v, weights, mixed)


_attention_whole = vae_pull.block(_attended, vae_pull.pull_attention)


@jit.block
def _keys_values(p: Tree, x: Tensor, affine: Affine, config: Config) -> tuple[Tensor, Tensor]:
    h = nn.scale_shift(vae_pull.flat(x), *affine)
    return nn.linear(p["k"], h), nn.linear(p["v"], h)


@jit.block
def _attend(p: Tree, x: Tensor, affine: Affine, keys: Tensor, values: Tensor, config: Config) -> Tensor:
    q = nn.linear(p["q"], nn.scale_shift(vae_pull.flat(x), *affine))  # (B, R·W, C)
    h = heads.attention(q, keys, values, None, 1, x.shape[3] ** -0.5)
    return x + nn.linear(p["out"], h).reshape(x.shape)


# --- what blocks are made of --------------------------------------------------------------------------------------


def convolved(p: Tree, rows: Rows, forward: Tensor, backward: Tensor) -> Tensor:
    """A 3×3 convolution of a strip between its neighbours (B, 1, W, C), with the tables of `same_tables`."""
    matrices = convolution.same_matrices(p["weight"], rows[1].shape[1])
    return vae_pull.biased(convolution.same(ops.cat(rows, 1), matrices, forward, backward), p)


def _active_rows(rows: Rows, affine: Affine) -> Tensor:
    """Normalised and activated rows; outside the picture they are zero, which SiLU of a shift isn't."""
    above, x, below, top, bottom = rows
    above, x, below = _active(above, affine), _active(x, affine), _active(below, affine)
    return ops.cat((top * above, x, bottom * below), 1)


def _active(x: Tensor, affine: Affine) -> Tensor:
    return nn.silu(nn.scale_shift(vae_pull.flat(x), *affine)).reshape(x.shape)


def _shortcut(p: Tree, x: Tensor) -> Tensor:
    return nn.linear(p["conv_shortcut"], x) if "conv_shortcut" in p else x
