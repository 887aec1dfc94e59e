"""Training pictures with captions, each drawn from (seed, step, index) alone, so that a run can resume anywhere.

An example is an emoji on white or on a flat colour, a drawing in one ink, two emoji at once, or a scene of shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...checks import shown
from ...files import reading
from . import captions, shapes

WHITE = (255, 255, 255)
PRIMARY = "noto"
LINES = "fluent-emoji-high-contrast"
SILHOUETTES = "game-icons"
INKS: Mapping[str, float] = MappingProxyType({LINES: 0.7, SILHOUETTES: 0.3})
"""The sets drawn in one ink, and how often each is."""
MIX: Mapping[str, float] = MappingProxyType({"white": 0.50, "colour": 0.10, "line": 0.05, "two": 0.25, "shapes": 0.10})
"""How often each kind of example is drawn."""
ON_WHITE, UPRIGHT, PAIR_SIDE = 0.8, 0.125, 0.46
"""How often two emoji lie on white and one above the other, and their side."""

ROW: Mapping[str, type] = MappingProxyType({"concept": int, "set": str, "style": str})
CONCEPT: Mapping[str, type | tuple[type, ...]] = MappingProxyType(
    {"label": str, "subgroup": str, "tags": list, "unique_tags": list, "weight": (int, float), "flip": bool}
)
"""What `load` asks of glyphs.json, apart from what nothing reads."""

Example = tuple[NDArray[np.uint8], Callable[[np.random.Generator], str]]
"""A picture and what draws a caption for it."""


class Pool(NamedTuple):
    """Rows of glyphs to choose from and the running sum of their probabilities."""

    rows: NDArray[np.int_]
    cumulative: NDArray[np.float64]


class Glyphs(NamedTuple):
    """The rendered emoji: pictures uint8 (N, S, S, 4) with straight alpha, the concept's index, set and style of each
    row, the concepts, and the pools that examples are drawn from: "primary", "others" (the sets in colour), "lines"
    (the sets in one ink, by their shares), and each set's own by its name."""

    pictures: NDArray[np.uint8]
    concept: NDArray[np.int_]
    sets: tuple[str, ...]
    styles: tuple[str, ...]
    concepts: list[dict[str, Any]]
    pools: dict[str, Pool]


def load(folder: str | Path) -> Glyphs:
    """Read what `python -m pixart_fn.train.emoji.render` wrote; the pictures stay on disk and are mapped.

    Args:
        folder: where glyphs.npy and glyphs.json lie.
    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: they aren't what the command writes.
    """
    folder = Path(folder)
    for name in ("glyphs.npy", "glyphs.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; python -m pixart_fn.train.emoji.render --out {folder} makes it"
            )
    meta, file = reading.json_object(folder / "glyphs.json"), folder / "glyphs.npy"
    try:
        pictures = np.load(file, mmap_mode="r")
    except Exception as error:  # a damaged header makes NumPy raise whatever it stumbles over
        raise ValueError(f"{file} isn't an array of NumPy ({shown(str(error))}); render it again") from error
    if (
        not isinstance(pictures, np.ndarray)
        or pictures.dtype != np.uint8
        or pictures.ndim != 4
        or not pictures.size
        or pictures.shape[3] != 4
    ):
        raise ValueError(f"{file} must hold uint8 (N, S, S, 4), got something else")
    rows, concepts = meta.get("rows", ()), meta.get("concepts", ())
    if not _all(concepts, CONCEPT) or not all(0 < each["weight"] < 1e300 for each in concepts):
        raise ValueError(f"{folder / 'glyphs.json'} must list concepts, each with {', '.join(CONCEPT)}")
    if not _all(rows, ROW) or len(rows) != len(pictures):
        raise ValueError(f"{folder / 'glyphs.json'} must list {len(pictures)} rows, each with {', '.join(ROW)}")
    if not all(0 <= row["concept"] < len(concepts) for row in rows):
        raise ValueError(f"a row in {folder / 'glyphs.json'} names a concept beyond the {len(concepts)} listed")
    return glyphs(pictures, rows, concepts)


def _all(values: object, fields: Mapping[str, type | tuple[type, ...]]) -> TypeGuard[list[dict[str, Any]]]:
    """Return whether these are objects that have such fields."""
    each: list[Any] = values if isinstance(values, list) else [None]
    whole = all(isinstance(v, dict) and all(isinstance(v.get(f), kind) for f, kind in fields.items()) for v in each)
    lists = [field for field, kind in fields.items() if kind is list]
    return whole and all(isinstance(text, str) for v in each for field in lists for text in v[field])


def glyphs(pictures: NDArray[np.uint8], rows: list[dict[str, Any]], concepts: list[dict[str, Any]]) -> Glyphs:
    """Put pictures, rows ({concept, set, style}) and concepts together, with the pools to draw from."""
    concept = np.array([row["concept"] for row in rows])
    sets = tuple(row["set"] for row in rows)
    weights = np.array([concepts[i]["weight"] for i in concept], float)

    def pool(*names: str) -> Pool:
        chosen = np.flatnonzero([name in names for name in sets])
        return Pool(chosen, np.cumsum(weights[chosen] / weights[chosen].sum()) if len(chosen) else weights[:0])

    pools = {name: pool(name) for name in dict.fromkeys(sets)}
    pools |= {
        "primary": pool(PRIMARY),
        "others": pool(*(name for name in pools if name not in (PRIMARY, *INKS))),
        "lines": _joint([(pools[name], share) for name, share in INKS.items() if name in pools]),
    }
    return Glyphs(pictures, concept, sets, tuple(row["style"] for row in rows), concepts, pools)


def _joint(pools: list[tuple[Pool, float]]) -> Pool:
    """A pool of several, each by its share."""
    if not pools:
        return Pool(np.zeros(0, int), np.zeros(0))
    total = sum(share for _, share in pools)
    each = [np.diff(pool.cumulative, prepend=0) * (share / total) for pool, share in pools]
    return Pool(np.concatenate([pool.rows for pool, _ in pools]), np.cumsum(np.concatenate(each)))


def compose(glyph: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Lay a picture over a flat colour: α c + (1 − α) b, rounded.

    Args:
        glyph: uint8 (..., 4), straight alpha.
        background: sRGB in [0, 255].
    Returns:
        uint8 (..., 3).
    """
    alpha = glyph[..., 3:].astype(np.uint16)
    mixed = glyph[..., :3] * alpha + np.asarray(background, np.uint16) * (255 - alpha) + 128
    divided: NDArray[np.uint8] = ((mixed + (mixed >> 8)) >> 8).astype(np.uint8)  # by 255, rounded, within 16 bits
    return divided


def luma(rgb: NDArray[np.uint8] | tuple[int, int, int]) -> NDArray[np.float32]:
    """Perceived lightness in [0, 1] of sRGB in [0, 255], (..., 3) → (...)."""
    weights = np.array((0.299, 0.587, 0.114), np.float32)
    return np.asarray(np.asarray(rgb, np.float32) @ weights / 255, np.float32)


def contrast(glyph: NDArray[np.uint8], background: tuple[int, int, int]) -> float:
    """Mean difference in lightness between what a picture covers and a background, in [0, 1]."""
    alpha = glyph[..., 3].astype(np.float32)
    return float((np.abs(luma(glyph[..., :3]) - luma(background)) * alpha).sum() / max(alpha.sum(), 1.0))


def place(
    rng: np.random.Generator, glyph: NDArray[np.uint8], size: int, flip: bool, jitter: float = 0.05
) -> NDArray[np.uint8]:
    """Set a picture on a transparent canvas, uint8 (size, size, 4), at 0.88 ± jitter of its side, so far off centre."""
    side = round(size * rng.uniform(0.88 - jitter, 0.88 + jitter))
    limit = min(jitter * size, (size - side) / 2)
    y, x = np.round((size - side) / 2 + rng.uniform(-limit, limit, 2)).astype(int)
    return paste(np.zeros((size, size, 4), np.uint8), glyph, side, (x, y), flip)


def paste(
    canvas: NDArray[np.uint8], glyph: NDArray[np.uint8], side: int, corner: tuple[int, int], flip: bool
) -> NDArray[np.uint8]:
    """Set a picture on a canvas, uint8 (S, S, 4), with its upper left corner at (x, y), and return the canvas."""
    image = Image.fromarray(np.ascontiguousarray(glyph)).resize((side, side), Image.Resampling.BICUBIC)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    x, y = corner
    canvas[y : y + side, x : x + side] = np.asarray(image)
    return canvas


def choose(rng: np.random.Generator, pool: Pool) -> int:
    """Draw a row of a pool."""
    at = int(np.searchsorted(pool.cumulative, rng.random(), side="right"))
    return int(pool.rows[min(at, len(pool.rows) - 1)])  # rounding may end the sum just below 1


def background_for(rng: np.random.Generator, *glyphs: NDArray[np.uint8], least: float = 0.2) -> str:
    """Draw a colour that each picture stands out from, or the one that they stand out from most."""
    names = list(captions.COLOURS)
    best, most = names[0], -1.0
    for name in [names[int(i)] for i in rng.permutation(len(names))]:
        value = min(contrast(glyph[::4, ::4], captions.COLOURS[name]) for glyph in glyphs)
        if value >= least:
            return name
        if value > most:
            best, most = name, value
    return best


def emoji(
    rng: np.random.Generator, data: Glyphs, size: int, on_white: bool, primary: float, flips: float, jitter: float
) -> Example:
    """Draw an emoji with its captions; one that vanishes on white goes on a colour."""
    row = choose(rng, data.pools["primary" if rng.random() < primary else "others"])
    concept = data.concepts[data.concept[row]]
    glyph = place(rng, data.pictures[row], size, concept["flip"] and rng.random() < flips, jitter)
    on_white = on_white and contrast(glyph, WHITE) >= 0.11
    ground = "white" if on_white else background_for(rng, glyph)
    colour = WHITE if on_white else captions.COLOURS[ground]

    def caption(rng: np.random.Generator) -> str:
        style = None if data.sets[row] == PRIMARY and rng.random() < 0.8 else data.styles[row]
        return captions.draw(rng, concept, style, ground)

    return compose(glyph, colour), caption


def line(rng: np.random.Generator, data: Glyphs, size: int) -> Example:
    """Draw a line drawing in one colour, on white or on another colour, with its captions."""
    row = choose(rng, data.pools["lines"])
    concept = data.concepts[data.concept[row]]
    glyph = place(rng, data.pictures[row], size, concept["flip"] and rng.random() < 0.5)
    grounds = {"white": WHITE, **captions.COLOURS}
    ground = "white" if rng.random() < 0.5 else str(rng.choice(list(captions.COLOURS)))
    inks = [n for n, rgb in captions.COLOURS.items() if abs(luma(rgb) - luma(grounds[ground])) >= 0.2]
    ink = str(rng.choice(inks))
    glyph[..., :3] = captions.COLOURS[ink]
    return compose(glyph, grounds[ground]), partial(
        captions.line_drawing, concept=concept, colour=ink, background=ground, style=data.styles[row]
    )


def second_of(rng: np.random.Generator, data: Glyphs, first: int) -> int:
    """Draw a row of another concept than the first one's, of the same set."""
    row = first
    for _ in range(20):  # there may be no other concept
        row = choose(rng, data.pools[data.sets[first]])
        if data.concept[row] != data.concept[first]:
            break
    return row


def two(rng: np.random.Generator, data: Glyphs, size: int, primary: float, flips: float) -> Example:
    """Draw two emoji of one set side by side, or one above the other, with their captions.

    Each lies in the middle of whole patches of the transformer, 4 × 4 of them at 128 pixels. When they lay anywhere, a
    model learned to draw them only vaguely. A pair whose style isn't named is nearly always of the first set.
    """
    first = choose(rng, data.pools["primary" if rng.random() < primary else "others"])
    rows = (first, second_of(rng, data, first))
    concepts = (data.concepts[data.concept[rows[0]]], data.concepts[data.concept[rows[1]]])
    upright, side = bool(rng.random() < UPRIGHT), round(size * PAIR_SIDE)
    canvas = np.zeros((size, size, 4), np.uint8)
    for k, row in enumerate(rows):
        along, across = size // 2 * k + (size // 2 - side) // 2, (size - side) // 2
        flip = concepts[k]["flip"] and bool(rng.random() < flips)
        paste(canvas, data.pictures[row], side, (across, along) if upright else (along, across), flip)
    pictures = [data.pictures[row] for row in rows]
    on_white = rng.random() < ON_WHITE and min(contrast(glyph, WHITE) for glyph in pictures) >= 0.11
    ground = "white" if on_white else background_for(rng, *pictures)
    colour = WHITE if on_white else captions.COLOURS[ground]

    def caption(rng: np.random.Generator) -> str:
        quiet = rng.random() < (0.6 if data.sets[first] == PRIMARY else 0.07)
        return captions.two(rng, concepts, upright, None if quiet else data.styles[first], ground)

    return compose(canvas, colour), caption


def example(
    rng: np.random.Generator,
    data: Glyphs,
    size: int,
    *,
    mix: Mapping[str, float] = MIX,
    primary: float = 0.45,
    flips: float = 0.5,
    jitter: float = 0.05,
) -> Example:
    """Draw one training example.

    Args:
        rng: where every choice comes from.
        data: the rendered emoji.
        size: the picture's side in pixels.
        mix: relative frequency of "white", "colour", "line", "two", "shapes".
        primary: the primary set's share of the emoji.
        flips: how often an emoji that may be mirrored is.
        jitter: of an emoji's size and place, as a share of the side.
    Returns:
        The picture, uint8 (size, size, 3), and a function that draws a caption for it from a generator.
    Raises:
        ValueError: `mix` names another kind.
    """
    unknown = set(mix) - set(MIX)
    if unknown:
        raise ValueError(f"mix must name some of {', '.join(MIX)}, got {', '.join(sorted(unknown))}")
    share: NDArray[np.float64] = np.array(list(mix.values()), float)
    kind = list(mix)[rng.choice(len(share), p=share / share.sum())]
    if kind == "shapes":
        scene = shapes.draw_scene(rng)
        return shapes.paint(rng, scene, size), lambda _: shapes.caption(scene)
    if kind == "line":
        return line(rng, data, size)
    if kind == "two":
        return two(rng, data, size, primary, flips)
    return emoji(rng, data, size, kind == "white", primary, flips, jitter)


def batch(
    seed: int, start: int, n: int, data: Glyphs, size: int, n_captions: int = 1, **options: Any
) -> tuple[NDArray[np.uint8], list[list[str]]]:
    """Draw examples start … start + n - 1: each a function of (seed, index) alone, so that a resumed run sees the same.

    Args:
        seed: of the run, ≥ 0.
        start: ≥ 0.
        n: examples.
        data: the rendered emoji.
        size: the pictures' side in pixels.
        n_captions: drawn for each picture.
        **options: `mix`, `primary`, `flips` and `jitter` of `example`.
    Returns:
        Pictures, uint8 (n, size, size, 3), and the captions of each.
    """
    pictures, said = [], []
    for i in range(start, start + n):
        rng = np.random.default_rng((seed, i))
        picture, caption = example(rng, data, size, **options)
        pictures.append(picture)
        said.append([caption(rng) for _ in range(n_captions)])
    return np.stack(pictures), said
