"""What a prompt says: its words among its tokens, and the weights that are written in it."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ..checks import check_number, check_type, shown
from ..models import tokenizer as tokenizer_
from ..models.cleaning import LONGEST
from ..params import Params
from ..public import public
from ..request import check_params, check_switches, text_length

MOST = 100.0
"""The greatest weight of a word."""
MARK = "\U0010fffd"
"""Stands between the parts of a prompt while it is cleaned: the last character for private use, which no prompt has."""
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


class Part(NamedTuple):
    """A part of a prompt: its text as it was written, and its weight."""

    text: str
    weight: float


class Word(NamedTuple):
    """A word of a prompt as it was cleaned, and its tokens: those from place `start` to before place `stop`."""

    text: str
    start: int
    stop: int


class Weighed(NamedTuple):
    """A token's id and its weight."""

    id: int
    weight: float


@public
def parse(prompt: str) -> list[Part]:
    r"""Read the weights of a prompt such as "a (red:1.5) cat".

    The text in "(…:number)" has that weight, and all other text has the weight 1. Nested weights are multiplied. Other
    parentheses are a part of the prompt, and so are those after a backslash: "\(scale 1:20\)".

    Args:
        prompt: a prompt of at most 10,000 characters; each weight, and the product of those within each other, is
            within [0, 100].
    Returns:
        The parts, whose texts together are the prompt without its weights. White space at the beginning of "(…:number)"
        has the weight 1, and white space before the colon is left out.
    Raises:
        TypeError: prompt isn't a string.
        ValueError: the prompt is too long, a weight is out of range, or nothing but white space has it.
    Example:
        >>> [tuple(part) for part in px.prompts.parse("a (red:1.5) cat")]
        [('a ', 1.0), ('red', 1.5), (' cat', 1.0)]
    """
    check_type("prompt", prompt, str, "a string")
    if len(prompt) > LONGEST:
        raise ValueError(f"prompt must have at most {LONGEST} characters, got {len(prompt)}")
    text: list[str] = []
    weights: list[float] = []
    opened: list[int] = []
    for character in re.findall(r"\\[()]|.", prompt, re.DOTALL):
        opened += [len(text)] if character == "(" else []
        text.append(character[-1])
        weights.append(1.0)
        if character == ")" and opened:
            _close(text, weights, opened.pop())
    parts = groupby(zip(text, weights, strict=True), key=lambda each: each[1])
    return [Part("".join(character for character, _ in part), weight) for weight, part in parts]


def _close(text: list[str], weights: list[float], start: int) -> None:
    """Where the text from `start` is "(…:number)", take off all but what is weighted, and weigh that."""
    inner = "".join(text[start + 1 : -1])
    body, _, number = inner.rpartition(":")
    if not _NUMBER.fullmatch(number.strip()) or len(number) == len(inner):
        return
    check_number(f"the weight in prompt's {shown(f'({inner})')}", weight := float(number), 0, MOST)
    body = body.rstrip()
    if not body:
        raise ValueError(f"prompt must have a text before each weight, got {shown(f'({inner})')}")
    first = len(body) - len(body.lstrip())
    scales = [each * (weight if i >= first else 1) for i, each in enumerate(weights[start + 1 :][: len(body)])]
    if max(scales) > MOST:
        raise ValueError(f"weights in prompt must multiply to at most {MOST:g}, got {max(scales):g} in '{body:.60}'")
    text[start:], weights[start:] = body, scales


@public
def words(params: Params, prompt: str, *, clean: bool = True, tokens: int | None = None) -> list[Word]:
    """Find the words of a prompt among its tokens.

    A word is a run of letters and digits, or one other character. Each token but the last, </s>, belongs to exactly one
    word: words that share a token are one, and a token of white space belongs to the word after it.

    Args:
        params: from `load`, with a text encoder.
        prompt: one prompt, without weights.
        clean: whether to clean it, as in `encode_prompt`.
        tokens: the most tokens of a prompt, as in `encode_prompt`.
    Returns:
        The words that `encode_prompt` encodes, in order; of one that is cut the tokens that are left.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above.
    Example:
        >>> [word.text for word in px.prompts.words(px.load(), "a red cat")]
        ['a', 'red', 'cat']
    """
    check_params(params)
    check_switches(clean=clean)
    check_type("prompt", prompt, str, "a string")
    length, tokenizer = text_length(params, tokens), vocabulary(params)
    prepared = tokenizer_.prepare(prompt, clean)
    spans = [found.span() for found in _WORD.finditer(prepared)]
    starts, ends = zip(*spans, strict=True) if spans else ((), ())
    found: list[list[int]] = []  # of each word its first and last span, and its places
    for place, piece in enumerate(tokenizer_.pieces(tokenizer, prepared)[: length - 1]):
        first = min(bisect_right(ends, piece.start), len(spans) - 1)
        last = max(bisect_left(starts, piece.stop) - 1, first)
        if found and first <= found[-1][1]:
            found[-1][1:] = [last, found[-1][2], place + 1]
        else:
            found.append([first, last, place, place + 1])
    return [Word(prepared[starts[first] : ends[last]], start, stop) for first, last, start, stop in found]


def weighed(tokenizer: tokenizer_.Tokenizer, parts: Sequence[Part], clean: bool) -> list[Weighed]:
    """Find the tokens of a prompt and their weights."""
    prepared = tokenizer_.prepare("".join(part.text for part in parts), clean)
    pieces, texts = tokenizer_.pieces(tokenizer, prepared), [prepared]
    if len(parts) > 1:
        texts = tokenizer_.prepare(MARK.join(part.text for part in parts), clean).split(MARK)
        lost = any(part.weight != 1 and not text.strip() for part, text in zip(parts, texts, strict=False))
        if lost or "".join(texts) != prepared or len(texts) != len(parts):
            advice = "give clean=False, or a prompt that is clean already"
            raise ValueError(
                f"cleaning leaves {shown(prepared)} of prompt, where a weight has lost its place; {advice}"
            )
    weights = np.repeat([part.weight for part in parts], [len(text) for text in texts])
    real = np.array([not character.isspace() for character in prepared], bool)
    found = []
    for piece in pieces:
        own = np.arange(piece.start, piece.stop)[real[piece.start : piece.stop]]
        after = piece.start + np.flatnonzero(real[piece.start :])[:1]  # white space is weighed as what follows it
        mine = set(weights[own if len(own) else after].tolist())
        if len(mine) > 1:
            token = shown(prepared[piece.start : piece.stop].strip())
            raise ValueError(f"a weight of prompt begins or ends within {token}, which is one token; weigh all of it")
        found.append(Weighed(piece.id, mine.pop() if mine else 1.0))
    return found


def vocabulary(params: Params) -> tokenizer_.Tokenizer:
    """Return the tokenizer; raise a ValueError where there is none."""
    if params.text_encoder is None or params.tokenizer is None:
        raise ValueError("these params have no text encoder; load them with text_encoder=True")
    return params.tokenizer
