"""Adapters: what `models.lora` computes with them, and their files as other tools read and write them.

peft's folder holds adapter_model.safetensors and adapter_config.json for one model. diffusers' one file,
pytorch_lora_weights.safetensors, holds those of the transformer and of the text encoder, and its metadata the settings.
kohya's, OneTrainer's and LyCORIS's one file holds the alpha of each module as a tensor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import tree as tree_
from ..checks import check_number, check_option, check_sha256
from ..files import atomic, reading
from ..files.folder import check, replace, unchanged
from ..files.safetensors import array, open_with_metadata, write_file
from ..models import lora_forms as forms
from ..models.lora import ATTENTION, AUTHORS, Adapter, Config, apply, init, merge, unmerge
from ..models.lora_config import modules, part, prefixes
from ..public import public
from .layout import read_json, write_json
from .lora_names import PEFT, Names, read_names
from .lora_settings import METADATA, model, read_metadata, read_settings, write_metadata, write_settings
from .lora_source import CONFIG, DIFFUSERS, WEIGHTS, locate
from .lora_tensors import named, read_adapter
from .sources import written

__all__ = ["ATTENTION", "AUTHORS", "Adapter", "Config", "apply", "init", "load", "merge", "save", "unmerge"]


@public
def load(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    alpha: float | None = None,
    sha256: str | None = None,
) -> Adapter:
    """Read an adapter from the files of peft, diffusers, kohya, OneTrainer, LyCORIS or the trainer of PixArt's authors.

    LoRA, rsLoRA and DoRA, LoHa and LoKr (arXiv:2309.14859), and whole differences of weights (`diff`) are read.

    Args:
        source: a folder with peft's adapter_model.safetensors and adapter_config.json or with diffusers'
            pytorch_lora_weights.safetensors; such a .safetensors file of any name; or a hub id "owner/name" of such a
            folder, or "owner/name/FILE", of which only this file and peft's settings are downloaded.
        revision: branch, tag or commit of a hub id; None for the newest.
        alpha: what the file doesn't say: by what the product is multiplied, once that is divided by the rank. None
            where the file says it. Where nothing says it, a warning does: then 8 is taken for peft's lora_A and lora_B,
            which is what PixArt's own trainer had, and the rank for the names of all other tools.
        sha256: 64 hexadecimal digits that the bytes of the file with the weights must have; None takes any.
    Returns:
        The adapter, of float32 Tensors. Queries, keys and values in one matrix, as PixArt's authors have them, are
        split; so is the core of a convolution multiplied with its lora_A.
    Raises:
        TypeError: source, revision, alpha or sha256 has the wrong type.
        FileNotFoundError: there is no such folder or file.
        OSError: a file can't be read, or was replaced meanwhile, or the hub can't give it.
        ValueError: a file is damaged, belongs to another model, holds another kind of adapter, asks for an option that
            isn't supported, or says alpha although it is given; or the file has another sha256; or a revision is given
            for a folder or a file.
    """
    if alpha is not None:
        check_number("alpha", alpha, 0, 1e30, above=True)
    if sha256 is not None:
        check_sha256("sha256", sha256)
    with unchanged((source,), CONFIG):
        file = locate(source, revision)
        if sha256 is not None and reading.sha256(file) != sha256:
            raise ValueError(f"{str(source)!r} isn't the file that was meant: its sha256 isn't {sha256}")
        stored, metadata = open_with_metadata(file)
        names = read_names(stored, file)
        return read_adapter(stored, names, _settings(file, names, metadata), metadata, alpha, file)


@public
def save(adapter: Adapter, folder: str | os.PathLike[str], *, layout: str = "peft") -> None:
    """Write an adapter in float32, as another tool reads it, and `load` too.

    Args:
        adapter: from `init` or `load`, or trained.
        folder: where its files are written; it is made where it isn't there. For a layout of one file also the name of
            a .safetensors file.
        layout: "peft" for adapter_model.safetensors and adapter_config.json, which hold the adapter of one model;
            "diffusers" for pytorch_lora_weights.safetensors; "kohya" for a file of that name with kohya's names, as
            OneTrainer has them for PixArt; or "comfyui" for one that ComfyUI reads itself. The last two keep alpha as
            tensors, and are those for LoHa, LoKr, diff and DoRA of columns.
    Raises:
        TypeError: adapter or folder has the wrong type.
        ValueError: layout is none of these, the adapter holds what isn't finite, other weights than its config says or
            a form that the layout hasn't, or peft's layout is asked for an adapter of two models or for a file.
        FileExistsError: the folder holds an adapter in the other layout, or isn't a folder.
        OSError: the files can't be written; what was there is there still.
    """
    check_option("layout", layout, ("peft", "diffusers", "kohya", "comfyui"))
    found = modules(adapter)
    for name, leaf in tree_.items(adapter.weights):
        if not np.isfinite(array(leaf)).all():
            raise ValueError(f"the adapter holds NaN or infinity in {name}, so it can't be used; its training failed")
    path = Path(os.path.expanduser(written(folder, "folder", "the folder to write")))
    file = path.suffix == ".safetensors"
    if not file and (path / (DIFFUSERS if layout == "peft" else WEIGHTS)).exists():
        raise FileExistsError(f"folder {str(path)!r} holds an adapter in the other layout; save to a new one")
    if layout in ("peft", "diffusers"):
        _check_plain(found, layout)
    own = prefixes(found)
    if layout != "peft":
        plain = layout == "diffusers"
        leaves = _leaves(adapter, "" if own else f"{part(found)}.") if plain else named(adapter, layout)
        metadata = {METADATA: write_metadata(adapter.config, found)} if plain else {}
        _write_file(path if file else check(path) / DIFFUSERS, leaves, metadata)
        return
    if file:
        raise ValueError(f"layout='peft' writes two files, so folder can't be the name of one, got {str(path)!r:.200}")
    if len(own) > 1:
        raise ValueError("layout='peft' is for the adapter of one model, and this one is for two; use 'diffusers'")
    prefix = next(iter(own), "")
    replace(path, CONFIG, partial(_fill, _leaves(adapter, ""), write_settings(adapter.config, found, prefix), prefix))


def _check_plain(found: Mapping[str, forms.Change], layout: str) -> None:
    kinds = {forms.form(change.parts) for change in found.values()} - {"LoRA"}
    kinds |= {"DoRA of columns" for change in found.values() if change.columns}
    if kinds:
        raise ValueError(f"layout={layout!r} has no names for {' and '.join(sorted(kinds))}; use 'kohya' or 'comfyui'")


# --- reading ----------------------------------------------------------------------------------------------------------


def _settings(file: Path, names: Names, metadata: Mapping[str, str]) -> dict[str, Config]:
    """Return what the file's metadata says or peft's settings beside it, for each model that they are for."""
    targets = [target for module in names.modules for target in module.targets]
    found, beside = read_metadata(metadata, targets, file), file.parent / CONFIG
    own = {model(target) for target in targets}
    silent = not found and any("alpha" not in module.names for module in names.modules) and names.letters
    if len(own) == 1 and (names.peft or silent) and beside.exists():
        prefix = own.pop()
        local = [target.removeprefix(f"{prefix}.") for target in targets]
        return {prefix: read_settings(read_json(beside), str(beside), local)}
    return found


# --- writing ----------------------------------------------------------------------------------------------------------


def _leaves(adapter: Adapter, prefix: str) -> dict[str, Any]:
    """Return the tensors by the names in a file, in which DoRA's have no ".weight"."""
    items = tree_.items(adapter.weights)
    return {prefix + (name.removesuffix(".weight") if "magnitude" in name else name): leaf for name, leaf in items}


def _write_file(path: Path, leaves: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, lambda temporary: write_file(temporary, leaves, dict.fromkeys(leaves, "F32"), metadata))


def _fill(leaves: Mapping[str, Any], settings: dict[str, Any], prefix: str, folder: Path) -> None:
    start = f"{prefix}." if prefix else ""
    _write_file(folder / WEIGHTS, {PEFT + name.removeprefix(start): leaf for name, leaf in leaves.items()}, {})
    write_json(settings, folder / CONFIG)
