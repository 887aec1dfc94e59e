"""An adapter's settings, as peft keeps them in adapter_config.json, and diffusers and kohya in a file's metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..checks import shown
from ..files import reading
from ..models.lora_config import PARTS, Config, fits, part

METADATA = "lora_adapter_metadata"
"""Where diffusers keeps the settings in a file's metadata."""
_ALPHA = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
"""What peft calls alpha, for each type of adapter that is read."""
_USED = {
    "r", "target_modules", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern"
}  # fmt: skip
_FIXED: dict[str, tuple[Any, ...]] = {
    "peft_type": tuple(_ALPHA),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),  # others change the model's own weights too
    "init_weights": (True, False, "lycoris"),
}
# of training, of loading or of choosing the modules, which the names in the file tell
_IGNORED = {
    "auto_mapping", "base_model_name_or_path", "decompose_both", "decompose_factor", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout",
    "megatron_core", "module_dropout", "peft_version", "qalora_group_size", "rank_dropout", "rank_dropout_scale",
    "revision", "runtime_config", "task_type", "use_effective_conv2d",
}  # fmt: skip


def read_settings(content: Mapping[str, Any], where: str, names: Collection[str]) -> Config:
    """Make the settings of an adapter of what peft writes about it.

    Args:
        content: of adapter_config.json.
        where: what a sentence calls it.
        names: the modules that have weights.
    Returns:
        The settings, whose targets are the file's list of names, or `names` where that doesn't stand for all of them.
    Raises:
        ValueError: a setting has a wrong value, is missing, or isn't supported.
    """
    kind = content.get("peft_type")
    alpha = _ALPHA.get(kind, "lora_alpha") if isinstance(kind, str) else "lora_alpha"
    for name, value in content.items():
        fixed = _FIXED.get(name, (None, False, [], {}, "", 0))
        if name not in {alpha, *_USED, *_IGNORED} and value not in fixed:
            valid = f"supported: {', '.join(map(shown, fixed))}" if name in _FIXED else "it must be off"
            raise ValueError(f"{where} asks for {name} = {shown(value)}, which isn't supported ({valid})")
    if lacking := [name for name in ("r", alpha) if content.get(name) is None]:
        raise ValueError(f"{where} must say r and {alpha}, and lacks {' and '.join(lacking)}")
    listed = content.get("target_modules")  # peft also takes a regular expression
    targets = [each for each in listed if isinstance(each, str) and each] if isinstance(listed, list) else []
    if not all(any(fits(name, target) for target in targets) for name in names):
        targets = list(names)
    try:
        return Config(
            content["r"],
            content[alpha],
            targets,
            content.get("use_dora") or False,
            content.get("use_rslora") or False,
            _pattern(content, "rank_pattern"),
            _pattern(content, "alpha_pattern"),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _pattern(content: Mapping[str, Any], name: str) -> Any:
    pattern = content.get(name) or {}
    if isinstance(pattern, dict):
        for key in pattern:
            if not re.fullmatch(r"\^?[\w.]+", key):
                raise ValueError(f"{name} names {shown(key)}, and regular expressions aren't supported")
    return pattern


def read_metadata(metadata: Mapping[str, str], names: Iterable[str], where: object) -> dict[str, Config]:
    """Read the settings that diffusers keeps in a file's metadata.

    Args:
        metadata: of the file.
        names: the modules in the file.
        where: the file.
    Returns:
        The settings for each model that has any: "transformer", "text_encoder", or "" where the names begin with none.
    Raises:
        ValueError: the metadata isn't JSON, or as `read_settings`.
    """
    if METADATA not in metadata:
        return {}
    said = f"{METADATA} in {where}"
    try:
        content = reading.parse(metadata[METADATA].encode())
    except ValueError as error:
        raise ValueError(f"{said} isn't valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{said} should be a JSON object, not {shown(content)}")
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(model(name), []).append(name.removeprefix(f"{model(name)}."))
    out = {}
    for prefix, local in grouped.items():
        start = f"{prefix}." if prefix else ""
        own = {key[len(start) :]: value for key, value in content.items() if key.startswith(start)}
        if own:
            out[prefix] = read_settings(own, f"{said} of {prefix}" if prefix else said, local)
    return out


def network_alpha(metadata: Mapping[str, str], rank: int, where: object) -> float | None:
    """Read the alpha that kohya keeps in a file's metadata.

    Args:
        metadata: of the file.
        rank: of a module.
        where: the file.
    Returns:
        The alpha of modules of this rank, or None where that isn't said.
    Raises:
        ValueError: alpha or the rank that it is for isn't a number.
    """
    said = {}
    for name in ("ss_network_alpha", "ss_network_dim"):
        text = metadata.get(name, "None")
        try:
            said[name] = None if text == "None" else float(text)
        except ValueError:
            raise ValueError(f"{name} in the metadata of {where} must be a number, got {shown(text)}") from None
    alpha, dim = said.values()
    return alpha if alpha and dim in (None, rank) else None


def model(name: str) -> str:
    """Return the model that a module's name begins with, or ""."""
    first = name.split(".")[0]
    return first if first in PARTS else ""


def write_settings(config: Config, names: Iterable[str], prefix: str) -> dict[str, Any]:
    """Write the settings of an adapter of one model as peft reads them.

    Args:
        config: the settings.
        names: the adapter's modules of this model.
        prefix: the model that the names begin with, which is left out; "" where they begin with none.
    Returns:
        The content of adapter_config.json.
    """
    local = {name: name.removeprefix(f"{prefix}.") for name in names}
    targets = [target for target in config.targets if any(fits(name, target) for name in local.values())]
    targets += [name for name in local.values() if not any(fits(name, target) for target in targets)]
    ranks = {short: config.rank_at(name) for name, short in local.items()}
    alphas = {short: config.alpha_at(name) for name, short in local.items()}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": sorted(targets),
        "use_dora": config.dora,
        "use_rslora": config.rslora,
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != config.rank},
        "alpha_pattern": {name: alpha for name, alpha in alphas.items() if alpha != config.alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
    }


def write_metadata(config: Config, names: Iterable[str]) -> str:
    """Write the settings of an adapter as diffusers keeps them in a file's metadata.

    Args:
        config: the settings.
        names: the adapter's modules.
    Returns:
        The text under METADATA.
    """
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(model(name), []).append(name)
    out: dict[str, Any] = {}
    for prefix, own in grouped.items():
        settings = write_settings(config, own, prefix)
        out |= {f"{prefix or part(own)}.{key}": value for key, value in settings.items()}
    return json.dumps(out, indent=2, sort_keys=True)
