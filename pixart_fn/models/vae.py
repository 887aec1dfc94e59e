"""AutoencoderKL: pictures ↔ latents, as in diffusers (arXiv:2112.10752).

B batch, C latent channels, h/w latent and H/W pixel size with H = h · factor(config); "channels" of an inner level.
Pictures are in [-1, 1]; latents are unscaled here: `scaling_factor` is applied by `generate`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np
from mindspore import Tensor, ops

from .. import config as config_
from .. import rng, tree
from ..backend import jit, nn
from ..backend.arrays import as_float, clamp
from ..checks import kind
from ..public import public
from ..types import Json, Key, Moments, Tree
from . import vae_layers, vae_tiles

LARGE = 256 * 256
"""Pixels from which the pictures of a batch are encoded and decoded one by one."""


@dataclass(frozen=True)
class Config:
    """The fields of vae/config.json that shape the computation."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    latent_channels: int = 4
    in_channels: int = 3
    out_channels: int = 3
    sample_size: int = 512
    scaling_factor: float = 0.18215
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def __post_init__(self) -> None:
        if self.norm_num_groups < 1 or not self.block_out_channels:
            got = f"{self.norm_num_groups} groups and {self.block_out_channels}"
            raise ValueError(
                f"vae config: at least one group (norm_num_groups) and block_out_channels are needed, got {got}"
            )
        if not self.scaling_factor > 0:
            raise ValueError(f"vae config: scaling_factor must be above 0, got {self.scaling_factor}")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(f"vae config: {channels} channels don't divide into {self.norm_num_groups} groups")


def factor(config: Config) -> int:
    """How many pixels a latent covers in each direction."""
    return 2 ** (len(config.block_out_channels) - 1)


def read_config(json: Json) -> Config:
    """The configuration in a parsed vae/config.json; ValueError for what isn't AutoencoderKL as computed here."""
    channels = json.get("block_out_channels", Config.block_out_channels)
    depth = len(channels) if isinstance(channels, (list, tuple)) else 0  # `config_.read` says what else is wrong
    fixed = {
        "act_fn": ("silu",),
        "down_block_types": (["DownEncoderBlock2D"] * depth,),
        "up_block_types": (["UpDecoderBlock2D"] * depth,),
        "shift_factor": (None,),
        "latents_mean": (None,),
        "latents_std": (None,),
    }
    return config_.read(Config, json, fixed=fixed, ignored=("force_upcast",))


def to_json(config: Config) -> Json:
    """The config.json that diffusers reads."""
    depth = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * depth,
        "up_block_types": ["UpDecoderBlock2D"] * depth,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()},
    }


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Each tensor's name in the checkpoint and its shape."""
    out: dict[str, tuple[int, ...]] = {}
    widths, latent, last = config.block_out_channels, config.latent_channels, config.block_out_channels[-1]

    def conv(name, channels_in, channels_out, k=3):
        out[f"{name}.weight"], out[f"{name}.bias"] = (channels_out, channels_in, k, k), (channels_out,)

    def norm(name, channels):
        out[f"{name}.weight"] = out[f"{name}.bias"] = (channels,)

    def resnet(name, channels_in, channels_out):
        norm(f"{name}.norm1", channels_in)
        conv(f"{name}.conv1", channels_in, channels_out)
        norm(f"{name}.norm2", channels_out)
        conv(f"{name}.conv2", channels_out, channels_out)
        if channels_in != channels_out:
            conv(f"{name}.conv_shortcut", channels_in, channels_out, 1)

    def middle(name):
        resnet(f"{name}.resnets.0", last, last)
        if config.mid_block_add_attention:
            norm(f"{name}.attentions.0.group_norm", last)
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                out[f"{name}.attentions.0.{part}.weight"] = (last, last)
                out[f"{name}.attentions.0.{part}.bias"] = (last,)
        resnet(f"{name}.resnets.1", last, last)

    conv("encoder.conv_in", config.in_channels, widths[0])
    width = widths[0]
    for i, channels in enumerate(widths):
        for j in range(config.layers_per_block):
            resnet(f"encoder.down_blocks.{i}.resnets.{j}", width, channels)
            width = channels
        if i < len(widths) - 1:
            conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", channels, channels)
    middle("encoder.mid_block")
    norm("encoder.conv_norm_out", last)
    conv("encoder.conv_out", last, 2 * latent)
    if config.use_quant_conv:
        conv("quant_conv", 2 * latent, 2 * latent, 1)
    if config.use_post_quant_conv:
        conv("post_quant_conv", latent, latent, 1)
    conv("decoder.conv_in", latent, last)
    middle("decoder.mid_block")
    for i, channels in enumerate(reversed(widths)):
        for j in range(config.layers_per_block + 1):
            resnet(f"decoder.up_blocks.{i}.resnets.{j}", last if i == j == 0 else width, channels)
            width = channels
        if i < len(widths) - 1:
            conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", channels, channels)
    norm("decoder.conv_norm_out", widths[0])
    conv("decoder.conv_out", widths[0], config.out_channels)
    return out


def init(key: Key, config: Config) -> Tree:
    """Fresh weights: fan-in-scaled normal; the last convolution of each residual branch starts at zero."""
    flat = {}
    for i, (name, shape) in enumerate(shapes(config).items()):
        if len(shape) == 1:
            value = np.full(shape, float("norm" in name and name.endswith("weight")), np.float32)
        elif ".conv2." in name or ".to_out." in name:
            value = np.zeros(shape, np.float32)
        else:
            value = rng.normal(rng.fold_in(key, i), shape) * np.float32(np.prod(shape[1:]) ** -0.5)
        flat[name] = Tensor.from_numpy(value)
    return tree.nest(flat)


@public
def encode(p: Tree, config: Config, x: Tensor) -> Moments:
    """Pictures to the posterior over latents.

    Args:
        p: the VAE's tree. x: (B, 3, H, W) float32 in [-1, 1], H and W multiples of factor(config).
    Returns: Moments(mean, logvar), each (B, C, h, w); logvar is clamped to [-30, 20].
    Raises: TypeError, ValueError: x isn't such an array, or H or W is no such multiple.
    """
    x = as_float(x, "x")
    if x.ndim != 4 or x.shape[1] != config.in_channels or 0 in x.shape:
        last = x.ndim == 4 and x.shape[3] == config.in_channels
        hint = "; x.transpose(0, 3, 1, 2) turns channels last into that" if last else ""
        raise ValueError(f"x must have the shape (B, {config.in_channels}, H, W), got {tuple(x.shape)}{hint}")
    if any(side % factor(config) for side in x.shape[2:]):
        raise ValueError(f"height and width must be multiples of {factor(config)}, got {x.shape[2]} × {x.shape[3]}")
    if _alone(x, 1):
        each = [encode(p, config, part) for part in ops.split(x, 1)]
        return Moments(*(ops.cat(parts, 0) for parts in zip(*each, strict=True)))
    encoder = p["encoder"]
    picture = vae_layers.conv(encoder["conv_in"], vae_layers.channels_last(x), config)
    for level in encoder["down_blocks"]:
        for resnet in level["resnets"]:
            picture = vae_layers.resnet(resnet, picture, config)
        if "downsamplers" in level:
            picture = vae_layers.down(level["downsamplers"][0]["conv"], picture, config)
    picture = _middle(encoder["mid_block"], picture, config)
    picture = vae_layers.norm_conv(encoder["conv_norm_out"], encoder["conv_out"], picture, config)
    if config.use_quant_conv:
        picture = [_pointwise(p["quant_conv"], strip) for strip in picture]
    x = vae_layers.channels_first(picture)
    mean, logvar = ops.split(x, config.latent_channels, axis=1)
    return Moments(mean, clamp(logvar, -30.0, 20.0))


@public
def decode(p: Tree, config: Config, z: Tensor) -> Tensor:
    """Unscaled latents (B, C, h, w) float32 to pictures (B, 3, H, W), about [-1, 1] (not clipped)."""
    z = as_float(z, "z")
    check_latents(config, z)
    if _alone(z, factor(config)):
        return ops.cat([decode(p, config, part) for part in ops.split(z, 1)], 0)
    decoder, picture = p["decoder"], vae_layers.channels_last(z)
    if config.use_post_quant_conv:
        picture = [_pointwise(p["post_quant_conv"], strip) for strip in picture]
    picture = _middle(decoder["mid_block"], vae_layers.conv(decoder["conv_in"], picture, config), config)
    for level in decoder["up_blocks"]:
        for resnet in level["resnets"]:
            picture = vae_layers.resnet(resnet, picture, config)
        if "upsamplers" in level:
            picture = vae_layers.up(level["upsamplers"][0]["conv"], picture, config)
    return vae_layers.channels_first(
        vae_layers.norm_conv(decoder["conv_norm_out"], decoder["conv_out"], picture, config)
    )


@public
def encode_tiled(p: Tree, config: Config, x: Tensor, tile: int) -> Moments:
    """`encode` in overlapping squares of `tile` pixels, blended: memory is that of one tile."""
    check_tile(config, tile)
    if max(x.shape[2:]) <= tile:
        return encode(p, config, x)
    both = vae_tiles.apply(lambda x: ops.cat(encode(p, config, x), 1), x, tile, Fraction(1, factor(config)))
    return Moments(*ops.split(both, config.latent_channels, axis=1))


@public
def decode_tiled(p: Tree, config: Config, z: Tensor, tile: int) -> Tensor:
    """`decode` in overlapping squares of `tile` pixels, blended: memory is that of one tile.

    Group norms see a tile instead of the picture, so colours may differ a little between tiles; those of the size that
    the VAE was trained at (512) show it least.
    """
    check_tile(config, tile)
    if max(z.shape[2:]) * factor(config) <= tile:
        return decode(p, config, z)
    small = tile // factor(config)
    return vae_tiles.apply(lambda z: decode(p, config, z), z, small, Fraction(factor(config)))


def check_latents(config: Config, z: Tensor) -> None:
    """Raise ValueError where z hasn't the shape of latents."""
    if z.ndim != 4 or z.shape[1] != config.latent_channels or 0 in z.shape:
        raise ValueError(f"latents must have the shape (B, {config.latent_channels}, h, w), got {tuple(z.shape)}")


def check_tile(config: Config, tile: int) -> None:
    """Raise ValueError for a tile that isn't whole latents."""
    if isinstance(tile, bool) or not isinstance(tile, (int, np.integer)):
        raise TypeError(f"tile must be a whole number, got {kind(tile)}")
    step = 4 * factor(config)  # so that a quarter of a tile is whole latents
    if tile < step or tile % step:
        near = max(step, round(tile / step) * step)
        raise ValueError(f"tile must be a positive multiple of {step} pixels, got {tile}; nearest: {near}")


@public
def sample(key: Key, moments: Moments) -> Tensor:
    """Draw latents from the posterior: mean + exp(logvar / 2) · noise."""
    return moments.mean + ops.exp(0.5 * moments.logvar) * rng.normal_like(key, moments.mean)


def _alone(x: Tensor, scale: int) -> bool:
    """Whether the pictures of a batch go one by one, as memory grows with the batch."""
    return x.shape[0] > 1 and x.shape[2] * x.shape[3] * scale**2 >= LARGE


def _middle(p: Tree, picture: vae_layers.Picture, config: Config) -> vae_layers.Picture:
    picture = vae_layers.resnet(p["resnets"][0], picture, config)
    if config.mid_block_add_attention:
        picture = vae_layers.attention(p["attentions"][0], picture, config)
    return vae_layers.resnet(p["resnets"][1], picture, config)


@jit.block
def _pointwise(p, x, config):
    return nn.linear(p, x)
