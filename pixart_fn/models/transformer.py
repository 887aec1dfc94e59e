"""The PixArt transformer: ε and the learned variance of noisy latents, given text (arXiv:2310.00426, fig. 4).

B batch, C latent channels, h/w latent size, p patch, N = (h/p)(w/p) patches, D width, A heads, K head width, L text
tokens. Names and numerics are those of diffusers' PixArtTransformer2DModel.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from .. import config as config_
from .. import rng, tree
from ..backend import jit, nn
from ..backend.arrays import as_float, as_tensor, check_mask
from ..checks import kind
from ..public import public
from ..types import Array, Json, Key, Tree

FREQUENCIES = 256  # width of the sinusoidal embedding of a number
MASKED = -10000.0  # what diffusers adds to the scores of padding
SCORES = 2**25
"""Numbers in the scores of self-attention at a time: 128 MiB."""
ROWS = 2**11
"""Patches of all pictures that go through the rest of a block at a time, where attention goes in parts."""


class Captions(NamedTuple):
    """Text as the blocks see it: for each its keys and values (B, A, L, K), and the bias of padding (B, 1, 1, L)."""

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor


@dataclass(frozen=True)
class Config:
    """The fields of transformer/config.json that shape the computation."""

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int = 8
    num_layers: int = 28
    cross_attention_dim: int = 1152
    sample_size: int = 128
    patch_size: int = 2
    norm_eps: float = 1e-6
    interpolation_scale: float | None = None
    use_additional_conditions: bool | None = None
    caption_channels: int = 4096

    def __post_init__(self):
        if self.cross_attention_dim != self.width:
            raise ValueError(
                f"transformer config: cross_attention_dim {self.cross_attention_dim} contradicts "
                f"num_attention_heads · attention_head_dim = {self.width}; captions are projected to the latter"
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

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def conditions(self) -> bool:
        """Whether the model sees resolution and aspect ratio; left open, a sample size of 128 decides."""
        return self.sample_size == 128 if self.use_additional_conditions is None else self.use_additional_conditions

    @property
    def scale(self) -> float:
        """By how much positions are stretched against a grid of sample_size."""
        return max(self.sample_size // 64, 1) if self.interpolation_scale is None else self.interpolation_scale


def read_config(json: Json) -> Config:
    """The configuration in a parsed transformer/config.json; ValueError for what isn't computed here."""
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
    if "out_channels" in json and json["out_channels"] is None:
        json = {**json, "out_channels": json.get("in_channels", Config.in_channels)}
    return config_.read(Config, json, fixed=fixed, ignored=("dropout", "norm_num_groups"))


def to_json(config: Config) -> Json:
    """The config.json that diffusers reads."""
    return {
        "_class_name": "PixArtTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_type": "default",
        "norm_elementwise_affine": False,
        "norm_type": "ada_norm_single",
        "num_embeds_ada_norm": 1000,
        **asdict(config),
    }


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Each tensor's name in the checkpoint and its shape."""
    out: dict[str, tuple[int, ...]] = {}
    D, p = config.width, config.patch_size

    def linear(name, channels_in, channels_out):
        out[f"{name}.weight"], out[f"{name}.bias"] = (channels_out, channels_in), (channels_out,)

    def embedder(name, channels_in, channels_out):
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
        linear(f"{block}.ff.net.0.proj", D, 4 * D)
        linear(f"{block}.ff.net.2", 4 * D, D)
    out["scale_shift_table"] = (2, D)
    linear("proj_out", D, p * p * config.out_channels)
    return out


def init(key: Key, config: Config) -> Tree:
    """Fresh weights much as PixArt-α starts them: Xavier linears, tables / √D, N(0, 0.02) modulation, and zeros where
    text enters the residual stream (attn2.to_out) and where it leaves it (proj_out).

    Embedders are scaled by 1/√fan-in: about the original's 0.02 for T5-XXL's 4096 channels, where 0.02 itself would
    mute the text of a narrow encoder by two orders of magnitude, and training would hardly find it.
    """
    flat = {}
    for i, (name, shape) in enumerate(shapes(config).items()):
        if name.endswith("bias") or "attn2.to_out" in name or name.startswith("proj_out"):
            value = np.zeros(shape, np.float32)
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


@public
def apply(
    p: Tree,
    config: Config,
    x: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    resolution: Tensor | None = None,
    aspect_ratio: Tensor | None = None,
    *,
    perturbed: Collection[int] = (),
) -> Tensor:
    """The network's raw output for noisy latents.

    Args:
        p: the transformer's tree.
        x: (B, C, h, w) float32, h and w multiples of the patch size.
        t: (B,) float32, in training-time units 0 … 999; fractions are fine.
        text: (B, L, caption_channels) float32. mask: (B, L), 1 where a token is real.
        resolution: (B, 2) height and width in pixels. aspect_ratio: (B, 1) height / width. Both where the
            configuration has micro-conditions, neither elsewhere.
        perturbed: the blocks, from 0, in which self-attention is the identity: each patch sees itself alone, as
            perturbed-attention guidance wants it (arXiv:2403.17377).
    Returns: (B, out_channels, h, w): ε in the first C channels, then, if there are more, the learned variance.
    Raises: TypeError, ValueError: an input isn't as above; micro-conditions are missing, or given to a model without
        them; there is no such block.
    """
    check_latents(config, x)
    mask = as_tensor(mask, "mask")
    if len(x) != mask.shape[0]:
        raise ValueError(f"x has {len(x)} rows and the text has {mask.shape[0]}; they must be as many")
    context = captions(p, config, text, mask)
    return evaluate(p, config, x, t, context, resolution, aspect_ratio, perturbed=perturbed)


def captions(p: Tree, config: Config, text: Tensor, mask: Tensor) -> Captions:
    """What all the blocks' cross-attentions see of the text: once a prompt, for every step.

    Args: text: (B, L, caption_channels) float32. mask: (B, L), 1 where a token is real.
    """
    text, mask = as_float(text, "text"), as_tensor(mask, "mask")
    if text.ndim != 3 or text.shape[2] != config.caption_channels:
        raise ValueError(f"text must have the shape (B, L, {config.caption_channels}), got {tuple(text.shape)}")
    if tuple(mask.shape) != tuple(text.shape[:2]):
        raise ValueError(f"mask must have the shape {tuple(text.shape[:2])} of the text, got {tuple(mask.shape)}")
    check_mask(mask, "mask")
    text = _caption(p["caption_projection"], text)
    attentions = [block["attn2"] for block in p["transformer_blocks"]]
    pairs = [_keys_values({"k": a["to_k"], "v": a["to_v"]}, text, config=config) for a in attentions]
    keys, values = (list(parts) for parts in zip(*pairs, strict=True))
    return Captions(keys, values, ((1.0 - mask.float()) * MASKED).reshape(mask.shape[0], 1, 1, mask.shape[1]))


def evaluate(
    p: Tree,
    config: Config,
    x: Tensor,
    t: Tensor,
    context: Captions,
    resolution: Tensor | None = None,
    aspect_ratio: Tensor | None = None,
    *,
    perturbed: Collection[int] = (),
) -> Tensor:
    """`apply` with the text as `captions` gives it."""
    check_latents(config, x)
    x, t = as_float(x, "x"), as_tensor(t, "t").float()
    if tuple(t.shape) != (len(x),):
        raise ValueError(f"t must have the shape ({len(x)},), one time a row of x, got {tuple(t.shape)}")
    if not set(perturbed) <= set(range(config.num_layers)):
        raise ValueError(f"perturbed must name blocks within 0 … {config.num_layers - 1}, got {sorted(perturbed)}")
    given = resolution is not None, aspect_ratio is not None
    if given != (config.conditions,) * 2:
        needs = "needs resolution and aspect_ratio" if config.conditions else "takes no resolution or aspect_ratio"
        raise ValueError(f"this transformer {needs} (use_additional_conditions = {config.conditions})")
    if resolution is not None and aspect_ratio is not None:
        resolution, aspect_ratio = as_float(resolution, "resolution"), as_float(aspect_ratio, "aspect_ratio")
        if (tuple(resolution.shape), tuple(aspect_ratio.shape)) != ((len(x), 2), (len(x), 1)):
            got = f"{tuple(resolution.shape)} and {tuple(aspect_ratio.shape)}"
            raise ValueError(f"resolution must be ({len(x)}, 2) and aspect_ratio ({len(x)}, 1), got {got}")
        condition, modulation = _condition_sized(
            p["adaln_single"], sinusoid(t), sinusoid(resolution.reshape(-1)), sinusoid(aspect_ratio.reshape(-1))
        )
    else:
        condition, modulation = _condition(p["adaln_single"], sinusoid(t))
    h, w = x.shape[2:]
    x = _embed(p["pos_embed"]["proj"], x, positions(config, h, w), config=config)
    for i, (block, keys, values) in enumerate(zip(p["transformer_blocks"], context.keys, context.values, strict=True)):
        x = _block(_own(block), x, modulation, keys, values, context.bias, config, i in perturbed)
    head = {"scale_shift_table": p["scale_shift_table"], "proj_out": p["proj_out"]}
    return unpatchify(_head(head, x, condition, config=config), config, h, w)


def check_latents(config: Config, x: Array) -> None:
    """Raise where x isn't an array of noisy latents that the patches divide."""
    shape, patch = tuple(getattr(x, "shape", ())), config.patch_size
    if not isinstance(x, (Tensor, np.ndarray)):
        raise TypeError(f"x must be a Tensor or an array, got {kind(x)}")
    if len(shape) != 4 or shape[1] != config.in_channels or 0 in shape or shape[2] % patch or shape[3] % patch:
        raise ValueError(
            f"x must have the shape (B, {config.in_channels}, h, w) with h and w multiples of {patch}, got {shape}"
        )


def sinusoid(t: Tensor) -> Tensor:
    """[cos(t ω), sin(t ω)] with ω from 1 to 1/10000: (B,) → (B, 256)."""
    half = FREQUENCIES // 2
    exponent = np.float32(-np.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(half)
    omega = np.exp(exponent.astype(np.float64)).astype(np.float32)  # NumPy's float32 exp is an ulp off torch's
    angle = t.float().reshape(-1, 1) * Tensor.from_numpy(omega)
    return ops.cat([ops.cos(angle), ops.sin(angle)], 1)


@functools.lru_cache(maxsize=64)
def positions(config: Config, h: int, w: int) -> Tensor:
    """The sine-cosine embedding of each patch: (1, N, D) float32; x in the first half of the width, y in the second.

    Coordinates are i / (grid / base) / scale with base = sample_size / patch_size, so that a model sees the same
    range at every size.
    """
    base, p = config.sample_size // config.patch_size, config.patch_size

    def axis(n: int) -> np.ndarray:
        # float32 as in diffusers, where this is the only place that rounds
        return np.arange(n, dtype=np.float32) / np.float32(n / base) / np.float32(config.scale)

    quarter = config.width // 4
    omega = 1.0 / 10000 ** (np.arange(quarter, dtype=np.float64) / quarter)

    def embed(coordinate: np.ndarray) -> np.ndarray:
        angle = coordinate.reshape(-1, 1) * omega
        return np.concatenate([np.sin(angle), np.cos(angle)], 1)

    x, y = np.meshgrid(axis(w // p), axis(h // p))
    return Tensor.from_numpy(np.concatenate([embed(x), embed(y)], 1)[None].astype(np.float32))


def unpatchify(x: Tensor, config: Config, h: int, w: int) -> Tensor:
    """(B, N, p·p·C) → (B, C, h, w)."""
    p, C = config.patch_size, config.out_channels
    x = x.reshape(-1, h // p, w // p, p, p, C)  # (B, rows, columns, p, q, C)
    return ops.transpose(x, (0, 5, 1, 3, 2, 4)).reshape(-1, C, h, w)


def _mlp_silu(p, x):
    return nn.linear(p["linear_2"], nn.silu(nn.linear(p["linear_1"], x)))


@jit.block
def _condition(p, t, config):
    condition = _mlp_silu(p["emb"]["timestep_embedder"], t)
    return condition, nn.linear(p["linear"], nn.silu(condition))


@jit.block
def _condition_sized(p, t, resolution, aspect_ratio, config):
    B = t.shape[0]
    size = _mlp_silu(p["emb"]["resolution_embedder"], resolution).reshape(B, -1)  # (B, 2 D/3)
    ratio = _mlp_silu(p["emb"]["aspect_ratio_embedder"], aspect_ratio).reshape(B, -1)  # (B, D/3)
    condition = _mlp_silu(p["emb"]["timestep_embedder"], t) + ops.cat((size, ratio), 1)
    return condition, nn.linear(p["linear"], nn.silu(condition))


@jit.block
def _caption(p, text, config):
    return nn.linear(p["linear_2"], nn.gelu_tanh(nn.linear(p["linear_1"], text)))


@jit.block
def _embed(p, x, position, config):
    B, C, h, w = x.shape
    n = config.patch_size
    x = ops.transpose(x.reshape(B, C, h // n, n, w // n, n), (0, 2, 4, 1, 3, 5))  # (B, rows, columns, C, p, q)
    x = nn.linear(p, x.reshape(B, -1, C * n * n))
    return ops.cast(x + position, x.dtype)


@jit.block
def _keys_values(p, text, config):
    heads = config.num_attention_heads
    return nn.split_heads(nn.linear(p["k"], text), heads), nn.split_heads(nn.linear(p["v"], text), heads)


def _own(block: Tree) -> Tree:
    """A block without what `captions` has used."""
    cross = {name: block["attn2"][name] for name in ("to_q", "to_out")}
    return {"scale_shift_table": block["scale_shift_table"], "attn1": block["attn1"], "attn2": cross, "ff": block["ff"]}


def _block(p, x, modulation, keys, values, bias, config, perturbed):
    """One block in one piece, or where its scores would be too many, attention by heads and the rest by patches."""
    B, N, _ = x.shape
    if perturbed:
        return _block_perturbed(p, x, modulation, keys, values, bias, config=config)
    if nn.flash(x.dtype) or B * config.num_attention_heads * N * N <= SCORES:
        return _block_whole(p, x, modulation, keys, values, bias, config=config)
    own = {"scale_shift_table": p["scale_shift_table"], "attn1": p["attn1"]}
    h = _attend_in_parts(*_queries(own, x, modulation, config=config))
    rows = zip(*(_parts(each, axis, max(1, ROWS // B)) for each, axis in ((x, 1), (h, 2))), strict=True)
    return ops.cat([_rest(p, *row, modulation, keys, values, bias, config=config) for row in rows], 1)


def _attend_in_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Self-attention of (B, A, N, K), some heads at a time, and some queries where one head is still too much."""
    B, A, N, K = q.shape
    heads = max(1, SCORES // (N * N))
    sets = zip(*(_parts(each.reshape(B * A, N, K), 0, heads) for each in (q, k, v)), strict=True)
    out = [ops.cat([_mix(queries, k, v) for queries in _parts(q, 1, SCORES // N)], 1) for q, k, v in sets]
    return ops.cat(out, 0).reshape(B, A, N, K)


def _parts(x: Tensor, axis: int, size: int) -> tuple[Tensor, ...]:
    """x in parts of at most `size` along an axis, as equal as can be."""
    n = x.shape[axis]
    return ops.split(x, -(-n // -(-n // size)), axis) if size < n else (x,)


@jit.block
def _queries(p, x, modulation, config):
    shift, scale, _ = ops.split((p["scale_shift_table"] + modulation.reshape(x.shape[0], 6, -1))[:, :3], 1, axis=1)
    return _self_heads(p["attn1"], nn.modulate(nn.layer_norm(x, config.norm_eps), scale, shift), config)


@jit.block
def _mix(q, k, v, config):
    return nn.mix(q, k, v, None)


@jit.block
def _rest(p, x, h, modulation, keys, values, bias, config):
    table = p["scale_shift_table"] + modulation.reshape(x.shape[0], 6, -1)
    _, _, gate, shift_m, scale_m, gate_m = ops.split(table, 1, axis=1)
    x = nn.gated(x, gate, nn.linear(p["attn1"]["to_out"][0], nn.join_heads(h)))
    return _cross_and_mlp(p, x, shift_m, scale_m, gate_m, keys, values, bias, config)


@jit.block
def _block_whole(p, x, modulation, keys, values, bias, config):
    return _run_block(p, x, modulation, keys, values, bias, config, _attend_self)


@jit.block
def _block_perturbed(p, x, modulation, keys, values, bias, config):
    return _run_block(p, x, modulation, keys, values, bias, config, _see_self)


def _run_block(p, x, modulation, keys, values, bias, config, mix):
    table = p["scale_shift_table"] + modulation.reshape(x.shape[0], 6, -1)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = ops.split(table, 1, axis=1)  # each (B, 1, D)
    h = nn.modulate(nn.layer_norm(x, config.norm_eps), scale_a, shift_a)
    x = nn.gated(x, gate_a, nn.linear(p["attn1"]["to_out"][0], mix(p["attn1"], h, config)))
    return _cross_and_mlp(p, x, shift_m, scale_m, gate_m, keys, values, bias, config)


def _attend_self(p, x, config):
    q, k, v = _self_heads(p, x, config)
    return nn.attend(q, k, v, None)


def _self_heads(p, x, config):
    heads = config.num_attention_heads
    q = nn.split_heads(nn.linear(p["to_q"], x) * config.attention_head_dim**-0.5, heads)
    return q, nn.split_heads(nn.linear(p["to_k"], x), heads), nn.split_heads(nn.linear(p["to_v"], x), heads)


def _see_self(p, x, config):
    return nn.linear(p["to_v"], x)


def _cross_and_mlp(p, x, shift, scale, gate, keys, values, bias, config):
    q = nn.linear(p["attn2"]["to_q"], x) * config.attention_head_dim**-0.5
    h = nn.attend(nn.split_heads(q, config.num_attention_heads), keys, values, bias)
    x = x + nn.linear(p["attn2"]["to_out"][0], h)
    h = nn.modulate(nn.layer_norm(x, config.norm_eps), scale, shift)
    h = nn.linear(p["ff"]["net"]["2"], nn.gelu_tanh(nn.linear(p["ff"]["net"]["0"]["proj"], h)))
    return nn.gated(x, gate, h)


@jit.block
def _head(p, x, condition, config):
    table = p["scale_shift_table"] + condition.reshape(x.shape[0], 1, -1)
    shift, scale = ops.split(table, 1, axis=1)
    return ops.cast(nn.linear(p["proj_out"], nn.modulate(nn.layer_norm(x, config.norm_eps), scale, shift)), ms.float32)
