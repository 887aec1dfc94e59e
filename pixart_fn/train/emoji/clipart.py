"""Public-domain clip art: which SVG files below a folder may be used, what each one shows, and its picture.

Debian's package openclipart-svg holds eight thousand. A file is used where its own licence tag says that it is in the
public domain and its title, or the file's name, is that of a concept or one common word.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ...files import reading
from . import captions, concepts, sets

LARGEST = 300_000
"""Bytes of a file: a larger one is a traced photograph, and slow to render."""
DEEPEST = 100
"""Elements inside each other, which are drawn by recursion."""
WEIGHT = 0.5
"""How often a concept is drawn that Unicode doesn't have."""
PUBLIC_DOMAIN = re.compile(
    r"(?i)public domain|https?://(web\.resource\.org/cc/publicdomain|"
    r"(www\.)?creativecommons\.org/(licenses/publicdomain|publicdomain/(zero|mark))(/[\w./-]*)?)/?"
)
CREATIVE_COMMONS = re.compile(r"http://(web\.resource\.org/cc/|creativecommons\.org/ns#) (?i:license)")
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
LEFT_OUT = re.compile(
    r"(?i)(^|/)(computer(?!/hardware)|geography|shapes|signs_and_symbols(?!/(weather|money))|special|aiga-symbols|"
    r"people(?!/clothing)|pantyhose|roadsigns|cards?)(/|$)"
)
"""Folders of the collection with icons, maps, flags, signs, patterns and people."""
_ADJECTIVES = """
a the big large little small simple plain cute happy bored stylized contour cartoon modern old colour color bw
white black gray grey red orange yellow green blue purple pink brown
"""
ADJECTIVES = frozenset(_ADJECTIVES.split())
"""Words of a name that needn't be said."""
_VAGUE = """
ak angel blazer capacitors certificate clips cloudy crossroads cycles drop easter folks grounded hearth jazz knitting
lcd liberty manager mascot mermaid panel patchwork picnic pong propeller reaching reunion scale scotch smoke tile tools
wedge
"""
VAGUE = frozenset(_VAGUE.split())
"""Names that don't say what these pictures show."""


class Unused(ValueError):
    """Why a file isn't used, in a few words."""


class Tags(NamedTuple):
    """What a file says of itself: the work's title, the names of its authors, its licences."""

    title: str
    authors: tuple[str, ...]
    licences: tuple[str, ...]


class _Reader:
    """Collects a file's tags; refuses what must not be rendered."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.text: dict[str, list[str]] = {"title": [], "authors": [], "licences": []}

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        self.path.append(local)
        if len(self.path) > DEEPEST:
            raise Unused("nested too deep")
        if local in ("image", "feImage", "use", "script"):  # other files, and copies of copies without end
            raise Unused(f"holds <{local}>")
        if CREATIVE_COMMONS.fullmatch(name):
            self.text["licences"] += [attributes.get(f"{RDF} resource", ""), attributes.get(f"{RDF} about", "")]

    def end(self, name: str) -> None:
        self.path.pop()

    def data(self, text: str) -> None:
        if set(self.path) & {"text", "flowRoot"} and text.strip():
            raise Unused("holds letters")
        if self.path[-2:] == ["Work", "title"]:
            self.text["title"].append(text)
        elif self.path[-1] == "title" and {"creator", "rights"} & set(self.path):
            self.text["authors"].append(text)
        elif self.path[-1].lower() == "license":
            self.text["licences"].append(text)

    def entity(self, *_: object) -> None:
        raise Unused("declares entities")


def tags(content: bytes) -> Tags:
    """Read what an SVG file says of itself.

    Args:
        content: the file.
    Returns:
        The tags; "" where there is no title.
    Raises:
        Unused: it isn't well-formed XML, declares entities, is nested too deep, or holds letters, bitmaps or copies.
    """
    reader, parser = _Reader(), expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = reader.data, reader.entity
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, UnicodeError) as error:
        raise Unused("damaged") from error
    title, authors, licences = ([text.strip() for text in each if text.strip()] for each in reader.text.values())
    return Tags(title[0] if title else "", tuple(authors), tuple(licences))


def words(text: str) -> list[str]:
    """The words of a title or of a file's name: lower case, without numbers and what is in brackets."""
    parts = re.split(r"[\s_.,-]+", re.sub(r"\([^)]*\)|\.svg\b", " ", text.lower()))
    return [word for word in (re.sub(r"\d+[a-z]?$", "", part) for part in parts) if word]


def is_english(word: str) -> bool:
    """Whether a word is as frequent in English as in Italian and French, the languages of many titles, or more so."""
    from wordfreq import zipf_frequency  # of the extra `train`

    return all(zipf_frequency(word, "en") >= zipf_frequency(word, other) for other in ("it", "fr"))


def name(found: Tags, file: str, known: dict[str, int]) -> str:
    """What a picture shows, by its title or by its file's name without the author's: "red_rose_gerald_g_01" → "rose".

    Args:
        found: the file's tags.
        file: its name.
        known: the names of the concepts.
    Returns:
        A known name, or else one common word.
    Raises:
        Unused: neither is.
    """
    short, authors = words(file), words(" ".join(found.authors))
    while len(short) > 1 and any(author.startswith(short[-1]) for author in authors):
        short.pop()
    for each in (words(found.title), short):
        plain = [word for word in each if word not in ADJECTIVES]
        for form in (" ".join(each), " ".join(plain), "".join(plain)):
            if form in known and form not in VAGUE and (" " in form or is_english(form)):
                return form
        new = plain[0] if len(plain) == 1 and plain[0].isalpha() and plain[0] not in VAGUE else ""
        if new and captions.is_common([new]) and is_english(new):
            return new
    raise Unused("no common name")


def draw(svg: str, size: int) -> NDArray[np.uint8]:
    """Render a drawing, cut to what it shows and centred on a square: uint8 (size, size, 4), straight alpha.

    Raises:
        Unused: it can't be rendered or shows nearly nothing.
    """
    try:
        whole = sets.render_svg(svg, 4 * size)
    except BaseException as error:  # a panic of the renderer isn't an Exception
        if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
            raise
        raise Unused("can't be rendered") from error
    rows, columns = (np.flatnonzero((whole[..., 3] > 8).any(axis)) for axis in (1, 0))
    if max(len(rows), len(columns)) < size or whole[..., 3].mean() < sets.EMPTY:
        raise Unused("nearly empty")
    cut = whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    covered = cut[cut[..., 3] > 128][:, :3]
    if (np.ptp(covered, 1) > 16).sum() <= 0.02 * len(covered):
        raise Unused("no colour")
    edges = np.concatenate([cut[0], cut[-1], cut[:, 0], cut[:, -1]])
    if (edges[:, 3] > 128).mean() > 0.98:
        raise Unused("a background of its own")
    side = max(cut.shape[:2])
    canvas = np.zeros((side, side, 4), np.uint8)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return np.asarray(Image.fromarray(canvas).resize((size, size), Image.Resampling.BOX))


def picture(path: Path, known: dict[str, int], size: int) -> tuple[str, NDArray[np.uint8]]:
    """Read one file: what it shows and its picture, or raise Unused."""
    try:
        content = reading.content(path, LARGEST)
    except ValueError as error:
        raise Unused("too large") from error
    except OSError as error:
        raise Unused("can't be read") from error
    found = tags(content)
    if not found.licences:
        raise Unused("no licence tag")
    if not all(PUBLIC_DOMAIN.fullmatch(each) for each in found.licences):
        raise Unused("another licence")
    if "road sign" in found.title.lower():
        raise Unused("a road sign")
    shown = name(found, path.stem, known)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unused("not in UTF-8") from error
    return shown, draw(text, size)


def find(folder: Path, listed: list[dict[str, Any]], size: int) -> tuple[list[sets.Picture], Counter[str]]:
    """Find the clip art below a folder.

    Args:
        folder: where the files lie.
        listed: the concepts; what only the clip art shows is added at their end.
        size: the pictures' side in pixels.
    Returns:
        The pictures, and how many files weren't used for each reason.
    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"the clip art must be a folder of .svg files, got {folder}, which isn't one")
    known, reasons = concepts.by_name(listed), Counter[str]()
    found: list[sets.Picture] = []
    seen: set[bytes] = set()
    for path in tqdm(sorted(folder.rglob("*.svg")), desc="clip art", unit=" files"):
        try:
            if LEFT_OUT.search(path.relative_to(folder).parent.as_posix()):
                raise Unused("in a folder of signs, maps, icons or people")
            shown, pixels = picture(path, known, size)
            if pixels.tobytes() in seen:
                raise Unused("the same as another")
        except Unused as reason:
            reasons[str(reason)] += 1
            continue
        seen.add(pixels.tobytes())
        if shown not in known:
            known[shown] = concepts.add(listed, shown, "clip art", WEIGHT)
        found.append(sets.Picture(known[shown], "openclipart", partial(np.copy, pixels)))
    return found, reasons


def summary(found: list[sets.Picture], reasons: Counter[str]) -> str:
    """Say how many files were used, and why the others weren't."""
    others = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f"clip art: {len(found)} files are used; the others: {others or 'none'}"
