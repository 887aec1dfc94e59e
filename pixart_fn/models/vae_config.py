"""The configuration of a VAE, the names and shapes of its tensors, and its initial weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, TypeAlias

import numpy as np
from mindspore import Tensor

from .. import config as config_
from .. import rng, tree
from ..checks import check_type
from ..types import Json, Key, Tree
from . import vae_tiny_config
from .vae_tiny_config import LEVELS, TinyConfig

EPS = 1e-6
"""Of all group norms, beside the variance."""


@dataclass(frozen=True)
class Config:
    """The fields of vae/config.json that shape the computation of an AutoencoderKL.

    Raises:
        ValueError: a field is out of its range, or channels don't divide into the groups.
    """

    block_out_channels: tuple[config_.Width, ...] = (128, 256, 512, 512)
    layers_per_block: Annotated[int, config_.whole(1, 100)] = 2
    norm_num_groups: config_.Width = 32
    latent_channels: config_.Width = 4
    in_channels: config_.Width = 3
    out_channels: config_.Width = 3
    sample_size: config_.Side = 512
    scaling_factor: config_.Positive = 0.18215
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def __post_init__(self) -> None:
        config_.check(self, "vae")
        if not 1 <= len(self.block_out_channels) <= LEVELS:
            raise ValueError(
                f"vae config: block_out_channels must have 1 … {LEVELS} entries, got {len(self.block_out_channels)}"
            )
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(f"vae config: {channels} channels don't divide into {self.norm_num_groups} groups")


EitherConfig: TypeAlias = Config | TinyConfig


def factor(config: EitherConfig) -> int:
    """How many pixels a latent covers in each direction: 8 in every released VAE."""
    check_config(config)
    return int(2 ** (len(config.block_out_channels) - 1))


def check_config(config: EitherConfig) -> None:
    """Raise a TypeError where it isn't the configuration of a VAE."""
    check_type("config", config, (Config, TinyConfig), "a vae.Config or a vae.TinyConfig")


def read_config(json: Json) -> EitherConfig:
    """Make the configuration of a parsed vae/config.json.

    Args:
        json: the file's content, as diffusers writes it for AutoencoderKL or, where its _class_name says so, for
            AutoencoderTiny.
    Returns:
        The configuration.
    Raises:
        TypeError: json is no dict.
        ValueError: a field is unknown, or has a value that isn't supported.
    """
    config_.check_object(json, "vae")
    if json.get("_class_name") == "AutoencoderTiny":
        return vae_tiny_config.read_config(json)
    channels = json.get("block_out_channels", Config.block_out_channels)
    depth = min(len(channels), LEVELS + 1) if isinstance(channels, (list, tuple)) else 0  # `Config` says what is wrong
    fixed = {
        "act_fn": ("silu",),
        "down_block_types": (["DownEncoderBlock2D"] * depth,),
        "up_block_types": (["UpDecoderBlock2D"] * depth,),
        "shift_factor": (None,),
        "latents_mean": (None,),
        "latents_std": (None,),
    }
    return config_.read(Config, json, fixed=fixed, ignored=("force_upcast",), component="vae")


def to_json(config: EitherConfig) -> Json:
    """Write a configuration as the config.json that diffusers reads.

    Args:
        config: the VAE's configuration.
    Returns:
        The file's content.
    Raises:
        TypeError: config is no configuration of a VAE, or key isn't an array.
    """
    check_config(config)
    if isinstance(config, TinyConfig):
        return vae_tiny_config.to_json(config)
    depth = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * depth,
        "up_block_types": ["UpDecoderBlock2D"] * depth,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()},
    }


def shapes(config: EitherConfig) -> dict[str, tuple[int, ...]]:
    """List the tensors of a VAE.

    Args:
        config: the VAE's configuration.
    Returns:
        Each tensor's name in the checkpoint, and its shape.
    Raises:
        TypeError: config is no configuration of a VAE, or key isn't an array.
    """
    check_config(config)
    if isinstance(config, TinyConfig):
        return vae_tiny_config.shapes(config)
    out: dict[str, tuple[int, ...]] = {}
    widths, latent, last = config.block_out_channels, config.latent_channels, config.block_out_channels[-1]

    def conv(name: str, channels_in: int, channels_out: int, k: int = 3) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = (channels_out, channels_in, k, k), (channels_out,)

    def norm(name: str, channels: int) -> None:
        out[f"{name}.weight"] = out[f"{name}.bias"] = (channels,)

    def resnet(name: str, channels_in: int, channels_out: int) -> None:
        norm(f"{name}.norm1", channels_in)
        conv(f"{name}.conv1", channels_in, channels_out)
        norm(f"{name}.norm2", channels_out)
        conv(f"{name}.conv2", channels_out, channels_out)
        if channels_in != channels_out:
            conv(f"{name}.conv_shortcut", channels_in, channels_out, 1)

    def middle(name: str) -> None:
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


def init(key: Key, config: EitherConfig) -> Tree:
    """Draw initial weights: N(0, 1/fan-in), and zero for the last layer of each residual branch and for biases.

    Args:
        key: of the drawing, from `px.key`.
        config: the VAE's configuration.
    Returns:
        The tree, of float32 Tensors.
    Raises:
        TypeError: config is no configuration of a VAE, or key isn't an array.
        ValueError: key isn't a key.
    """
    rng.check_key(key)
    flat = {}
    for i, (name, shape) in enumerate(shapes(config).items()):
        if len(shape) == 1:
            value = np.full(shape, float("norm" in name and name.endswith("weight")), np.float32)
        elif any(last in name for last in (".conv2.", ".to_out.", ".conv.4.")):
            value = np.zeros(shape, np.float32)
        else:
            value = rng.normal(rng.fold_in(key, i), shape) * np.float32(np.prod(shape[1:]) ** -0.5)
        flat[name] = Tensor.from_numpy(value)
    return tree.nest(flat)
