"""The tokens that are never split: T5's own, and those that transformers' files add to a vocabulary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from sentencepiece import SentencePieceProcessor

from ..checks import check_whole, shown
from ..files import reading

CONFIG, SPECIAL, ADDED, RUST = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"
OWN = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
SINGLE = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SEVERAL = ("additional_special_tokens", "extra_special_tokens")  # transformers 4's name and 5's
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
# options of T5Tokenizer that change ids, with the one value that `tokenizer.encode` follows
FIXED: dict[str, Any] = {
    **{"legacy": True, "split_special_tokens": False, "sp_model_kwargs": {}},
    **{"padding_side": "right", "truncation_side": "right"},
}

MOST = 10_000
"""Extra ids, and added tokens, at most: T5 has 100 and none."""

Entry: TypeAlias = tuple[str, dict[str, Any] | None]
"""A token's text, and its flags where it is written as an object."""


@dataclass(frozen=True)
class AddedToken:
    """A text that is never split into pieces, with its id and with how it is found in a prompt.

    `normalized` and `special` change no id, as in the slow tokenizer of transformers 4; they are kept for saving.
    """

    content: str
    id: int
    lstrip: bool = False
    """Whether the white space on its left is dropped."""
    rstrip: bool = False
    """Whether the white space on its right is dropped."""
    single_word: bool = False
    """Whether it counts only where each side is a space or an end of the prompt."""
    normalized: bool = False
    special: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.content, str) or not self.content:
            raise ValueError(
                f"the content of an added token must be a text that isn't empty, got {shown(self.content)}"
            )
        check_whole(f"the id of {shown(self.content)}", self.id, 0, 2**31 - 1)
        for flag in FLAGS:
            if type(getattr(self, flag)) is not bool:
                got = shown(getattr(self, flag))
                raise ValueError(f"{flag} of {shown(self.content)} must be true or false, got {got}")


def defaults(processor: SentencePieceProcessor, own: Iterable[str], extra_ids: int) -> dict[str, AddedToken]:
    """List the tokens that T5Tokenizer makes by itself.

    Args:
        processor: the vocabulary.
        own: T5's own three, of which those count that are pieces of the vocabulary.
        extra_ids: how many <extra_id_i> there are, within 0 … MOST.
    Returns:
        Each token by its text.
    Raises:
        TypeError, ValueError: extra_ids isn't such a number.
    """
    check_whole("extra_ids", extra_ids, 0, MOST)
    ids = ((text, piece_id(processor, text)) for text in own)
    tokens = [AddedToken(text, i) for text, i in ids if i is not None]
    last = processor.get_piece_size() + extra_ids - 1
    tokens += [AddedToken(f"<extra_id_{i}>", last - i, lstrip=True, rstrip=True) for i in range(extra_ids)]
    return {token.content: token for token in tokens}


def piece_id(processor: SentencePieceProcessor, text: str) -> int | None:
    """The id of the piece of that name, or None where the vocabulary has none."""
    # piece_to_id answers with the id of the unknown piece where there is none of that name
    i = processor.piece_to_id(text)
    return i if processor.id_to_piece(i) == text else None


def check(
    added: Iterable[AddedToken], known: dict[str, AddedToken], processor: SentencePieceProcessor, extra_ids: int
) -> None:
    """Raise where added tokens don't have the ids that transformers 4 and 5 both give them.

    Args:
        added: the tokens, sorted by id.
        known: the tokens that have an id anyway, by their texts.
        processor: the vocabulary.
        extra_ids: how many <extra_id_i> follow it.
    Raises:
        ValueError: a token is there twice, or has another id than its place gives it.
    """
    next_id = processor.get_piece_size() + extra_ids
    seen: set[str] = set()
    for token in added:
        if token.content in seen:
            raise ValueError(f"the added token {token.content!r} is there twice, with different ids or flags")
        seen.add(token.content)
        own = known[token.content].id if token.content in known else piece_id(processor, token.content)
        expected = next_id if own is None else own
        if token.id != expected:
            raise ValueError(
                f"the added token {token.content!r} has the id {token.id}, and spiece.model, {extra_ids} extra ids and "
                f"the added tokens before it leave it {expected}"
            )
        next_id += own is None


def split(text: str, pattern: re.Pattern[str], tokens: dict[str, AddedToken]) -> list[str]:
    """Split a text at its tokens, and drop the white space that they take.

    Args:
        text: a prompt.
        pattern: finds a token, as its one group.
        tokens: every token, by its text.
    Returns:
        The tokens' texts and what lies between them, in order.
    """
    parts = [part for part in pattern.split(text) if part]
    for i, part in enumerate(parts):
        if part not in tokens:
            continue
        token = tokens[part]
        left, right = parts[i - 1] if i else "", parts[i + 1] if i + 1 < len(parts) else ""
        if token.rstrip and right:
            parts[i + 1] = right.lstrip()
        if token.lstrip and left:
            parts[i - 1] = left.rstrip()
        # transformers looks at its neighbours as they were before it took their space
        if token.single_word and left and left[-1] != " ":
            parts[i - 1 : i + 1] = [parts[i - 1] + part, ""]
        elif token.single_word and right and right[0] != " ":
            parts[i : i + 2] = ["", part + parts[i + 1]]
    return parts


# --- what the files say ----------------------------------------------------------------------------------------------


def read(folder: Path, whole: bool) -> dict[str, dict[str, Any]]:
    """Read transformers' files in a tokenizer's folder.

    Args:
        folder: the tokenizer's.
        whole: whether tokenizer.json is needed for more than added tokens.
    Returns:
        Each file's content by its name: {} for one that isn't there or isn't needed.
    Raises:
        ValueError: a file isn't JSON, or no object.
    """
    files = {name: _object(folder / name) for name in (CONFIG, SPECIAL, ADDED)}
    return files | {RUST: _object(folder / RUST) if whole or "added_tokens_decoder" not in files[CONFIG] else {}}


def _object(path: Path) -> dict[str, Any]:
    return reading.json_object(path) if path.exists() else {}


def arguments(files: dict[str, dict[str, Any]], processor: SentencePieceProcessor) -> dict[str, Any]:
    """Find the arguments of `Tokenizer` that make what the slow T5Tokenizer of transformers 4.46 makes of its files.

    Args:
        files: what `read` gave.
        processor: the vocabulary.
    Returns:
        The arguments by name, but for the vocabulary.
    Raises:
        TypeError, ValueError: a file holds a wrong value, or an option asks for another tokenization.
    """
    config = files[CONFIG]
    for option, only in FIXED.items():
        if config.get(option) not in (None, only):
            got = json.dumps(config[option])[:80]
            raise ValueError(f"{option} in {CONFIG} can only be {json.dumps(only)} here, got {got}")
    named, special = _named(config, CONFIG), _named(files[SPECIAL], SPECIAL)
    if "added_tokens_decoder" in config:
        table = firm = _decoder(config["added_tokens_decoder"])
    else:
        both = {key: [*named[key], *special[key]] for key in SEVERAL if key in named and key in special}
        named = named | special | {key: _distinct(entries) for key, entries in both.items()}
        firm = _list(files[RUST].get("added_tokens", []))
        table = _plain(files[ADDED], {text for entries in named.values() for text, _ in entries}) | firm
    own = {key: named[key][0][0] if key in named else text for key, text in OWN.items()}
    extra_ids = config.get("extra_ids", 100)
    known = defaults(processor, own.values(), extra_ids)
    _check_extra_ids(named, table, extra_ids)
    table = table | _by_name(named, known | table, firm, processor)
    own = {key.removesuffix("_token"): text for key, text in own.items()}
    return own | {"extra_ids": extra_ids, "added": tuple(table.values())}


def check_agreement(tokens: dict[str, AddedToken], own: dict[str, str], files: dict[str, dict[str, Any]]) -> None:
    """Raise where a file that transformers ignores contradicts those that it reads.

    Args:
        tokens: every token of the tokenizer, by its text.
        own: the texts of pad_token, eos_token and unk_token.
        files: what `read` gave.
    Raises:
        ValueError: a file gives a token another id or another part.
    """
    for text, i in files[ADDED].items():
        if text not in tokens or tokens[text].id != i:
            other = tokens[text].id if text in tokens else "none"
            raise ValueError(
                f"{ADDED} gives {shown(text)} the id {shown(i)}, and the other files give it {other}; delete one"
            )
    for key, entries in _named(files[SPECIAL], SPECIAL).items():
        for text, _ in entries:
            if text not in tokens or text != own.get(key, text):
                raise ValueError(f"{key} in {SPECIAL} is {shown(text)}, and the other files don't say so; delete one")


def _named(file: dict[str, Any], name: str) -> dict[str, list[Entry]]:
    """Every token that a file gives a part, such as eos_token."""
    named = {}
    for key in (*SINGLE, *SEVERAL):
        value = file.get(key)
        if value is None and (key not in OWN or key not in file):
            continue
        values = [value] if key in SINGLE else list(value.values()) if isinstance(value, dict) else value
        if not isinstance(values, list) or len(values) > MOST:
            raise ValueError(f"{key} in {name} must be a list of at most {MOST} tokens, got {shown(value)}")
        entries = [_entry(value, f"{key} in {name}") for value in values]
        # transformers makes those of one file special before it makes up their other flags
        more = {"special": True} if name == SPECIAL else {}
        named[key] = [(text, flags if flags is None else flags | more) for text, flags in entries]
    return named


def _entry(value: Any, where: str) -> Entry:
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        raise ValueError(f"{where} must be a text, or an object whose content is one, got {shown(value)}")
    return text, {flag: value[flag] for flag in FLAGS if flag in value} if isinstance(value, dict) else None


def _token(text: str, i: Any, flags: dict[str, Any]) -> AddedToken:
    special = flags.get("special", False)
    return AddedToken(text, i, **{"special": special, "normalized": not special} | flags)


def _object_token(value: Any, i: Any, where: str) -> AddedToken:
    text, flags = _entry(value, where)
    if flags is None:
        raise ValueError(f"{where} must be an object whose content is a text, got {shown(value)}")
    return _token(text, i, flags)


def _decoder(value: Any) -> dict[str, AddedToken]:
    """{"32100": {"content": …, "lstrip": …, …}, …}"""
    where = f"added_tokens_decoder in {CONFIG}"
    if not isinstance(value, dict) or not all(re.fullmatch("[0-9]{1,9}", key) for key in value) or len(value) > MOST:
        raise ValueError(f"{where} must be an object of at most {MOST} entries whose keys are ids, got {shown(value)}")
    return _by_text([_object_token(entry, int(key), where) for key, entry in value.items()], where)


def _list(value: Any) -> dict[str, AddedToken]:
    """[{"id": 32100, "content": …, "lstrip": …, …}, …]"""
    where = f"added_tokens in {RUST}"
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value) or len(value) > MOST:
        raise ValueError(f"{where} must be a list of at most {MOST} objects, got {shown(value)}")
    return _by_text([_object_token(entry, entry.get("id"), where) for entry in value], where)


def _plain(file: dict[str, Any], special: set[str]) -> dict[str, AddedToken]:
    """{"<my-cat>": 32100, …}"""
    if len(file) > MOST:
        raise ValueError(f"{ADDED} must give at most {MOST} texts, got {len(file)}")
    for text, i in file.items():
        if not text or type(i) is not int:
            raise ValueError(f"{ADDED} must give texts and their ids, got {shown(text)}: {shown(i)}")
    return {text: _token(text, i, {"special": text in special}) for text, i in file.items()}


def _by_text(tokens: list[AddedToken], where: str) -> dict[str, AddedToken]:
    table: dict[str, AddedToken] = {}
    for token in tokens:
        if token.content in table:
            raise ValueError(f"{where} must name each token once, got {shown(token.content)} twice")
        table[token.content] = token
    return table


def _distinct(entries: list[Entry]) -> list[Entry]:
    return list({repr(entry): entry for entry in entries}.values())


def _check_extra_ids(named: dict[str, list[Entry]], table: dict[str, AddedToken], extra_ids: int) -> None:
    """Raise where T5Tokenizer would refuse the extra ids, or count them up."""
    if "additional_special_tokens" not in named:
        return
    listed = [text for text, _ in named["additional_special_tokens"] if "<extra_id_" in text]
    elsewhere = not listed and all(f"<extra_id_{i}>" in table for i in range(extra_ids))
    if len(listed) != extra_ids and not elsewhere:
        raise ValueError(
            f"additional_special_tokens must hold each of the extra_ids = {extra_ids} tokens <extra_id_0> … once, or "
            f"none where another file gives their ids, got {len(listed)} of them"
        )


def _by_name(
    named: dict[str, list[Entry]],
    known: dict[str, AddedToken],
    firm: dict[str, AddedToken],
    processor: SentencePieceProcessor,
) -> dict[str, AddedToken]:
    """Tokens that a name gives other flags, and pieces that a name makes a token.

    Args:
        known: tokens that have an id.
        firm: those whose flags only additional_special_tokens changes.
    """
    table: dict[str, AddedToken] = {}
    seen: set[str] = set()  # where a token has several names, the first counts
    for key in (*SINGLE, *SEVERAL):
        # T5Tokenizer makes an object of each of its own three, also of one that no file names
        plain = {"special": True} if key in OWN else None
        entries = named.get(key, [(OWN[key], plain)] if key in OWN else [])
        unseen = [(text, plain if flags is None else flags) for text, flags in entries if text not in seen]
        seen |= {text for text, _ in unseen}
        for text, flags in unseen:
            i = known[text].id if text in known else piece_id(processor, text)
            if i is None and key not in OWN:  # what is its own is missed by Tokenizer
                raise ValueError(
                    f"{key} names {shown(text)}, which is no piece of the vocabulary, and no file gives it an id"
                )
            if i is None:
                continue
            if text in firm and key in named and key in SINGLE:
                table[text] = replace(firm[text], special=True)
            elif flags is not None:
                table[text] = replace(_token(text, i, flags), special=True)
            elif text not in known:
                table[text] = AddedToken(text, i)
    return table
