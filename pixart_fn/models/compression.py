"""Compression of the keys and values of self-attention (PixArt-Σ, arXiv:2403.04692, sec. 3.2).

B batch, N = rows · columns patches, M of them after compression, D width, r the factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import mindspore as ms
from mindspore import Tensor, ops

from .. import config as config_
from ..backend import nn
from ..checks import shown
from ..types import Json, Tree

EPSILON = 1e-5
"""Of the norm after the convolution: torch's own, which the authors left as it is."""

Sampling: TypeAlias = Literal["conv", "ave", "uniform", "uniform_every"]


@dataclass(frozen=True)
class Compression:
    """Which blocks compress their keys and values, and how.

    Args:
        sampling: "conv" for a learned average of each r × r patches, which a norm follows; "ave" or "uniform" for the
            first of each r × r patches, since the authors' average is an interpolation to the nearest; "uniform_every"
            for each r-th patch.
        factor: r, at least 2.
        layers: the numbers of the blocks, from 0.
    Raises:
        ValueError: a field is out of its range.
    """

    sampling: Sampling = "conv"
    factor: Annotated[int, config_.whole(2, 64)] = 2
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        config_.check(self, "kv_compress_config of the transformer")
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise ValueError(
                "transformer config: kv_compress_layer must be a list of different blocks, from 0, got"
                f" {shown(list(self.layers))}"
            )


@dataclass(frozen=True)
class Block:
    """What the graph of a block that compresses needs to know of its configuration and of the picture."""

    num_attention_heads: int
    attention_head_dim: int
    norm_eps: float
    sampling: Sampling
    factor: int
    rows: int
    columns: int


def read(content: object) -> Compression | None:
    """Read `kv_compress_config`, as the authors' configurations have it.

    Args:
        content: of that field; None, no block or a factor of 1 stand for no compression.
    Returns:
        The Compression, or None.
    Raises:
        ValueError: a field is unknown, missing or has a value that isn't supported.
    """
    if content is None:
        return None
    names = {"sampling": "sampling", "scale_factor": "factor", "kv_compress_layer": "layers"}
    if not isinstance(content, dict) or set(content) != set(names):
        raise ValueError(
            f"transformer config: kv_compress_config must be null or an object of {', '.join(names)}, got"
            f" {shown(content)}"
        )
    if content["scale_factor"] == 1 or content["kv_compress_layer"] == [] or content["sampling"] is None:
        return None
    renamed = {names[name]: value for name, value in content.items()}
    try:
        return config_.read(Compression, renamed, fixed={}, component="kv_compress_config of the transformer")
    except ValueError as error:
        sentence = str(error)
        for other, name in names.items():  # the file's own
            sentence = sentence.replace(f"config: {name} ", f"config: {other} ")
        raise ValueError(sentence) from error


def to_json(compression: Compression | None) -> Json | None:
    """Write what `read` reads."""
    if compression is None:
        return None
    sampling, factor, layers = compression.sampling, compression.factor, list(compression.layers)
    return {"sampling": sampling, "scale_factor": factor, "kv_compress_layer": layers}


def shapes(compression: Compression | None, layer: int, width: int) -> dict[str, tuple[int, ...]]:
    """List the tensors that a block's self-attention has for its compression, by their names within it."""
    if compression is None or layer not in compression.layers or compression.sampling != "conv":
        return {}
    r = compression.factor
    return {"sr.weight": (width, 1, r, r), "sr.bias": (width,), "norm.weight": (width,), "norm.bias": (width,)}


def check_size(compression: Compression | None, sides: Sequence[int]) -> None:
    """Raise a ValueError where a picture has fewer patches along a side than are made one."""
    if compression is not None and min(sides) < compression.factor:
        raise ValueError(
            f"this model makes one key of {compression.factor} × {compression.factor} patches, so a picture needs at"
            f" least {compression.factor} patches along each side, got {sides[0]} × {sides[1]}"
        )


def compress(p: Tree, x: Tensor, config: Block) -> Tensor:
    """Compress keys or values: both by the same weights.

    Rows and columns that don't fill a last group of r are left out, as the authors' convolution leaves them out.

    Args:
        p: a self-attention's weights, with sr and norm for "conv".
        x: (B, N, D).
        config: the block's.
    Returns:
        (B, M, D), M = ⌊rows/r⌋ · ⌊columns/r⌋, or ⌊N/r⌋ for "uniform_every"; of x's dtype.
    """
    (B, N, D), r = x.shape, config.factor
    if config.sampling == "uniform_every":
        return x[:, : N // r * r].reshape(B, N // r, r, D)[:, :, 0]
    h, w = config.rows // r, config.columns // r
    x = x.reshape(B, config.rows, config.columns, D)[:, : h * r, : w * r].reshape(B, h, r, w, r, D)
    if config.sampling != "conv":
        return x[:, :, 0, :, 0].reshape(B, h * w, D)
    weights = ops.transpose(p["sr"]["weight"].reshape(D, r * r), (1, 0))  # (r², D)
    y = ops.cast(p["sr"]["bias"], ms.float32)
    for i in range(r):
        for j in range(r):
            y = y + ops.cast(x[:, :, i, :, j], ms.float32) * ops.cast(weights[i * r + j], ms.float32)
    y = nn.layer_norm(y.reshape(B, h * w, D), EPSILON)
    y = y * ops.cast(p["norm"]["weight"], ms.float32) + ops.cast(p["norm"]["bias"], ms.float32)
    return ops.cast(y, x.dtype)
