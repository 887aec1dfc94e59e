"""PixArt-α text-to-image for people who think in functions.

import pixart_fn as px
image = px.generate(px.load(), "a cute cat", px.key(0))
"""

import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from . import guidance, rng, schedule, solvers
from .arithmetic import precision
from .rng import fold_in, key, split
from .sample import iterate, sample
from .types import Denoiser, Grid, Key, Solver, Text

# before the first import of mindspore
os.environ.setdefault("GLOG_v", "3")  # its log speaks of internals at level 2
if not Path("/dev/davinci_manager").exists():  # no Ascend: a thread that waits for work by spinning takes a CPU from it
    os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
# where it writes what a failed compilation looked like, which otherwise is rank_0/ in the working directory
os.environ.setdefault("MS_OM_PATH", str(Path(tempfile.gettempdir(), f"mindspore-{os.getuid()}")))

if TYPE_CHECKING:
    from . import plots, t5, train, transformer, tree, types, vae
    from .checkpoint import Params, load, save
    from .denoiser import text_denoiser
    from .jit import grad, value_and_grad
    from .picture import save_picture
    from .pipeline import generate
    from .stages import decode_latents, encode_image, encode_prompt, noise, sample_latents

__version__ = "0.2.0.dev0"

__all__ = [
    "Denoiser",
    "Grid",
    "Key",
    "Params",
    "Solver",
    "Text",
    "__version__",
    "decode_latents",
    "encode_image",
    "encode_prompt",
    "fold_in",
    "generate",
    "grad",
    "guidance",
    "iterate",
    "key",
    "load",
    "noise",
    "plots",
    "precision",
    "rng",
    "sample",
    "sample_latents",
    "save",
    "save_picture",
    "schedule",
    "solvers",
    "split",
    "t5",
    "text_denoiser",
    "train",
    "transformer",
    "tree",
    "types",
    "vae",
    "value_and_grad",
]

_HOMES = {
    "checkpoint": ("Params", "load", "save"),
    "denoiser": ("text_denoiser",),
    "jit": ("grad", "value_and_grad"),
    "picture": ("save_picture",),
    "pipeline": ("generate",),
    "stages": ("decode_latents", "encode_image", "encode_prompt", "noise", "sample_latents"),
}


def __getattr__(name: str) -> object:
    """Import what runs on MindSpore when it is first asked for: schedules, solvers and guidance do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((module for module, names in _HOMES.items() if name in names), None)
    found = (
        import_module(f".{name}", __name__) if module is None else getattr(import_module(f".{module}", __name__), name)
    )
    globals()[name] = found  # MindSpore's parser looks for it there
    return found


def __dir__() -> list[str]:
    return __all__
