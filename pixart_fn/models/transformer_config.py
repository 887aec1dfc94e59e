"""The configuration of a PixArt transformer, the names and shapes of its tensors, and its initial weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from mindspore import Tensor

from .. import config as config_
from .. import rng, tree
from ..checks import check_type
from ..types import Json, Key, Tree
from . import compression
from .compression import Compression as Compression

FREQUENCIES = 256
"""Width of the sinusoidal embedding of a number."""


@dataclass(frozen=True)
class Config:
    """The fields of transformer/config.json that shape the computation.

    Raises:
        ValueError: a field is out of its range, the fields contradict each other, or the width can't be divided as
            positions, or where there are micro-conditions these, need it.
    """

    num_attention_heads: config_.Width = 16
    attention_head_dim: config_.Width = 72
    in_channels: config_.Width = 4
    out_channels: config_.Width = 8
    num_layers: config_.Layers = 28
    cross_attention_dim: config_.Width = 1152
    sample_size: config_.Side = 128
    patch_size: config_.Side = 2
    norm_eps: config_.Epsilon = 1e-6
    interpolation_scale: config_.Positive | None = None
    use_additional_conditions: bool | None = None
    caption_channels: config_.Width = 4096
    kv_compression: Compression | None = None

    def __post_init__(self) -> None:
        config_.check(self, "transformer")
        if self.cross_attention_dim != self.width:
            raise ValueError(
                f"transformer config: cross_attention_dim {self.cross_attention_dim} contradicts "
                f"num_attention_heads · attention_head_dim = {self.width}; captions are projected to the latter"
            )
        if self.sample_size < self.patch_size:
            raise ValueError(
                f"transformer config: sample_size must be at least patch_size = {self.patch_size}, got"
                f" {self.sample_size}"
            )
        if self.width % 4:
            raise ValueError(f"transformer config: the width must be divisible by 4, got {self.width}")
        if self.conditions and self.width % 3:
            raise ValueError(f"transformer config: micro-conditions need a width divisible by 3, got {self.width}")
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"transformer config: out_channels must be in_channels = {self.in_channels} or twice that "
                f"(learned variance), got {self.out_channels}"
            )
        if self.kv_compression is not None and max(self.kv_compression.layers) >= self.num_layers:
            raise ValueError(
                f"transformer config: kv_compress_layer must be within 0 … {self.num_layers - 1}, got"
                f" {max(self.kv_compression.layers)}"
            )

    @property
    def width(self) -> int:
        """D, the width of a patch in the blocks."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def conditions(self) -> bool:
        """Whether the model sees resolution and aspect ratio; left open, a sample size of 128 decides."""
        return self.sample_size == 128 if self.use_additional_conditions is None else self.use_additional_conditions

    @property
    def scale(self) -> float:
        """By how much positions are stretched, as `transformer.positions` does it."""
        return max(self.sample_size // 64, 1) if self.interpolation_scale is None else self.interpolation_scale


def check_config(config: Config) -> None:
    """Raise a TypeError where it isn't the configuration of a transformer."""
    check_type("config", config, Config, "a transformer.Config")


def read_config(json: Json) -> Config:
    """Make the configuration of a parsed transformer/config.json.

    Args:
        json: the file's content, as diffusers writes it for PixArtTransformer2DModel.
    Returns:
        The configuration.
    Raises:
        TypeError: json is no dict.
        ValueError: a field is unknown, or has a value that isn't supported.
    """
    fixed = {
        "activation_fn": ("gelu-approximate",),
        "attention_bias": (True,),
        "attention_type": ("default", None),
        "double_self_attention": (False,),
        "norm_elementwise_affine": (False,),
        "norm_type": ("ada_norm_single",),
        "num_embeds_ada_norm": (1000,),
        "num_vector_embeds": (None,),
        "only_cross_attention": (False,),
        "upcast_attention": (False,),  # every softmax here is float32 anyway
        "use_linear_projection": (False,),
    }
    config_.check_object(json, "transformer")
    if "out_channels" in json and json["out_channels"] is None:
        json = {**json, "out_channels": json.get("in_channels", Config.in_channels)}
    ignored = ("dropout", "norm_num_groups")
    if "kv_compress_config" in json:
        others = {name: value for name, value in json.items() if name != "kv_compress_config"}
        json = {**others, "kv_compression": compression.read(json["kv_compress_config"])}
    return config_.read(Config, json, fixed=fixed, ignored=ignored, component="transformer")


def to_json(config: Config) -> Json:
    """Write a configuration as the config.json that diffusers reads.

    Args:
        config: the transformer's configuration.
    Returns:
        The file's content.
    Raises:
        TypeError: config isn't a Config.
    """
    check_config(config)
    fields = {name: value for name, value in asdict(config).items() if name != "kv_compression"}
    if config.kv_compression is not None:  # diffusers has no such field
        fields["kv_compress_config"] = compression.to_json(config.kv_compression)
    return {
        "_class_name": "PixArtTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_type": "default",
        "norm_elementwise_affine": False,
        "norm_type": "ada_norm_single",
        "num_embeds_ada_norm": 1000,
        **fields,
    }


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """List the tensors of a transformer.

    Args:
        config: the transformer's configuration.
    Returns:
        Each tensor's name in the checkpoint, and its shape.
    Raises:
        TypeError: config isn't a Config.
    """
    check_config(config)
    out: dict[str, tuple[int, ...]] = {}
    D, p = config.width, config.patch_size

    def linear(name: str, channels_in: int, channels_out: int) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = (channels_out, channels_in), (channels_out,)

    def embedder(name: str, channels_in: int, channels_out: int) -> None:
        linear(f"{name}.linear_1", channels_in, channels_out)
        linear(f"{name}.linear_2", channels_out, channels_out)

    out["pos_embed.proj.weight"], out["pos_embed.proj.bias"] = (D, config.in_channels, p, p), (D,)
    embedder("adaln_single.emb.timestep_embedder", FREQUENCIES, D)
    if config.conditions:
        embedder("adaln_single.emb.resolution_embedder", FREQUENCIES, D // 3)
        embedder("adaln_single.emb.aspect_ratio_embedder", FREQUENCIES, D // 3)
    linear("adaln_single.linear", D, 6 * D)
    embedder("caption_projection", config.caption_channels, D)
    for i in range(config.num_layers):
        block = f"transformer_blocks.{i}"
        out[f"{block}.scale_shift_table"] = (6, D)
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                linear(f"{block}.{attention}.{part}", D, D)
        more = compression.shapes(config.kv_compression, i, D)
        out |= {f"{block}.attn1.{name}": shape for name, shape in more.items()}
        linear(f"{block}.ff.net.0.proj", D, 4 * D)
        linear(f"{block}.ff.net.2", 4 * D, D)
    out["scale_shift_table"] = (2, D)
    linear("proj_out", D, p * p * config.out_channels)
    return out


def init(key: Key, config: Config) -> Tree:
    """Draw initial weights, nearly as PixArt-α does.

    Linear layers are Xavier's, tables N(0, 1/D) and the modulation N(0, 0.02²). Biases are zero, and so are the weights
    through which text enters the residual stream (attn2.to_out) and the weights of the output (proj_out). Keys and
    values are compressed to averages. Embedders are N(0, 1/fan-in). For T5-XXL's 4096 channels that is about the
    original's 0.02; for a narrow text encoder 0.02 would make the text too weak to be learned.

    Args:
        key: of the drawing, from `px.key`.
        config: the transformer's configuration.
    Returns:
        The tree, of float32 Tensors.
    Raises:
        TypeError: config isn't a Config, or key isn't an array.
        ValueError: key isn't a key.
    """
    rng.check_key(key)
    flat = {}
    for i, (name, shape) in enumerate(shapes(config).items()):
        if name.endswith("bias") or "attn2.to_out" in name or name.startswith("proj_out"):
            value = np.zeros(shape, np.float32)
        elif ".sr." in name or ".norm." in name:  # an average
            value = np.full(shape, 1 / np.prod(shape[1:]), np.float32)
        else:
            if name.endswith("table"):
                scale = config.width**-0.5
            elif name.startswith("adaln_single.linear"):
                scale = 0.02
            elif "embedder" in name or name.startswith("caption_projection"):
                scale = shape[1] ** -0.5
            else:
                scale = (2 / (shape[0] + np.prod(shape[1:]))) ** 0.5
            value = rng.normal(rng.fold_in(key, i), shape) * np.float32(scale)
        flat[name] = Tensor.from_numpy(value)
    return tree.nest(flat)
