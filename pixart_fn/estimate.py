"""How much memory a call takes, estimated from shapes before any work, so that what doesn't fit is refused.

MindSpore keeps the memory of operations for later ones, so a call takes its largest stage's, not their sum. The factors
were fitted to measured peaks on CPUs (tests/bench); B rows, N patches, L tokens, D width.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from . import tree
from .checks import check_number, check_whole
from .guidance import Guidance, Scale
from .models import t5, transformer, vae
from .params import Params
from .process import limits
from .public import public
from .request import check_guidance, check_params, factor, picture_size
from .types import Tree

GIB = 2**30
PROCESS = int(0.4 * GIB)
"""Python, NumPy and MindSpore after a first operation."""
GRAPHS = {"encode_prompt": int(0.04 * GIB), "sample_latents": int(0.06 * GIB), "decode_latents": int(0.3 * GIB)}
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
SPARE = 0.8
"""The share of the free memory that a part of a batch is planned for, since the estimate isn't exact."""


class Memory(NamedTuple):
    """The bytes that drawing pictures takes at most: what is there all the time, and each stage's share beside it."""

    process: int
    weights: int
    encode_prompt: int
    sample_latents: int
    decode_latents: int

    @property
    def total(self) -> int:
        """The peak of the whole call."""
        return self.process + self.weights + max(self.encode_prompt, self.sample_latents, self.decode_latents)

    def __repr__(self) -> str:
        """Show GiB."""
        parts = ", ".join(f"{name}={value / GIB:.2f}" for name, value in self._asdict().items())
        return f"Memory({self.total / GIB:.2f} GiB: {parts})"


@public
def memory(
    params: Params,
    n: int = 1,
    height: int | None = None,
    width: int | None = None,
    *,
    guidance: Guidance | Scale = 4.5,
    tile: int | None = None,
    tokens: int = 32,
) -> Memory:
    """Estimate how much memory `generate` takes for pictures that are drawn together.

    The estimate is for CPUs and within a quarter of the measured peak for released models of 256 to 1024 pixels and for
    the embedded one.

    Args:
        params: from `load`.
        n: the number of pictures that are drawn together, at least 1; `generate` itself draws fewer at a time where
            they don't fit.
        height: the picture's height in pixels; None takes the model's own.
        width: the picture's width in pixels; None takes the model's own.
        guidance: a `px.Guidance` or its scale; without guidance, half as many rows are evaluated.
        tile: the side, in pixels, of the squares to decode in; None decodes in one piece.
        tokens: the length of the longest prompt, rounded up, from 1 to 300.
    Returns:
        The bytes, whose sum is `.total`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above.
    """
    check_params(params)
    check_whole("n", n, 1)
    check_whole("tokens", tokens, 1, 300)
    if tile is not None and params.config.vae is not None:
        vae.check_tile(params.config.vae, tile)
    plan = check_guidance(params, guidance, n)
    return estimate(params, n, picture_size(params, height, width), 2 if plan.compares else 1, tile, tokens)


def estimate(
    params: Params, n: int, size: tuple[int, int], branches: int, tile: int | None = None, tokens: int = 32
) -> Memory:
    """Estimate as `memory` does, from arguments that are checked already; size is (height, width) in pixels."""
    config = params.config
    encode = decode = 0
    if params.text_encoder is not None and config.text_encoder is not None:
        encode = GRAPHS["encode_prompt"] + _encoding(params.text_encoder, config.text_encoder, n + 1, tokens)
    if params.vae is not None and config.vae is not None:
        decode = decoding(params, size, n, tile)
    f = factor(params)
    sample = GRAPHS["sample_latents"] + _sampling(
        config.transformer, branches * n, (size[0] // f, size[1] // f), tokens
    )
    return Memory(PROCESS, weights(params), encode, sample, decode)


def pictures_at_once(
    params: Params,
    n: int,
    size: tuple[int, int],
    branches: int,
    memory: float | None,
    tile: int | None = None,
    tokens: int = 32,
) -> int:
    """Return how many of n pictures fit into memory together.

    Args:
        params: from `load`, already checked.
        n: the number of pictures.
        size: (height, width) in pixels.
        branches: rows that are evaluated for each picture.
        memory: the bytes that this process may have; None takes what is free.
        tile: the side, in pixels, of the squares to decode in, or None.
        tokens: the length of the prompts.
    Returns:
        A number from 1 to n.
    Raises:
        MemoryError: one picture doesn't fit; the sentence says what would.
    """
    limit = room(memory)

    def needed(n: int) -> int:
        return estimate(params, n, size, branches, tile, tokens).total

    if limit is None or needed(n) <= limit:
        return n
    limit += mapped(params)
    if needed(1) > limit:
        raise MemoryError(_refusal(params, size, branches, tile, needed(1), limit))
    return max(1, bisect_right(range(1, n + 1), SPARE * limit, key=needed))


def check_decoding(params: Params, size: tuple[int, int], n: int, tile: int | None, memory: float | None) -> None:
    """Raise a MemoryError where n pictures of a size in pixels can't be decoded in the memory that there is."""
    if params.config.vae is not None:
        needed, limit = _against(params, decoding(params, size, n, tile), memory)
        if needed > limit:
            raise MemoryError(_refusal(params, size, 1, tile, needed, limit))


def check_encoding(params: Params, size: tuple[int, int], n: int, memory: float | None) -> None:
    """Raise a MemoryError where n pictures of a size in pixels can't be encoded in the memory that there is."""
    if params.config.vae is not None:
        needed, limit = _against(params, encoding(params, size, n), memory)
        if needed > limit:
            raise MemoryError(
                f"encoding {size[0]} × {size[1]} pixels takes about {needed / GIB:.1f} GiB, and there are "
                f"{limit / GIB:.1f} GiB; px.vae.encode_tiled encodes in squares; memory= sets another limit, in bytes"
            )


def _against(params: Params, stage: int, memory: float | None) -> tuple[int, int]:
    """Return what a stage needs with all that is there, and what there is."""
    needed, limit = PROCESS + weights(params) + stage, room(memory)
    if limit is None:
        return 0, 0
    return needed, limit if needed <= limit else limit + mapped(params)


def mapped(params: Params) -> int:
    """Return the bytes of weights that are pages of a file, which the kernel takes back and reads again as it must."""
    pages, total = limits.file_pages(), 0
    starts = [first for first, _ in pages]
    for leaf in tree.leaves(params):
        if hasattr(leaf, "data_ptr"):
            i = bisect_right(starts, leaf.data_ptr()) - 1
            total += _bytes(leaf) if i >= 0 and leaf.data_ptr() <= pages[i][1] else 0
    return total


def longest(prompts: Sequence[str]) -> int:
    """Guess how many tokens the longest prompt has, before any is tokenized: one for three letters, at least 32."""
    return min(max(32, *(len(prompt) // 3 for prompt in prompts)), 300)


def slices(n: int, at_once: int) -> list[slice]:
    """Return the parts of n rows that are computed one after the other."""
    return [slice(i, min(i + at_once, n)) for i in range(0, n, at_once)]


def room(memory: float | None) -> int | None:
    """Return the bytes that this process may have in all; None where nobody says.

    Raises:
        TypeError: memory isn't a number.
        ValueError: memory isn't above 0.
    """
    if memory is not None:
        check_number("memory", memory, 0, above=True)
        return int(memory)
    free = limits.free()
    return None if free is None else free + limits.resident()


def _refusal(params: Params, size: tuple[int, int], branches: int, tile: int | None, needed: int, limit: int) -> str:
    """Say what a picture takes and which single change makes it fit."""
    fits = []
    if params.config.vae is not None and tile is None:
        step = 4 * vae.factor(params.config.vae)
        for side in (512, 256, step):
            if side % step == 0 and side < max(size) and estimate(params, 1, size, branches, side).total <= limit:
                fits.append(f"tile={side}")
                break
    smaller = _smaller(params, size, branches, tile, limit)
    if smaller is not None:
        fits.append(f"height={smaller[0]}, width={smaller[1]}")
    if not fits and params.text_encoder is not None and _bytes(params.text_encoder) > needed // 4:
        fits.append("px.load(stream=True), which leaves the text encoder in its file,")
    advice = f"; {' or '.join(fits)} would fit" if fits else ""
    return (
        f"a picture of {size[0]} × {size[1]} pixels takes about {needed / GIB:.1f} GiB, and there are "
        f"{limit / GIB:.1f} GiB{advice}; memory= sets another limit, in bytes"
    )


def _smaller(
    params: Params, size: tuple[int, int], branches: int, tile: int | None, limit: int
) -> tuple[int, int] | None:
    """The largest half, quarter … of a size that fits."""
    multiple = factor(params) * params.config.transformer.patch_size
    while max(size) > multiple:
        size = max(multiple, size[0] // 2 // multiple * multiple), max(multiple, size[1] // 2 // multiple * multiple)
        if estimate(params, 1, size, branches, tile).total <= limit:
            return size
    return None


def weights(params: Params) -> int:
    return sum(_bytes(getattr(params, name)) for name in params.TREES if getattr(params, name) is not None)


def _bytes(weights: Tree) -> int:
    """What a model's weights take in memory: nothing where they are read layer by layer."""
    total = 0
    for leaf in tree.leaves(weights):
        if hasattr(leaf, "values") and hasattr(leaf, "scale"):  # int8 by rows
            total += leaf.values.nbytes + leaf.scale.nbytes
        elif not hasattr(leaf, "read"):
            total += math.prod(leaf.shape) * int(leaf.itemsize)
    return total


def _encoding(weights: Tree, config: t5.Config, rows: int, L: int) -> int:
    inner = config.num_heads * config.d_kv
    token = 10 * config.d_model + 8 * inner + 8 * config.d_ff + 4 * config.num_heads * L
    layer = 4 * config.d_model * inner + 3 * config.d_model * config.d_ff
    ahead = 2 * layer if any(hasattr(leaf, "read") for leaf in tree.leaves(weights)) else 0
    return 4 * (min(rows, t5.rows_at_once(config, L)) * L * token + ahead + 2 * rows * L * config.d_model)


def _sampling(config: transformer.Config, rows: int, latent: tuple[int, int], L: int) -> int:
    N = latent[0] * latent[1] // config.patch_size**2
    captions = 2 * config.num_layers * rows * L * config.width
    return 4 * (BLOCK * rows * N * config.width + captions)


def decoding(params: Params, size: tuple[int, int], n: int, tile: int | None) -> int:
    """Return the bytes that decoding n pictures takes beside the weights; there must be a VAE."""
    assert params.config.vae is not None
    widths = params.config.vae.block_out_channels
    entering = [widths[-1], *reversed(widths[1:])]  # channels into each level, the smallest level first
    height, width = (side if tile is None else min(side, tile) for side in size)
    last = len(widths) - 1
    level = max(C * height * width / 4 ** (last - i) for i, C in enumerate(entering))
    pictures = 3 * size[0] * size[1] * (3 * n + (TILED if tile is not None and max(size) > tile else 0))
    return GRAPHS["decode_latents"] + int(4 * (PIXEL * level + pictures) + MATRICES * _bytes(params.vae["decoder"]))


def encoding(params: Params, size: tuple[int, int], n: int) -> int:
    """Return the bytes that encoding n pictures takes beside the weights; there must be a VAE."""
    assert params.config.vae is not None
    pixels = size[0] * size[1]
    numbers = (ENCODER * params.config.vae.block_out_channels[0] + 12 * n) * pixels
    return GRAPHS["decode_latents"] + int(4 * numbers + _bytes(params.vae["encoder"]))
