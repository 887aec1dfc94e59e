"""The configuration of an AutoencoderTiny, its layers in order, and the names and shapes of their tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, NamedTuple

from .. import config as config_
from ..types import Json

LEVELS = 12
"""Levels at most, as in `vae_config`."""

Widths = tuple[config_.Width, ...]
Blocks = tuple[Annotated[int, config_.whole(0, 100)], ...]


@dataclass(frozen=True)
class TinyConfig:
    """The fields of vae/config.json that shape an AutoencoderTiny, such as TAESD.

    Raises:
        ValueError: a field is out of its range, or the lists don't describe levels that fit together.
    """

    encoder_block_out_channels: Widths = (64, 64, 64, 64)
    decoder_block_out_channels: Widths = (64, 64, 64, 64)
    num_encoder_blocks: Blocks = (1, 3, 3, 3)
    num_decoder_blocks: Blocks = (3, 3, 3, 1)
    latent_channels: config_.Width = 4
    in_channels: config_.Width = 3
    out_channels: config_.Width = 3
    scaling_factor: config_.Positive = 1.0
    latent_magnitude: config_.Positive = 3.0
    """With `latent_shift` for storing latents as bytes, which nothing here does; kept for saving."""
    latent_shift: float = 0.5

    def __post_init__(self) -> None:
        config_.check(self, "vae")
        lists = {name: value for name, value in asdict(self).items() if isinstance(value, tuple)}
        depths = {len(value) for value in lists.values()}
        if len(depths) > 1 or not 1 <= min(depths) <= LEVELS:
            got = ", ".join(f"{name} of {len(value)}" for name, value in lists.items())
            raise ValueError(f"vae config: these lists must have the same number of entries, 1 … {LEVELS}, got {got}")
        for name, value in lists.items():
            if name.endswith("channels") and len(set(value)) > 1:
                raise ValueError(f"vae config: {name} must be the same number at every level, got {value}")

    @property
    def block_out_channels(self) -> Widths:
        """The decoder's channels at each level, under the name that an AutoencoderKL has for them."""
        return self.decoder_block_out_channels


class Layer(NamedTuple):
    """One of the layers that the encoder or the decoder goes through in order."""

    i: int
    """Its place in the checkpoint's names, in which activations and upsampling count too."""
    kind: str
    """ "conv"; "active", a convolution and ReLU; "block", of three convolutions; "down" or "up", each of one."""
    channels_in: int
    channels_out: int


def encoder_layers(config: TinyConfig) -> list[Layer]:
    """List the encoder's layers.

    Args:
        config: the VAE's configuration.
    Returns:
        The layers, without a gap in their places.
    """
    width = config.encoder_block_out_channels[0]
    kinds: list[str] = []
    for level, blocks in enumerate(config.num_encoder_blocks):
        kinds += ["down" if level else "conv", *["block"] * blocks]
    layers = [Layer(i, kind, width, width) for i, kind in enumerate([*kinds, "conv"])]
    layers[0] = layers[0]._replace(channels_in=config.in_channels)
    layers[-1] = layers[-1]._replace(channels_out=config.latent_channels)
    return layers


def decoder_layers(config: TinyConfig) -> list[Layer]:
    """List the decoder's layers.

    Args:
        config: the VAE's configuration.
    Returns:
        The layers; the place after "active" and the one before "up" have no tensors.
    """
    width = config.decoder_block_out_channels[0]
    layers, i = [Layer(0, "active", config.latent_channels, width)], 2
    for level, blocks in enumerate(config.num_decoder_blocks):
        layers += [Layer(i + j, "block", width, width) for j in range(blocks)]
        i += blocks
        if level < len(config.num_decoder_blocks) - 1:
            layers.append(Layer(i + 1, "up", width, width))
            i += 2
    return [*layers, Layer(i, "conv", width, config.out_channels)]


def shapes(config: TinyConfig) -> dict[str, tuple[int, ...]]:
    """List the tensors of an AutoencoderTiny.

    Args:
        config: the VAE's configuration.
    Returns:
        Each tensor's name in the checkpoint, and its shape.
    """
    out: dict[str, tuple[int, ...]] = {}
    for half, layers in (("encoder", encoder_layers(config)), ("decoder", decoder_layers(config))):
        for i, kind, channels_in, channels_out in layers:
            for part in (".conv.0", ".conv.2", ".conv.4") if kind == "block" else ("",):
                name = f"{half}.layers.{i}{part}"
                out[f"{name}.weight"] = (channels_out, channels_in, 3, 3)
                if kind not in ("down", "up"):
                    out[f"{name}.bias"] = (channels_out,)
    return out


def read_config(json: Json) -> TinyConfig:
    """Make the configuration of a parsed vae/config.json.

    Args:
        json: the file's content, as diffusers writes it for AutoencoderTiny.
    Returns:
        The configuration.
    Raises:
        TypeError: json is no dict.
        ValueError: a field is unknown, or has a value that isn't supported.
    """
    fixed = {
        "act_fn": ("relu",),
        "upsample_fn": ("nearest",),
        "upsampling_scaling_factor": (2,),
        "shift_factor": (0.0, None),
    }
    ignored = ("force_upcast", "block_out_channels")
    return config_.read(TinyConfig, json, fixed=fixed, ignored=ignored, component="vae")


def to_json(config: TinyConfig) -> Json:
    """Write a configuration as the config.json that diffusers reads.

    Args:
        config: the VAE's configuration.
    Returns:
        The file's content.
    """
    return {
        "_class_name": "AutoencoderTiny",
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
        "shift_factor": 0.0,
        "force_upcast": False,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()},
    }
