"""Files ↔ trees: a pipeline in diffusers layout, from a folder or the hub, read strictly and written back."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import hub, nn, tree
from . import tokenizer as tokenizer_
from .layout import (
    COMPONENTS,
    Component,
    check_names,
    current_names,
    open_tensors,
    read_json,
    some,
    weights_file,
    write_json,
)
from .safetensors_file import DTYPES, Stored, write_file
from .schedule import check_option
from .t5 import Config as T5Config
from .tokenizer import Tokenizer
from .transformer import Config as TransformerConfig
from .types import Tree
from .vae import Config as VAEConfig


@dataclasses.dataclass(frozen=True)
class Configs:
    """Everything static about a pipeline: its models, the scheduler_config.json as it stands, and its diffusers class.

    A model that was left out keeps its configuration where the source has one, and is None otherwise.
    """

    text_encoder: T5Config | None
    transformer: TransformerConfig
    vae: VAEConfig | None
    scheduler: dict[str, Any]
    pipeline: str = "PixArtAlphaPipeline"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Params:
    """A pipeline's weights (a tree per model, None where it was left out), configuration and tokenizer."""

    text_encoder: Tree
    transformer: Tree
    vae: Tree
    config: Configs
    tokenizer: Tokenizer | None

    def replace(self, **changes: Any) -> Params:
        """A copy with other fields, such as `params.replace(transformer=new_tree)`."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        trees = {name: getattr(self, name) for name in COMPONENTS}
        sizes = [f"{name}={'None' if t is None else f'{tree.size(t) / 1e6:.1f}M'}" for name, t in trees.items()]
        return f"Params({self.config.pipeline}: {', '.join(sizes)})"


STREAMED = 2**31
"""Bytes in float32 above which a text encoder is streamed."""
PIPELINES = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")


# --- where the files are --------------------------------------------------------------------------------------------


def _embedded() -> Path:
    package = Path(__file__).parent
    for folder in (package / "_weights" / "emoji", package.parent / "weights" / "emoji"):  # installed; a source tree
        if (folder / "model_index.json").is_file():
            return folder
    raise FileNotFoundError("this installation lacks its embedded checkpoint: reinstall, or name a folder or a hub id")


def _find(source: str | os.PathLike, revision: str | None, names: Iterable[str], *, part_alone: bool = False) -> Path:
    """The folder of `source` with the files that the models in `names` need.

    With part_alone, `source` may also be the folder or repository of the one model itself.
    """
    patterns = ["model_index.json", "scheduler/scheduler_config.json"]
    patterns += ["tokenizer/tokenizer_config.json", "tokenizer/spiece.model"]
    patterns += [f"{name}/config.json" for name in COMPONENTS]
    for name in names:
        stem = COMPONENTS[name].stem
        weights = [f"{stem}.safetensors", f"{stem}.safetensors.index.json", f"{stem}-*-of-*.safetensors"]
        patterns += [f"{name}/{file}" for file in weights]
        patterns += [*weights, "config.json", "tokenizer_config.json", "spiece.model"] if part_alone else []
    return hub.folder(source, revision, patterns)


# --- load ------------------------------------------------------------------------------------------------------------


def load(
    source: str | os.PathLike | None = None,
    *,
    revision: str | None = None,
    text_encoder: str | os.PathLike | bool | None = True,
    vae: str | os.PathLike | bool | None = True,
    stream: bool | None = None,
    dtype: str = "float32",
) -> Params:
    """Load a pipeline; float32 weights stay in the mapped file until they are used, others are converted.

    Args:
        source: None for the embedded checkpoint, a folder in diffusers layout, or a hub id "owner/name".
        revision: branch, tag or commit of a hub id.
        text_encoder: True to take it from `source`, None to leave it and the tokenizer out, or the folder or hub id
            of another pipeline, or of the model itself, to take it from there.
        vae: likewise.
        stream: whether the text encoder's leaves are places in the file, of which `t5.encode` holds a layer at a time
            (`quantize` makes them int8), instead of Tensors that can be differentiated and trained. None streams an
            encoder of more than 2 GiB in float32: T5-XXL has 18.
        dtype: of weights and the products with them: "float32", "float16" or, on Ascend, "bfloat16". Norms, softmax,
            T5's states and its feed-forward outputs and all that leaves a model stay float32, and so does, in float16,
            a VAE whose config.json says `force_upcast`. On CPUs halves are slower.
    Returns:
        Params, with trees in the order of each model's `shapes`.
    Raises:
        FileNotFoundError: a folder or a file of it is missing.
        OSError: the hub can't give what was asked for.
        ValueError: a file is damaged, the weights' names and shapes aren't those of the configuration, or the dtype
            isn't there on this device, can't hold a weight or is to be streamed.
    """
    _check_dtype(dtype, stream)
    wanted = {"text_encoder": text_encoder, "transformer": True, "vae": vae}
    for name, where in wanted.items():
        if not (where is None or where is True or isinstance(where, (str, os.PathLike))):
            raise TypeError(f"{name} must be True, None (left out), or a folder or hub id; got {where!r}")
    if source is None:
        if revision is not None:
            raise ValueError(f"revision={revision!r} belongs to a hub id; the embedded checkpoint has none")
        home = _embedded()
    else:
        home = _find(source, revision, [name for name, where in wanted.items() if where is True])
    pipeline = _pipeline(home)
    folders: dict[str, Any] = {name: _folder(home, name, where) for name, where in wanted.items()}
    configs: dict[str, Any] = {name: folder and _config(folder, name) for name, folder in folders.items()}
    scheduler = read_json(home / "scheduler" / "scheduler_config.json")
    config = Configs(**configs, scheduler=scheduler, pipeline=pipeline)
    _check_widths(config)
    trees = {
        name: None if where is None else _tree(folders[name], name, config, stream, dtype)
        for name, where in wanted.items()
    }
    found = None
    if text_encoder is not None:
        found = _tokenizer(home, folders["text_encoder"], configs["text_encoder"].vocab_size)
    return Params(**trees, config=config, tokenizer=found)


def _check_dtype(dtype: str, stream: bool | None) -> None:
    check_option("dtype", dtype, list(DTYPES))
    if dtype == "bfloat16" and not nn.ASCEND:
        raise ValueError(
            "MindSpore has no products in bfloat16 on a CPU; 'float32' is the fastest there, and where the CPU has AMX "
            "precision('bf16-math') rounds its factors to bfloat16"
        )
    if stream and dtype != "float32":
        raise ValueError(f"a streamed text encoder computes in float32; leave stream out, or dtype={dtype!r}")


def _pipeline(home: Path) -> str:
    """The pipeline class that model_index.json names."""
    if not (home / "model_index.json").is_file():
        hint = "; a model's own folder goes to text_encoder= or vae=" if (home / "config.json").is_file() else ""
        raise FileNotFoundError(
            f"{home} has no model_index.json; give a pipeline's folder in diffusers layout, the one that holds"
            f" model_index.json, transformer/, vae/ and text_encoder/{hint}"
        )
    name = read_json(home / "model_index.json").get("_class_name")
    if name not in PIPELINES:
        raise ValueError(f"{home} holds a {name}, which isn't supported (supported: {', '.join(PIPELINES)})")
    return name


def _folder(home: Path, name: str, where: Any) -> Path | None:
    """The folder with a model's config.json; for a model that is left out None if `home` doesn't have it either."""
    own = home / name
    if where is None:
        return own if (own / "config.json").is_file() else None
    if where is True:
        if not own.is_dir():
            instead = "" if name == "transformer" else f"; pass {name}=None to leave it out, or a folder or hub id"
            raise FileNotFoundError(f"{home} has no folder {name}{instead}")
        return own
    other = _find(where, None, [name], part_alone=True)
    return other / name if (other / name).is_dir() else other


def _config(folder: Path, name: str) -> Any:
    content = read_json(folder / "config.json")
    found = content.get("_class_name", next(iter(content.get("architectures") or []), None))
    part = COMPONENTS[name]
    if found not in part.classes:
        raise ValueError(f"{folder} holds a {found}, which isn't a {name} (supported: {', '.join(part.classes)})")
    return part.module.read_config(content)


def _check_widths(config: Configs) -> None:
    """Models from different places must fit together; one that is left out is taken to fit."""
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


def _tree(folder: Path, name: str, config: Configs, stream: bool | None, dtype: str) -> Tree:
    """A model's weights as Tensors or as places in the file, in the order of its `shapes`."""
    part = COMPONENTS[name]
    path = weights_file(folder, name)
    stored = current_names(open_tensors(path), part)
    shapes = part.module.shapes(getattr(config, name))
    check_names({key: value.shape for key, value in stored.items()}, shapes, str(path))
    if stream is None:
        stream = dtype == "float32" and 4 * sum(math.prod(shape) for shape in shapes.values()) > STREAMED
    if stream and name == "text_encoder":
        return tree.nest({key: stored[key] for key in shapes})
    if dtype == "float16" and name == "vae" and read_json(folder / "config.json").get("force_upcast"):
        dtype = "float32"
    return tree.nest({key: _tensor(key, stored[key], part.dtype_of(key, dtype)) for key in shapes})


def _tensor(name: str, stored: Stored, dtype: str) -> Any:
    import mindspore as ms

    values = stored.read()
    if dtype == "float16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ValueError(f"{name} has values beyond float16's 65504; load with dtype='bfloat16' or 'float32'")
    return ms.Tensor.from_numpy(values).astype(getattr(ms, dtype))


def _tokenizer(home: Path, encoder: Path, rows: int) -> Tokenizer:
    """The tokenizer that lies with its text encoder, or else the pipeline's."""
    folders = (encoder, encoder.parent / "tokenizer", home / "tokenizer")
    folder = next((folder for folder in folders if (folder / "spiece.model").is_file()), None)
    if folder is None:
        raise FileNotFoundError(
            f"{folders[1]} has no spiece.model (transformers 5 writes a tokenizer.json instead); take it from the"
            " pipeline that the weights came from"
        )
    found = tokenizer_.load(folder)
    if found.size > rows:
        raise ValueError(
            f"the tokenizer in {folder} has {found.size} ids and the text encoder knows {rows}; take both from the same"
            " family"
        )
    return found


# --- save ------------------------------------------------------------------------------------------------------------


def save(params: Params, folder: str | os.PathLike, *, dtype: str = "float32") -> None:
    """Write a pipeline in diffusers layout, which diffusers and `load` read.

    Everything is written beside the folder first and moved into place at the end, so a run that stops leaves either
    nothing or, where the folder already existed, whole files.

    Args:
        params: leaves may be MindSpore Tensors or NumPy arrays; a model that is None is left out.
        folder: a new folder, or one whose files of the same names are replaced.
        dtype: "float32", "float16" or "bfloat16", to store; T5's feed-forward output stays float32 in float16.
    Raises:
        ValueError: the dtype is none of these or can't hold a value, something needed is None, or a tree's names and
            shapes aren't those of its configuration.
        FileExistsError: the folder holds other weights, which a reader could take for these.
    """
    check_option("dtype", dtype, list(DTYPES))
    folder = Path(folder).expanduser()
    parts = {name: part for name, part in COMPONENTS.items() if getattr(params, name) is not None}
    _check_savable(params, parts, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        for name, part in parts.items():
            _save_component(getattr(params, name), getattr(params.config, name), part, staging / name, dtype)
        if params.tokenizer is not None:
            tokenizer_.save(params.tokenizer, staging / "tokenizer")
        write_json(params.config.scheduler, staging / "scheduler" / "scheduler_config.json")
        write_json(_index(params, parts), staging / "model_index.json")
        _publish(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_savable(params: Params, parts: Mapping[str, Component], folder: Path) -> None:
    if "transformer" not in parts:
        raise ValueError("there is no transformer to save; a pipeline needs one")
    if "_class_name" not in params.config.scheduler:
        raise ValueError(
            "params.config.scheduler names no _class_name; diffusers needs one, as in a scheduler_config.json"
        )
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; name a folder")
    for name in parts:
        if getattr(params.config, name) is None:
            raise ValueError(f"params.{name} has weights but params.config.{name} is None; replace both together")
    for name, part in COMPONENTS.items():
        own = f"{part.stem}.safetensors" if name in parts else None
        others = [path.name for path in folder.glob(f"{name}/*") if ".safetensors" in path.name and path.name != own]
        if others:
            raise FileExistsError(f"{folder / name} holds other weights ({some(others)}); save to a new folder")


def _save_component(weights: Tree, config: Any, part: Component, folder: Path, dtype: str) -> None:
    leaves = dict(tree.items(weights))
    check_names({name: tuple(leaf.shape) for name, leaf in leaves.items()}, part.module.shapes(config), folder.name)
    write_json(part.module.to_json(config), folder / "config.json")
    dtypes = {name: DTYPES[part.dtype_of(name, dtype) if dtype == "float16" else dtype] for name in leaves}
    write_file(folder / f"{part.stem}.safetensors", leaves, dtypes)


def _index(params: Params, parts: Mapping[str, Component]) -> dict[str, Any]:
    """model_index.json: for each part the package and class that diffusers makes it with."""
    config = params.config
    index = {
        name: [part.package, part.classes[0]] if name in parts else [None, None] for name, part in COMPONENTS.items()
    }
    index["tokenizer"] = [None, None] if params.tokenizer is None else ["transformers", "T5Tokenizer"]
    index["scheduler"] = ["diffusers", config.scheduler["_class_name"]]
    return {"_class_name": config.pipeline, **index}


def _publish(staging: Path, folder: Path) -> None:
    if not folder.exists():
        staging.rename(folder)
        return
    for path in sorted(staging.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
