"""AutoencoderKL and AutoencoderTiny: pictures ↔ latents, as in diffusers (arXiv:2112.10752).

B batch, C latent channels, h/w latent and H/W pixel size with H = h · factor(config); "channels" are those of an inner
level. Pictures are in [-1, 1]; latents are unscaled here: the stages of `px.generate` apply `scaling_factor`.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from mindspore import Tensor, ops

from .. import rng
from ..backend import nn
from ..backend.arrays import as_float, check_weights, clamp
from ..checks import check_type, kind, shown
from ..process.lock import exclusive
from ..public import public
from ..types import Key, Moments, Tree
from . import vae_layers, vae_numpy, vae_pull, vae_tiles, vae_tiny
from .vae_config import Config as Config
from .vae_config import EitherConfig as EitherConfig
from .vae_config import check_config as check_config
from .vae_config import factor as factor
from .vae_config import init as init
from .vae_config import read_config as read_config
from .vae_config import shapes as shapes
from .vae_config import to_json as to_json
from .vae_tiny_config import TinyConfig as TinyConfig

LARGE = 256 * 256
"""Pixels from which the pictures of a batch are encoded and decoded one by one."""


@public
@exclusive
def encode(p: Tree, config: EitherConfig, x: Tensor) -> Moments:
    """Encode pictures as the posterior over their latents.

    Args:
        p: the VAE's tree.
        config: its configuration.
        x: (B, 3, H, W), floating-point, in [-1, 1]; H and W are multiples of factor(config).
    Returns:
        Moments(mean, logvar), each (B, C, h, w) float32; logvar is clamped to [-30, 20], or -∞ where the VAE is an
        AutoencoderTiny, which has no variance: `sample` gives the mean then.
    Raises:
        TypeError: config is no configuration of a VAE, or x is neither an array nor a Tensor of floating-point numbers.
        ValueError: p doesn't hold the encoder's tensors, or x hasn't such a shape.
    """
    x = _pictures(config, x)
    _check_half(p, config, ("encoder.", "quant_conv."))
    if _alone(x, 1):
        each = [encode(p, config, part) for part in ops.split(x, 1)]
        return Moments(*(ops.cat(parts, 0) for parts in zip(*each, strict=True)))
    if isinstance(config, TinyConfig):
        return _certain(vae_tiny.encode(p["encoder"], config, x))
    if vae_numpy.fits(p, "encoder"):
        return _moments(config, vae_numpy.encode(p, config, x))
    encoder = p["encoder"]
    picture = vae_layers.conv(encoder["conv_in"], vae_layers.channels_last(x))
    for level in encoder["down_blocks"]:
        for resnet in level["resnets"]:
            picture = vae_layers.resnet(resnet, picture, config)
        if "downsamplers" in level:
            picture = vae_layers.down(level["downsamplers"][0]["conv"], picture)
    picture = _middle(encoder["mid_block"], picture, config)
    picture = vae_layers.norm_conv(encoder["conv_norm_out"], encoder["conv_out"], picture, config)
    if config.use_quant_conv:
        picture = [_pointwise(p["quant_conv"], strip) for strip in picture]
    return _moments(config, vae_layers.channels_first(picture))


@public
@exclusive
def decode(p: Tree, config: EitherConfig, z: Tensor) -> Tensor:
    """Decode latents to pictures.

    Args:
        p: the VAE's tree.
        config: its configuration.
        z: (B, C, h, w), floating-point, unscaled.
    Returns:
        (B, 3, H, W) float32, about within [-1, 1]; nothing is clipped.
    Raises:
        TypeError: config is no configuration of a VAE, or z is neither an array nor a Tensor of floating-point numbers.
        ValueError: p doesn't hold the decoder's tensors, or z hasn't such a shape.
    """
    z = as_float(z, "z")
    check_latents(config, z)
    _check_half(p, config, ("decoder.", "post_quant_conv."))
    if _alone(z, factor(config)):
        return ops.cat([decode(p, config, part) for part in ops.split(z, 1)], 0)
    if isinstance(config, TinyConfig):
        return vae_tiny.decode(p["decoder"], config, z)
    if vae_numpy.fits(p, "decoder"):
        return vae_numpy.decode(p, config, z)
    decoder, picture = p["decoder"], vae_layers.channels_last(z)
    if config.use_post_quant_conv:
        picture = [_pointwise(p["post_quant_conv"], strip) for strip in picture]
    picture = _middle(decoder["mid_block"], vae_layers.conv(decoder["conv_in"], picture), config)
    for level in decoder["up_blocks"]:
        for resnet in level["resnets"]:
            picture = vae_layers.resnet(resnet, picture, config)
        if "upsamplers" in level:
            picture = vae_layers.up(level["upsamplers"][0]["conv"], picture)
    return vae_layers.channels_first(
        vae_layers.norm_conv(decoder["conv_norm_out"], decoder["conv_out"], picture, config)
    )


@public
@exclusive
def encode_tiled(p: Tree, config: EitherConfig, x: Tensor, tile: int) -> Moments:
    """`encode` in overlapping squares that are blended, in the memory of one.

    Args:
        p: the VAE's tree.
        config: its configuration.
        x: as in `encode`.
        tile: side of a square in pixels, a multiple of 4 · factor(config).
    Returns:
        As `encode`.
    Raises:
        TypeError, ValueError: as `encode`, or tile isn't such a number.
    """
    check_tile(config, tile)
    x = _pictures(config, x)
    if max(x.shape[2:]) <= tile:
        return encode(p, config, x)
    ratio = Fraction(1, factor(config))
    if isinstance(config, TinyConfig):
        return _certain(vae_tiles.apply(lambda x: encode(p, config, x).mean, x, tile, ratio))
    both = vae_tiles.apply(lambda x: ops.cat(encode(p, config, x), 1), x, tile, ratio)
    return Moments(*ops.split(both, config.latent_channels, axis=1))


@public
@exclusive
def decode_tiled(p: Tree, config: EitherConfig, z: Tensor, tile: int) -> Tensor:
    """`decode` in overlapping squares that are blended, in the memory of one.

    Group norms see a tile instead of the picture, so colours may differ a little between tiles; those of the size that
    the VAE was trained at (512) show it least. An AutoencoderTiny has no norms; its tiles overlap as those of the other
    VAE do, where diffusers has half as much overlap.

    Args:
        p: the VAE's tree.
        config: its configuration.
        z: as in `decode`.
        tile: side of a square in pixels, a multiple of 4 · factor(config).
    Returns:
        As `decode`.
    Raises:
        TypeError, ValueError: as `decode`, or tile isn't such a number.
    """
    check_tile(config, tile)
    z = as_float(z, "z")
    check_latents(config, z)
    if max(z.shape[2:]) * factor(config) <= tile:
        return decode(p, config, z)
    small = tile // factor(config)
    return vae_tiles.apply(lambda z: decode(p, config, z), z, small, Fraction(factor(config)))


def check_latents(config: EitherConfig, z: Tensor) -> None:
    """Raise where z hasn't the shape of latents.

    Args:
        config: the VAE's configuration.
        z: (B, C, h, w).
    Raises:
        TypeError: config is no configuration of a VAE, or z neither an array nor a Tensor.
        ValueError: z hasn't such a shape.
    """
    check_config(config)
    if not hasattr(z, "shape"):
        raise TypeError(f"latents must be an array or a Tensor, got {kind(z)}")
    if z.ndim != 4 or z.shape[1] != config.latent_channels or 0 in z.shape:
        raise ValueError(f"latents must have the shape (B, {config.latent_channels}, h, w), got {tuple(z.shape)}")


def check_tile(config: EitherConfig, tile: int) -> None:
    """Raise where a quarter of a tile isn't whole latents.

    Args:
        config: the VAE's configuration.
        tile: side of a square in pixels.
    Raises:
        TypeError: config is no configuration of a VAE, or tile isn't a whole number.
        ValueError: tile isn't a positive multiple of 4 · factor(config).
    """
    check_config(config)
    if isinstance(tile, bool) or not isinstance(tile, (int, np.integer)):
        raise TypeError(f"tile must be a whole number, got {kind(tile)}")
    step = 4 * factor(config)  # so that a quarter of a tile is whole latents
    if tile < step or tile % step:
        near = max(step, (int(tile) + step // 2) // step * step)
        got = f"{shown(int(tile))}; nearest: {shown(near)}"
        raise ValueError(f"tile must be a positive multiple of {step} pixels, got {got}")


@public
@exclusive
def sample(key: Key, moments: Moments) -> Tensor:
    """Draw latents from the posterior: mean + exp(logvar / 2) · noise (arXiv:1312.6114, sec. 2.4).

    Args:
        key: of the noise, from `px.key`.
        moments: what `encode` gave.
    Returns:
        (B, C, h, w) float32, unscaled.
    Raises:
        TypeError: moments isn't a Moments of two Tensors.
        ValueError: key isn't a key or is for another number of pictures, or the shapes of mean and logvar differ.
    """
    check_type("moments", moments, Moments, "a Moments, as vae.encode gives")
    for name, part in moments._asdict().items():
        check_type(f"{name} of moments", part, Tensor, "a Tensor")
    if moments.mean.shape != moments.logvar.shape:
        got = f"{moments.mean.shape} and {moments.logvar.shape}"
        raise ValueError(f"mean and logvar of moments must have the same shape, got {got}")
    return moments.mean + ops.exp(0.5 * moments.logvar) * rng.normal_like(key, moments.mean)


def _check_half(p: Tree, config: EitherConfig, parts: tuple[str, ...]) -> None:
    """Check the half of a VAE's tree that is used, since the other may be left out."""
    used = {name: p[name] for name in p if f"{name}.".startswith(parts)} if isinstance(p, dict) else p
    check_weights(used, {name: shape for name, shape in shapes(config).items() if name.startswith(parts)}, "p")


def _pictures(config: EitherConfig, x: Tensor) -> Tensor:
    """Return pictures to encode as float32, checked."""
    check_config(config)
    x = as_float(x, "x")
    if x.ndim != 4 or x.shape[1] != config.in_channels or 0 in x.shape:
        last = x.ndim == 4 and x.shape[3] == config.in_channels
        hint = "; x.transpose(0, 3, 1, 2) turns channels last into that" if last else ""
        raise ValueError(f"x must have the shape (B, {config.in_channels}, H, W), got {tuple(x.shape)}{hint}")
    if any(side % factor(config) for side in x.shape[2:]):
        raise ValueError(f"height and width must be multiples of {factor(config)}, got {x.shape[2]} × {x.shape[3]}")
    return x


def _alone(x: Tensor, scale: int) -> bool:
    """Whether the pictures of a batch go one by one, as memory grows with the batch."""
    return bool(x.shape[0] > 1 and x.shape[2] * x.shape[3] * scale**2 >= LARGE)


def _moments(config: Config, x: Tensor) -> Moments:
    """The posterior of a mean and a variance's logarithm, (B, 2C, h, w)."""
    mean, logvar = ops.split(x, config.latent_channels, axis=1)
    return Moments(mean, clamp(logvar, -30.0, 20.0))


def _certain(mean: Tensor) -> Moments:
    """The posterior that is this latent for sure."""
    return Moments(mean, ops.full_like(mean, -np.inf))


def _middle(p: Tree, picture: vae_layers.Picture, config: Config) -> vae_layers.Picture:
    picture = vae_layers.resnet(p["resnets"][0], picture, config)
    if config.mid_block_add_attention:
        picture = vae_layers.attention(p["attentions"][0], picture, config)
    return vae_layers.resnet(p["resnets"][1], picture, config)


def _linear(p: Tree, x: Tensor, config: Config) -> tuple[Tensor, vae_pull.Kept]:
    return nn.linear(p, x), ()


_pointwise = vae_pull.block(_linear, vae_pull.pull_pointwise)
