"""Pipelines small enough to draw in a blink, with random weights: what they draw is noise, but noise of its inputs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pixart_fn import rng, t5, transformer, tree, vae
from pixart_fn.params import Configs, Params
from pixart_fn.train.emoji.text_to_image import SCHEDULER, vocabulary

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

SENTENCES = (
    "a cute cat sits on the mat",
    "the big dog runs over a green field",
    "a red apple and a yellow banana lie in a bowl",
    "an old guitar stands by the window of a small house",
    "two birds sing in the tall tree at night",
)
TRANSFORMER = transformer.Config(
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    cross_attention_dim=32,
    sample_size=8,
    caption_channels=32,
)
MICRO = transformer.Config(
    num_attention_heads=2, attention_head_dim=18, num_layers=1, cross_attention_dim=36, sample_size=8,
    caption_channels=32, use_additional_conditions=True,
)  # fmt: skip
RELEASED_SIZE = transformer.Config(
    num_attention_heads=1,
    attention_head_dim=8,
    num_layers=1,
    cross_attention_dim=8,
    sample_size=32,
    caption_channels=32,
)
VAE = vae.Config(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, sample_size=16, scaling_factor=0.5)
RELEASED_FACTOR = vae.Config(block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, sample_size=256)


@functools.cache
def words() -> Any:
    """A tokenizer of the sentences' words."""
    return vocabulary(list(SENTENCES), 80)


@functools.cache
def params(config: transformer.Config = TRANSFORMER, decoder: vae.Config = VAE) -> Params:
    """A pipeline with a factor of 2 and pictures of 16 × 16 unless told otherwise."""
    encoder = t5.Config(vocab_size=words().size, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    return Params(
        text_encoder=t5.init(rng.key(1), encoder),
        transformer=without_zeros(transformer.init(rng.key(2), config)),
        vae=without_zeros(vae.init(rng.key(3), decoder)),
        config=Configs(encoder, config, decoder, SCHEDULER),
        tokenizer=words(),
    )


def without_zeros(p: Any) -> Any:
    """Random numbers for the weights and biases that start at zero.

    With zeros, text would change nothing, the transformer's output would be zero, and a group norm right after the
    latents would make the VAE blind to their scale.
    """
    flat = dict(tree.items(p))
    for i, (name, leaf) in enumerate(flat.items()):
        if not np.any(leaf.asnumpy()):
            noise = rng.normal(rng.fold_in(rng.key(4), i), leaf.shape)
            fan_in = np.prod(leaf.shape[1:]) if name.endswith("weight") else 25
            flat[name] = Tensor.from_numpy(noise * np.float32(fan_in**-0.5))
    return tree.nest(flat)
