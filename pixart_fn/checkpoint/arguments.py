"""What `load` says to the names that people know from diffusers' from_pretrained."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_INSTEAD = {
    "cache_dir": "set the environment variable HF_HUB_CACHE before Python starts",
    "device": "MindSpore computes on the device that it finds",
    "device_map": "MindSpore computes on the device that it finds; stream=True keeps the text encoder on the disk",
    "force_download": "remove it from the cache, as `hf cache` does",
    "local_files_only": "set the environment variable HF_HUB_OFFLINE=1 before Python starts",
    "low_cpu_mem_usage": "weights are mapped and take memory as they are used; stream=True goes further",
    "model": "give it as source, the first argument",
    "path": "give it as source, the first argument",
    "pretrained_model_name_or_path": "give it as source, the first argument",
    "quantization_config": "px.t5.quantize(params.text_encoder) makes the text encoder int8",
    "safety_checker": "PixArt has none",
    "subfolder": "give the folder or hub id; the model's folder inside is found",
    "token": "log in with `hf auth login`, or set the environment variable HF_TOKEN",
    "tokenizer": "it is read from beside the text encoder that text_encoder= names",
    "torch_dtype": 'say dtype="float16"',
    "use_auth_token": "log in with `hf auth login`, or set the environment variable HF_TOKEN",
    "use_safetensors": "leave it out, since only .safetensors files are ever read",
}


def refused(f: Callable[P, R]) -> Callable[P, R]:
    """Make f answer a name that it doesn't have by one sentence that says what to give instead."""
    own = inspect.signature(f).parameters

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in own:
                near = difflib.get_close_matches(name, own, 1)
                hint = _INSTEAD.get(name) or (f"is {near[0]} meant?" if near else f"it has {', '.join(own)}")
                raise TypeError(f"{f.__name__} has no argument {name!r}; {hint}")
        return f(*args, **kwargs)

    return call
