"""An adapter from the tensors of a file, and its tensors for one: as they are here, and as kohya's tools have them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from .. import tree as tree_
from ..files.safetensors import Stored, array
from ..models import lora_forms as forms
from ..models.lora_config import Adapter, Config, modules, part
from ..models.lora_forms import COLUMNS, ROWS
from ..process.notes import warn
from ..types import NumPyArray
from .lora_names import MID, Module, Names
from .lora_settings import model, network_alpha

USUAL = 8.0
"""The alpha of peft's factors where nothing says it: peft's default, and so that of the trainer of PixArt's authors."""
LARGEST = 2**26
"""The numbers at most of what is multiplied while a file is read, so that a small one can't fill the memory."""
_NUMBERS = {"F64": "<f8", "I64": "<i8", "I32": "<i4"}
"""Types of numbers that an alpha may have beside those of weights."""
_SPLIT = ("lora_B.weight", "hada_w1_a", "hada_w2_a", "lokr_w1", "lokr_w1_a", "diff", ROWS)
"""What is split by rows where one module of a file is several here."""
_USER = 5
"""The frames between a warning here and the line that calls `load`."""
_STARTS = {
    "kohya": {"transformer": "lora_transformer_", "text_encoder": "lora_te_"},
    "comfyui": {"transformer": "transformer.", "text_encoder": "lora_te1_"},
}
"""What the names of each model's modules begin with; a dot says that they keep theirs."""
_WRITTEN = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}


# --- reading ----------------------------------------------------------------------------------------------------------


def read_adapter(
    stored: Mapping[str, Stored],
    names: Names,
    settings: Mapping[str, Config],
    metadata: Mapping[str, str],
    alpha: float | None,
    file: Path,
) -> Adapter:
    """Put an adapter together whose config says the rank and alpha of each of its modules.

    Args:
        stored: the file's tensors.
        names: what `read_names` made of their names.
        settings: peft's, by model.
        metadata: of the file.
        alpha: the argument of `load`.
        file: for an error.
    Returns:
        The adapter, of float32 Tensors.
    Raises:
        ValueError: the tensors and the settings don't fit together.
    """
    if alpha is not None and all(forms.rank(_parts(stored, module)) is None for module in names.modules):
        raise ValueError(f"alpha must be left out for {file}, whose changes are whole and not scaled, got {alpha}")
    ranks, alphas, guessed = {}, {}, {}
    for module in names.modules:
        for target in module.targets:
            config = settings.get(model(target))
            ranks[target] = _rank(stored, module, config, target, file)
            found = _alpha(stored, module, config, target, alpha, file)
            if found is None:
                found = network_alpha(metadata, ranks[target], file)
            if found is None:
                found = guessed[target] = USUAL if names.letters else float(ranks[target])
            alphas[target] = found
    config = _config(names, settings, ranks, alphas, file)
    adapter = Adapter(_tensors(stored, names, file), config)
    try:
        modules(adapter)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if guessed:
        _warn(file, ranks[next(iter(guessed))], names.letters)
    return adapter


def _config(
    names: Names,
    settings: Mapping[str, Config],
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    file: Path,
) -> Config:
    dora = {bool({ROWS, COLUMNS} & set(module.names)) for module in names.modules}
    if len(dora | {config.dora for config in settings.values()}) > 1:
        raise ValueError(f"{file} must hold lora_magnitude_vector for each module with DoRA, and for none without")
    rslora = {config.rslora for config in settings.values()} or {False}
    if len(rslora) > 1:
        raise ValueError(f"{file} is rsLoRA for one model and not for the other, which isn't supported")
    rank, usual = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    one = len(settings) == len({model(name) for name in ranks}) == 1
    targets = next(iter(settings.values())).targets if one else list(ranks)
    rank_pattern = {name: own for name, own in ranks.items() if own != rank}
    alpha_pattern = {name: own for name, own in alphas.items() if own != usual}
    try:
        return Config(rank, usual, targets, dora.pop(), rslora.pop(), rank_pattern, alpha_pattern)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _parts(stored: Mapping[str, Stored], module: Module) -> dict[str, Stored]:
    return {what: stored[name] for what, name in module.names.items() if what not in ("alpha", MID, ROWS, COLUMNS)}


def _rank(stored: Mapping[str, Stored], module: Module, config: Config | None, target: str, file: Path) -> int:
    parts = _parts(stored, module)
    if flat := [name for name in parts.values() if len(name.shape) < 2]:
        raise ValueError(f"{file} must hold a matrix as {flat[0].name}, got the shape {flat[0].shape}")
    rank, said = forms.rank(parts), None if config is None else config.rank_at(_local(target))
    if rank is None:
        return said or 1
    if said not in (None, rank):
        raise ValueError(
            f"{file} holds rank {rank} for {target}, and its settings say {said}; they belong to different adapters"
        )
    return rank


def _alpha(
    stored: Mapping[str, Stored], module: Module, config: Config | None, target: str, alpha: float | None, file: Path
) -> float | None:
    """Return the alpha of a module, from the one place that says it, or None where it is said nowhere."""
    said = {} if config is None else {"its settings": float(config.alpha_at(_local(target)))}
    if forms.rank(_parts(stored, module)) is None:
        return said.get("its settings", 1.0)
    if "alpha" in module.names:
        said["its tensors"] = _number(stored[module.names["alpha"]], file)
    if alpha is not None:
        said["the argument"] = float(alpha)
    if len(set(said.values())) > 1:
        each = ", ".join(f"{value:g} by {place}" for place, value in said.items())
        raise ValueError(
            f"alpha of {target} in {file} is said differently: {each}; leave alpha out where the file says it"
        )
    return next(iter(said.values()), None)


def _number(leaf: Stored, file: Path) -> float:
    if int(np.prod(leaf.shape)) != 1:
        raise ValueError(f"{file} must hold one number as {leaf.name}, got the shape {leaf.shape}")
    if leaf.dtype not in _NUMBERS:
        return float(leaf.read().reshape(-1)[0])
    value = np.empty(1, _NUMBERS[leaf.dtype])
    leaf.file.read_into(value, leaf.offset)
    return float(value[0])


def _warn(file: Path, rank: int, letters: bool) -> None:
    taken = (
        f"8 is taken, as ComfyUI does, where diffusers would take the rank, {rank}"
        if letters
        else f"the rank is taken, here {rank}, as the tools that write such names do"
    )
    sentence = "doesn't say alpha, neither in an adapter_config.json beside it nor in its metadata or tensors"
    warn(f"{file} {sentence}; {taken}; alpha=… says another", stacklevel=_USER)


def _local(name: str) -> str:
    return name.removeprefix(f"{model(name)}.")


def _tensors(stored: Mapping[str, Stored], names: Names, file: Path) -> Any:
    out: dict[str, Tensor] = {}
    for module in names.modules:
        found = {what: stored[name].read() for what, name in module.names.items() if what != "alpha"}
        try:
            parts = _with_lengths(_without_core(found))
            each = _split(parts, len(module.targets))
        except ValueError as error:
            raise ValueError(f"{file} holds what doesn't fit together for {module.targets[0]}: {error}") from error
        for target, own in zip(module.targets, each, strict=True):
            out |= {f"{target}.{what}": Tensor.from_numpy(np.ascontiguousarray(leaf)) for what, leaf in own.items()}
    return tree_.nest(out)


def _without_core(parts: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Multiply the core of a convolution's LoRA and its A: A'[i] = Σⱼ core[i, j] A[j]."""
    if MID not in parts:
        return parts
    core, A = parts[MID], parts["lora_A.weight"]
    fits = core.ndim == A.ndim == 4 and core.shape[:2] == (A.shape[0],) * 2 and A.shape[2:] == (1, 1)
    if not fits or A.size * math.prod(core.shape[2:]) > LARGEST:
        raise ValueError(f"lora_mid {core.shape} and lora_down {A.shape}")
    wide = np.einsum("ijkl,jc->ickl", core.astype(np.float64), A[:, :, 0, 0].astype(np.float64))
    return {what: leaf for what, leaf in parts.items() if what != MID} | {"lora_A.weight": wide.astype(np.float32)}


def _with_lengths(parts: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Tell by its shape whether a `dora_scale` holds the lengths of rows, (O, 1), or of columns, (1, I)."""
    if COLUMNS not in parts:
        return parts
    scale, rest = parts[COLUMNS], {what: leaf for what, leaf in parts.items() if what != COLUMNS}
    O, I, *sides = forms.shape(rest)
    across = scale.ndim > 1 and scale.size == scale.shape[1] and scale.shape[0] != O
    # a convolution's change may be that of a matrix, which has C·k·k columns
    if across and (scale.size == I or (scale.ndim == 4 and not sides and I % scale.size == 0)):
        return parts
    if scale.size != O:
        raise ValueError(f"dora_scale {scale.shape} for a weight {(O, I, *sides)}")
    return {**rest, ROWS: scale.reshape((1, O, 1, 1) if sides or scale.ndim == 4 else (O,))}


def _split(parts: dict[str, NDArray[np.float32]], count: int) -> list[dict[str, NDArray[np.float32]]]:
    """Split a change of several modules in one, such as of queries, keys and values, into that of each, exactly."""
    if count == 1:
        return [parts]
    if COLUMNS in parts:
        raise ValueError("the lengths of columns are those of queries, keys and values together")
    factor = next((what for what in ("lokr_w1", "lokr_w1_a") if what in parts), None)
    if factor is not None and len(parts[factor]) % count:
        parts = _multiplied(parts)
    rows = {what for what in _SPLIT if what in parts}
    for what in rows:
        if len(parts[what]) % count:
            raise ValueError(f"{what} has {len(parts[what])} rows, which are to be split for {count} modules")
    each = {
        what: np.split(leaf, count) if what in rows else [leaf.copy() for _ in range(count)]
        for what, leaf in parts.items()
    }
    return [{what: leaves[i] for what, leaves in each.items()} for i in range(count)]


def _multiplied(parts: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Multiply a LoKr whose first factor doesn't divide into that of each module."""
    rest = {what: leaf.astype(np.float64) for what, leaf in parts.items() if what != ROWS}
    if math.prod(forms.shape(rest)) > LARGEST:
        raise ValueError(f"LoKr of {forms.shape(rest)} numbers")
    lengths = {ROWS: parts[ROWS]} if ROWS in parts else {}
    return {"diff": forms.product(rest).astype(np.float32), **lengths}


# --- writing ----------------------------------------------------------------------------------------------------------


def named(adapter: Adapter, layout: str) -> dict[str, NumPyArray]:
    """Name an adapter's tensors as tools do that keep alpha among them.

    Args:
        adapter: of any form.
        layout: "kohya" or "comfyui".
    Returns:
        The tensors by name, each module's alpha too, from which the scale is that of LoRA, alpha / r, for rsLoRA too.
    """
    found = modules(adapter)
    out: dict[str, NumPyArray] = {}
    for name, change in found.items():
        start, local = _STARTS[layout][model(name) or part(found)], _local(name)
        start += local if start.endswith(".") else local.replace(".", "_")
        parts = {what: array(leaf) for what, leaf in change.parts.items()}
        rank = forms.rank(parts)
        if rank is None:  # tools don't scale these
            first = "diff" if "diff" in parts else "lokr_w1"
            parts[first] = parts[first] * np.float32(change.scale)
        else:
            out[f"{start}.alpha"] = np.float32(change.scale * rank).reshape(())
        if change.magnitude is not None:
            lengths = array(change.magnitude)
            parts[COLUMNS] = lengths if change.columns else lengths.reshape(-1, *([1] * max(lengths.ndim - 1, 1)))
        out |= {f"{start}.{_WRITTEN.get(what, what)}": leaf for what, leaf in parts.items()}
    return out
