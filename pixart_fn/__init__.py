"""PixArt-α text-to-image for people who think in functions.

import pixart_fn as px
image = px.generate(px.load(), "a cute cat", px.key(0))
"""

from . import guidance, jit, rng, schedule, sizes, solvers, t5, transformer, tree, vae
from .checkpoint import Params, load, save
from .generate import decode_latents, encode_prompt, generate, sample_latents, text_denoiser
from .jit import grad, value_and_grad
from .rng import fold_in, key, split
from .sample import iterate, sample

__all__ = [
    "Params",
    "decode_latents",
    "encode_prompt",
    "fold_in",
    "generate",
    "grad",
    "guidance",
    "iterate",
    "jit",
    "key",
    "load",
    "rng",
    "sample",
    "sample_latents",
    "save",
    "schedule",
    "sizes",
    "solvers",
    "split",
    "t5",
    "text_denoiser",
    "transformer",
    "tree",
    "vae",
    "value_and_grad",
]
