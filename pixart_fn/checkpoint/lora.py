"""Adapters: what `models.lora` computes with them, and their files as peft and diffusers read and write them.

peft's folder holds adapter_model.safetensors and adapter_config.json for one model. diffusers' one file,
pytorch_lora_weights.safetensors, holds those of the transformer and of the text encoder, and its metadata the settings.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mindspore import Tensor

from .. import tree as tree_
from ..checks import check_number, check_option, first_few
from ..files import atomic
from ..files.folder import check, replace, unchanged
from ..files.safetensors import Stored, open_with_metadata, write_file
from ..models.lora import ATTENTION, AUTHORS, Adapter, Config, apply, init, merge, unmerge
from ..models.lora_config import modules, part, prefixes
from ..public import public
from ..types import Tree
from .hub import written
from .layout import read_json, write_json
from .lora_names import METADATA, PEFT, model, read_metadata, read_names, read_settings, write_metadata, write_settings

__all__ = ["ATTENTION", "AUTHORS", "Adapter", "Config", "apply", "init", "load", "merge", "save", "unmerge"]

CONFIG, WEIGHTS, DIFFUSERS = "adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"


@public
def load(source: str | os.PathLike[str], *, alpha: float | None = None) -> Adapter:
    """Read an adapter from the files of peft or diffusers.

    Args:
        source: a folder with peft's adapter_model.safetensors and adapter_config.json or with diffusers'
            pytorch_lora_weights.safetensors, or such a .safetensors file of any name.
        alpha: what the file doesn't say: by what the product is multiplied, once that is divided by the rank. diffusers
            takes the rank itself then. None where the file says it.
    Returns:
        The adapter, of float32 Tensors.
    Raises:
        TypeError: source or alpha has the wrong type.
        FileNotFoundError: there is no such folder or file.
        OSError: a file can't be read, or was replaced meanwhile.
        ValueError: a file is damaged or another tool's, asks for an option that isn't supported, doesn't say alpha, or
            says it although it is given.
    """
    path = Path(os.path.expanduser(written(source, "source", "a folder or a .safetensors file")))
    if alpha is not None:
        check_number("alpha", alpha, 0, 1e30, above=True)
    with unchanged((path,), CONFIG):
        file = _file(path)
        stored, metadata = open_with_metadata(file)
        peft, names = read_names(stored, file)
        settings = read_metadata(metadata, names, file)
        if peft and (file.parent / CONFIG).exists():
            settings = {"": read_settings(read_json(file.parent / CONFIG), str(file.parent / CONFIG), names)}
        return _adapter(stored, names, settings, alpha, file)


@public
def save(adapter: Adapter, folder: str | os.PathLike[str], *, layout: str = "peft") -> None:
    """Write an adapter in float32, as peft or diffusers reads it, and `load` too.

    Args:
        adapter: from `init` or `load`, or trained.
        folder: where its files are written; it is made where it isn't there. For diffusers' layout also the name of a
            .safetensors file.
        layout: "peft" for adapter_model.safetensors and adapter_config.json, which hold the adapter of one model, or
            "diffusers" for pytorch_lora_weights.safetensors.
    Raises:
        TypeError: adapter or folder has the wrong type.
        ValueError: layout is neither of these, the adapter holds other weights than its config says, or peft's layout
            is asked for an adapter of two models or for a file.
        FileExistsError: the folder holds an adapter in the other layout, or isn't a folder.
        OSError: the files can't be written; what was there is there still.
    """
    check_option("layout", layout, ("peft", "diffusers"))
    names = list(modules(adapter))
    path = Path(os.path.expanduser(written(folder, "folder", "the folder to write")))
    file = path.suffix == ".safetensors"
    if not file and (path / (DIFFUSERS if layout == "peft" else WEIGHTS)).exists():
        raise FileExistsError(f"folder {str(path)!r} holds an adapter in the other layout; save to a new one")
    own = prefixes(names)
    if layout == "diffusers":
        prefix = "" if own else f"{part(names)}."
        metadata = {METADATA: write_metadata(adapter.config, names)}
        _write_file(path if file else check(path) / DIFFUSERS, _leaves(adapter, prefix), metadata)
        return
    if file:
        raise ValueError(f"layout='peft' writes two files, so folder can't be the name of one, got {str(path)!r:.200}")
    if len(own) > 1:
        raise ValueError("layout='peft' is for the adapter of one model, and this one is for two; use 'diffusers'")
    prefix = next(iter(own), "")
    replace(path, CONFIG, partial(_fill, _leaves(adapter, ""), write_settings(adapter.config, names, prefix), prefix))


# --- reading ----------------------------------------------------------------------------------------------------------


def _file(path: Path) -> Path:
    """Return the file with the weights."""
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"source {str(path)!r} is neither a folder nor a file")
        return path
    found = [path / name for name in (WEIGHTS, DIFFUSERS) if (path / name).exists()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"source {str(path)!r} holds both {WEIGHTS} and {DIFFUSERS}; give one of these files")
    others = [each.name for each in sorted(path.iterdir()) if each.suffix in (".safetensors", ".bin")]
    has = f"it holds {first_few(others)}" if others else "it holds no .safetensors file"
    raise FileNotFoundError(f"source {str(path)!r} has neither {WEIGHTS} nor {DIFFUSERS}; {has}")


def _adapter(
    stored: Mapping[str, Stored],
    names: Mapping[str, Mapping[str, str]],
    settings: Mapping[str, Config],
    alpha: float | None,
    file: Path,
) -> Adapter:
    """Put an adapter together whose config says the rank and alpha of each of its modules."""
    ranks = {
        name: _rank(stored[found["lora_A"]], settings.get(model(name)), name, file) for name, found in names.items()
    }
    alphas = {
        name: _alpha(stored, found, settings.get(model(name)), name, alpha, file) for name, found in names.items()
    }
    dora = {"lora_magnitude_vector" in found for found in names.values()}
    if len(dora | {config.dora for config in settings.values()}) > 1:
        raise ValueError(f"{file} must hold lora_magnitude_vector for each module with DoRA, and for none without")
    rslora = {config.rslora for config in settings.values()} or {False}
    if len(rslora) > 1:
        raise ValueError(f"{file} is rsLoRA for one model and not for the other, which isn't supported")
    rank, usual = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    one = len(settings) == len({model(name) for name in names}) == 1
    targets = next(iter(settings.values())).targets if one else list(names)
    rank_pattern = {name: own for name, own in ranks.items() if own != rank}
    alpha_pattern = {name: own for name, own in alphas.items() if own != usual}
    try:
        config = Config(rank, usual, targets, dora.pop(), rslora.pop(), rank_pattern, alpha_pattern)
        adapter = Adapter(_tensors(stored, names), config)
        modules(adapter)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return adapter


def _tensors(stored: Mapping[str, Stored], names: Mapping[str, Mapping[str, str]]) -> Tree:
    each = ((f"{module}.{what}.weight", name) for module, found in names.items() for what, name in found.items())
    return tree_.nest(
        {ours: Tensor.from_numpy(stored[name].read()) for ours, name in each if not ours.endswith(".alpha.weight")}
    )


def _rank(A: Stored, config: Config | None, name: str, file: Path) -> int:
    rank = A.shape[0] if A.shape else 0
    if config is not None and config.rank_at(_local(name)) != rank:
        raise ValueError(
            f"{file} holds rank {rank} for {name}, and its settings say {config.rank_at(_local(name))}; they belong to"
            " different adapters"
        )
    return rank


def _alpha(
    stored: Mapping[str, Stored],
    found: Mapping[str, str],
    config: Config | None,
    name: str,
    alpha: float | None,
    file: Path,
) -> float:
    """Return the alpha of a module, from the one place that says it."""
    said = {} if config is None else {"its settings": float(config.alpha_at(_local(name)))}
    if "alpha" in found:
        value = stored[found["alpha"]].read()
        if value.size != 1:
            raise ValueError(f"{file} must hold one number as {found['alpha']}, got the shape {value.shape}")
        said["its tensors"] = float(value.reshape(-1)[0])
    if alpha is not None:
        said["the argument"] = float(alpha)
    if not said:
        raise ValueError(
            f"{file} doesn't say alpha, neither in {CONFIG} beside it nor in its metadata or tensors; give alpha=…,"
            f" where diffusers would take the rank, {stored[found['lora_A']].shape[0]}"
        )
    if len(set(said.values())) > 1:
        each = ", ".join(f"{value:g} by {place}" for place, value in said.items())
        raise ValueError(
            f"alpha of {name} in {file} is said differently: {each}; leave alpha out where the file says it"
        )
    return next(iter(said.values()))


def _local(name: str) -> str:
    return name.removeprefix(f"{model(name)}.")


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
