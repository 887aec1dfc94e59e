"""PixArt's authors' names of a transformer's tensors, and those that diffusers has for them.

The authors keep queries, keys and values in one tensor each for self-attention and cross-attention, one under another.
What a model's configuration says is in no file of theirs; it follows from the tensors, as far as it does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from ..checks import first_few, shown
from ..files.tensors import FLOATS, Held, Joined, Leaf, Tensor
from ..models import transformer
from ..models.compression import Compression
from ..process.notes import warn

Part: TypeAlias = Tensor | Held
"""A tensor that can be taken apart by its rows."""

ROOT = {
    "x_embedder.proj": ("pos_embed.proj",),
    "y_embedder.y_proj.fc1": ("caption_projection.linear_1",),
    "y_embedder.y_proj.fc2": ("caption_projection.linear_2",),
    **{
        f"{name}.mlp.{number}": (f"adaln_single.emb.{other}.linear_{i}",)
        for name, other in (
            ("t_embedder", "timestep_embedder"),
            ("csize_embedder", "resolution_embedder"),
            ("ar_embedder", "aspect_ratio_embedder"),
        )
        for i, number in ((1, 0), (2, 2))
    },
    "t_block.1": ("adaln_single.linear",),
    "final_layer.linear": ("proj_out",),
    "final_layer.scale_shift_table": ("scale_shift_table",),
}
"""The names outside of the blocks, without ".weight" or ".bias"."""
BLOCK = {
    "scale_shift_table": ("scale_shift_table",),
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "attn.sr": ("attn1.sr",),
    "attn.norm": ("attn1.norm",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
}
"""The names within a block, likewise; several are the parts of one tensor, one under another."""
KEPT = {"pos_embed": "pos_embed.pos_embed", "y_embedder.y_embedding": "caption_projection.y_embedding"}
"""What diffusers computes anew or leaves out, and what some files in its layout call it."""
SCALES = {"alpha": {256: 1.0, 512: 1.0, 1024: 2.0}, "sigma": {256: 0.5, 512: 1.0, 1024: 2.0, 2048: 4.0}}
"""By how much the positions of the released models are stretched, by their size in pixels. The first converter of the
authors has 0.5 for PixArt-α's 256, which the one of PixArt-Σ corrected."""
SIZES = (256, 512, 1024, 2048)
TOKENS = {120: "alpha", 300: "sigma"}
"""Which of the two a model is, by the tokens of its y_embedding."""
HEADS = {1152: 16}
"""The heads of the released models, by their width, since no tensor says them."""
USER = 7
"""How many calls the caller of `convert` is above `_size`; a warning names that line."""
FACTOR = 8
"""Pixels along a side for one latent, in the VAEs of both."""
_NEAR = 0.01
"""By how much positions may be off: float16 and bfloat16 round them, and another scale moves them much more."""
_IN_BLOCK = re.compile(r"(transformer_blocks|blocks)\.(\d{1,4})\.(.+)")
_OTHERS = (
    (r"attn\.[qk]_norm\.", "norms of queries and keys (qk_norm), which no released PixArt has; they aren't supported"),
    (r"attn\.rel_pos", "relative positions in windows, which no released PixArt has; they aren't supported"),
    (r"controlnet\.", "a ControlNet, which isn't a transformer alone"),
)


def to_diffusers(leaves: Mapping[str, Part], where: str) -> tuple[dict[str, Part], dict[str, Part]]:
    """Give tensors diffusers' names, and take the joined ones apart.

    Args:
        leaves: tensors by the authors' names, which may have a common prefix such as "module.".
        where: what an error calls the file.
    Returns:
        The tensors by diffusers' names, and those of KEPT by the authors' names.
    Raises:
        ValueError: they aren't the tensors of a PixArt transformer.
    """
    model: dict[str, Part] = {}
    kept: dict[str, Part] = {}
    unknown = []
    for name, leaf in _unprefixed(leaves, where).items():
        names = _names(name)
        if not names and name not in KEPT:
            unknown.append(name)
        elif leaf.dtype not in FLOATS:
            raise ValueError(f"{where} holds {name} in {leaf.dtype}, and rounding isn't done here; make it float32")
        elif name in KEPT:
            kept[name] = leaf
        elif len(names) == 1:
            model[names[0]] = leaf
        else:
            model.update(_apart(names, leaf, f"{name} in {where}"))
    if unknown:
        raise ValueError(_surplus(unknown, where))
    return model, kept


def to_authors(leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """Give tensors the authors' names, and join those that the authors have in one.

    Args:
        leaves: tensors by diffusers' names; those that belong into one must all be there.
    Returns:
        The tensors by the authors' names.
    Raises:
        ValueError: parts of one tensor are of several types.
    """
    parts: dict[str, dict[str, Leaf]] = {}
    for name, leaf in leaves.items():
        parts.setdefault(_whole(name), {})[name] = leaf
    joined: dict[str, Leaf] = {}
    for name, own in parts.items():
        ordered = [own[each] for each in _names(name)]
        if len({leaf.dtype for leaf in ordered}) > 1:
            raise ValueError(
                f"{first_few(own)} must be of one type of numbers, since the authors have them in one tensor"
            )
        joined[name] = ordered[0] if len(ordered) == 1 else Joined(ordered)
    return joined


def _names(name: str) -> tuple[str, ...]:
    """Return diffusers' names for one of the authors'; none if it isn't one."""
    match = _IN_BLOCK.fullmatch(name)
    if match and match[1] == "transformer_blocks":
        return ()
    rest, table, home = (match[3], BLOCK, f"transformer_blocks.{match[2]}.") if match else (name, ROOT, "")
    stem, kind = _stem(rest)
    return tuple(f"{home}{each}{kind}" for each in table.get(stem, ()))


def _whole(name: str) -> str:
    """Return the authors' name for the tensor that one of diffusers' is, or is a part of."""
    match = _IN_BLOCK.fullmatch(name)
    rest, table, home = (match[3], BLOCK, f"blocks.{match[2]}.") if match else (name, ROOT, "")
    stem, kind = _stem(rest)
    return home + next(own for own, others in table.items() if stem in others) + kind


def _stem(name: str) -> tuple[str, str]:
    """Return a name without its ending, and the ending: ".weight", ".bias" or ""."""
    match = re.fullmatch(r"(.+)(\.weight|\.bias)", name)
    return (match[1], match[2]) if match else (name, "")


def _unprefixed(leaves: Mapping[str, Part], where: str) -> Mapping[str, Part]:
    """Return the tensors without what all their names begin with, as wrappers for training have it."""
    first = "x_embedder.proj.weight"
    prefixes = [name.removesuffix(first) for name in leaves if f".{name}".endswith(f".{first}")]
    if len(prefixes) != 1:
        if any(name.startswith("transformer_blocks.") for name in leaves):
            raise ValueError(
                f"{where} has diffusers' names already, which diffusers' save_pretrained writes to a folder"
            )
        raise ValueError(f"{where} holds no transformer of PixArt: {first} is missing among {first_few(leaves)}")
    others = [name for name in leaves if not name.startswith(prefixes[0])]
    if others:
        raise ValueError(_surplus(others, where))
    return {name.removeprefix(prefixes[0]): leaf for name, leaf in leaves.items()}


def _surplus(names: list[str], where: str) -> str:
    for pattern, what in _OTHERS:
        if found := [name for name in names if re.search(pattern, name)]:
            return f"{where} holds {what}: {first_few(found, 3)}"
    return f"{where} holds tensors that PixArt's transformer doesn't have: {first_few(names)}"


def _apart(names: tuple[str, ...], leaf: Part, where: str) -> dict[str, Part]:
    n = len(names)
    if not leaf.shape or leaf.shape[0] % n:
        raise ValueError(f"{where} must be {n} tensors, one under another, and has the shape {leaf.shape}")
    rows = leaf.shape[0] // n
    return {name: leaf.rows(i * rows, (i + 1) * rows) for i, name in enumerate(names)}


# --- the configuration ------------------------------------------------------------------------------------------------


def configuration(
    model: Mapping[str, Part],
    kept: Mapping[str, Part],
    where: str,
    *,
    size: int | None,
    version: str | None,
    heads: int | None,
) -> transformer.Config:
    """Find the configuration of a model.

    Args:
        model: its tensors by diffusers' names.
        kept: those of KEPT by the authors' names.
        where: what an error calls the file.
        size: the side in pixels that it was trained at, one of SIZES; None where the tensors say it.
        version: "alpha" or "sigma"; None where the tensors say it, or it doesn't matter.
        heads: of its attention; None for a width in HEADS.
    Returns:
        The configuration.
    Raises:
        ValueError: something isn't known and must be given, or the shapes contradict each other.
    """
    width, channels, patch, _ = _shape(model, "pos_embed.proj.weight", 4, where)
    _, captions = _shape(model, "caption_projection.linear_1.weight", 2, where)
    rows, _ = _shape(model, "proj_out.weight", 2, where)
    A = HEADS.get(width) if heads is None else heads
    if A is None or width % A:
        given = f"{width} isn't divisible by {A}" if A else "no tensor says how many heads its attention has"
        raise ValueError(f"{where} has a width of {width}, and {given}; give heads=, as its configuration has it")
    conditions = "adaln_single.emb.resolution_embedder.linear_1.weight" in model
    config = transformer.Config(
        num_attention_heads=A, attention_head_dim=width // A, cross_attention_dim=width, in_channels=channels,
        out_channels=max(rows // max(patch**2, 1), 1), patch_size=patch, caption_channels=captions,
        num_layers=1 + max((int(match[2]) for match in map(_IN_BLOCK.fullmatch, model) if match), default=0),
        use_additional_conditions=conditions, kv_compression=_compression(model), interpolation_scale=1.0,
    )  # fmt: skip
    sample, scale = _size(config, kept, where, size, version)
    return replace(config, sample_size=sample, interpolation_scale=scale)


def _shape(model: Mapping[str, Part], name: str, sides: int, where: str) -> tuple[int, ...]:
    if name not in model:
        raise ValueError(f"{where} holds no {_whole(name)}, which a transformer of PixArt has")
    if len(model[name].shape) != sides or 0 in model[name].shape:
        raise ValueError(f"{where} holds {_whole(name)} with the shape {model[name].shape}, where {sides} sides belong")
    return model[name].shape


def _compression(model: Mapping[str, Part]) -> Compression | None:
    """Return what the convolutions say that make one key of several; other ways to do that leave nothing in a file."""
    found = {}
    for name, leaf in model.items():
        if (match := _IN_BLOCK.fullmatch(name)) and match[3] == "attn1.sr.weight":
            found[int(match[2])] = leaf.shape[-1] if leaf.shape else 0
    return Compression("conv", found[min(found)], tuple(sorted(found))) if found else None


def _size(
    config: transformer.Config, kept: Mapping[str, Part], where: str, size: int | None, version: str | None
) -> tuple[int, float]:
    """Return sample_size and interpolation_scale: what was given, or else what the file's own positions say."""
    tokens = kept["y_embedder.y_embedding"].shape[:1] if "y_embedder.y_embedding" in kept else ()
    own = TOKENS.get(tokens[0]) if tokens else None
    if version is not None and own is not None and version != own:
        raise ValueError(
            f"version={version!r} contradicts {where}, whose y_embedding has {tokens[0]} tokens as {own} has"
        )
    version = version or own or ("alpha" if config.conditions else None)
    sample, scale = _positions(config, kept, where) if "pos_embed" in kept else (None, None)
    if size is None:
        if sample is not None and scale is not None:
            return sample, scale
        if config.conditions and sample in (None, 128):  # only the model of 1024 pixels has them
            return 128, 2.0
        why = (
            "holds no pos_embed, which says" if sample is None else "holds a pos_embed of an unknown scale, which hides"
        )
        raise ValueError(f"{where} {why} the size; give size=256, 512, 1024 or 2048")
    if size // FACTOR == sample and scale is not None:
        return sample, scale
    if sample is not None:
        unknown = "" if scale is not None else " and an unknown scale"
        pixels = sample * FACTOR
        warn(f"{where} holds positions of {pixels} pixels{unknown}; size={size} is taken", stacklevel=USER)
    if version is None and len({scales[size] for scales in SCALES.values() if size in scales}) > 1:
        raise ValueError(f"size={size} needs version='alpha' or 'sigma', since nothing in {where} says which it is")
    scales = SCALES[version or "sigma"]
    if size not in scales:
        raise ValueError(f"size={size} must be {', '.join(map(str, scales))} for version={version!r}")
    return size // FACTOR, scales[size]


def _positions(config: transformer.Config, kept: Mapping[str, Part], where: str) -> tuple[int, float | None]:
    """Return sample_size and the scale with which the model's own positions are those of the file; None if none is."""
    leaf = kept["pos_embed"]
    n = math.isqrt(leaf.shape[1]) if len(leaf.shape) == 3 else 0
    if leaf.shape != (1, n * n, config.width) or not n:
        shape = f"(1, n·n, {config.width})"
        raise ValueError(f"{where} holds pos_embed with the shape {shown(leaf.shape)}, where {shape} belongs")
    sample, table = n * config.patch_size, leaf.read()
    for scale in sorted((0.5, 1.0, 2.0, 4.0), key=lambda each: abs(math.log(each * 32 / n))):  # the likely one first
        tried = replace(config, sample_size=sample, interpolation_scale=scale)
        if np.abs(transformer.positions(tried, sample, sample).asnumpy() - table).max() < _NEAR:
            return sample, scale
    return sample, None
