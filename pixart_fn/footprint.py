"""The bytes that weights and each stage of a call take.

The factors were fitted to measured peaks on CPUs (tests/bench); B rows, N patches, L tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from . import tree
from .control import Control
from .models import t5, transformer
from .params import Params
from .types import Tree

GRAPHS = {"encode_prompt": int(0.04 * 2**30), "sample_latents": int(0.06 * 2**30), "decode_latents": int(0.27 * 2**30)}
"""The compiled graphs of each stage."""
BLOCK = 100
"""Numbers that a block of the transformer holds at once for each number of its input, B · N · D."""
PIXEL = 2.9
"""Numbers that a level of the decoder holds at once for each number of its input."""
ENCODER = 4.2
"""Numbers that the encoder holds at once for each number of its first level."""
MATRICES = 1.4
"""The decoder's convolutions as matrices, beside the weights themselves."""
TILED = 20
"""Pictures that decoding in tiles holds, of strips, their blends and the result."""


def weights(params: Params) -> int:
    """Return the bytes of all weights that are in memory."""
    return sum(held(getattr(params, name)) for name in params.TREES if getattr(params, name) is not None)


def held(weights: Tree) -> int:
    """What a model's weights take in memory: nothing where they are read layer by layer."""
    total = 0
    for leaf in tree.leaves(weights):
        if hasattr(leaf, "values") and hasattr(leaf, "scale"):  # int8 by rows
            total += leaf.values.nbytes + leaf.scale.nbytes
        elif not hasattr(leaf, "read"):
            total += math.prod(leaf.shape) * int(leaf.itemsize)
    return total


def nets(controls: Sequence[Control]) -> int:
    """What the weights of ControlNets take in memory."""
    return sum(held(control.net[0]) for control in controls)


def encoding_text(weights: Tree, config: t5.Config, rows: int, L: int) -> int:
    inner = config.num_heads * config.d_kv
    token = 10 * config.d_model + 8 * inner + 8 * config.d_ff + 4 * config.num_heads * L
    layer = 4 * config.d_model * inner + 3 * config.d_model * config.d_ff
    rows_at_once = min(rows, t5.rows_at_once(config, L))
    return 4 * (rows_at_once * L * token + _ahead(weights, layer) + 2 * rows * L * config.d_model)


def sampling(weights: Tree, config: transformer.Config, rows: int, latent: tuple[int, int], L: int) -> int:
    N = latent[0] * latent[1] // config.patch_size**2
    captions = 2 * config.num_layers * rows * L * config.width
    return 4 * (BLOCK * rows * N * config.width + captions + _ahead(weights, 16 * config.width**2))


def steering(
    controls: Sequence[Control], config: transformer.Config, rows: int, latent: tuple[int, int], L: int
) -> int:
    """Return the bytes of what ControlNets add to the blocks, and of what their own blocks see of the texts."""
    N = latent[0] * latent[1] // config.patch_size**2
    return 4 * sum(control.net[1].num_layers for control in controls) * rows * (N + 2 * L) * config.width


def _ahead(weights: Tree, layer: int) -> int:
    """The numbers of two layers, each of so many, where a model's layers become float32 when it is their turn."""
    return 2 * layer if any(hasattr(leaf, "read") for leaf in tree.leaves(weights)) else 0


def decoding(params: Params, size: tuple[int, int], n: int, tile: int | None) -> int:
    """Return the bytes that decoding n pictures takes beside the weights; there must be a VAE."""
    assert params.config.vae is not None
    widths = params.config.vae.block_out_channels
    entering = [widths[-1], *reversed(widths[1:])]  # channels into each level, the smallest level first
    height, width = (side if tile is None else min(side, tile) for side in size)
    last = len(widths) - 1
    level = max(C * height * width / 4 ** (last - i) for i, C in enumerate(entering))
    pictures = 3 * size[0] * size[1] * (3 * n + (TILED if tile is not None and max(size) > tile else 0))
    return GRAPHS["decode_latents"] + int(4 * (PIXEL * level + pictures) + MATRICES * held(params.vae["decoder"]))


def encoding(params: Params, size: tuple[int, int], n: int) -> int:
    """Return the bytes that encoding n pictures takes beside the weights; there must be a VAE."""
    assert params.config.vae is not None
    pixels = size[0] * size[1]
    numbers = (ENCODER * params.config.vae.block_out_channels[0] + 12 * n) * pixels
    return GRAPHS["decode_latents"] + int(4 * numbers + held(params.vae["encoder"]))
