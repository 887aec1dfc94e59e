"""The weights with which a stage of training begins: those of a class-conditional DiT, or of another resolution.

D width, N embedded classes. Numbers are worked out in float64 and stored in float32.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from .. import config as config_
from .. import rng, tree
from ..backend.arrays import check_weights
from ..checkpoint import hub
from ..checkpoint.files import Part, fetch
from ..checkpoint.layout import COMPONENTS, INDEX, choose, read_json, shards
from ..checkpoint.sources import written
from ..checks import check_option, check_type, check_whole, first_few, shown
from ..files.folder import unchanged
from ..files.safetensors import Stored, open_file
from ..models import transformer
from ..models.transformer_config import FREQUENCIES, check_config
from ..public import public
from ..types import Json, Key, Tree

__all__ = ["from_dit", "resized", "with_conditions"]

TIME = 500.0
"""The time at which the transformer begins as the DiT, which the authors found best."""
SPACINGS = {"diffusers": FREQUENCIES // 2 - 1, "original": FREQUENCIES // 2}
"""How many steps lead from the frequency 1 to 1/10000 in the DiT's embedding of time."""
CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")
"""The second is the name that diffusers had when the DiTs were released."""
OF_A_STAGE = ("sample_size", "interpolation_scale", "use_additional_conditions")
"""The fields of a transformer's configuration that differ between the stages of one training."""
EMBEDDERS = tuple(f"adaln_single.emb.{name}_embedder." for name in ("resolution", "aspect_ratio"))


@dataclasses.dataclass(frozen=True)
class _DiT:
    """The fields of a DiT's config.json that shape its weights."""

    num_attention_heads: config_.Width = 16
    attention_head_dim: config_.Width = 72
    in_channels: config_.Width = 4
    out_channels: config_.Width | None = None
    num_layers: config_.Layers = 28
    patch_size: config_.Side = 2
    num_embeds_ada_norm: config_.Width = 1000


# --- from a DiT -------------------------------------------------------------------------------------------------------


@public
def from_dit(
    key: Key, config: transformer.Config, source: str | os.PathLike[str], *, compat: str = "diffusers"
) -> Tree:
    """Make a transformer's first weights from a class-conditional DiT ("re-parameterisation", arXiv:2310.00426, 2.3).

    At t = 500 it computes what the DiT computes without a class, whatever the text: cross-attention's output is zero.
    The modulation that all blocks share is the mean of the DiT's, and each block's table holds the difference. At other
    times the two differ, which training has to make up for. Positions aren't weights: they stay the DiT's where
    sample_size / interpolation_scale is the DiT's sample_size.

    Args:
        key: of what a DiT lacks: the caption's projection, cross-attention, and the embedders of micro-conditions.
        config: of the transformer.
        source: a folder in diffusers layout or a hub id such as "facebook/DiT-XL-2-256", of the pipeline or of the
            transformer alone.
        compat: "diffusers" to embed the DiT's t as diffusers does, with 127 steps between its frequencies; or
            "original", with the 128 of the code that it was trained with, which PixArt has too.
    Returns:
        The tree, of float32 Tensors.
    Raises:
        TypeError: an argument has the wrong type.
        FileNotFoundError: there is no such folder, or a file in it is missing.
        OSError: the hub can't give a file, or a file can't be read.
        ValueError: key isn't a key; compat is neither; or the source isn't a DiT, is damaged, or has other sizes than
            config.
    """
    rng.check_key(key)
    check_config(config)
    check_option("compat", compat, list(SPACINGS))
    written(source, "source", "the folder or hub id of a DiT")
    with unchanged((source,), INDEX):
        stored = _opened(source, config)
        flat = dict(tree.items(transformer.init(key, config)))
        flat |= {name: _zeros(leaf) for name, leaf in flat.items() if _silences(name)}
        for name in flat:
            if _dits(name) in stored:
                flat[name] = Tensor.from_numpy(stored[_dits(name)].read())
        for name, value in _modulation(stored, config, compat):
            flat[name] = Tensor.from_numpy(np.ascontiguousarray(value, np.float32))
    return tree.nest(flat)


def _dits(name: str) -> str:
    """Return the DiT's name of a tensor of the transformer, where the DiT has the same tensor."""
    name = name.replace("proj_out.", "proj_out_2.")
    return name.replace("adaln_single.emb.timestep_embedder", "transformer_blocks.0.norm1.emb.timestep_embedder")


def _modulation(
    stored: Mapping[str, Stored], config: transformer.Config, compat: str
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the shared modulation and the tables, by name."""
    first, n = "transformer_blocks.0.norm1", config.num_layers
    weight, bias = np.zeros((6 * config.width, config.width)), np.zeros(6 * config.width)
    modulations = []
    for i in range(n):
        block = f"transformer_blocks.{i}.norm1"
        own = _linear(stored, f"{block}.linear")
        modulations.append(_applied(own, _silu(_without_class(stored, block, compat))))
        weight, bias = weight + own[0] / n, bias + own[1] / n
    yield "adaln_single.linear.weight", weight
    yield "adaln_single.linear.bias", bias
    time = _embedded_time(stored, first, "original")  # (D,), of the transformer itself
    shared = _applied((weight, bias), _silu(time))
    for i, modulation in enumerate(modulations):
        yield f"transformer_blocks.{i}.scale_shift_table", (modulation - shared).reshape(6, -1)
    ends = _applied(_linear(stored, "proj_out_1"), _silu(_without_class(stored, first, compat)))
    yield "scale_shift_table", ends.reshape(2, -1) - time  # shift, then scale, in both


def _without_class(stored: Mapping[str, Stored], norm: str, compat: str) -> NDArray[np.float64]:
    """The condition of a block at TIME with the embedding that stands for no class, which is the last: (D,)."""
    classes = stored[f"{norm}.emb.class_embedder.embedding_table.weight"]
    null: NDArray[np.float64] = classes.rows(np.array([classes.shape[0] - 1], np.int32))[0].astype(np.float64)
    return _embedded_time(stored, norm, compat) + null


def _embedded_time(stored: Mapping[str, Stored], norm: str, compat: str) -> NDArray[np.float64]:
    embedder = f"{norm}.emb.timestep_embedder"
    hidden = _applied(_linear(stored, f"{embedder}.linear_1"), _sinusoid(compat))
    return _applied(_linear(stored, f"{embedder}.linear_2"), _silu(hidden))


def _sinusoid(compat: str) -> NDArray[np.float64]:
    """[cos(t ω), sin(t ω)] at TIME, with float32 angles as `transformer.sinusoid` and diffusers have them: (256,)."""
    steps = np.arange(FREQUENCIES // 2, dtype=np.float32)
    exponent = np.float32(-np.log(10000.0)) * steps / np.float32(SPACINGS[compat])
    angle = (np.float32(TIME) * np.exp(exponent.astype(np.float64)).astype(np.float32)).astype(np.float64)
    return np.concatenate([np.cos(angle), np.sin(angle)])


def _linear(stored: Mapping[str, Stored], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return stored[f"{name}.weight"].read().astype(np.float64), stored[f"{name}.bias"].read().astype(np.float64)


def _applied(linear: tuple[NDArray[np.float64], NDArray[np.float64]], x: NDArray[np.float64]) -> NDArray[np.float64]:
    weight, bias = linear
    y: NDArray[np.float64] = weight @ x + bias
    return y


def _silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    y: NDArray[np.float64] = x / (1 + np.exp(-x))
    return y


# --- the DiT's files --------------------------------------------------------------------------------------------------


def _opened(source: str | os.PathLike[str], config: transformer.Config) -> dict[str, Stored]:
    """Open a DiT's weights, unread, after all that can be checked without them was."""
    place = hub.find(source)
    part = Part(place, "transformer" if place.has("transformer/config.json") else "")
    if not place.has(part.file("config.json")[1]):
        raise place.lacks("transformer/config.json", "; give the pipeline of a DiT, or its transformer")
    settings = part.file("config.json")
    dit = _read_config(read_json(fetch([settings])[settings]), str(place))
    _check_sizes(dit, config, str(place))
    names = place.names(part.folder)
    if any(name.endswith(".bin") for name in names) and not any(".safetensors" in name for name in names):
        convert = f"diffusers.DiTPipeline.from_pretrained({str(source)!r}).save_pretrained('dit')"
        raise ValueError(
            f"{place} has only .bin weights, which aren't read here; convert them"
            f" once where diffusers is installed: {convert}"
        )
    weights = part.file(choose(place, part.folder, "transformer", None)[0])
    files = [weights]
    if weights[1].endswith(".json"):
        listed = shards(fetch([weights])[weights], COMPONENTS["transformer"])
        files = [part.file(name) for name in listed]
    path = fetch(files)
    stored = {name: leaf for file in files for name, leaf in open_file(path[file]).items()}
    stored = {name: leaf for name, leaf in stored.items() if not COMPONENTS["transformer"].ignores(name)}
    tree.check_names({name: leaf.shape for name, leaf in stored.items()}, _shapes(config, dit), f"the DiT in {place}")
    for leaf in stored.values():
        leaf.check()
    return stored


def _read_config(content: Json, where: str) -> _DiT:
    if content.get("_class_name") not in CLASSES:
        raise ValueError(f"{where} holds a {shown(content.get('_class_name'))}, which is no {' or '.join(CLASSES)}")
    fixed = {
        "activation_fn": ("gelu-approximate",),
        "attention_bias": (True,),
        "attention_type": ("default", None),
        "caption_channels": (None,),
        "cross_attention_dim": (None,),
        "double_self_attention": (False,),
        "norm_elementwise_affine": (False,),
        "norm_eps": (1e-5, 1e-6),  # of one norm of the three in diffusers; the DiT was trained with 1e-6 in all
        "norm_type": ("ada_norm_zero",),
        "num_vector_embeds": (None,),
        "only_cross_attention": (False,),
        "use_linear_projection": (False,),
    }
    ignored = ("dropout", "norm_num_groups", "sample_size", "upcast_attention", "interpolation_scale")
    return config_.read(_DiT, content, fixed=fixed, ignored=ignored, component=f"{where}, DiT")


def _check_sizes(dit: _DiT, config: transformer.Config, where: str) -> None:
    theirs = dataclasses.asdict(dit)
    theirs["out_channels"] = theirs["out_channels"] or dit.in_channels
    del theirs["num_embeds_ada_norm"]
    for name, value in theirs.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"the DiT in {where} has {name} = {value}, and the transformer {getattr(config, name)}; they must be"
                " the same"
            )


def _shapes(config: transformer.Config, dit: _DiT) -> dict[str, tuple[int, ...]]:
    """List the tensors of a DiT of the transformer's sizes."""
    D = config.width
    apart = ("adaln_single", "caption_projection", "scale_shift_table")
    out = {}
    for name, shape in transformer.shapes(config).items():
        if not name.startswith(apart) and ".attn2." not in name and not name.endswith("scale_shift_table"):
            out[_dits(name)] = shape
    for i in range(config.num_layers):
        norm = f"transformer_blocks.{i}.norm1"
        out[f"{norm}.emb.class_embedder.embedding_table.weight"] = (dit.num_embeds_ada_norm + 1, D)
        for name, channels in (("linear_1", FREQUENCIES), ("linear_2", D)):
            out[f"{norm}.emb.timestep_embedder.{name}.weight"] = (D, channels)
            out[f"{norm}.emb.timestep_embedder.{name}.bias"] = (D,)
        out[f"{norm}.linear.weight"], out[f"{norm}.linear.bias"] = (6 * D, D), (6 * D,)
    out["proj_out_1.weight"], out["proj_out_1.bias"] = (2 * D, D), (2 * D,)
    return out


# --- from one stage to the next ---------------------------------------------------------------------------------------


@public
def resized(config: transformer.Config, changes: Mapping[str, float | bool | None]) -> transformer.Config:
    """Make the configuration of a stage at another resolution.

    With another sample_size, interpolation_scale changes as much, so that positions span the range that they spanned,
    and micro-conditions stay as they are, unless the changes say otherwise.

    Args:
        config: of the stage before.
        changes: of sample_size, interpolation_scale and use_additional_conditions.
    Returns:
        The configuration.
    Raises:
        TypeError: config isn't a Config, or changes no dict.
        ValueError: a change is of another field, or the value is out of its range.
    """
    check_config(config)
    check_type("changes", changes, Mapping, "a dict of fields of a configuration")
    unknown = [name for name in changes if name not in OF_A_STAGE]
    if unknown:
        raise ValueError(f"changes can be of {', '.join(OF_A_STAGE)}, got {first_few(map(shown, unknown))}")
    kept: dict[str, Any] = {}
    if "sample_size" in changes:
        size: Any = changes["sample_size"]
        check_whole("sample_size of changes", size, 1, 2**14)
        stretch = config.scale * size / config.sample_size
        kept = {"interpolation_scale": stretch, "use_additional_conditions": config.conditions}
    return dataclasses.replace(config, **{**kept, **changes})


@public
def with_conditions(key: Key, p: Tree, old: transformer.Config, new: transformer.Config) -> Tree:
    """Give a transformer the embedders of resolution and aspect ratio that the next stage has, or take them away.

    A new embedder's second layer is zero, so that the transformer computes at first what it computed without it.

    Args:
        key: of the first layers.
        p: the transformer's tree.
        old: its configuration.
        new: that of the next stage, as `resized` makes it.
    Returns:
        The tree, which shares its Tensors with p.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: key isn't a key, p doesn't hold the tensors of its configuration, or the configurations differ in
            other fields.
    """
    rng.check_key(key)
    check_config(old)
    check_config(new)
    same = {name: getattr(old, name) for name in OF_A_STAGE}
    if dataclasses.replace(new, **same) != old:
        raise ValueError(f"new must differ from old in {', '.join(OF_A_STAGE)} alone, got {new} after {old}")
    check_weights(p, transformer.shapes(old), "p")
    found, flat = dict(tree.items(p)), {}
    for i, (name, shape) in enumerate(transformer.shapes(new).items()):
        if name not in found:
            silent = _silences(name) or name.endswith("bias")
            scale = 0 if silent else FREQUENCIES**-0.5
            found[name] = Tensor.from_numpy(rng.normal(rng.fold_in(key, i), shape) * np.float32(scale))
        flat[name] = found[name]
    return tree.nest(flat)


def _silences(name: str) -> bool:
    """Return whether a tensor, where it is zero, keeps micro-conditions from having an effect."""
    return name.startswith(EMBEDDERS) and ".linear_2." in name


def _zeros(leaf: Tensor) -> Tensor:
    return Tensor.from_numpy(np.zeros(leaf.shape, np.float32))
