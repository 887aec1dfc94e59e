"""How much memory a call takes, estimated from shapes before any work, so that what doesn't fit is refused.

MindSpore keeps the memory of operations for later ones, so a call takes its largest stage's, not their sum.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from . import tree
from .backend.device import free_memory
from .checks import check_number, check_whole
from .control import Control, as_controls
from .footprint import (
    GRAPHS,
    decoding,
    encoding,
    encoding_text,
    graphs,
    held,
    nets,
    sampling,
    steering,
    vae_takes,
    weights,
)
from .guidance import Guidance, Scale
from .models import vae
from .params import Params
from .process import limits
from .public import public
from .request import LONGEST, check_guidance, check_params, factor, latent_shape, picture_size

GIB = 2**30
PROCESS = int(0.4 * GIB)
"""Python, NumPy and MindSpore after a first operation."""
OWN = int(0.16 * GIB)
"""The part of it that isn't pages of a file."""
SPARE = 0.8
"""The share of the free memory that a part of a batch is planned for, since the estimate isn't exact."""


class Memory(NamedTuple):
    """The bytes that drawing pictures takes at most: what stays, and what each stage takes beside it while it runs."""

    process: int
    weights: int
    graphs: int
    encode_prompt: int
    sample_latents: int
    decode_latents: int

    @property
    def total(self) -> int:
        """The peak of the whole call."""
        stays = self.process + self.weights + self.graphs
        return stays + max(self.encode_prompt, self.sample_latents, self.decode_latents)

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
    guidance: Guidance | Scale | None = None,
    tile: int | None = None,
    tokens: int = 32,
    controls: Control | Sequence[Control] | None = None,
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
        tokens: the length of the longest prompt, rounded up, at least 1.
        controls: as in `generate`; their ControlNets count as weights.
    Returns:
        The bytes, whose sum is `.total`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above.
    Example:
        >>> params = px.load()
        >>> px.memory(params, 64).total > px.memory(params).total > 0
        True
    """
    check_params(params)
    check_whole("n", n, 1)
    check_whole("tokens", tokens, 1, LONGEST)
    if tile is not None and params.config.vae is not None:
        vae.check_tile(params.config.vae, tile)
    plan, size = check_guidance(params, guidance, n), picture_size(params, height, width)
    given = as_controls(params.config.transformer, controls, latent_shape(params, n, size))
    return estimate(params, n, size, 2 if plan.compares else 1, tile, tokens, controls=given)


def estimate(
    params: Params,
    n: int,
    size: tuple[int, int],
    branches: int,
    tile: int | None = None,
    tokens: int = 32,
    texts: int | None = None,
    controls: Sequence[Control] = (),
) -> Memory:
    """Estimate as `memory` does, from arguments that are checked already.

    size is (height, width) in pixels, texts the number of prompts with negative ones, or None for n and one more.
    """
    config, f = params.config, factor(params)
    rows = n + 1 if texts is None else texts
    latent = size[0] // f, size[1] // f
    shape = config.transformer, branches * n, latent, tokens
    stages = {"sample_latents": sampling(params.transformer, *shape) + steering(controls, *shape)}
    if params.text_encoder is not None and config.text_encoder is not None:
        stages["encode_prompt"] = encoding_text(params.text_encoder, config.text_encoder, rows, tokens)
    if params.vae is not None and config.vae is not None:
        stages["decode_latents"] = decoding(params, size, n, tile) - vae_takes(params).graphs
    stays = PROCESS, weights(params) + nets(controls), graphs(params, latent)
    return Memory(*stays, **{**dict.fromkeys(Memory._fields[len(stays) :], 0), **stages})


def pictures_at_once(
    params: Params, n: int, size: tuple[int, int], branches: int, memory: float | None, **how: Any
) -> int:
    """Return how many of n pictures fit into memory together.

    Args:
        params: from `load`, already checked.
        n: the number of pictures.
        size: (height, width) in pixels.
        branches: rows that are evaluated for each picture.
        memory: the bytes that this process may have; None takes what is free.
        **how: `tile`, `tokens`, `texts` and `controls`, as in `estimate`; and `kept`, the bytes of all results.
    Returns:
        A number from 1 to n.
    Raises:
        MemoryError: one picture doesn't fit; the sentence says what would.
    """
    kept = how.pop("kept", None) or 0

    @cache
    def planned(n: int, size: tuple[int, int] = size, **change: int) -> Memory:
        return estimate(params, n, size, branches, **{**how, **change})

    def needed(n: int, size: tuple[int, int] = size, **change: int) -> int:
        return kept + planned(n, size, **change).total

    limit = room(params, memory, nets(how.get("controls", ())), enough=needed(n))
    if limit is None:
        return n
    limit += 0 if needed(n) <= limit else mapped(params)
    if needed(1) > limit:
        sizes = [half for half in _halves(params, size) if needed(1, half) <= limit][:1]
        advice = _tiles(params, size, how.get("tile"), lambda side: needed(1, tile=side) <= limit)
        advice += [f"height={height}, width={width}" for height, width in sizes]
        advice += ["fewer prompts at a time"] if needed(1, texts=2) <= limit else []
        if params.text_encoder is not None and needed(1) - held(params.text_encoder) <= limit:
            advice.append("px.load(…, stream=True), which leaves the text encoder in its file,")
        raise MemoryError(_refusal(f"a picture of {_named(size)}", needed(1), limit, advice))
    fits = n if needed(n) <= limit else max(1, bisect_right(range(1, n + 1), SPARE * limit, key=needed))
    _STATE.largest = max(_STATE.largest, needed(fits) - PROCESS - planned(fits, size).weights)
    return fits


def check_results(params: Params, n: int, size: tuple[int, int], output: str, memory: float | None) -> int:
    """Return the bytes of n results of `generate`; raise a MemoryError where they alone don't fit into memory."""
    f, pixels = factor(params), size[0] * size[1]
    numbers = {
        "pil": 3 * pixels,
        "numpy": 24 * pixels,
        "latents": 8 * params.config.transformer.in_channels * pixels // f**2,
    }
    kept = n * numbers[output]
    limit = room(params, memory, enough=PROCESS + kept)
    if limit is not None and PROCESS + kept > limit:
        what = f"keeping {n} picture{'s' * (n > 1)} of {_named(size)}"
        raise MemoryError(_refusal(what, PROCESS + kept, limit, ["fewer at a time"] if n > 1 else []))
    return kept


def check_texts(params: Params, n: int, tokens: int, memory: float | None) -> None:
    """Raise a MemoryError where n prompts can't be encoded together in the memory that there is."""
    assert params.config.text_encoder is not None
    own = GRAPHS["encode_prompt"] + encoding_text(params.text_encoder, params.config.text_encoder, n, tokens)
    advice = ["fewer at a time"] if n > 1 else []
    _check(params, own, memory, f"encoding {n} prompt{'s' * (n > 1)}", lambda limit: advice)


def check_decoding(params: Params, size: tuple[int, int], n: int, tile: int | None, memory: float | None) -> None:
    """Raise a MemoryError where n pictures of a size in pixels can't be decoded in the memory that there is."""

    def advice(left: int) -> list[str]:
        tiles = _tiles(params, size, tile, lambda side: decoding(params, size, n, side) <= left)
        return tiles + (["fewer pictures at a time"] if decoding(params, size, 1, tile) <= left else [])

    _check(params, decoding(params, size, n, tile), memory, f"decoding {_named(size)}", advice)


def check_encoding(params: Params, size: tuple[int, int], n: int, memory: float | None) -> None:
    """Raise a MemoryError where n pictures of a size in pixels can't be encoded in the memory that there is."""
    what = f"encoding {_named(size)}"
    _check(params, encoding(params, size, n), memory, what, lambda limit: ["px.vae.encode_tiled"])


def _check(params: Params, stage: int, memory: float | None, what: str, advice: Callable[[int], Sequence[str]]) -> None:
    """Raise a MemoryError where a stage doesn't fit; the advice is given what is left for a stage."""
    always = PROCESS + weights(params)
    limit = room(params, memory, enough=always + stage)
    if limit is None:
        return
    limit += 0 if always + stage <= limit else mapped(params)
    if always + stage > limit:
        raise MemoryError(_refusal(what, always + stage, limit, advice(limit - always)))
    _STATE.largest = max(_STATE.largest, stage)


def mapped(params: Params) -> int:
    """Return the bytes of weights that are pages of a file, which the kernel takes back and reads again as it must."""
    pages, total = limits.file_pages(), 0
    starts = [first for first, _ in pages]
    for leaf in tree.leaves(params):
        if hasattr(leaf, "data_ptr"):
            i = bisect_right(starts, leaf.data_ptr()) - 1
            total += held(leaf) if i >= 0 and leaf.data_ptr() <= pages[i][1] else 0
    return total


def longest(prompts: Sequence[str], most: int) -> int:
    """Guess how many tokens the longest prompt has, before any is tokenized.

    It is one for three letters, at least 32, and at most as many as a prompt may have.
    """
    return min(max(32, *(len(prompt) // 3 for prompt in prompts)), most)


def slices(n: int, at_once: int) -> list[slice]:
    """Return the parts of n rows that are computed one after the other."""
    return [slice(i, min(i + at_once, n)) for i in range(0, n, at_once)]


class _State:
    """The bytes of the largest stage that has run here: MindSpore keeps them for the next one."""

    largest = 0


_STATE = _State()


def room(params: Params, memory: float | None, more: int = 0, enough: float = math.inf) -> int | None:
    """Return the bytes that a call may have, with what this process has for it already; None where nobody says.

    more is the bytes of weights beside the pipeline's. Where as much as is enough is free, what this process has, which
    takes hundredths of a second to find, isn't counted.

    Raises:
        TypeError: memory isn't a number.
        ValueError: memory isn't above 0.
    """
    if memory is not None:
        check_number("memory", memory, 0, above=True)
        return int(memory)
    free = free_memory()
    if free is None or enough <= free:
        return free
    resident, own = limits.resident(), OWN + more + _STATE.largest
    if resident <= own:  # then it doesn't matter which weights are pages of a file
        return free + resident
    # what else this process holds is the user's
    return free + min(resident, own + weights(params) - mapped(params))


def _named(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]} pixels"


def _refusal(what: str, needed: int, limit: int, advice: Sequence[str]) -> str:
    """Say what is needed, what there is, and which single changes make it fit."""
    fits = f"; {' or '.join(advice)} would fit" if advice else ""
    return (
        f"{what} takes about {needed / GIB:.1f} GiB, and there are {limit / GIB:.1f} GiB{fits}; "
        "memory= sets another limit, in bytes"
    )


def _tiles(params: Params, size: tuple[int, int], tile: int | None, fits: Callable[[int], bool]) -> list[str]:
    """Name the largest side of tiles with which a picture fits, if it isn't decoded in tiles yet."""
    if params.config.vae is None or tile is not None:
        return []
    step = 4 * vae.factor(params.config.vae)
    sides = [side for side in (512, 256, step) if side % step == 0 and side < max(size) and fits(side)]
    return [f"tile={side}" for side in sides[:1]]


def _halves(params: Params, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The half, the quarter … of a size."""
    multiple = factor(params) * params.config.transformer.patch_size
    while max(size) > multiple:
        size = max(multiple, size[0] // 2 // multiple * multiple), max(multiple, size[1] // 2 // multiple * multiple)
        yield size
