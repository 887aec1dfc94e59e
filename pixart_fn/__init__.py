"""PixArt-α text-to-image for people who think in functions.

import pixart_fn as px
image = px.generate(px.load(), "a cute cat", px.key(0))
"""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from . import guidance, rng, schedule, solvers
from .arithmetic import precision
from .rng import fold_in, key, split
from .sample import iterate, sample

# before the first import of mindspore
os.environ.setdefault("GLOG_v", "3")  # its log speaks of internals at level 2
if not Path("/dev/davinci_manager").exists():  # no Ascend: a thread that waits for work by spinning takes a CPU from it
    os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")

if TYPE_CHECKING:
    from . import plots, t5, transformer, tree, vae
    from .checkpoint import Params, load, save
    from .jit import grad, value_and_grad
    from .pipeline import decode_latents, encode_prompt, generate, sample_latents, text_denoiser

__all__ = [
    "Params",
    "decode_latents",
    "encode_prompt",
    "fold_in",
    "generate",
    "grad",
    "guidance",
    "iterate",
    "key",
    "load",
    "plots",
    "precision",
    "rng",
    "sample",
    "sample_latents",
    "save",
    "schedule",
    "solvers",
    "split",
    "t5",
    "text_denoiser",
    "transformer",
    "tree",
    "vae",
    "value_and_grad",
]

_HOMES = {
    "checkpoint": ("Params", "load", "save"),
    "jit": ("grad", "value_and_grad"),
    "pipeline": ("decode_latents", "encode_prompt", "generate", "sample_latents", "text_denoiser"),
}


def __getattr__(name: str):
    """Import what runs on MindSpore when it is asked for: schedules, solvers and guidance do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    return import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return __all__
