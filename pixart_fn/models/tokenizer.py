"""Text → (ids, mask) as T5 reads it.

B prompts, L tokens of each.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from ..checks import check_whole, kind, shown
from ..files import atomic, reading
from ..process.notes import warn
from . import added_tokens, tokenizer_json
from .added_tokens import AddedToken as AddedToken
from .cleaning import clean as clean
from .cleaning import prepare as prepare


@dataclass(frozen=True)
class Tokenizer:
    """A SentencePiece vocabulary with T5's special pieces; made by `load`, compared and pickled by its content."""

    model: bytes = field(repr=False)
    """The content of spiece.model."""
    pad: str = "<pad>"
    eos: str = "</s>"
    unk: str = "<unk>"
    extra_ids: int = 100
    """How many <extra_id_i> T5 counts down from the end: the last of them is the first id after the vocabulary."""
    added: tuple[AddedToken, ...] = field(default=(), repr=False)
    """Tokens after those ids, counted up without a gap, and pieces and extra ids with other flags than T5's; kept
    sorted by id, without those that say what holds anyway."""

    processor: SentencePieceProcessor = field(init=False, repr=False, compare=False)
    specials: dict[str, AddedToken] = field(init=False, repr=False, compare=False)
    """What is never split, by its text."""
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)
    """Finds the one that starts first, and of several the longest."""

    def __post_init__(self) -> None:
        processor = _processor(self.model)
        own = (self.pad, self.eos, self.unk)
        if not all(isinstance(text, str) for text in own) or not all(isinstance(t, AddedToken) for t in self.added):
            raise TypeError(f"pad, eos and unk must be texts and added AddedTokens, got {own!r} and {self.added!r}")
        defaults = added_tokens.defaults(processor, own, self.extra_ids)
        added = tuple(sorted(set(self.added) - set(defaults.values()), key=lambda token: (token.id, token.content)))
        specials = defaults | {token.content: token for token in added}
        missing = [text for text in own if text not in specials]
        if missing:
            raise ValueError(
                f"the vocabulary lacks {', '.join(map(repr, missing))}; name its own pieces as "
                "pad_token, eos_token and unk_token in tokenizer_config.json"
            )
        added_tokens.check(added, defaults, processor, self.extra_ids)
        longest_first = sorted(specials, key=len, reverse=True)
        object.__setattr__(self, "added", added)
        object.__setattr__(self, "processor", processor)
        object.__setattr__(self, "specials", specials)
        object.__setattr__(self, "pattern", re.compile("(" + "|".join(map(re.escape, longest_first)) + ")"))

    @property
    def size(self) -> int:
        """The number of ids, added tokens included: the rows that the text encoder's embedding has at least."""
        return max(self.processor.get_piece_size(), *(token.id + 1 for token in self.specials.values()))


def load(path: str | Path) -> Tokenizer:
    """Read a tokenizer from a checkpoint's folder, or from a bare vocabulary.

    Added tokens are those of added_tokens_decoder in tokenizer_config.json; where it has none, as before transformers
    4.34, those of special_tokens_map.json, added_tokens.json and tokenizer.json.

    Args:
        path: a folder with spiece.model and, where T5's defaults don't hold, transformers' files beside it; or with
            tokenizer.json alone, as transformers 5 writes it; or a SentencePiece file, read with T5's defaults.
    Returns:
        The tokenizer.
    Raises:
        FileNotFoundError: there is neither spiece.model nor tokenizer.json.
        ValueError: a file can't be parsed or holds a wrong value, the files contradict each other or T5's layout of
            ids, or an option asks for another tokenization (legacy=false is one), as do other kinds of model.
    """
    path = Path(path)
    if not path.is_dir():
        try:
            return Tokenizer(reading.content(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    alone = not (path / "spiece.model").exists()
    if alone and not (path / added_tokens.RUST).exists():
        raise FileNotFoundError(
            f"{path} holds no spiece.model and no tokenizer.json; take one from the checkpoint's original repository"
        )
    files = added_tokens.read(path, alone)
    try:
        return _from_json(files) if alone else _agreeing(reading.content(path / "spiece.model"), files)
    except (TypeError, ValueError) as error:
        names = [*(() if alone else ("spiece.model",)), *(name for name, content in files.items() if content)]
        raise ValueError(f"{path} ({', '.join(names)}): {error}") from error


def _from_json(files: dict[str, dict[str, Any]]) -> Tokenizer:
    """The tokenizer of a folder without spiece.model."""
    found = tokenizer_json.read(files[added_tokens.RUST])
    try:
        _processor(found.model)
    except ValueError:
        raise ValueError(
            "SentencePiece can't read the pieces or characters in tokenizer.json; download it again"
        ) from None
    extra_ids = files[added_tokens.CONFIG].get("extra_ids", found.extra_ids)
    if extra_ids != found.extra_ids:
        raise ValueError(
            f"extra_ids is {shown(extra_ids)}, and tokenizer.json ends with {found.extra_ids} <extra_id_i>"
        )
    said = {added_tokens.CONFIG: files[added_tokens.CONFIG] | {"extra_ids": extra_ids}}
    tokenizer = _agreeing(found.model, files | said | {added_tokens.RUST: {"added_tokens": found.added}})
    if found.end not in (None, tokenizer.eos):
        raise ValueError(f"tokenizer.json puts {shown(found.end)} after a text, and eos_token is {tokenizer.eos!r}")
    return tokenizer


def _agreeing(model: bytes, files: dict[str, dict[str, Any]]) -> Tokenizer:
    tokenizer = Tokenizer(model, **added_tokens.arguments(files, _processor(model)))
    own = {"pad_token": tokenizer.pad, "eos_token": tokenizer.eos, "unk_token": tokenizer.unk}
    added_tokens.check_agreement(tokenizer.specials, own, files)
    return tokenizer


def save(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write spiece.model and tokenizer_config.json, which `load` and T5Tokenizer of transformers 4 and 5 read.

    Args:
        tokenizer: what is written.
        folder: where; it is made where it isn't there.
    Raises:
        OSError: a file can't be written; it holds what it held before then.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {f"{name}_token": getattr(tokenizer, name) for name in ("pad", "eos", "unk")}
    config |= {"extra_ids": tokenizer.extra_ids, "legacy": True, "tokenizer_class": "T5Tokenizer"}
    # it is written even where it is empty, since without it transformers looks for the tokens in other files
    config["added_tokens_decoder"] = {token.pop("id"): token for token in map(asdict, tokenizer.added)}
    text = json.dumps(config, indent=2) + "\n"
    atomic.write(folder / "spiece.model", lambda temporary: temporary.write_bytes(tokenizer.model))
    atomic.write(folder / "tokenizer_config.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _processor(model: bytes) -> SentencePieceProcessor:
    if not isinstance(model, bytes):
        raise TypeError(f"model must be the bytes of a spiece.model, got {kind(model)}")
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError("spiece.model isn't a SentencePiece model; download it again") from error
    return processor


def encode(tokenizer: Tokenizer, prompts: list[str], length: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Turn prompts into ids of a fixed number L: the pieces, </s>, then padding.

    The ids are those of the slow T5Tokenizer that diffusers' PixArt was released with (transformers 4.46, legacy=True).
    Special and added tokens typed in a prompt (</s>, <extra_id_7>, <my-cat>) become their ids, first the one that
    starts first and of those the longest; the text after one starts a word; and a prompt that ends in </s> gets no
    second one. One mistake of that tokenizer isn't followed: of two added tokens, one of which lies within the other,
    such as y-c and <my-cat>, it overlooks y-c in a text such as <my-c?at>.

    transformers 5 has only a Rust tokenizer, which ignores `legacy`. Its ids are the same, but it adds </s> to every
    prompt; takes U+0085 for a space; drops a combining mark on a character that normalisation changes; may choose
    another of several segmentations of equal score; finds special tokens, and added ones with `normalized`, in the
    normalised text too (ｃａｔ is the added token cat); keeps <pad> and </s> special where others have their part; and
    asks of `single_word` that no letter or digit is beside it, where here it is a space.

    Args:
        tokenizer: what `load` gave.
        prompts: B texts; nothing is cleaned here, see `cleaning.prepare`.
        length: L, at least 1; 120 for PixArt-α, 300 for PixArt-Σ. What doesn't fit is cut with a warning
            that quotes it (as the vocabulary normalises it).
    Returns:
        ids, int32 (B, L), and mask, int32 (B, L), 1 up to </s> and 0 on the padding.
    Raises:
        TypeError: prompts isn't a list of str.
        ValueError: length is under 1, or a prompt holds half a surrogate pair.
    """
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"prompts must be a list of str, got {prompts!r}")
    check_whole("length", length, 1)
    ids = np.full((len(prompts), length), tokenizer.specials[tokenizer.pad].id, np.int32)
    mask = np.zeros((len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        texts = _pieces(tokenizer, prompt)
        numbers = [_id(tokenizer, text) for text in texts]
        whole, kept = _ended(tokenizer, numbers), _ended(tokenizer, numbers[: length - 1])
        if len(kept) < len(whole):
            cut = "".join(texts[length - 1 :]).replace("▁", " ").strip()
            message = f"prompt {row} takes {len(whole)} tokens, {length} fit: {cut!r} was cut"
            warn(message, stacklevel=2)
        ids[row, : len(kept)] = kept
        mask[row, : len(kept)] = 1
    return ids, mask


class Piece(NamedTuple):
    """A token of a prompt, and from which to before which of the prompt's characters it was made; maybe from none."""

    id: int
    start: int
    stop: int


def pieces(tokenizer: Tokenizer, prompt: str) -> list[Piece]:
    """Split a prompt as `encode` does, and say which characters each token was made from.

    Args:
        tokenizer: what `load` gave.
        prompt: a text, prepared already.
    Returns:
        The tokens in order, without the </s> that `encode` adds. A space belongs to the token after it, and white space
        that normalisation removes belongs to one of its neighbours or to none.
    Raises:
        ValueError: the prompt holds half a surrogate pair, or the vocabulary spells characters as bytes.
    """
    found: list[Piece] = []
    position = 0
    for part in _parts(tokenizer, prompt):
        position = prompt.index(part, position)
        found += _placed(tokenizer, part, position)
        position += len(part)
    return found


def _placed(tokenizer: Tokenizer, part: str, position: int) -> list[Piece]:
    """The pieces of a part of a prompt, which begins at a position."""
    if part in tokenizer.specials:
        return [Piece(tokenizer.specials[part].id, position, position + len(part))]
    texts = tokenizer.processor.encode(part, out_type=str)
    normalised, at = tokenizer.processor.normalize(part, with_offsets=True)
    if "".join(texts) != normalised:
        raise ValueError(f"the vocabulary spells {part!r} with pieces that aren't parts of it, so no words are found")
    ends = accumulate(map(len, texts))
    return [
        Piece(_id(tokenizer, text), position + at[end - len(text)], position + at[end])
        for text, end in zip(texts, ends, strict=True)
    ]


def _ended(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    eos = tokenizer.specials[tokenizer.eos].id
    return ids if ids[-1:] == [eos] else [*ids, eos]


def _pieces(tokenizer: Tokenizer, prompt: str) -> list[str]:
    texts: list[str] = []
    for part in _parts(tokenizer, prompt):
        texts += [part] if part in tokenizer.specials else tokenizer.processor.encode(part, out_type=str)
    return texts


def _parts(tokenizer: Tokenizer, prompt: str) -> list[str]:
    """Split a prompt at what is never split."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the prompt {prompt!r} isn't Unicode text: it holds half a surrogate pair") from error
    return added_tokens.split(prompt, tokenizer.pattern, tokenizer.specials)


def _id(tokenizer: Tokenizer, piece: str) -> int:
    special = tokenizer.specials.get(piece)
    return tokenizer.processor.piece_to_id(piece) if special is None else special.id
