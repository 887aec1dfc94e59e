"""Loading Params from a folder or the hub; all is chosen and checked before a tensor is read or downloaded."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import solvers, tree
from ..backend import device, nn
from ..checks import check_option, check_switch, shown
from ..files.folder import unchanged
from ..files.safetensors import DTYPES, Stored, open_file
from ..models import tokenizer as tokenizer_
from ..models.tokenizer import Tokenizer
from ..params import Call, Configs, Params
from ..public import public
from ..types import Json, Tree
from . import call
from .files import File, Part, Plan, Source, fetch, find_pipeline, plan
from .hub import Folder
from .layout import COMPONENTS, INDEX, current_names, read_json, shards
from .sources import check_revision

STREAMED = 2**31
"""Bytes in float32 above which a text encoder is streamed."""
PIPELINES = {
    "PixArtAlphaPipeline": "PixArtAlphaPipeline",
    "PixArtSigmaPipeline": "PixArtSigmaPipeline",
    "PixArtSigmaPAGPipeline": "PixArtSigmaPipeline",  # the same pipeline; PAG is an argument of guidance here
}


@public
def load(
    source: Source | None = None,
    *,
    revision: str | None = None,
    transformer: Source | bool = True,
    text_encoder: Source | bool | None = True,
    vae: Source | bool | None = True,
    scheduler: Source | Json | bool = True,
    variant: str | Mapping[str, str] | None = None,
    stream: bool | None = None,
    dtype: str = "float32",
) -> Params:
    """Load a pipeline.

    From a hub repository, only the files that are read are downloaded, and the weights last, after all other files
    were checked. Symbolic links are followed, as the hub's cache needs it, but an index of shards can only name files
    of its own folder. A file of 64 MiB or more that holds float32 isn't copied to memory but mapped. You may replace
    such a file, as `save` does, but don't shorten it or write into it while its weights are in use: with a streamed
    encoder that is an error, and with Tensors it would end the process.

    Args:
        source: None for the embedded checkpoint, a folder in diffusers layout, or a hub id "owner/name".
        revision: branch, tag or commit of a hub id; None for the newest.
        transformer: True to take it from `source`, or the folder or hub id of another pipeline, of the model itself,
            or of a folder that holds transformer/. It must be of the source's family (PixArt-α or PixArt-Σ), since the
            source's pipeline class decides how many tokens a prompt has.
        text_encoder: likewise, or None to leave the text encoder and the tokenizer out.
        vae: likewise, or None to leave the VAE out.
        scheduler: True for the scheduler_config.json beside a transformer from elsewhere, with which its weights were
            trained or distilled, or else for the source's. Or the folder or hub id of a scheduler or a pipeline, or
            the content of a scheduler_config.json.
        variant: the variant of the weights, such as "fp16" for model.fp16.safetensors: one for all models, or a dict
            from models to variants. Unlike in diffusers, a model without that variant is an error. None takes the
            plain files, and for a model that has only half-precision files ("fp16" or "bf16") these.
        stream: True to leave the text encoder's weights in the file, from which `t5.encode` reads one layer at a time
            (`quantize` makes them int8); False for Tensors, which can be differentiated and trained. None streams an
            encoder of more than 2 GiB in float32; T5-XXL has 18 GiB. On a GPU, None streams one of more than 2 GiB that
            takes more than half of the card's free memory in `dtype`; T5-XXL has 9 GiB in float16.
        dtype: the type of weights and of products with them: "float32", "float16" or, on Ascend, "bfloat16". Norms,
            softmax, T5's states, its feed-forward outputs and everything that leaves a model stay in float32. With
            "float16", so does a VAE whose config.json says `force_upcast`. "float32" is the fastest on CPUs.
    Returns:
        Params, with trees in the order of each model's `shapes`.
    Raises:
        TypeError: an argument has the wrong type, or a name that `load` doesn't have.
        FileNotFoundError: a folder or a file in it is missing.
        OSError: the hub can't give a file, or can't be reached and its cache is incomplete; or a file is no regular
            one, or was changed while it was read.
        ValueError: a file is damaged or too large for its kind, a configuration has a field or value that isn't
            supported, the names and shapes of the weights aren't those of the configuration, a weight isn't finite, or
            the dtype isn't available on this device, can't hold a weight or can't be streamed.
    Example:
        >>> px.load()
        Params(PixArtAlphaPipeline: text_encoder=2.7M, transformer=14.2M, vae=3.9M)
    """
    wanted = {"text_encoder": text_encoder, "transformer": transformer, "vae": vae}
    _check_arguments(source, revision, wanted, scheduler, dtype, stream)
    with unchanged((source, transformer, text_encoder, vae, scheduler), INDEX):
        chosen = plan(find_pipeline(source, revision), wanted, scheduler, _variants(variant, wanted))
        path, config = _configuration(chosen)
        words = None
        if chosen.tokenizer and config.text_encoder:
            words = _tokenizer(path[chosen.tokenizer[0]].parent, config.text_encoder.vocab_size)
        files = {name: _shards(file, path, name) for name, file in chosen.weights.items()}
        path |= fetch(file for each in files.values() for file in each)
        trees: dict[str, Tree] = dict.fromkeys(COMPONENTS)
        for name, each in files.items():
            own = _dtype(name, dtype, path[chosen.configs[name]])
            trees[name] = _tree([path[file] for file in each], name, config, stream, own)
    return Params(**trees, config=config, tokenizer=words)


# --- arguments --------------------------------------------------------------------------------------------------------


def _check_arguments(
    source: Any, revision: Any, wanted: Mapping[str, Any], scheduler: Any, dtype: str, stream: bool | None
) -> None:
    check_option("dtype", dtype, list(DTYPES))
    if stream is not None:
        check_switch("stream", stream)
    if dtype == "bfloat16" and not nn.DEVICE.bfloat16:
        best = {
            "CPU": "'float32' is the fastest there, and where the CPU has AMX precision('bf16-math') rounds its "
            "factors to bfloat16",
            "GPU": "'float16' is the fastest there",
        }
        here = nn.DEVICE.name
        raise ValueError(f"MindSpore has no products in bfloat16 on a {here}; {best[here]}")
    if stream and dtype != "float32":
        raise ValueError(f"a streamed text encoder computes in float32; leave stream out, or dtype={dtype!r}")
    check_revision(revision, source)
    for name, where in wanted.items():
        if where is None and name == "transformer":
            raise ValueError("transformer=None leaves nothing that draws; give True, or a folder or hub id")
        if not (where is None or where is True or isinstance(where, (str, os.PathLike))):
            out = "" if name == "transformer" else "None (left out), "
            raise TypeError(f"{name} must be True, {out}or a folder or hub id; got {where!r:.60}")
    if not (scheduler is True or isinstance(scheduler, (str, os.PathLike, Mapping))):
        raise TypeError(
            f"scheduler must be True, a folder or hub id, or the dict of a scheduler_config.json; got {scheduler!r:.60}"
        )


def _variants(variant: Any, wanted: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the variant of each model for which one was given."""
    loaded = [name for name, where in wanted.items() if where is not None]
    variants = variant if isinstance(variant, Mapping) else {} if variant is None else dict.fromkeys(loaded, variant)
    for name, value in variants.items():
        if name not in loaded:
            raise ValueError(f"variant={variant!r} must be for {', '.join(loaded)}, which are loaded; got {name!r}")
        if not (isinstance(value, str) and value):
            raise TypeError(f"variant must be the name of one, such as 'fp16', or a dict of them; got {variant!r}")
    return variants


# --- configurations ---------------------------------------------------------------------------------------------------


def _configuration(chosen: Plan) -> tuple[dict[File, Path], Configs]:
    """Return the paths of all files but the weights, and the configuration in them, checked."""
    alone = bool(chosen.tokenizer) and _rust(chosen.tokenizer[0])
    words = [file for file in chosen.tokenizer if alone or not _rust(file)]
    files = [chosen.pipeline, *chosen.configs.values(), *words]
    files += [] if isinstance(chosen.scheduler, dict) else [chosen.scheduler]
    path = fetch([*files, *(file for file in chosen.weights.values() if file[1].endswith(".json"))])
    path |= {} if alone else fetch(_more_of_the_tokenizer(chosen.tokenizer, path))
    models = {name: _config(path[file], name) for name, file in chosen.configs.items()}
    scheduler = _scheduler(chosen.scheduler, path)
    config = Configs(
        text_encoder=models.get("text_encoder"),
        transformer=models["transformer"],
        vae=models.get("vae"),
        scheduler=scheduler,
        pipeline=_pipeline(path[chosen.pipeline]),
        call=_call(chosen, path, scheduler),
    )
    _check_widths(config)
    return path, config


def _rust(file: File) -> bool:
    return file[1].endswith("tokenizer.json")


def _more_of_the_tokenizer(files: list[File], path: Mapping[File, Path]) -> list[File]:
    """Return the large tokenizer.json if tokenizer_config.json doesn't say which tokens were added."""
    configs = [path[file] for file in files if file[1].endswith("tokenizer_config.json")]
    listed = any("added_tokens_decoder" in read_json(config) for config in configs)
    return [file for file in files if _rust(file) and not listed]


def _pipeline(index: Path) -> str:
    """Return the pipeline class that model_index.json names."""
    name = read_json(index).get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        raise ValueError(
            f"{index.parent} holds a {_class(name)}, which isn't supported (supported: {', '.join(PIPELINES)})"
        )
    return PIPELINES[name]


def _call(chosen: Plan, path: Mapping[File, Path], scheduler: Json) -> Call:
    """Return the defaults of a call: those of the place that the transformer is from."""
    home, place = chosen.pipeline[0], chosen.configs["transformer"][0]
    index = path[chosen.pipeline]
    id = place.cache_of if isinstance(place, Folder) else place.id
    return call.find(read_json(index) if place == home else {}, scheduler, id, index)


def _config(file: Path, name: str) -> Any:
    content = read_json(file)
    architectures = content.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    found, part = content.get("_class_name", first), COMPONENTS[name]
    if found not in part.classes:
        raise ValueError(
            f"{file.parent} holds a {_class(found)}, which isn't a {name} (supported: {', '.join(part.classes)})"
        )
    try:
        return part.module.read_config(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _scheduler(chosen: File | dict[str, Any], path: Mapping[File, Path]) -> dict[str, Any]:
    """Return the content of a scheduler_config.json, checked."""
    if isinstance(chosen, dict):
        solvers.from_config(chosen)
        return chosen
    content = read_json(path[chosen])
    try:
        solvers.from_config(content)
    except ValueError as error:
        raise ValueError(f"{path[chosen]}: {error}") from error
    return content


def _class(name: Any) -> str:
    """Return the name of a class as a sentence takes it: what isn't one is quoted and shortened."""
    return name if isinstance(name, str) and re.fullmatch(r"\w{1,80}", name) else shown(name)


def _check_widths(config: Configs) -> None:
    """Check that models from different places fit together; one that is left out isn't checked."""
    text, dit, latent = config.text_encoder, config.transformer, config.vae
    if text is not None and text.d_model != dit.caption_channels:
        raise ValueError(
            f"the text encoder gives states of width {text.d_model} and the transformer takes {dit.caption_channels};"
            " take both from the same family"
        )
    if latent is not None and latent.latent_channels != dit.in_channels:
        raise ValueError(
            f"the VAE has {latent.latent_channels} latent channels and the transformer takes {dit.in_channels};"
            " take both from the same family"
        )


def _tokenizer(folder: Path, rows: int) -> Tokenizer:
    found = tokenizer_.load(folder)
    if found.size > rows:
        raise ValueError(
            f"the tokenizer in {folder} has {found.size} ids and the text encoder knows {rows}; take both from the same"
            " family"
        )
    return found


# --- weights ----------------------------------------------------------------------------------------------------------


def _shards(weights: File, path: Mapping[File, Path], name: str) -> list[File]:
    """Return the files with a model's tensors: the file itself, or those that an index names."""
    place, file = weights
    if not file.endswith(".json"):
        return [weights]
    folder, _, index = file.rpartition("/")
    found = Part(place, folder)
    files = [found.file(shard) for shard in shards(path[weights], COMPONENTS[name])]
    for _, shard in files:
        if not place.has(shard):
            raise place.lacks(shard, f", though {index} names it; download it again")
    return files


def _dtype(name: str, dtype: str, config: Path) -> str:
    """Return the dtype of a model's weights; a VAE's configuration may say that float16 is too narrow for it."""
    wide = dtype == "float16" and name == "vae" and read_json(config).get("force_upcast")
    return "float32" if wide else dtype


def _tree(files: list[Path], name: str, config: Configs, stream: bool | None, dtype: str) -> Tree:
    """Return a model's weights as Tensors or as places in the files, in the order of its `shapes`."""
    part = COMPONENTS[name]
    stored = current_names(_stored(files), part)
    shapes = part.module.shapes(getattr(config, name))
    where = str(files[0] if len(files) == 1 else files[0].parent)
    if scaled := [key for key in stored if key == "scaled_fp8" or key.endswith((".scale_weight", ".weight_scale"))]:
        raise ValueError(
            f"{where} holds float8 weights with a scale apart, such as {scaled[0]}, which aren't read; take the float16"
            " or bfloat16 file of the same model, or a float8 file without scales"
        )
    tree.check_names({key: leaf.shape for key, leaf in stored.items()}, shapes, where)
    for leaf in stored.values():
        leaf.check()
    if stream is None:
        numbers = sum(math.prod(shape) for shape in shapes.values())
        stream = streamed(numbers, dtype, device.card_memory())
    if stream and name == "text_encoder":
        return tree.nest({key: stored[key] for key in shapes})
    return tree.nest({key: _tensor(key, stored[key], part.dtype_of(key, dtype)) for key in shapes})


def streamed(numbers: int, dtype: str, card: int | None) -> bool:
    """Whether an encoder of so many numbers is read layer by layer; `card` is the bytes free on a GPU, if one is used.

    On a GPU it stays where its weights take at most half of these.
    """
    size = (4 if dtype == "float32" else 2) * numbers
    return size > STREAMED and (dtype == "float32" if card is None else 2 * size > card)


def _stored(files: list[Path]) -> dict[str, Stored]:
    """Return the tensors of all shards of a model."""
    stored: dict[str, Stored] = {}
    for file in files:
        found = open_file(file)
        if twice := sorted(stored.keys() & found.keys()):
            raise ValueError(f"{file} and {stored[twice[0]].file.path.name} both hold {twice[0]}; download them again")
        stored |= found
    return stored


def _tensor(name: str, stored: Stored, dtype: str) -> Any:
    import mindspore as ms

    values = stored.read()
    if dtype == "float16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ValueError(f"{name} has values beyond float16's 65504; load with dtype='bfloat16' or 'float32'")
    return ms.Tensor.from_numpy(values).astype(getattr(ms, dtype))
