"""The diffusers layout of a pipeline: the names of each model's folder, files, tensors and classes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PureWindowsPath
from types import ModuleType
from typing import Any, NamedTuple

from ..checks import first_few, shown
from ..files import atomic, reading
from ..files.safetensors import Stored
from ..params import MODELS
from .hub import Folder, Place


class Component(NamedTuple):
    """The names in a model's folder, and the tensors that are treated apart."""

    module: ModuleType
    package: str
    classes: tuple[str, ...]  # the first is the one that `save` names where config.json names none
    stem: str  # of the weights' file name
    renamed: dict[str, str]  # part of an old name → part of today's
    ignored: tuple[str, ...]  # how the names of tensors begin that some releases store and nothing here uses
    wide: str | None  # tensors whose names end so stay float32 where the others are in half precision

    def dtype_of(self, name: str, dtype: str) -> str:
        """Return a tensor's dtype in a model whose dtype is `dtype`."""
        return "float32" if self.wide and name.endswith(self.wide) else dtype

    def today(self, name: str) -> str:
        """Return today's name of a tensor that may have an older name."""
        for old, new in self.renamed.items():
            name = name.replace(old, new)
        return name

    def ignores(self, name: str) -> bool:
        return name.startswith(self.ignored)


COMPONENTS = {
    "text_encoder": Component(
        MODELS["text_encoder"],
        "transformers",
        ("T5EncoderModel", "T5ForConditionalGeneration", "T5Model"),  # the others' encoder
        "model",
        # One tensor under two names: files keep either or both.
        {"encoder.embed_tokens.": "shared."},
        ("decoder.", "lm_head."),
        MODELS["text_encoder"].WIDE,
    ),
    "transformer": Component(
        MODELS["transformer"],
        "diffusers",
        ("PixArtTransformer2DModel", "Transformer2DModel"),  # all the released ones carry the second, older name
        "diffusion_pytorch_model",
        {},
        # The null caption learned in training (diffusers guides with T5's "" instead), and the table of positions
        # that is recomputed for each size.
        ("caption_projection.y_embedding", "pos_embed.pos_embed"),
        None,
    ),
    "vae": Component(
        MODELS["vae"],
        "diffusers",
        ("AutoencoderKL", "AutoencoderTiny"),
        "diffusion_pytorch_model",
        # The names of diffusers' first releases; Stable Diffusion's VAE was published with them.
        {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."},
        (),
        None,
    ),
}


INDEX = "model_index.json"
"""The file that makes a folder a pipeline."""
HALVES = ("fp16", "bf16")
"""The variants that are the plain weights in half precision."""
TOKENIZER = (
    "spiece.model", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "tokenizer.json"
)  # fmt: skip
"""The files that a tokenizer is read from, of which only the first must exist."""


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; an error names the file and what is wrong."""
    try:
        return reading.json_object(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a JSON object, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2) + "\n"
    atomic.write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def choose(place: Place, folder: str, name: str, variant: str | None) -> tuple[str, str]:
    """Choose the file of a model's weights in a folder, or the index that names its shards.

    Without a variant, this is the plain file. If the only weights are one half-precision variant, this is that variant,
    which is the same weights rounded. Any other variant must be given.

    Args:
        place: where the folder is.
        folder: the model's folder in the place; "" for the place itself.
        name: the model, a key of COMPONENTS.
        variant: such as "fp16", or None.
    Returns:
        The name of the file, and its variant, which is "" for the plain file.
    Raises:
        OSError: there are no weights.
        ValueError: there are weights, but not of this variant, or not in a format that is read.
    """
    stem, names = COMPONENTS[name].stem, place.names(folder)
    found = _variants(stem, names)
    at = f"{place}/{folder}" if folder else str(place)
    if variant is not None:
        if variant not in found and found:
            raise ValueError(f"{at} has no weights of the variant {variant!r:.60}; found {first_few(found.values())}")
    elif "" in found:
        variant = ""
    elif len(found) == 1 and next(iter(found)) in HALVES:
        variant = next(iter(found))
    elif found:
        others = " or ".join(f"variant={other!r}" for other in found)
        raise ValueError(f"{at} has no {stem}.safetensors; found {first_few(found.values())}: choose with {others}")
    if not found:
        raise _no_weights(place, folder, name, names)
    return found[variant or ""], variant or ""


def _variants(stem: str, names: Collection[str]) -> dict[str, str]:
    """Return the index or the file of each variant, "" being the plain one; an index is preferred to a file."""
    file = re.escape(stem)
    forms = (
        rf"{file}\.safetensors\.index(?:\.([^.]+))?\.json",
        rf"{file}\.safetensors\.([^.]+)\.index\.json",  # as older diffusers wrote it
        rf"{file}(?:\.([^.-]+))?\.safetensors",
    )
    found: dict[str, str] = {}
    for form in forms:
        for name in sorted(names):
            if match := re.fullmatch(form, name):
                found.setdefault(match[1] or "", name)
    return found


def _no_weights(place: Place, folder: str, name: str, names: Collection[str]) -> OSError | ValueError:
    part = COMPONENTS[name]
    at = f"{place}/{folder}" if folder else str(place)
    if others := [other for other in names if ".safetensors" in other]:
        return FileNotFoundError(
            f"{at} has neither {part.stem}.safetensors nor its index.json; found {first_few(others)}, which isn't named"
            f" as {part.package} names it"
        )
    if any(other.endswith(".bin") for other in names):
        home = f"{at!r}" if isinstance(place, Folder) else f"{place.id!r}, subfolder={folder!r}"
        convert = f"{part.package}.{part.classes[0]}.from_pretrained({home}).save_pretrained({name!r})"
        return ValueError(
            f"{at} has only .bin weights, which aren't read here; convert them"
            f" once where {part.package} is installed: {convert}"
        )
    file = f"{folder}/{part.stem}.safetensors" if folder else f"{part.stem}.safetensors"
    return place.lacks(file, ", and so is its index.json" if isinstance(place, Folder) else " or its index.json")


def shards(index: Path, part: Component) -> list[str]:
    """Return the files that an index.json names for the tensors that are used.

    Raises:
        ValueError: the file isn't such an index, or names a file that isn't in its own folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{index} has no weight_map from tensor names to files; download it again")
    files = sorted({file for name, file in weight_map.items() if not part.ignores(name)})
    for file in files:
        # On Windows a colon and a backslash, too, lead out of a folder; nowhere do they belong into such a name.
        plain = PureWindowsPath(file).name == file and file.isprintable() and len(file) <= 200
        if not plain or not file.endswith(".safetensors"):
            raise ValueError(
                f"{index} must name .safetensors files in its own folder, got {shown(file)}; download it again"
            )
    return files


def current_names(stored: Mapping[str, Stored], part: Component) -> dict[str, Stored]:
    """Return the tensors by today's names, without those that nothing uses."""
    used = {name: value for name, value in stored.items() if not part.ignores(name)}
    old = {part.today(name): value for name, value in used.items()}
    return old | {name: value for name, value in used.items() if part.today(name) == name}
