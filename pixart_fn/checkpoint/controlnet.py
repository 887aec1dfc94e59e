"""ControlNets: what `models.controlnet` computes with them, and their files.

diffusers' research project has a folder of config.json and safetensors. PixArt's authors have one .pth, which holds the
transformer too, under base_model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mindspore import Tensor

from .. import tree
from ..checks import check_option, check_whole, first_few
from ..control import Control
from ..encoding import control
from ..files import atomic, pth, safetensors
from ..files import folder as folder_
from ..files.tensors import FLOATS
from ..files.tensors import Tensor as Stored
from ..models.controlnet import Config, apply, init, read_config, shapes, to_json
from ..models.controlnet_config import CLASS, check_config
from ..public import public
from ..types import Tree
from . import authors, files
from .authors import Part
from .hub import find
from .layout import read_json, write_json
from .sources import check_revision, written

__all__ = ["Config", "Control", "apply", "control", "init", "load", "save"]

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
PICKLED = (".pth", ".pt", ".bin")
BASE = "base_model."
"""How the names of the transformer's tensors begin in the authors' files."""
_NAME = re.compile(r"controlnet\.(\d{1,4})\.(copied_block|before_proj|after_proj)\.(.+)")


@public
def load(
    source: str | os.PathLike[str] | None = None, *, revision: str | None = None, heads: int | None = None
) -> tuple[Tree, Config]:
    """Read a ControlNet from a folder of diffusers' research project, or from a .pth file of PixArt's authors.

    Args:
        source: None for the embedded checkpoint's, which follows the edges of `px.edges.canny`; a ControlNet's own
            folder, a folder that holds controlnet/, or a hub id of one; or the authors' .pth file, of which the
            transformer's tensors are left out, since they are those of the pipeline that `px.load` gives. Nothing in a
            .pth is run: it is read by an interpreter that imports and calls nothing.
        revision: branch, tag or commit of a hub id; None for the newest.
        heads: of the attention, for a .pth of another width than the released models' 1152, which have 16.
    Returns:
        The tree, of float32 Tensors, and the configuration.
    Raises:
        TypeError: source, revision or heads has the wrong type.
        FileNotFoundError: there is no such folder or file.
        OSError: a file can't be read, or was replaced meanwhile, or the hub can't give it.
        ValueError: a file is damaged or holds another model, or its tensors aren't those of the configuration; or a
            revision is given for what isn't on the hub.
    """
    if heads is not None:
        check_whole("heads", heads, 1, 2**16)
    check_revision(revision, source)
    if source is None:
        source = str(files.find_pipeline(None, None))
    path = Path(os.path.expanduser(written(source, "source", "a folder, a hub id or a .pth file")))
    if path.suffix.lower() in PICKLED and not path.is_dir():
        return _from_file(path, heads)
    if heads is not None:
        raise ValueError(f"heads={heads} is for a .pth file; a folder's config.json says it")
    with folder_.unchanged((source,), CONFIG):
        return _from_folder(source, revision)


@public
def save(p: Tree, config: Config, folder: str | os.PathLike[str], *, dtype: str = "float32") -> None:
    """Write a ControlNet as diffusers' research project reads it, and `load` too.

    Args:
        p: the ControlNet's tree, of Tensors or arrays.
        config: its configuration.
        folder: where config.json and diffusion_pytorch_model.safetensors are written; it is made where it isn't there.
        dtype: of the numbers in the file, "float32" or "float16".
    Raises:
        TypeError: config or folder has the wrong type.
        ValueError: p doesn't hold the tensors of the configuration.
        FileExistsError: the folder holds other weights, or isn't a folder.
        OSError: the files can't be written; what was there is there still.
    """
    check_config(config)
    check_option("dtype", dtype, ("float32", "float16"))
    path = Path(os.path.expanduser(written(folder, "folder", "the folder to write")))
    check_out(path)
    leaves = dict(tree.items(p))
    tree.check_names({name: tuple(getattr(leaf, "shape", ())) for name, leaf in leaves.items()}, shapes(config), "p")
    folder_.replace(path, CONFIG, partial(_fill, leaves, config, dtype))


def check_out(folder: Path) -> None:
    """Raise a FileExistsError where a folder holds other weights than a ControlNet's, or is none."""
    others = [each.name for each in folder_.check(folder).glob("*.safetensors*") if each.name != WEIGHTS]
    if others:
        raise FileExistsError(f"folder {str(folder)!r} holds other weights ({first_few(others)}); save to a new one")


def convert_authors(leaves: Mapping[str, Part], where: str) -> dict[str, Part]:
    """Give the tensors of a ControlNet diffusers' names, and take the joined ones apart.

    Args:
        leaves: tensors by the authors' names; those of the transformer are left out.
        where: what an error calls the file.
    Returns:
        The tensors by the names of diffusers' research project.
    Raises:
        ValueError: a tensor is none of a ControlNet of PixArt's authors.
    """
    out: dict[str, Part] = {}
    unknown = []
    for name, leaf in leaves.items():
        if name.startswith(BASE):
            continue
        names = _names(name)
        if not names:
            unknown.append(name)
            continue
        if leaf.dtype not in FLOATS:
            raise ValueError(f"{where} holds {name} in {leaf.dtype}, where floating-point numbers belong")
        n = len(names)
        if n > 1 and (not leaf.shape or leaf.shape[0] % n):
            raise ValueError(
                f"{name} in {where} must be {n} tensors, one under another, and has the shape {leaf.shape}"
            )
        rows = leaf.shape[0] // n if n > 1 else 0
        parts = [leaf] if n == 1 else [leaf.rows(i * rows, (i + 1) * rows) for i in range(n)]
        out.update(zip(names, parts, strict=True))
    if unknown or not out:
        got = first_few(unknown or leaves) or "nothing"
        raise ValueError(f"{where} isn't a ControlNet as PixArt's authors write it: it holds {got}")
    return out


def _names(name: str) -> list[str]:
    """Return diffusers' names for one of the authors'; none if it isn't one."""
    match = _NAME.fullmatch(name)
    if match is None:
        return []
    home, rest = f"controlnet_blocks.{match[1]}", match[3]
    if match[2] != "copied_block":
        return [f"{home}.{match[2]}.{rest}"]
    stem, _, kind = rest.rpartition(".") if rest.endswith((".weight", ".bias")) else (rest, "", "")
    return [f"{home}.transformer_block.{each}{'.' * bool(kind)}{kind}" for each in authors.BLOCK.get(stem, ())]


# --- reading ----------------------------------------------------------------------------------------------------------


def _from_file(path: Path, heads: int | None) -> tuple[Tree, Config]:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}; source must be one, or a ControlNet's folder")
    held = pth.open_file(path)
    found = held.get("state_dict", held)
    tensors = {str(name): leaf for name, leaf in found.items()} if isinstance(found, dict) else {}
    if wrong := [name for name, leaf in tensors.items() if not isinstance(leaf, Stored)]:
        raise ValueError(f"{path} holds what is no tensor among its weights: {first_few(wrong)}")
    leaves = convert_authors(tensors, str(path))
    first = leaves.get("controlnet_blocks.0.before_proj.weight")
    if first is None or len(first.shape) != 2:
        raise ValueError(f"{path} lacks the matrix controlnet.0.before_proj.weight, which a ControlNet has")
    width, layers = first.shape[0], 1 + max(int(name.split(".")[1]) for name in leaves)
    A = authors.HEADS.get(width) if heads is None else heads
    if A is None or width % A:
        given = f"{width} isn't divisible by {A}" if A else "no tensor says how many heads its attention has"
        raise ValueError(f"{path} has a width of {width}, and {given}; give heads=, as the transformer has it")
    config = Config(layers, A, width // A)
    return _tree(leaves, config, str(path)), config


def _from_folder(source: str | os.PathLike[str], revision: str | None) -> tuple[Tree, Config]:
    place = find(source, revision)
    parts = [files.Part(place, inside) for inside in ("controlnet", "")]
    part = next((each for each in parts if place.has(each.file(CONFIG)[1])), None)
    if part is None:
        raise place.lacks(f"controlnet/{CONFIG}", "; source takes a ControlNet's folder, or one that holds controlnet/")
    if not place.has(part.file(WEIGHTS)[1]):
        found = first_few(sorted(place.names(part.folder)))
        raise place.lacks(
            part.file(WEIGHTS)[1], f"; the ControlNet's weights must have that name, and there is {found}"
        )
    file = files.fetch([part.file(CONFIG)])[part.file(CONFIG)]
    content = read_json(file)
    if content.get("_class_name") != CLASS:
        raise ValueError(f"{file} must name the class {CLASS}, got {content.get('_class_name')!r:.80}")
    try:
        config = read_config(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    weights = files.fetch([part.file(WEIGHTS)])[part.file(WEIGHTS)]
    return _tree(safetensors.open_file(weights), config, str(weights)), config


def _tree(leaves: Mapping[str, Any], config: Config, where: str) -> Tree:
    """Read the tensors, in the order of `shapes`."""
    expected = shapes(config)
    tree.check_names({name: tuple(leaf.shape) for name, leaf in leaves.items()}, expected, where)
    return tree.nest({name: Tensor.from_numpy(leaves[name].read()) for name in expected})


# --- writing ----------------------------------------------------------------------------------------------------------


def _fill(leaves: Mapping[str, Any], config: Config, dtype: str, folder: Path) -> None:
    write_json(dict(to_json(config)), folder / CONFIG)
    dtypes = dict.fromkeys(leaves, safetensors.DTYPES[dtype])
    atomic.write(folder / WEIGHTS, partial(safetensors.write_file, leaves=leaves, dtypes=dtypes))
