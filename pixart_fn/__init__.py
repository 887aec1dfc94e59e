"""PixArt-α text-to-image for people who think in functions.

import pixart_fn as px
image = px.generate(px.load(), "a cute cat", px.key(0))
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .process.signals import deferred, prepare

with deferred():  # Ctrl-C in the midst of NumPy's import would be an ImportError
    from . import guidance, rng, schedule, solvers
    from .backend.precision import precision
    from .backend.runtime import device, set_environment
    from .backend.wheels import not_installed
    from .guidance import Guidance
    from .process.lock import lock
    from .rng import fold_in, key, split
    from .sample import iterate, sample
    from .types import Denoiser, Grid, Key, Solver, Text, VarianceDenoiser

set_environment()  # before the first import of mindspore

if TYPE_CHECKING:
    from . import edges, edit, plots, prompts, testing, train, tree, types
    from .backend.autodiff import grad, value_and_grad
    from .checkpoint import controlnet, lora
    from .checkpoint.convert import convert
    from .checkpoint.load import load
    from .checkpoint.save import save
    from .denoiser import text_denoiser, text_variance_denoiser
    from .estimate import memory
    from .models import t5, transformer, vae
    from .params import Params
    from .picture import save_picture
    from .pipeline import generate
    from .stages import decode_latents, encode_image, encode_prompt, noise, sample_latents

__version__ = "0.2.0.dev0"

__all__ = [
    "Denoiser",
    "Grid",
    "Guidance",
    "Key",
    "Params",
    "Solver",
    "Text",
    "VarianceDenoiser",
    "__version__",
    "controlnet",
    "convert",
    "decode_latents",
    "device",
    "edges",
    "edit",
    "encode_image",
    "encode_prompt",
    "fold_in",
    "generate",
    "grad",
    "guidance",
    "iterate",
    "key",
    "load",
    "lock",
    "lora",
    "memory",
    "noise",
    "plots",
    "precision",
    "prompts",
    "rng",
    "sample",
    "sample_latents",
    "save",
    "save_picture",
    "schedule",
    "solvers",
    "split",
    "t5",
    "testing",
    "text_denoiser",
    "text_variance_denoiser",
    "train",
    "transformer",
    "tree",
    "types",
    "vae",
    "value_and_grad",
]

_MODULES = {
    **{name: f"checkpoint.{name}" for name in ("controlnet", "lora")},
    **{name: f"models.{name}" for name in ("t5", "transformer", "vae")},
}
_HOMES = {
    "backend.autodiff": ("grad", "value_and_grad"),
    "checkpoint": ("load", "save"),
    "checkpoint.convert": ("convert",),
    "denoiser": ("text_denoiser", "text_variance_denoiser"),
    "estimate": ("memory",),
    "params": ("Params",),
    "picture": ("save_picture",),
    "pipeline": ("generate",),
    "stages": ("decode_latents", "encode_image", "encode_prompt", "noise", "sample_latents"),
}


def __getattr__(name: str) -> object:
    """Import a name that needs MindSpore when it is first used; schedules, solvers and guidance don't need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((home for home, names in _HOMES.items() if name in names), None)
    found: object = getattr(_imported(home), name) if home else _imported(_MODULES.get(name, name))
    globals()[name] = found  # MindSpore's parser looks for it there
    return found


def _imported(module: str) -> object:
    prepare()
    try:
        with deferred():  # MindSpore's import, which would abort
            return import_module(f".{module}", __name__)
    except ModuleNotFoundError as error:
        if (said := not_installed(error)) is None:
            raise
        raise ModuleNotFoundError(said, name=error.name) from error


def __dir__() -> list[str]:
    return __all__
