"""AutoencoderTiny: a distilled VAE of plain convolutions, without norms or attention, as in diffusers (TAESD).

B batch, C latent channels, h/w latent and H/W pixel size. `vae.encode` and `vae.decode` come here after their checks.
"""

from __future__ import annotations

from mindspore import Tensor, ops

from .. import tree
from ..backend import jit
from ..types import Tree
from . import vae_layers
from .vae_layers import Picture, Rows
from .vae_tiny_config import Layer, TinyConfig, decoder_layers, encoder_layers

LIMIT = 3.0
"""Latents are softly clamped to within ± this before they are decoded."""


def encode(p: Tree, config: TinyConfig, x: Tensor) -> Tensor:
    """Encode pictures.

    Args:
        p: the encoder's tree.
        config: the VAE's configuration.
        x: (B, 3, H, W) float32, in [-1, 1].
    Returns:
        The latents, (B, C, h, w) float32; they have no variance.
    """
    # Its convolutions with stride 2 pad above and on the left, and `vae_layers.down` below and on the right: all is
    # turned by half a circle, where the one is the other.
    layers = tree.map(lambda leaf: _turned(leaf) if leaf.ndim == 4 else leaf, p["layers"])
    picture = vae_layers.channels_last(_turned((x + 1.0) / 2.0))
    for layer in encoder_layers(config):
        picture = _layer(layers[layer.i], layer, picture)
    return _turned(vae_layers.channels_first(picture))


def decode(p: Tree, config: TinyConfig, z: Tensor) -> Tensor:
    """Decode latents to pictures.

    Args:
        p: the decoder's tree.
        config: the VAE's configuration.
        z: (B, C, h, w) float32.
    Returns:
        (B, 3, H, W) float32, about within [-1, 1]; nothing is clipped.
    """
    picture = vae_layers.channels_last(ops.tanh(z / LIMIT) * LIMIT)
    for layer in decoder_layers(config):
        picture = _layer(p["layers"][str(layer.i)], layer, picture)
    return vae_layers.channels_first(picture) * 2.0 - 1.0


def _turned(x: Tensor) -> Tensor:
    """Turn pictures or kernels by half a circle."""
    return ops.flip(x, (2, 3))


def _layer(p: Tree, layer: Layer, picture: Picture) -> Picture:
    if layer.kind == "block":
        return _block(p["conv"], picture)
    if layer.kind == "active":
        return _active_conv(p, picture)
    return {"conv": vae_layers.conv, "down": vae_layers.down, "up": vae_layers.up}[layer.kind](p, picture)


def _block(p: Tree, picture: Picture) -> Picture:
    """ReLU of x + what three convolutions make of it."""
    inner = _active_conv(p["2"], _active_conv(p["0"], picture))
    weight = p["4"]["weight"]
    inner, picture = (vae_layers.cut(each, vae_layers.STRIP, weight.shape[0]) for each in (inner, picture))
    tables = vae_layers.same_tables(inner[0], weight.shape[1])
    both = zip(vae_layers.between(inner), picture, strict=True)
    return [_added(p["4"], rows[:3], strip, tables=tables) for rows, strip in both]


def _active_conv(p: Tree, picture: Picture) -> Picture:
    O, C = p["weight"].shape[:2]
    picture = vae_layers.cut(picture, vae_layers.STRIP, max(O, C))
    tables = vae_layers.same_tables(picture[0], C)
    return [_active(p, rows[:3], tables=tables) for rows in vae_layers.between(picture)]


@jit.block
def _active(p: Tree, rows: Rows, config: None, forward: Tensor, backward: Tensor) -> Tensor:
    return ops.relu(vae_layers.convolved(p, rows, forward, backward))


@jit.block
def _added(p: Tree, rows: Rows, x: Tensor, config: None, forward: Tensor, backward: Tensor) -> Tensor:
    return ops.relu(vae_layers.convolved(p, rows, forward, backward) + x)
