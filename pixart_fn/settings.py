"""The settings of a picture, each with its check, and the call that draws the picture again."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from .checks import check_number, check_option, check_sha256, check_switch, check_whole, kind, shown
from .files import reading
from .solvers import SOLVERS

SIDE, PICTURES, STEPS, SCALE, TOKENS = 8192, 10_000, 10_000, 1000, 2**14
"""Upper bounds for `call` and for the command: pixels along a side, pictures, steps, the size of guidance, and
the tokens of a prompt."""
DTYPES = ("float32", "float16", "bfloat16")
_Check: TypeAlias = Callable[[str, Any], None]


def call(settings: Mapping[str, Any]) -> str:
    """Write the Python call that draws a picture again, from settings as the command stores them.

    Every value is checked before it is printed, since a file may come from anywhere.

    Args:
        settings: what `read_settings` gives.
    Returns:
        An expression of Python, `px.generate(…)`, or one of `px.edit` where a picture was drawn from another.
    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is missing, unknown or out of its range.
    """
    check_settings(settings)
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    prompt, index, n = given["prompt"], given.get("index"), _count(given)
    key = f"px.key({given['seed']!r})"
    if n > 1 and index is not None:
        key = f"px.split({key}, {n!r})[{index!r}]"
    edited = given.get("init") is not None
    options = {"strength": given["strength"]} if edited else {}
    options |= {ours: given[name] for name, ours in _ALWAYS.items() if given.get(name) is not None}
    optional = ("solver", "tokens", "tile") if edited else ("height", "width", "solver", "tokens", "tile")
    options |= {name: given[name] for name in optional if given.get(name) is not None}
    options |= {name: False for name in ("clean", "binning") if not given.get(name, True)}
    each = n if isinstance(prompt, str) else n // len(prompt)
    if index is None and each > 1:
        options["images_per_prompt"] = each
    source = [] if given.get("model") is None else [repr(given["model"])]
    source += [f"{name}={given[name]!r}" for name, usual in _LOADED.items() if given.get(name, usual) != usual]
    function, read = _edit(given) if edited else ("px.generate", [])
    load, steered = _adapted(f"px.load({', '.join(source)})", given), given.get("control") is not None
    last = [f"controls={_control(given)}"] if steered else []
    load = f"params := {load}" if steered else load
    return f"{function}({', '.join([load, *read, repr(prompt), key, *_keywords(options), *last])})"


def adapters(rows: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    """Return the settings that name adapters, which px.lora.merge adds one after the other.

    Args:
        rows: of each its file or folder as `px.lora.load` takes it, its sha256 from `digest`, and its weight.
    Returns:
        `lora`, `lora_sha256` and `lora_weight`: the values of one adapter, lists of those of several, or nothing.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
    return {name: column if len(rows) > 1 else column[0] for name, column in zip(_LORA, columns, strict=False)}


def digest(source: str) -> str:
    """Return the sha256 of an adapter's weights: of a file, or of the one in a folder that px.lora.load reads."""
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        names = [name for name in _WEIGHTS if (path / name).exists()]
        if not names:
            raise FileNotFoundError(f"{source!r:.200} holds neither {' nor '.join(_WEIGHTS)}")
        path /= names[0]
    return reading.sha256(path)


def listed(settings: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Return what `adapters` made the settings of."""
    if settings.get("lora") is None:
        return []
    sources, hashes = _list(settings["lora"]), _list(settings["lora_sha256"])
    weights = settings.get("lora_weight")
    return list(zip(sources, hashes, [1.0] * len(sources) if weights is None else _list(weights), strict=True))


def _adapted(load: str, settings: Mapping[str, Any]) -> str:
    """Return the call that merges the adapters into what is loaded."""
    for source, sha256, weight in listed(settings):
        scaled = "" if weight == 1 else f", {weight!r}"
        load = f"px.lora.merge({load}, px.lora.load({source!r}, sha256={sha256!r}){scaled})"
    return load


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _edit(settings: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the function that draws from a picture, and the calls that read this and its mask."""
    masked = settings.get("mask") is not None
    read = [_read(settings, name) for name in (("init", "mask") if masked else ("init",))]
    return f"px.edit.{'inpaint' if masked else 'image_to_image'}", read


def _control(settings: Mapping[str, Any]) -> str:
    """Return the call that makes what steers of a ControlNet and the edges of a picture; `params` is loaded before."""
    source = "" if settings.get("controlnet") is None else repr(settings["controlnet"])
    parts = ["params", f"px.controlnet.load({source})", f"px.edges.canny({_read(settings, 'control')})"]
    scale = settings.get("control_scale")
    return f"px.controlnet.control({', '.join(parts + ([] if scale in (None, 1) else [f'scale={scale!r}']))})"


def _read(settings: Mapping[str, Any], name: str) -> str:
    """Return the call that reads a picture, fitted to the size that is drawn."""
    size = [repr(settings[side]) for side in ("height", "width") if settings.get(side) is not None]
    options = ({"mask": True} if name == "mask" else {}) | {"sha256": settings[f"{name}_sha256"]}
    return f"px.edit.read_picture({', '.join([repr(settings[name]), *size, *_keywords(options)])})"


def _keywords(options: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value!r}" for name, value in options.items()]


_LORA = ("lora", "lora_sha256", "lora_weight")
_WEIGHTS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_ALWAYS = {"negative": "negative_prompt", "steps": "steps", "guidance": "guidance"}
_LOADED = {"variant": None, "revision": None, "dtype": "float32"}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise a TypeError or ValueError that names the first setting that `call` can't use."""
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings must be a dict, as read_settings gives, got {kind(settings)}")
    for name in settings:
        if name not in _CHECKS:
            raise ValueError(f"there is no setting {shown(name)}; {_nearest(name, _CHECKS)}")
    for name in ("prompt", "seed"):
        if name not in settings:
            raise ValueError(f"the settings lack {name!r}, without which the picture can't be drawn again")
    for name, value in settings.items():
        _CHECKS[name](name, value)
    _check_edit({name: value for name, value in settings.items() if value is not None})
    prompt, index, n = settings["prompt"], settings.get("index"), _count(settings)
    if index is not None and (index >= n or not isinstance(prompt, str)):
        raise ValueError(f"index must say which of n pictures of one prompt it is, got index {index} and n {n}")
    if not isinstance(prompt, str) and n % len(prompt):
        raise ValueError(f"n must be a multiple of the number of prompts, {len(prompt)}, got {n}")


_NEEDED = {
    **dict.fromkeys(("strength", "mask", "init_sha256"), "init"), "mask_sha256": "mask",
    **dict.fromkeys(("control_sha256", "controlnet", "control_scale"), "control"),
    **dict.fromkeys(("lora_sha256", "lora_weight"), "lora"),
}  # fmt: skip


def _check_edit(settings: Mapping[str, Any]) -> None:
    """Raise a ValueError where settings about pictures that are drawn from or followed don't go together."""
    for name, needed in _NEEDED.items():
        if name in settings and needed not in settings:
            raise ValueError(f"{name} needs {needed}")
    for name in ("init", "mask", "control", "lora"):
        if name in settings and f"{name}_sha256" not in settings:
            raise ValueError(f"{name} needs {name}_sha256, without which another file could take its place")
    for name in [name for name in _LORA if name in settings]:
        if (got := len(_list(settings[name]))) != (wanted := len(_list(settings["lora"]))):
            raise ValueError(f"{name} must be one for each lora, got {got} for {wanted}")
    if "init" in settings:
        if "strength" not in settings:
            raise ValueError("init needs strength")
        if not settings.get("binning", True):
            raise ValueError("binning is for what is drawn from noise alone; with init, the size itself is drawn")
    if ("init" in settings or "control" in settings) and len({"height", "width"} & {*settings}) == 1:
        raise ValueError("height and width must both be given or neither")


def _count(settings: Mapping[str, Any]) -> int:
    """Return how many pictures the seed's key was split for."""
    return int(settings.get("n", 1 if isinstance(settings["prompt"], str) else len(settings["prompt"])))


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text that UTF-8 can hold, got {shown(value)}") from None


def _check_path(name: str, value: Any) -> None:
    _check_text(name, value)
    if "\0" in value:
        raise ValueError(f"{name} must be a name that a file can have, got {shown(value)}")


def _check_prompt(name: str, value: Any) -> None:
    prompts = value if isinstance(value, (list, tuple)) else [value]
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"{name} must be a string or a list of at least one string, got {kind(value)}")
    for prompt in prompts:
        _check_text(name, prompt)


def _check_solver(name: str, value: Any) -> None:
    _check_text(name, value)
    if value not in SOLVERS:
        got = f"got {shown(value)}; {_nearest(value, SOLVERS)}"
        raise ValueError(f"{name} must be one of {', '.join(SOLVERS)}, {got}")


def _check_scale(name: str, value: Any) -> None:
    check_number(name, value, -SCALE, SCALE)


def _whole(low: int, high: int) -> _Check:
    return lambda name, value: check_whole(name, value, low, high)


def _each(check: _Check) -> _Check:
    """Check a value, or each of a list of at least one."""

    def several(name: str, value: Any) -> None:
        if isinstance(value, (list, tuple)) and not value:
            raise ValueError(f"{name} must be one or a list of at least one, got none")
        for each in _list(value):
            check(name, each)

    return several


def _or_none(check: _Check) -> _Check:
    return lambda name, value: None if value is None else check(name, value)


_CHECKS: dict[str, _Check] = {
    "prompt": _check_prompt,
    "model": _or_none(_check_path),
    "variant": _or_none(_check_path),
    "revision": _or_none(_check_path),
    "dtype": lambda name, value: check_option(name, value, DTYPES),
    "seed": _whole(0, 2**64 - 1),
    "steps": _or_none(_whole(1, STEPS)),
    "guidance": _or_none(_check_scale),
    "negative": _check_text,
    "solver": _or_none(_check_solver),
    "n": _whole(1, PICTURES),
    "index": _or_none(_whole(0, PICTURES - 1)),
    "height": _or_none(_whole(1, SIDE)),
    "width": _or_none(_whole(1, SIDE)),
    "clean": check_switch,
    "tokens": _or_none(_whole(1, TOKENS)),
    "binning": check_switch,
    "tile": _or_none(_whole(1, SIDE)),
    "init": _or_none(_check_path),
    "init_sha256": _or_none(check_sha256),
    "strength": _or_none(lambda name, value: check_number(name, value, 0, 1)),
    "mask": _or_none(_check_path),
    "mask_sha256": _or_none(check_sha256),
    "control": _or_none(_check_path),
    "control_sha256": _or_none(check_sha256),
    "controlnet": _or_none(_check_path),
    "control_scale": _or_none(_check_scale),
    "lora": _or_none(_each(_check_path)),
    "lora_sha256": _or_none(_each(check_sha256)),
    "lora_weight": _or_none(_each(_check_scale)),
}


def _nearest(word: object, words: Iterable[str]) -> str:
    return f"the nearest is {difflib.get_close_matches(str(word)[:80], words, 1, cutoff=0.0)[0]!r}"
