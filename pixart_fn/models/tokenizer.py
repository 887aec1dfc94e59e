"""Text → (ids, mask) as T5 reads it, and the cleaning of captions that the released models were trained with."""

from __future__ import annotations

import html
import json
import re
import unicodedata
import urllib.parse
import warnings
from dataclasses import asdict, dataclass, field
from html.entities import html5
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from sentencepiece import SentencePieceProcessor

from ..checks import check_whole, kind
from . import added_tokens
from .added_tokens import AddedToken as AddedToken


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
                f"the vocabulary in spiece.model lacks {', '.join(map(repr, missing))}; name its own pieces as "
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
        path: a folder with spiece.model and, where T5's defaults don't hold, transformers' files beside it; or a
            SentencePiece file, read with T5's defaults.
    Raises:
        FileNotFoundError: there is no spiece.model.
        ValueError: a file can't be parsed or holds a wrong value, the files contradict each other or T5's layout of
            ids, or an option asks for another tokenization (legacy=false is one).
    """
    path = Path(path)
    if not path.is_dir():
        return Tokenizer(path.read_bytes())
    if not (path / "spiece.model").exists():
        raise FileNotFoundError(
            f"{path} holds no spiece.model (transformers 5 writes tokenizer.json instead); "
            "take it from the checkpoint's original repository"
        )
    model = (path / "spiece.model").read_bytes()
    files = added_tokens.read(path)
    try:
        tokenizer = Tokenizer(model, **added_tokens.arguments(files, _processor(model)))
        own = {"pad_token": tokenizer.pad, "eos_token": tokenizer.eos, "unk_token": tokenizer.unk}
        added_tokens.check_agreement(tokenizer.specials, own, files)
    except (TypeError, ValueError) as error:
        names = ", ".join(["spiece.model", *(name for name, content in files.items() if content)])
        raise ValueError(f"{path} ({names}): {error}") from error
    return tokenizer


def save(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write spiece.model and tokenizer_config.json, which `load` and T5Tokenizer of transformers 4 and 5 read."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {f"{name}_token": getattr(tokenizer, name) for name in ("pad", "eos", "unk")}
    config |= {"extra_ids": tokenizer.extra_ids, "legacy": True, "tokenizer_class": "T5Tokenizer"}
    # it is written even where it is empty, since without it transformers looks for the tokens in other files
    config["added_tokens_decoder"] = {token.pop("id"): token for token in map(asdict, tokenizer.added)}
    (folder / "spiece.model").write_bytes(tokenizer.model)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _processor(model: bytes) -> SentencePieceProcessor:
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError("spiece.model isn't a SentencePiece model; download it again") from error
    return processor


def encode(tokenizer: Tokenizer, prompts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn prompts into ids of a fixed length: the pieces, </s>, then padding.

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
        prompts: B texts; nothing is cleaned here, see `prepare`.
        length: ids per prompt, at least 1; 120 for PixArt-α, 300 for PixArt-Σ. What doesn't fit is cut with a warning
            that quotes it (as the vocabulary normalises it).
    Returns:
        ids, int32 (B, length), and mask, int32 (B, length), 1 up to </s> and 0 on the padding.
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
        pieces = _pieces(tokenizer, prompt)
        every = [_id(tokenizer, piece) for piece in pieces]
        whole, kept = _ended(tokenizer, every), _ended(tokenizer, every[: length - 1])
        if len(kept) < len(whole):
            cut = "".join(pieces[length - 1 :]).replace("▁", " ").strip()
            message = f"prompt {row} takes {len(whole)} tokens, {length} fit: {cut!r} was cut"
            warnings.warn(message, UserWarning, stacklevel=2)
        ids[row, : len(kept)] = kept
        mask[row, : len(kept)] = 1
    return ids, mask


def _ended(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    eos = tokenizer.specials[tokenizer.eos].id
    return ids if ids[-1:] == [eos] else [*ids, eos]


def _pieces(tokenizer: Tokenizer, prompt: str) -> list[str]:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the prompt {prompt!r} isn't Unicode text: it holds half a surrogate pair") from error
    pieces: list[str] = []
    for part in added_tokens.split(prompt, tokenizer.pattern, tokenizer.specials):
        pieces += [part] if part in tokenizer.specials else tokenizer.processor.encode(part, out_type=str)
    return pieces


def _id(tokenizer: Tokenizer, piece: str) -> int:
    special = tokenizer.specials.get(piece)
    return tokenizer.processor.piece_to_id(piece) if special is None else special.id


def prepare(text: str, clean: bool) -> str:
    """Make of a caption what diffusers' PixArt tokenizes, with clean_caption=True or False.

    Args:
        text: a caption in any language.
        clean: whether to clean it, see `clean`; otherwise it is only lower-cased and stripped. Cleaning takes an added
            token such as <my-cat> for markup and removes it.
    """
    if not isinstance(text, str):
        raise TypeError(f"a caption must be a str, got {kind(text)}")
    return _cleaned(text) if clean else text.lower().strip()


def clean(text: str) -> str:
    """Clean a caption as the released models' training captions were, which is what diffusers' PixArt does by default.

    Two passes, since what one removes can uncover work for the next. diffusers uses BeautifulSoup and ftfy for HTML and
    typography; here the standard library gives the same text, except that mojibake ("schÃ¶n" for "schön") isn't
    repaired and that markup which BeautifulSoup refuses stays as it is.

    Args:
        text: a caption in any language; CJK ideographs are removed, as in training.
    """
    return _clean_once(_clean_once(text))


_cleaned = clean  # `prepare` has an argument of that name


def _clean_once(text: str) -> str:
    text = urllib.parse.unquote_plus(text).strip().lower()
    text = _visible(_apply(_LINKS, text))
    text = _apply(_SYMBOLS, text)
    if len(re.findall("[-_]", text)) > 3:  # this-is-my-cute-cat is a file's name, a well-known cat isn't
        text = re.sub("[-_]", " ", text)
    text = html.unescape(html.unescape(_typography(text)))
    return _apply(_LEFTOVERS, text).strip()


_Rules: TypeAlias = tuple[tuple[str, str, str], ...]


def _apply(rules: _Rules, text: str) -> str:
    for pattern, replacement, _ in rules:
        text = re.sub(pattern, replacement, text)
    return text


_DOMAIN = r"[a-z0-9.-]+\.(?:com?|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_FILES = "png|jpe?g|bmp|webp|eps|pdf|apk|mp4"
_DASHES = (
    "-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)

# (pattern, replacement, why); the order matters: each row sees what the rows above it left
_LINKS: _Rules = (
    ("<person>", "person", "a name that the data set hid, which would pass for a tag"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{_DOMAIN})", "", "an address, or the start of one"),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{_DOMAIN})", "", "an address that the row above uncovered"),
)
_SYMBOLS: _Rules = (
    (r"@\w+\b", "", "an account"),
    ("[\u31c0-\u9fff]+", "", "CJK strokes, enclosed and square signs, hexagrams, ideographs: not in T5's vocabulary"),
    (f"[{_DASHES}]+", "-", "every dash"),
    ("[`´«»“”¨]", '"', "double quotes"),
    ("[‘’]", "'", "single quotes"),
    ("&quot;?|&amp", "", "what is left of entities that were escaped twice"),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " ", "an IP address"),
    (r"\d:\d\d\s+$", "", "a time stamp at the end"),
    (r"\\n", " ", "a line break that was escaped"),
    (r"#(?:\d{1,3}|\d{5,})\b", "", "an article's number; four digits may be a year"),
    (r"\b\d{6,}\b", "", "a long number"),
    (rf"\S+\.(?:{_FILES})", "", "a file's name"),
    ("[\"']{2,}", '"', "quotes in a row"),
    (r"\.{2,}", " ", "an ellipsis"),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " ", "symbols that say nothing about the picture"),
    (r"\s+\.\s+", " ", "a full stop on its own"),
)
_LEFTOVERS: _Rules = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", "", "an article's code: jc6640"),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", "", "an article's code: jc6640vc"),
    (r"\b\d+[a-zA-Z]+\d+\b", "", "an article's code: 6640vc231"),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", "", "advertising"),
    (r"(?:free\s)?download(?:\sfree)?", "", "advertising"),
    (r"\bclick\b\s(?:for|on)\s\w+", "", "advertising"),
    (rf"\b(?:{_FILES})(?:\simages?)?", "", "a file's type"),
    (r"\bpage\s+\d+\b", "", "a page's number"),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " ", "an article's code: j2d1a2a"),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", "", "a size: 512x768, with a Latin or a Cyrillic letter"),
    (r"\b\s+:\s+", ": ", "a colon that lost its word"),
    (r"(\D[,./])\b", r"\1 ", "a word that runs into a comma or a full stop"),
    (r"\s+", " ", "white space"),
    ("^[\"'](.+)[\"']$", r"\1", "quotes around all of it"),
    ("^[',:;_-]", "", "punctuation before it"),
    ("['+,:_-]$", "", "punctuation after it"),
    (r"^\.\S+$", "", "an extension and nothing else"),
)


class _Visible(HTMLParser):
    """Collects the text of a page that is shown: no tags, comments or scripts."""

    def __init__(self) -> None:
        # entities come one by one, as BeautifulSoup decodes them: "&notit;" stays, though "&not" is a prefix of it
        super().__init__(convert_charrefs=False)
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style", "template", "rt", "rp"}.intersection(self.open):
            self.text.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def handle_charref(self, name: str) -> None:
        self.handle_data(html.unescape(f"&#{name};"))

    def unknown_decl(self, data: str) -> None:
        if data.lower().startswith("cdata["):
            self.handle_data(data[len("cdata[") :])


def _visible(text: str) -> str:
    parser = _Visible()
    try:
        parser.feed(text)
        parser.close()
    except AssertionError:  # how HTMLParser reports a declaration that it can't read, such as "<![1"
        return text
    return "".join(parser.text)


_FORMS: dict[int, str | None] = {
    **{i: unicodedata.normalize("NFKC", chr(i)) for i in (*map(ord, "ĳǆǉǌǳ\u3000"), *range(0xFB00, 0xFB07))},
    **{i: unicodedata.normalize("NFKC", chr(i)) for i in range(0xFF01, 0xFFF0)},
    **{i: html.unescape(f"&#{i};") for i in range(0x80, 0xA0)},  # what Windows-1252 means by them, as in HTML
    **{0xFB05: "ſt", ord("ŉ"): "'n", ord("ʼ"): "'"},
    **dict.fromkeys(range(0x2018, 0x201C), "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
    **dict.fromkeys((*range(9), 0xB, *range(0xE, 0x20), 0x7F, *range(0x206A, 0x2070), *range(0xFFF9, 0xFFFD), 0xFEFF)),
}


def _typography(text: str) -> str:
    """Plain forms of ligatures, full and half widths and quotes; no control characters; NFC."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text.translate(_FORMS))
