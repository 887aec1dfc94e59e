"""What a pipeline's folder is called inside: each model's files, names of tensors and classes in diffusers layout."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from . import t5, transformer, vae
from .safetensors_file import Stored, open_file


class Component(NamedTuple):
    """What a model's folder is called inside and which of its tensors need care."""

    module: ModuleType
    package: str
    classes: tuple[str, ...]  # the first is the one that `save` names
    stem: str  # of the weights' file name
    renamed: dict[str, str]  # part of an old name → part of today's
    ignored: Collection[str]  # stored by some releases, used by nothing
    wide: str | None  # names that end so stay float32 where the others are halves

    def dtype_of(self, name: str, dtype: str) -> str:
        """A tensor's dtype where the model's is `dtype`."""
        return "float32" if self.wide and name.endswith(self.wide) else dtype


COMPONENTS = {
    "text_encoder": Component(
        t5,
        "transformers",
        ("T5EncoderModel",),
        "model",
        # One tensor under two names: files keep either or both.
        {"encoder.embed_tokens.": "shared."},
        ("encoder.embed_tokens.weight",),
        # T5's feed-forward output overflows float16; transformers keeps these in float32 too.
        ".wo.weight",
    ),
    "transformer": Component(
        transformer,
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
        vae,
        "diffusers",
        ("AutoencoderKL",),
        "diffusion_pytorch_model",
        # The names of diffusers' first releases; Stable Diffusion's VAE was published with them.
        {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."},
        (),
        None,
    ),
}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; FileNotFoundError or ValueError say which file and what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except ValueError as error:
        raise ValueError(f"{path} isn't valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content


def some(names: Collection[str], limit: int = 8) -> str:
    """The first few names, for an error."""
    return ", ".join(list(names)[:limit]) + (", …" if len(names) > limit else "")


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a JSON object, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def open_tensors(path: str | os.PathLike) -> dict[str, Stored]:
    """Map a .safetensors file, or all the shards that an index.json names, without reading a tensor.

    Returns:
        The tensors by name; `.shape` and `.dtype` are known, `.read()` gives float32.
    Raises:
        FileNotFoundError, ValueError: a file or shard is missing, truncated or not safetensors.
    """
    path = Path(path)
    if path.suffix != ".json":
        return open_file(path)
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{path} has no weight_map from tensor names to files; download it again")
    files = sorted(set(weight_map.values()))
    missing = [file for file in files if not (path.parent / file).is_file()]
    if missing:
        raise FileNotFoundError(f"{path} names shards that aren't beside it: {some(missing)}; download them again")
    return {name: stored for file in files for name, stored in open_file(path.parent / file).items()}


def weights_file(folder: Path, name: str) -> Path:
    """A model's weights: what the released layouts call them; float16 variants only where nothing else is there."""
    part = COMPONENTS[name]
    for variant in ("", ".fp16"):
        for file in (f"{part.stem}.safetensors.index{variant}.json", f"{part.stem}{variant}.safetensors"):
            if (folder / file).is_file():
                return folder / file
    convert = f"{part.package}.{part.classes[0]}.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    if any(folder.glob("*.bin")):
        raise ValueError(
            f"{folder} has only .bin weights, which aren't read since unpickling them can run any code; convert them"
            f" once where {part.package} is installed: {convert}"
        )
    raise FileNotFoundError(f"{folder} has no weights; {part.stem}.safetensors or its index.json should be there")


def current_names(stored: dict[str, Stored], part: Component) -> dict[str, Stored]:
    """The tensors under today's names, without those that nothing uses."""
    current = {}
    for name, value in stored.items():
        new = name
        for old_part, new_part in part.renamed.items():
            new = new.replace(old_part, new_part)
        current[name if new in stored else new] = value
    return {name: value for name, value in current.items() if name not in part.ignored}


def check_names(found: Mapping[str, tuple], expected: Mapping[str, tuple], where: str) -> None:
    """Raise ValueError that names all tensors that are missing, unexpected or of another shape."""
    wrong = [
        f"{key} {found[key]} instead of {shape}" for key, shape in expected.items() if found.get(key, shape) != shape
    ]
    kinds = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": wrong,
    }
    problems = [f"{len(names)} {kind}: {some(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise ValueError(f"{where} doesn't hold the tensors of its configuration; {'; '.join(problems)}")
