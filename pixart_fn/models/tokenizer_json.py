"""A tokenizer.json of T5, as transformers writes it, turned into the bytes of the spiece.model that it was made from.

Both hold a unigram model: pieces with scores, and a table that normalises characters. What else tokenizer.json says is
how SentencePiece treats spaces anyway; another way of treating them is an error.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any, NamedTuple

from ..checks import is_number, shown
from ..types import Json

NORMAL, UNKNOWN, CONTROL = 1, 2, 3
"""The types of a piece in sentencepiece_model.proto."""
UNIGRAM = 1
"""The type of a model there."""
SPACE = "▁"

STRIP = {"type": "Strip", "strip_left": False, "strip_right": True}
RUNS = {"type": "Replace", "pattern": {"Regex": " {2,}"}}
"""With STRIP, how some releases of transformers write that space which says nothing is left out; others split at it."""


class Vocabulary(NamedTuple):
    """What a tokenizer.json says."""

    model: bytes
    """The content of a spiece.model with the same pieces."""
    extra_ids: int
    """How many <extra_id_i> follow the pieces."""
    end: str | None
    """The token that is put after every text; None where the file doesn't say."""
    added: list[Any]
    """Its added_tokens, without those <extra_id_i> that are written without flags, as transformers 5 does: the slow
    tokenizer of transformers 4 drops the space around them."""


def read(content: Json) -> Vocabulary:
    """Read the vocabulary in a tokenizer.json.

    Args:
        content: the parsed file.
    Returns:
        A Vocabulary.
    Raises:
        ValueError: it isn't a unigram model with a Precompiled normalizer, or text is split otherwise than by T5.
    """
    pieces, unknown = _pieces(content.get("model"))
    collapsed, table = _normalizer(content.get("normalizer"))
    _check_spaces(content.get("pre_tokenizer"), collapsed)
    extra = _extra_ids(pieces)
    pieces = pieces[: len(pieces) - extra]
    if unknown >= len(pieces):
        raise ValueError(f"unk_id in tokenizer.json must be the place of a piece, got {unknown}")
    added = content.get("added_tokens", [])
    if not isinstance(added, list):
        raise ValueError(f"added_tokens in tokenizer.json must be a list, got {shown(added)}")
    named = {entry["content"] for entry in added if isinstance(entry, dict) and isinstance(entry.get("content"), str)}
    types = [
        UNKNOWN if i == unknown else CONTROL if score == 0 and text in named else NORMAL
        for i, (text, score) in enumerate(pieces)
    ]
    model, plain = _model(pieces, types, unknown, table), {f"<extra_id_{i}>" for i in range(extra)}
    added = [entry for entry in added if not (isinstance(entry, dict) and _is_plain(entry, plain))]
    return Vocabulary(model, extra, _end(content.get("post_processor")), added)


def _is_plain(token: dict[str, Any], names: set[str]) -> bool:
    """Whether an added token is one of these and has no flags."""
    text = token.get("content")
    return (
        isinstance(text, str)
        and text in names
        and not any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word"))
    )


def _pieces(model: Any) -> tuple[list[tuple[str, float]], int]:
    """Return the pieces with their scores, and the place of the unknown one."""
    model = model if isinstance(model, dict) else {}
    vocab, unknown = model.get("vocab"), model.get("unk_id")
    found = model.get("type", "Unigram" if isinstance(vocab, list) else None)  # older files of T5 name no type
    if found != "Unigram" or not isinstance(vocab, list):
        raise ValueError(f"tokenizer.json must hold a Unigram model, as T5's does, got the type {shown(found)}")
    if model.get("byte_fallback", False) is not False:
        raise ValueError("byte_fallback in tokenizer.json must be false: T5 has no pieces for single bytes")
    for entry in vocab:
        if not (isinstance(entry, list) and len(entry) == 2 and _is_piece(*entry)):
            raise ValueError(f"vocab in tokenizer.json must list [piece, score], got {shown(entry)}")
    pieces = [(text, float(score)) for text, score in vocab]
    if len({text for text, _ in pieces}) < len(pieces):
        raise ValueError("vocab in tokenizer.json lists a piece twice")
    if type(unknown) is not int or unknown < 0:
        raise ValueError(f"unk_id in tokenizer.json must be the place of a piece, got {shown(unknown)}")
    return pieces, unknown


def _is_piece(text: Any, score: Any) -> bool:
    return isinstance(text, str) and text != "" and is_number(score) and abs(score) < 1e30


def _normalizer(normalizer: Any) -> tuple[bool, bytes]:
    """Return whether the normalizer itself leaves out space that says nothing, and its table of characters."""
    parts = _sequence(normalizer, "normalizers")
    first, rest = (parts[0], parts[1:]) if parts and isinstance(parts[0], dict) else ({}, parts)
    text = first.get("precompiled_charsmap")
    collapses = rest in [[STRIP, {**RUNS, "content": into}] for into in (SPACE, " ")]
    if first.get("type") != "Precompiled" or not isinstance(text, str) or not (collapses or not rest):
        raise ValueError(
            "the normalizer in tokenizer.json must be Precompiled, alone or followed by a Strip of the right and a "
            f"Replace of several spaces, got {shown(normalizer)}"
        )
    try:
        return collapses, base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("precompiled_charsmap in tokenizer.json isn't base64; download the file again") from None


def _check_spaces(pre_tokenizer: Any, collapsed: bool) -> None:
    """Raise where words aren't what SentencePiece makes of them."""
    parts = _sequence(pre_tokenizer, "pretokenizers")
    split = parts[:1] == [{"type": "WhitespaceSplit"}]
    last = parts[-1] if len(parts) == 1 + split and isinstance(parts[-1], dict) else {}
    wanted = {"type": ("Metaspace",), "replacement": (SPACE,), "split": (True,), "str_rep": (SPACE,)}
    wanted |= {"prepend_scheme": ("always",), "add_prefix_space": (True,)}
    fits = last.get("type") == "Metaspace" and all(value in wanted.get(name, ()) for name, value in last.items())
    if not (fits and (split or collapsed) and {"prepend_scheme", "add_prefix_space"} & last.keys()):
        raise ValueError(
            "the pre_tokenizer in tokenizer.json must be WhitespaceSplit and a Metaspace with '▁' before each word "
            f"(prepend_scheme 'always'), got {shown(pre_tokenizer)}"
        )


def _sequence(value: Any, name: str) -> list[Any]:
    """The parts of a Sequence, or the one part that there is."""
    if isinstance(value, dict) and value.get("type") == "Sequence" and isinstance(value.get(name), list):
        return list(value[name])
    return [value]


def _extra_ids(pieces: list[tuple[str, float]]) -> int:
    """How many <extra_id_i> count down to 0 at the end of the vocabulary."""
    count = 0
    while count < len(pieces) and pieces[-1 - count][0] == f"<extra_id_{count}>":
        count += 1
    return count


def _end(post_processor: Any) -> str | None:
    """Return the token after a text, which must be the only one."""
    if post_processor is None:
        return None
    match post_processor:
        case {"type": "TemplateProcessing", "single": [{"Sequence": _}, {"SpecialToken": {"id": str(end)}}]}:
            return end
    raise ValueError(
        f"the post_processor in tokenizer.json must put one token after a text, got {shown(post_processor)}"
    )


# --- sentencepiece_model.proto, in Protocol Buffers' wire format ---------------------------------------------------


def _model(pieces: list[tuple[str, float]], types: list[int], unknown: int, table: bytes) -> bytes:
    """The message ModelProto."""
    entries = [
        _bytes(1, _bytes(1, text.encode()) + _float(2, score) + _number(3, kind))
        for (text, score), kind in zip(pieces, types, strict=True)
    ]
    controls = {text: i for i, ((text, _), kind) in enumerate(zip(pieces, types, strict=True)) if kind == CONTROL}
    ids = {40: unknown, 41: -1, 42: controls.get("</s>", -1), 43: controls.get("<pad>", -1)}  # of unk, bos, eos, pad
    trainer = _number(3, UNIGRAM) + _number(4, len(pieces)) + b"".join(_number(*each) for each in ids.items())
    trainer += _bytes(45, pieces[unknown][0].encode()) + _bytes(47, b"</s>") + _bytes(48, b"<pad>")
    # a space before the text, none where it says nothing, and "▁" for each
    normalizer = _bytes(1, b"precompiled") + _bytes(2, table) + b"".join(_number(field, 1) for field in (3, 4, 5))
    return b"".join(entries) + _bytes(2, trainer) + _bytes(3, normalizer)


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # two's complement of negative ones
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
