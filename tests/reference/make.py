"""Write the goldens: python -m tests.reference.make [name …], with torch, diffusers and transformers installed.

Float32 sums depend on the processor, so a second run elsewhere changes the outputs by a rounding error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch

from . import make_compressed, make_dit, make_forward, make_gradients
from .case import Case, save

CASES: dict[str, Callable[[int], Case]] = {
    "t5": make_forward.make_t5,
    "t5_narrow": make_forward.make_t5_narrow,
    "transformer": make_forward.make_transformer,
    "transformer_micro": make_forward.make_transformer_micro,
    "transformer_plain": make_forward.make_transformer_plain,
    "vae": make_forward.make_vae,
    "vae_deep": make_forward.make_vae_deep,
    "gradients_t5": make_gradients.make_gradients_t5,
    "gradients_transformer": make_gradients.make_gradients_transformer,
    "gradients_transformer_micro": make_gradients.make_gradients_transformer_micro,
    "gradients_vae": make_gradients.make_gradients_vae,
    "dit": make_dit.make_dit,
    "gradients_transformer_conv": partial(make_compressed.make, sampling="conv"),
}


def golden(name: str) -> Case:
    """The case with the seed of the stored goldens."""
    return CASES[name](1000 * list(CASES).index(name))


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or CASES:
        save(golden(name), name)


if __name__ == "__main__":
    main(sys.argv[1:])
