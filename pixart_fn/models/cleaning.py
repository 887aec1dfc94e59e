"""The cleaning of captions, with which the released models were trained."""

from __future__ import annotations

import html
import re
import unicodedata
import urllib.parse
from collections import Counter
from html.entities import html5
from html.parser import HTMLParser
from typing import TypeAlias

from ..checks import kind
from ..process.notes import warn

LONGEST = 10_000
"""Characters of a caption that are read: the 120 or 300 tokens that a model takes are at most 2,000 of usual text."""
MOST_WASTED = 200_000
"""Characters that are read in vain for the ends of tags; what is left then of broken markup stays as it is."""


def prepare(text: str, clean: bool) -> str:
    """Turn a caption into what diffusers' PixArt tokenizes, with clean_caption=True or False.

    Args:
        text: a caption in any language; of a longer one than LONGEST the beginning is taken, with a warning.
        clean: whether to clean it, see `clean`; otherwise it is only lower-cased and stripped. Cleaning takes an added
            token such as <my-cat> for markup and removes it.
    Returns:
        The text that `tokenizer.encode` takes.
    Raises:
        TypeError: text isn't a str.
    """
    if not isinstance(text, str):
        raise TypeError(f"a caption must be a str, got {kind(text)}")
    return _cleaned(text) if clean else _beginning(text).lower().strip()


def clean(text: str) -> str:
    """Clean a caption as the released models' training captions were, which is what diffusers' PixArt does by default.

    Two passes, since what one removes can uncover work for the next. diffusers uses BeautifulSoup and ftfy for HTML and
    typography; here the standard library gives the same text, except that mojibake ("schÃ¶n" for "schön") isn't
    repaired and that markup which BeautifulSoup refuses stays as it is.

    A caption is cut to its first LONGEST characters before it is cleaned, with a warning. So nothing is left where
    those are all markup or addresses, though words may have followed, and hyphens are counted among them alone.

    Args:
        text: a caption in any language; CJK ideographs are removed, as in training.
    Returns:
        The caption in lower case, which may be empty.
    """
    return _clean_once(_clean_once(_beginning(text)))


_cleaned = clean  # `prepare` has an argument of that name


def _beginning(text: str) -> str:
    if len(text) <= LONGEST or len(text := text.strip()) <= LONGEST:
        return text
    warn(f"a prompt of {len(text)} characters was cut to the first {LONGEST}", stacklevel=3)
    return text[:LONGEST]


def _clean_once(text: str) -> str:
    text = urllib.parse.unquote_plus(text).strip().lower()
    text = text.replace("<person>", "person")  # a name that the data set hid, which would pass for a tag
    # "www:" can only be what the first round uncovered
    text = _visible(_without_addresses(_without_addresses(text, "https?"), "www"))
    text = _apply(_SYMBOLS, text)
    if len(re.findall("[-_]", text)) > 3:  # this-is-my-cute-cat is a file's name, a well-known cat isn't
        text = re.sub("[-_]", " ", text)
    text = _unescape(_unescape(_typography(text)))
    return _apply(_LEFTOVERS, text).strip()


_Rules: TypeAlias = tuple[tuple[str, str, str], ...]


def _apply(rules: _Rules, text: str) -> str:
    for pattern, replacement, _ in rules:
        text = re.sub(pattern, replacement, text)
    return text


_RUN = re.compile("[a-z0-9.-]+")
_DOMAIN = re.compile(rf"{_RUN.pattern}\.(?:com?|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)")


def _without_addresses(text: str, scheme: str) -> str:
    """Remove what rf"\b(?:{scheme}:(?:/{{1,3}}|[a-z0-9%])|{_DOMAIN})" finds: an address, or the start of one.

    As one pattern it would try a run without a domain from each of the run's letters to its end.
    """
    if "." not in text and ":" not in text:
        return text
    start = re.compile(rf"\b(?:{scheme}:(?:/{{1,3}}|[a-z0-9%])|(?=[a-z0-9.-]))")
    kept, done, position, no_domain_before = [], 0, 0, 0
    while found := start.search(text, position):
        end = found.end()
        if end == found.start():  # no scheme, but maybe a domain
            domain = _DOMAIN.match(text, end) if end >= no_domain_before else None
            if domain is None:
                run = _RUN.match(text, end) if end >= no_domain_before else None
                no_domain_before = run.end() if run else no_domain_before
                position = end + 1
                continue
            end = domain.end()
        kept.append(text[done : found.start()])
        done = position = end
    return "".join([*kept, text[done:]])


_FILES = "png|jpe?g|bmp|webp|eps|pdf|apk|mp4"
_DASHES = (
    "-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)

# (pattern, replacement, why); the order matters: each row sees what the rows above it left. No row has two repeated
# parts side by side that take the same characters, or begins at every character of what it then reads to the end.
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
    (rf"(?<!\S)\S+\.(?:{_FILES})", "", "a file's name"),
    ("[\"']{2,}", '"', "quotes in a row"),
    (r"\.{2,}", " ", "an ellipsis"),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " ", "symbols that say nothing about the picture"),
    (r"(?<!\s)\s+\.\s+", " ", "a full stop on its own"),
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
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d[a-zA-Z\d]*\b", " ", "an article's code: j2d1a2a"),
    (r"\b\d+(?:\.\d*)?[xх×]\d+(?:\.\d*)?\b", "", "a size: 512x768, with a Latin or a Cyrillic letter"),
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
        self.counts: Counter[str] = Counter()  # of each tag in `open`
        self.wasted = 0

    def parse_starttag(self, i: int) -> int:
        # A tag that doesn't end is looked for from each "<" to the end of the text. Up to 900 characters can't hold
        # more of them than are tried.
        end = super().parse_starttag(i) if self.wasted <= MOST_WASTED else -1
        self.wasted += len(self.rawdata) - i if end < 0 else 0
        return end

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        inner = None
        while self.counts[tag] and inner != tag:
            inner = self.open.pop()
            self.counts[inner] -= 1

    def handle_data(self, data: str) -> None:
        if not any(self.counts[tag] for tag in ("script", "style", "template", "rt", "rp")):
            self.text.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def handle_charref(self, name: str) -> None:
        self.handle_data(_unescape(f"&#{name};"))

    def unknown_decl(self, data: str) -> None:
        if data.lower().startswith("cdata["):
            self.handle_data(data[len("cdata[") :])


def _visible(text: str) -> str:
    parser = _Visible()
    try:
        parser.feed(_LONG_NUMBER.sub(_first_digits, text))
        parser.close()
    except AssertionError:  # how HTMLParser reports a declaration that it can't read, such as "<![1"
        return text
    return "".join(parser.text)


_LONG_NUMBER = re.compile("(?<=&#)[0-9]{500,}")


def _first_digits(number: re.Match[str]) -> str:
    """Eight digits, of which no character has the number: Python's int refuses a longer one than it is set to."""
    return number[0].lstrip("0")[:8] or "0"


def _unescape(text: str) -> str:
    return html.unescape(_LONG_NUMBER.sub(_first_digits, text))


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
