"""Saving Params to a folder in diffusers layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .. import tree
from ..checks import check_option, first_few
from ..files import atomic
from ..files.folder import check, replace
from ..files.safetensors import DTYPES, write_file
from ..models import tokenizer as tokenizer_
from ..params import Call, Params
from ..public import public
from ..types import Tree
from . import call
from .layout import COMPONENTS, INDEX, Component, write_json
from .sources import written


@public
def save(params: Params, folder: str | os.PathLike[str], *, dtype: str = "float32") -> None:
    """Write a pipeline in diffusers layout, which diffusers and `load` read.

    Everything is written beside the folder first and exchanged with it at the end, so that a run that is stopped leaves
    the old pipeline or the new one. Where folders can't be exchanged (on some file systems, or as the folder is a mount
    point, the current folder or no pipeline yet), files are moved in one by one, and `load` refuses it meanwhile.

    Args:
        params: from `load`; leaves may be MindSpore Tensors or NumPy arrays, and a model that is None is left out.
        folder: a new folder, or one in which files of the same names are replaced and others stay.
        dtype: the type to store: "float32", "float16" or "bfloat16". With "float16", the weights of T5's feed-forward
            outputs stay float32.
    Raises:
        TypeError: params or folder has the wrong type.
        ValueError: the dtype is none of these or can't hold a value, a part that is needed is None, or a tree's names
            and shapes aren't those of its configuration.
        FileExistsError: the folder holds other weights, which a reader could mistake for these, or isn't a folder.
        OSError: the folder can't be written to, or the disk is full; what it held is still there then.
    Example:
        >>> px.save(px.load(text_encoder=None), "pipeline")
        >>> px.load("pipeline", text_encoder=None)
        Params(PixArtAlphaPipeline: text_encoder=None, transformer=14.2M, vae=3.9M)
    """
    check_option("dtype", dtype, list(DTYPES))
    if not isinstance(params, Params):
        raise TypeError(f"params must be Params, such as px.load() gives, got a {type(params).__name__}")
    folder = Path(os.path.expanduser(written(folder, "folder", "the folder to write")))
    parts = {name: part for name, part in COMPONENTS.items() if getattr(params, name) is not None}
    check_savable(params, folder)
    replace(folder, INDEX, partial(_fill, params, parts, dtype))


def _fill(params: Params, parts: Mapping[str, Component], dtype: str, folder: Path) -> None:
    for name, part in parts.items():
        _save_component(getattr(params, name), getattr(params.config, name), part, folder / name, dtype)
    if params.tokenizer is not None:
        tokenizer_.save(params.tokenizer, folder / "tokenizer")
    write_json(params.config.scheduler, folder / "scheduler" / "scheduler_config.json")
    write_json(_index(params, parts), folder / INDEX)


def check_savable(params: Params, folder: Path) -> None:
    """Raise what `save` raises before it writes.

    Args:
        params: to write.
        folder: to write into.
    """
    parts = [name for name in COMPONENTS if getattr(params, name) is not None]
    if "transformer" not in parts:
        raise ValueError("there is no transformer to save; a pipeline needs one")
    if "_class_name" not in params.config.scheduler:
        raise ValueError(
            "params.config.scheduler names no _class_name; diffusers needs one, as in a scheduler_config.json"
        )
    for inside in (folder, *(folder / name for name in (*parts, "tokenizer", "scheduler"))):
        check(inside)
    for name in parts:
        if getattr(params.config, name) is None:
            raise ValueError(f"params.{name} has weights but params.config.{name} is None; replace both together")
    for name, part in COMPONENTS.items():
        own = f"{part.stem}.safetensors" if name in parts else None
        others = [path.name for path in folder.glob(f"{name}/*") if ".safetensors" in path.name and path.name != own]
        if others:
            raise FileExistsError(f"{folder / name} holds other weights ({first_few(others)}); save to a new folder")


def _save_component(weights: Tree, config: Any, part: Component, folder: Path, dtype: str) -> None:
    leaves = dict(tree.items(weights))
    found = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    tree.check_names(found, part.module.shapes(config), folder.name)
    write_json(part.module.to_json(config), folder / "config.json")
    dtypes = {name: DTYPES[part.dtype_of(name, dtype) if dtype == "float16" else dtype] for name in leaves}
    file = folder / f"{part.stem}.safetensors"
    atomic.write(file, lambda temporary: write_file(temporary, leaves, dtypes))


def _class(part: Component, config: Any) -> str:
    """Return the name of a model's class."""
    name: str = part.module.to_json(config).get("_class_name", part.classes[0])
    return name


def _index(params: Params, parts: Mapping[str, Component]) -> dict[str, Any]:
    """Return the content of model_index.json: the package and class in which diffusers has each part."""
    config = params.config
    index = {
        name: [part.package, _class(part, getattr(config, name))] if name in parts else [None, None]
        for name, part in COMPONENTS.items()
    }
    index["tokenizer"] = [None, None] if params.tokenizer is None else ["transformers", "T5Tokenizer"]
    index["scheduler"] = ["diffusers", config.scheduler["_class_name"]]
    own = {} if config.call == Call() else {call.KEY: call.to_json(config.call)}
    return {"_class_name": config.pipeline, **own, **index}
