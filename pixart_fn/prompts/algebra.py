"""Prompts as algebra: weights of words, sums and successions of texts, as functions of text states.

B rows, L tokens, C width of the states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from ..backend.arrays import as_float, as_numpy, as_tensor, check_finite, check_mask
from ..checks import as_numbers, check_whole, shown
from ..estimate import check_texts
from ..models import t5
from ..models.tokenizer import Tokenizer
from ..params import Params
from ..process.lock import exclusive
from ..public import public
from ..request import check_params, check_switches, text_length
from ..request import texts as listed
from ..stages import encode_prompt
from ..types import Text
from .reading import Weighed, parse, vocabulary, weighed


@public
@exclusive
def weighted(
    params: Params,
    prompt: str | Sequence[str],
    *,
    clean: bool = True,
    tokens: int | None = None,
    pad_to: int = 1,
    check: bool = True,
    memory: float | None = None,
) -> Text:
    """Encode prompts with weights, such as "a (red:1.5) cat", as `parse` reads them.

    A token with weight w has the state e + w (z - e), where z is its own state and e that of the empty prompt, as in
    the library Compel. With a weight below 1, the states of the other tokens are mixed too: with the share 1 - w, they
    are those of the prompt without the word. So a word with the weight 0 leaves nothing but a token that says as much
    as the empty prompt. If several words have weights below 1, w1 ≤ w2 ≤ …, the states are

        w1 · all + (w2 - w1) · without the first + (w3 - w2) · without the first two + … + (1 - wn) · without all n.

    For one word, Compel gives the same at the weights 0, 0.5 and 1. Between these it mixes by tan((1 - w) π / 2), and
    it leaves out one word at a time, so that of two words with the weight 0 half of each remains.

    T5's states don't depend on a token's absolute position, so the only state of the empty prompt, that of </s>, is
    used as e for every token.

    Args:
        params: from `load`, with a text encoder.
        prompt: one prompt or several, each of at most 10,000 characters; each weight is within [0, 100].
        clean: whether to clean the prompts, as in `encode_prompt`.
        tokens: the most tokens of a prompt, as in `encode_prompt`.
        pad_to: the least L, padding included, as in `encode_prompt`.
        check: whether to raise an error where a state isn't finite.
        memory: the most bytes that this process may take, as in `generate`.
    Returns:
        Text(states (B, L, C) float32, mask (B, L) int32); where all weights are 1, exactly what `encode_prompt` gives.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, the states aren't finite, or a weight can't be given to whole
            tokens: it begins or ends within one, or cleaning removes or changes the text that has it.
        MemoryError: the prompts don't fit into memory together.
    """
    check_params(params)
    check_switches(clean=clean, check=check)
    length = text_length(params, tokens)
    check_whole("pad_to", pad_to, 1, length)
    tokenizer = vocabulary(params)
    parsed = [parse(each) for each in listed("prompt", prompt)]
    found = [weighed(tokenizer, parts, clean) for parts in parsed]
    plain = ["".join(part.text for part in parts) for parts in parsed]
    options: _Options = {"tokens": tokens, "check": check, "memory": memory}
    text = encode_prompt(params, plain, clean=clean, pad_to=pad_to, **options)
    if all(piece.weight == 1 for pieces in found for piece in pieces):
        return text
    rows = [_row(tokenizer, pieces, mask) for pieces, mask in zip(found, as_numpy(text.mask), strict=True)]
    hidden = _hidden(params, rows, memory)
    origin = encode_prompt(params, "", **options).states[0, :1]  # (1, C), of </s>
    states = [_mixed(row, z, more, origin) for row, z, more in zip(rows, text.states, hidden, strict=True)]
    text = Text(ops.stack(states), text.mask)
    if check:
        check_finite(text.states, "the text states of weighted")
    return text


@public
@exclusive
def blend(texts: Sequence[Text], weights: Sequence[float]) -> Text:
    """Add the states of several texts, each multiplied by its weight, token by token.

    For a shorter text, the state of its last token, </s>, is repeated, since T5's states of padding mean nothing. The
    mask is that of the longest text whose weight isn't 0. Weights that sum to 1 keep the size of the states. They may
    be negative: the weights 2 and -1 move away from the second text. Unlike the library Compel, this doesn't divide
    weights by their sum.

    Args:
        texts: each (B, L, C) and (B, L), of one C; B rows, or one row for all.
        weights: one for each text.
    Returns:
        Text(states (B, L, C) float32, mask (B, L) int32).
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no text, their shapes don't fit each other, or there isn't one finite weight for each.
    Example:
        >>> params = px.load()
        >>> cat, dog = px.encode_prompt(params, "a cat"), px.encode_prompt(params, "a dog")
        >>> px.prompts.blend([cat, dog], [0.5, 0.5])
        Text(states=float32 (1, 16, 256), mask=int32 (1, 16))
    """
    rows = _texts(texts)
    numbers = as_numbers("weights", weights)
    if len(numbers) != len(rows) or not np.isfinite(numbers).all():
        raise ValueError(f"weights must be one finite number for each text ({len(rows)}), got {shown(weights)}")
    B = max(len(text.mask) for text in rows)
    acting = [i for i, weight in enumerate(numbers) if weight] or list(range(len(rows)))
    L = max(rows[i].mask.shape[1] for i in acting)
    continued = [_continued(rows[i], L) for i in acting]
    states = sum(weight * text.states for text, weight in zip(continued, numbers[acting].tolist(), strict=True))
    mask = np.max([np.broadcast_to(as_numpy(text.mask), (B, L)) for text in continued], 0)
    return Text(ops.broadcast_to(states, (B, *states.shape[1:])), Tensor.from_numpy(mask))


@public
@exclusive
def concatenate(texts: Sequence[Text]) -> Text:
    """Put the tokens of several texts one after another; the library Compel calls that "and".

    Each text was encoded alone, so unlike in one long prompt, the words of one don't change the states of another.

    Args:
        texts: each (B, L, C) and (B, L), of one C; B rows, or one row for all.
    Returns:
        Text(states (B, L1 + L2 + …, C) float32, mask (B, L1 + L2 + …) int32).
    Raises:
        TypeError: texts isn't a list of Texts.
        ValueError: there is no text, or their shapes don't fit each other.
    """
    rows = _texts(texts)
    B = max(len(text.mask) for text in rows)
    parts = [[ops.broadcast_to(part, (B, *part.shape[1:])) for part in text] for text in rows]
    return Text(*(ops.cat(each, 1) for each in zip(*parts, strict=True)))


class _Row(NamedTuple):
    """How a weighted prompt is made of encodings, of which the first sees all tokens."""

    ids: NDArray[np.int32]
    """(L,)"""
    masks: NDArray[np.int32]
    """(R, L): what the other encodings see."""
    factors: NDArray[np.float64]
    """(1 + R, L, 1): of each encoding's states; what they lack of 1 is the origin's."""


class _Options(TypedDict):
    tokens: int | None
    check: bool
    memory: float | None


def _row(tokenizer: Tokenizer, weighed: Sequence[Weighed], mask: NDArray[np.int32]) -> _Row:
    """Plan the encodings of one prompt, of which `encode_prompt` has kept the tokens of the mask."""
    end = tokenizer.specials[tokenizer.eos].id
    kept = [*weighed[: int(mask.sum()) - 1], Weighed(end, 1.0)]
    ids, weights = np.full(len(mask), end, np.int32), np.ones(len(mask))
    ids[: len(kept)], weights[: len(kept)] = zip(*kept, strict=True)
    levels = np.unique(weights[weights < 1])
    seen = weights > np.array([-1.0, *levels])[:, None]  # (1 + R, L)
    shares = np.diff([0.0, *levels, 1.0])[:, None]
    return _Row(ids, (mask * seen[1:]).astype(np.int32), (shares * seen * np.maximum(weights, 1))[..., None])


def _hidden(params: Params, rows: Sequence[_Row], memory: float | None) -> list[list[Tensor]]:
    """Encode what the masks of the rows see: (R, L, C) of each row, or nothing."""
    counts = [len(row.masks) for row in rows]
    if not any(counts):
        return [[] for _ in rows]
    config = params.config.text_encoder
    assert params.text_encoder is not None and config is not None
    ids = np.concatenate([row.ids[None].repeat(n, 0) for row, n in zip(rows, counts, strict=True)])
    masks = np.concatenate([row.masks for row in rows])
    check_texts(params, len(ids), ids.shape[1], memory)
    states = t5.encode(params.text_encoder, config, Tensor.from_numpy(ids), Tensor.from_numpy(masks))
    ends = np.cumsum(counts).tolist()
    return [[states[end - n : end]] if n else [] for n, end in zip(counts, ends, strict=True)]


def _mixed(row: _Row, states: Tensor, hidden: Sequence[Tensor], origin: Tensor) -> Tensor:
    """Return the states (L, C) of a weighted prompt."""
    every = ops.cat((states[None], *hidden))  # (1 + R, L, C)
    rest = 1 - row.factors.sum(0)  # (L, 1)
    factors, rest = (Tensor.from_numpy(each.astype(np.float32)) for each in (row.factors, rest))
    return (every * factors).sum(0) + rest * origin


def _continued(text: Text, L: int) -> Text:
    """Pad a text to L tokens, and put the state of each row's last real token where its mask is 0."""
    mask = as_numpy(text.mask)
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)[:, None]  # (B, 1)
    mask = np.pad(mask, ((0, 0), (0, L - mask.shape[1])))
    places = np.where(mask == 1, np.arange(L), last).astype(np.int32)
    rows = [ops.gather(z, Tensor.from_numpy(own), 0) for z, own in zip(text.states, places, strict=True)]
    return Text(ops.stack(rows), Tensor.from_numpy(mask))


def _texts(texts: Sequence[Text]) -> list[Text]:
    """Check Texts that belong together, and return them as float32 and int32 Tensors."""
    if not isinstance(texts, (list, tuple)) or isinstance(texts, Text) or not texts:
        raise TypeError(f"texts must be a list of at least one Text, got {shown(texts)}")
    if not all(isinstance(text, tuple) and len(text) == 2 for text in texts):
        raise TypeError("texts must be a list of Texts, as px.encode_prompt(params, 'a cat') makes one")
    found = [(as_float(text[0], "the states of texts"), as_tensor(text[1], "the masks of texts")) for text in texts]
    for states, mask in found:
        if states.ndim != 3 or 0 in states.shape or tuple(mask.shape) != tuple(states.shape[:2]):
            got = f"{tuple(states.shape)} and {tuple(mask.shape)}"
            raise ValueError(f"texts must have states (B, L, C) and masks (B, L), got {got}")
        check_mask(mask, "the masks of texts")
    shapes = [tuple(states.shape) for states, _ in found]
    if len({shape[0] for shape in shapes} - {1}) > 1 or len({shape[2] for shape in shapes}) > 1:
        raise ValueError(f"texts must have one number of rows, or one row, and one width, got {shown(shapes)}")
    return [Text(states, mask.int()) for states, mask in found]
