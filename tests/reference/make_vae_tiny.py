"""Write the golden of an AutoencoderTiny: python -m tests.reference.make_vae_tiny, with torch and diffusers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderTiny

from .case import Case, save
from .make_forward import case
from .make_gradients import gradients
from .make_models import arrays, normal, randomise

SEED = 31_000


def vae_tiny(seed: int, **overrides: Any) -> AutoencoderTiny:
    fields: dict[str, Any] = {"encoder_block_out_channels": (6, 6), "decoder_block_out_channels": (8, 8)}
    fields |= {"num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1), **overrides}
    model = AutoencoderTiny(**fields).eval()
    randomise(model, seed)
    return model


def make_vae_tiny(seed: int) -> Case:
    """What each half gives, and its gradients; the latents reach beyond where they are clamped."""
    model = vae_tiny(seed)
    x, z = normal(seed + 1, 2, 3, 8, 12).tanh(), 2 * normal(seed + 2, 2, 4, 4, 6)
    encode = gradients(model, lambda x: model.encode(x).latents, seed + 3, {"x": x})
    decode = gradients(model, lambda z: model.decode(z).sample, seed + 4, {"z": z})
    with torch.no_grad():
        encode |= arrays(out=model.encode(x).latents)
        decode |= arrays(out=model.decode(z).sample)
    return case(model, encode=encode, decode=decode)


if __name__ == "__main__":
    torch.set_num_threads(1)
    save(make_vae_tiny(SEED), "vae_tiny")
