"""From the files of PixArt's authors and of mindone to a folder in diffusers layout, and back, without a rounding."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import tree
from ..checks import check_option, check_switch, check_whole, first_few, shown
from ..files import atomic, ckpt, pth, safetensors, zips
from ..files import folder as folder_
from ..files.safetensors import Stored
from ..files.tensors import DTYPES, FLOATS, Leaf, Tensor, in_order
from ..models import transformer
from ..process.lock import exclusive
from ..process.notes import warn
from ..public import public
from ..types import NumPyArray
from . import authors, files
from .authors import Part
from .hub import find
from .layout import COMPONENTS, INDEX, choose, current_names, read_json, shards, write_json
from .sources import written

WEIGHTS = ("state_dict", "state_dict_ema")
WRITTEN = (".pth", ".pt", ".bin", ".ckpt")
"""The endings of files that are written."""
READ = (*WRITTEN, ".safetensors")
"""Those of files that are read."""
SIDE = "authors.safetensors"
"""A file beside the weights, with the tensors for which diffusers has no name."""
_MODEL = "diffusion_pytorch_model.safetensors"


@public
@exclusive
def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    size: int | None = None,
    version: str | None = None,
    heads: int | None = None,
    weights: str = "state_dict",
    progress: bool = False,
) -> None:
    """Convert a transformer from a file of PixArt's authors to diffusers layout, or from there to such a file.

    Numbers and their types aren't changed. diffusers has no names for the authors' learned null caption and their table
    of positions; these go to authors.safetensors beside the weights, from which the conversion back takes them. Nothing
    in a file is run: it is read by an interpreter that imports and calls nothing. The names and the layout are those of
    the authors' own tools/convert_pixart_to_diffusers.py. If a model compresses keys and values by "conv", its tensors
    show it. For the other ways, write kv_compress_config into config.json by hand.

    Args:
        source: a file: .pth, .pt or .bin of torch.save, mindone's .ckpt of MindSpore, or a .safetensors with the
            authors' names. For the conversion back, a pipeline's or a transformer's folder, or a hub id.
        target: a folder, in which transformer/ is written, for `px.load(pipeline, transformer=target)`. For the
            conversion back, the name of a .pth, .pt, .bin or .ckpt file.
        size: the side in pixels that the model was trained at, 256, 512, 1024 or 2048, for a file whose positions
            don't say it, such as that of PixArt-Σ-256. If it is given, it overrules them.
        version: "alpha" or "sigma", for a file without positions and without a null caption, where `size` needs it.
        heads: of the attention, for a width other than the released models' 1152, which have 16.
        weights: "state_dict", or "state_dict_ema" for the average over the training, which some files hold; for the
            conversion back, the name under which they are written.
        progress: whether to show a progress bar.
    Raises:
        TypeError: an argument has the wrong type.
        FileNotFoundError: there is no such file or folder.
        FileExistsError: the target holds other weights.
        OSError: a file can't be read or written; what was there is there still.
        ValueError: an argument is none of the above; the file is damaged, holds something else than tensors, or isn't
            a transformer of PixArt; or what the file doesn't say isn't given.
    Example:
        >>> px.convert("PixArt-XL-2-512x512.pth", "transformer")  # doctest: +SKIP
        >>> px.load("PixArt-alpha/PixArt-XL-2-512x512", transformer="transformer")  # doctest: +SKIP
    """
    given = {"size": size, "version": version, "heads": heads}
    _check(given, weights, progress)
    path = Path(os.path.expanduser(written(source, "source", "a .pth or .ckpt file, a folder or a hub id")))
    out = Path(os.path.expanduser(written(target, "target", "the folder to write, or the .pth or .ckpt file")))
    from_file = path.suffix.lower() in READ and not path.is_dir()
    to_file = out.suffix.lower() in WRITTEN and not out.is_dir()
    if from_file and to_file:
        raise ValueError(f"target must be a folder where source is a file, got {str(out)!r}; it can be converted again")
    if from_file:
        _to_folder(path, out, weights, given, progress)
    elif to_file:
        _to_file(source, out, weights, given, progress)
    elif path.is_file():
        raise ValueError(f"source must end in {', '.join(READ)} where it is a file, got {str(path)!r}")
    else:
        raise ValueError(f"target must end in {', '.join(WRITTEN)} where source is a folder, got {str(out)!r}")


def _check(given: Mapping[str, Any], weights: str, progress: bool) -> None:
    check_option("weights", weights, WEIGHTS)
    check_switch("progress", progress)
    if given["size"] is not None:
        check_whole("size", given["size"], 1)
        if given["size"] not in authors.SIZES:
            raise ValueError(f"size must be one of {', '.join(map(str, authors.SIZES))}, got {shown(given['size'])}")
    if given["version"] is not None:
        check_option("version", given["version"], tuple(authors.SCALES))
    if given["heads"] is not None:
        check_whole("heads", given["heads"], 1, 2**16)


@dataclass(frozen=True)
class _Counted:
    """A leaf that moves a progress bar when it is read."""

    leaf: Leaf
    bar: Any

    @property
    def dtype(self) -> str:
        return self.leaf.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.leaf.shape

    def bits(self) -> NumPyArray:
        self.bar.update(_bytes(self.leaf))
        return self.leaf.bits()

    def read(self) -> NDArray[np.float32]:
        self.bar.update(_bytes(self.leaf))
        return self.leaf.read()


def _counted(leaves: Mapping[str, Leaf], bar: Any) -> dict[str, Leaf]:
    return {name: _Counted(leaf, bar) for name, leaf in leaves.items()}


def _bar(leaves: Mapping[str, Leaf], progress: bool) -> Any:
    return tqdm(total=sum(map(_bytes, leaves.values())), unit="B", unit_scale=True, disable=not progress)


def _bytes(leaf: Leaf) -> int:
    return math.prod(leaf.shape) * DTYPES[leaf.dtype].itemsize


# --- from a file to a folder ------------------------------------------------------------------------------------------


def _to_folder(path: Path, out: Path, weights: str, given: Mapping[str, Any], progress: bool) -> None:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}; source must be one, or a folder in diffusers layout")
    home = folder_.check(out) / "transformer"
    folder_.check(home)
    leaves = _read(path, weights)
    model, kept = authors.to_diffusers(leaves, str(path))
    config = authors.configuration(model, kept, str(path), **given)
    tree.check_names({name: leaf.shape for name, leaf in model.items()}, transformer.shapes(config), str(path))
    _check_kept(kept, config, str(path))
    _check_home(home, {_MODEL, SIDE} if kept else {_MODEL}, config)
    with _bar({**model, **kept}, progress) as bar:
        content = {_MODEL: _counted(model, bar), **({SIDE: _counted(kept, bar)} if kept else {})}
        folder_.replace(home, "config.json", partial(_fill, content, config))


def _read(path: Path, weights: str) -> dict[str, Part]:
    """Return the tensors in a file by the authors' names."""
    if path.suffix.lower() == ".safetensors":
        if weights != WEIGHTS[0]:
            raise ValueError(f"weights={weights!r} isn't in {path}: a .safetensors file holds one model; leave it out")
        return {name: in_order(stored) for name, stored in safetensors.open_file(path).items()}
    if path.suffix.lower() == ".ckpt" and not _is_zip(path):  # other tools call torch's files .ckpt
        if weights != WEIGHTS[0]:
            raise ValueError(f"weights={weights!r} isn't in {path}: mindone writes the average to a file of its own")
        return {name: leaf for name, leaf in ckpt.open_file(path).items() if leaf.shape}  # without an epoch's number
    held = pth.open_file(path)
    found = held.get(weights)
    if found is None and weights == WEIGHTS[0] and any(isinstance(value, Tensor) for value in held.values()):
        found = held
    if not isinstance(found, dict):
        raise ValueError(f"weights={weights!r} isn't in {path}, which holds {first_few(held) or 'nothing'}")
    if wrong := [name for name, value in found.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{path} holds what is no tensor among its weights: {first_few(map(str, wrong))}")
    if sum(map(_bytes, found.values())) > path.stat().st_size:  # which could fill a disk
        raise ValueError(f"{path} is smaller than its tensors, which lie over each other; that is no file of weights")
    return {str(name): replace(leaf, name=str(name)) for name, leaf in found.items()}


def _is_zip(path: Path) -> bool:
    file = safetensors.Opened(path)
    head = np.empty(min(4, file.size), np.uint8)
    file.read_into(head, 0)
    return zips.begins(head.tobytes())


def _check_kept(kept: Mapping[str, Leaf | Stored], config: transformer.Config, where: str) -> None:
    for name, leaf in kept.items():
        width = config.width if name == "pos_embed" else config.caption_channels
        if not leaf.shape or leaf.shape[-1] != width:
            raise ValueError(f"{where} holds {name} with the shape {leaf.shape}, whose last side must be {width}")


def _check_home(home: Path, names: Collection[str], config: transformer.Config) -> None:
    """Raise where a folder holds another model, or weights that a reader could mistake for those that are written."""
    there = home / "config.json"
    if there.exists() and transformer.read_config(read_json(there)) != config:
        raise FileExistsError(f"{home} holds a model of another configuration; name a new folder as target")
    others = [path.name for path in home.glob("*") if ".safetensors" in path.name and path.name not in names]
    if others:
        raise FileExistsError(f"{home} holds other weights ({first_few(others)}); name a new folder as target")


def _fill(content: Mapping[str, Mapping[str, Leaf]], config: transformer.Config, staging: Path) -> None:
    write_json(dict(transformer.to_json(config)), staging / "config.json")
    for name, leaves in content.items():
        dtypes = {each: leaf.dtype for each, leaf in leaves.items()}
        atomic.write(staging / name, partial(safetensors.write_file, leaves=leaves, dtypes=dtypes))


# --- from a folder to a file ------------------------------------------------------------------------------------------


def _to_file(source: str | os.PathLike[str], out: Path, weights: str, given: Mapping[str, Any], progress: bool) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}={value!r} is for a file as source; a folder's config.json says it")
    to_mindspore = out.suffix.lower() == ".ckpt"
    if to_mindspore and weights != WEIGHTS[0]:
        raise ValueError(f"weights={weights!r} is for torch's files; a .ckpt holds one model without a name")
    atomic.target(out)
    part = _part(source)
    with folder_.unchanged((source,), INDEX):
        state, config = _authors(part)
        _warn(config, "pos_embed" in state, out)
        with _bar(state, progress) as bar:
            if to_mindspore:
                ckpt.write(out, _counted(state, bar))
            else:
                pth.write(out, {weights: _counted(state, bar)})


def _warn(config: transformer.Config, positions: bool, out: Path) -> None:
    """Say what of a configuration the authors' files have no place for, so that the way back can't give it."""
    how, side = config.kv_compression, config.sample_size * authors.FACTOR
    lost = [f"kv_compress_config of {how.sampling!r}"] if how is not None and how.sampling != "conv" else []
    lost += [f"a size of {side} pixels"] if not (positions or side in authors.SIZES) else []
    if lost:
        warn(f"{out} can't say {' and '.join(lost)}; keep config.json to come back", stacklevel=5)


def _part(source: str | os.PathLike[str]) -> files.Part:
    place = find(source)
    for inside in ("transformer", ""):
        found = files.Part(place, inside)
        if place.has(found.file("config.json")[1]):
            return found
    raise place.lacks("transformer/config.json", "; source takes a pipeline, or a transformer's own folder")


def _authors(part: files.Part) -> tuple[dict[str, Leaf], transformer.Config]:
    """Return the tensors of a transformer by the authors' names, with those of the file beside them; and its config."""
    own = COMPONENTS["transformer"]
    name, _ = choose(part.place, part.folder, "transformer", None)
    paths = files.fetch([part.file("config.json"), part.file(name)])
    config = transformer.read_config(read_json(paths[part.file("config.json")]))
    weights = [part.file(name)]
    if name.endswith(".json"):
        weights = [part.file(shard) for shard in shards(paths[weights[0]], own)]
    paths |= files.fetch(weights)
    stored: dict[str, Stored] = {}
    for file in weights:
        found = safetensors.open_file(paths[file])
        if twice := sorted(stored.keys() & found.keys()):
            raise ValueError(f"{paths[file]} and another shard both hold {twice[0]}; download them again")
        stored |= found
    where = str(paths[weights[0]])
    model = current_names(stored, own)
    tree.check_names({each: leaf.shape for each, leaf in model.items()}, transformer.shapes(config), where)
    kept = {each: stored[other] for each, other in authors.KEPT.items() if other in stored}
    if part.place.has(part.file(SIDE)[1]):
        side = files.fetch([part.file(SIDE)])[part.file(SIDE)]
        kept = safetensors.open_file(side)
        if wrong := kept.keys() - authors.KEPT.keys():
            raise ValueError(f"{side} holds {first_few(sorted(wrong))}, where only {first_few(authors.KEPT)} belong")
    _check_kept(kept, config, where)
    for each, leaf in (*model.items(), *kept.items()):
        leaf.check()
        if leaf.dtype not in FLOATS:
            raise ValueError(
                f"{where} holds {each} in {leaf.dtype}, which isn't written to such files; px.save makes it float32"
            )
    return {**_in_order(kept), **authors.to_authors(_in_order(model))}, config


def _in_order(stored: Mapping[str, Stored]) -> dict[str, Leaf]:
    return {name: in_order(leaf) for name, leaf in stored.items()}
