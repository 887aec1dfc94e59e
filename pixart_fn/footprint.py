"""The bytes that weights and each stage of a call take.

The factors were fitted to measured peaks on CPUs (tests/bench); B rows, N patches, L tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from . import tree
from .backend import device
from .backend.precision import precision
from .control import Control
from .models import t5, t5_numpy, transformer, transformer_numpy, vae
from .models.vae_layers import SCORES
from .params import Params
from .process import cpus
from .types import Tree

GRAPHS = {"encode_prompt": int(0.04 * 2**30), "sample_latents": int(0.06 * 2**30)}
"""The compiled graphs of a stage."""
BLOCK = 100
"""Numbers that a block of the transformer holds at once for each number of its input, B · N · D."""


class Vae(NamedTuple):
    """What a VAE takes beside its weights."""

    graphs: int
    """Bytes of its compiled graphs."""
    numbers: float
    """What is held at once, over the numbers of a level's input and of twice its output."""
    matrices: float
    """A half's convolutions as matrices, beside the weights themselves."""
    tiled: int
    """Pictures that decoding in tiles holds, of strips, their blends and the result."""


NUMPY = Vae(0, 1.0, 0.1, 2)
"""A VAE that NumPy computes."""
COMPILED = Vae(int(0.27 * 2**30), 1.45, 1.4, 20)
"""One that MindSpore computes."""


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


def graphs(params: Params, latent: tuple[int, int]) -> int:
    """Return the bytes of the graphs that are compiled for pictures whose latents are of a size (h, w)."""
    config, total = params.config, 0
    if not is_small(params.transformer, config.transformer, latent):
        total += GRAPHS["sample_latents"]
    if params.text_encoder is not None and config.text_encoder is not None:
        is_numpy = t5_numpy.fits(params.text_encoder, config.text_encoder)
        total += 0 if is_numpy else GRAPHS["encode_prompt"]
    return total if params.vae is None else total + vae_takes(params).graphs


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
    captions, at_once = 2 * config.num_layers * rows * L * config.width, rows
    if is_small(weights, config, latent):  # a picture in each thread, which sees the captions in another form
        captions, at_once = 2 * captions, min(rows, len(cpus.allowed() or (0,)))
    return 4 * (BLOCK * at_once * N * config.width + captions + _ahead(weights, 16 * config.width**2))


def is_small(weights: Tree, config: transformer.Config, latent: tuple[int, int]) -> bool:
    """Whether NumPy evaluates a transformer for latents of a size (h, w)."""
    return transformer_numpy.fits(weights, config) and transformer_numpy.is_small(config, latent)


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
    takes, widths = vae_takes(params), params.config.vae.block_out_channels
    height, width = (side if tile is None else min(side, tile) for side in size)
    tiles = takes.tiled if tile is not None and max(size) > tile else 0
    numbers = takes.numbers * _largest(widths, widths[1:] + widths[-1:], height * width)
    numbers += 3 * size[0] * size[1] * (3 * n + tiles)
    return takes.graphs + int(4 * numbers + takes.matrices * held(params.vae["decoder"]))


def encoding(params: Params, size: tuple[int, int], n: int) -> int:
    """Return the bytes that encoding n pictures takes beside the weights; there must be a VAE."""
    assert params.config.vae is not None
    takes, widths, pixels = vae_takes(params), params.config.vae.block_out_channels, size[0] * size[1]
    numbers = takes.numbers * _largest(widths, widths[:1] + widths[:-1], pixels) + 12 * n * pixels
    return takes.graphs + int(4 * numbers + takes.matrices * held(params.vae["encoder"]))


def _largest(widths: Sequence[int], entering: Sequence[int], pixels: int) -> float:
    """Numbers that a VAE's largest level holds at once, where the first has so many pixels, or its attention does."""
    each = enumerate(zip(widths, entering, strict=True))
    largest = max((max(C, O) + 2 * O) * pixels / 4**i for i, (O, C) in each)
    N = pixels / 4 ** (len(widths) - 1)
    return float(max(largest, 4 * widths[-1] * N + 2 * min(N * N, 2 * SCORES)))


def vae_takes(params: Params) -> Vae:
    """Return what the VAE takes where it is computed; gradients, which MindSpore records, aren't looked at."""
    full = precision() == "float32" and all(str(leaf.dtype).lower() == "float32" for leaf in tree.leaves(params.vae))
    return NUMPY if full and isinstance(params.config.vae, vae.Config) and device.is_cpu() else COMPILED
