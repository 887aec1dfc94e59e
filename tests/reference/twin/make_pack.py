"""Make pack.npz: pictures, what they show, and every piece of a caption as token ids.

python -m tests.reference.twin.make_pack --npm node_modules --clipart /usr/share/openclipart --out pack.npz

The pictures are those of `pixart_fn.train.emoji.render`, which says where they come from; the clip art may be left out.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pixart_fn.models import tokenizer
from pixart_fn.train.emoji import captions, clipart, concepts, sets, shapes
from pixart_fn.train.emoji.text_to_image import vocabulary

ORDER = tuple(sets.STYLES)
"""The sets by number: `pack.COLOUR_SETS` in colour, then those that are drawn in one ink."""
GROUNDS = ("white", *captions.COLOURS)
SAID = {"subject": 40, "phrase": 10, "noun": 6}
"""How many ways to say a concept are drawn."""
NOUNS_FOR_STYLE = ("3D render", "cartoon", "silhouette", "line drawing")
BETWEEN = ("and", "next to", "beside", "to the left of", "to the right of", "above", "below")
ORDERS = (
    ("in a row", "from left to right", "side by side"),
    ("in a column", "from top to bottom", "one above the other"),
)
PIECE, VOCABULARY = 16, 4096


class Pieces:
    """Texts by number, each a part of a caption; the first says nothing."""

    def __init__(self) -> None:
        self.texts, self.numbers = [""], {"": 0}

    def __call__(self, text: str) -> int:
        if text not in self.numbers:
            self.numbers[text] = len(self.texts)
            self.texts.append(text)
        return self.numbers[text]


def tables(rng: np.random.Generator, listed: list[dict[str, Any]], piece: Pieces) -> dict[str, np.ndarray]:
    """The numbers of the pieces, as `say.Speaker` looks them up."""

    def number(texts: Any) -> np.ndarray:
        return np.vectorize(piece, otypes=[np.int32])(np.array(texts, dtype=object))

    styles, article = list(sets.STYLES.values()), captions.with_article
    nouns = [[captions.noun(rng, c) for _ in range(SAID["noun"])] for c in listed]
    names = [[[article(f"{size} {colour} {kind}".strip()) for size in shapes.SIZES] for colour in shapes.PAINTS]
             for kind in shapes.KINDS]  # fmt: skip
    return {
        "subject": number([[captions.subject(rng, c) for _ in range(SAID["subject"])] for c in listed]),
        "phrase": number([[captions.phrase(rng, c) for _ in range(SAID["phrase"])] for c in listed]),
        "noun": number(nouns),
        "article": np.array([[article(noun) != noun for noun in row] for row in nouns]),
        "suffix": number([f", {style}" for style in styles]),
        "prefix": number([f"{article(s)} of" if s in NOUNS_FOR_STYLE else f"{article(s)} picture of" for s in styles]),
        "word": number(styles),
        "ground": number(
            [[f"on {article(g)} background", f", {g} background", f", on {article(g)} background"] for g in GROUNDS]
        ),
        "ink": number([[colour, article(colour)] for colour in GROUNDS]),
        "between": number(BETWEEN),
        "shape": number(names),
        "comma_shape": number([[[f", {name}" for name in row] for row in rows] for rows in names]),
        "where": number(shapes.PLACES),
        "order": number(ORDERS),
    }


def sentences(rng: np.random.Generator, listed: list[dict[str, Any]], n_emoji: int) -> list[str]:
    """What the vocabulary is trained on."""
    styles = list(sets.STYLES.values())
    said = []
    for i, concept in enumerate(listed):
        for k in range(12 if i < n_emoji else 4):
            style = styles[rng.integers(len(styles))] if k % 2 else None
            said.append(captions.draw(rng, concept, style, GROUNDS[rng.integers(len(GROUNDS))]))
    for _ in range(3000):
        said.append(shapes.caption(shapes.draw_scene(rng)))
        first, second = (captions.phrase(rng, listed[i]) for i in rng.integers(n_emoji, size=2))
        said.append(f"{first} {BETWEEN[rng.integers(len(BETWEEN))]} {second}")
    return [tokenizer.clean(text) for text in said]


def token_table(words: tokenizer.Tokenizer, texts: list[str]) -> np.ndarray:
    """The ids of each piece within a caption, int16 (P, PIECE): a comma belongs to the word before it."""
    whole = [f"a{text}" if text.startswith(",") else text or "a" for text in texts]
    ids, mask = tokenizer.encode(words, [tokenizer.clean(text) for text in whole], 24)
    table = np.zeros((len(texts), PIECE), np.int16)
    for row, text, each, length in zip(table, texts, ids, mask.sum(1) - 1, strict=True):
        part = each[1 if text.startswith(",") else 0 : length][:PIECE]
        row[: len(part)] = part if text else 0
    return table


def outline(kind: str) -> np.ndarray:
    """The mask of a shape that fills its box: uint8 (128, 128)."""
    image = Image.new("L", (1024, 1024))
    ImageDraw.Draw(image).polygon([tuple(p) for p in ((shapes.outline(kind) + 1) * 512).tolist()], fill=255)
    return np.asarray(image.resize((128, 128), Image.Resampling.BOX))


def encode(picture: np.ndarray, name: str) -> bytes:
    """Lossless WebP; of one ink the alpha alone."""
    picture = np.where(picture[..., 3:] == 0, np.uint8(0), picture)
    stream = io.BytesIO()
    image = Image.fromarray(picture[..., 3] if name in sets.INKS else picture)
    image.save(stream, "WEBP", lossless=True, method=4)
    return stream.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--npm", type=Path, required=True, help="node_modules with the packages of render")
    parser.add_argument("--clipart", type=Path, help="folder of .svg files; those in the public domain are used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, help="the spiece.model of weights to go on from; None trains one")
    args = parser.parse_args()
    rng, listed = np.random.default_rng(0), concepts.read(args.npm)
    n_emoji = len(listed)
    found = sets.pictures(args.npm, listed, 128)
    if args.clipart:
        clip_art, reasons = clipart.find(args.clipart, listed, 128)
        print(clipart.summary(clip_art, reasons))
        found += clip_art
    piece = Pieces()
    numbers = tables(rng, listed, piece)
    if args.vocabulary:
        words = tokenizer.Tokenizer(args.vocabulary.read_bytes(), extra_ids=0)
    else:
        words = vocabulary(sentences(rng, listed, n_emoji), VOCABULARY)
    blobs = [encode(each.draw(), each.set) for each in found]
    np.savez(
        args.out,
        glyphs=np.frombuffer(b"".join(blobs), np.uint8),
        offsets=np.cumsum([0, *map(len, blobs)]),
        concept=np.array([each.concept for each in found], np.int32),
        set=np.array([ORDER.index(each.set) for each in found], np.int8),
        weight=np.sqrt(np.array([concept["weight"] for concept in listed], np.float32)),
        flip=np.array([concept["flip"] for concept in listed]),
        table=token_table(words, piece.texts),
        colours=np.array([(255, 255, 255), *captions.COLOURS.values()], np.uint8),
        paints=np.array([GROUNDS.index(colour) for colour in shapes.PAINTS]),
        outlines=np.stack([outline(kind) for kind in shapes.KINDS]),
        spiece=np.frombuffer(words.model, np.uint8),
        **{f"t_{name}": table for name, table in numbers.items()},
    )
    print(f"{len(found)} pictures of {len(listed)} concepts, {len(piece.texts)} pieces, vocabulary {words.size}")


if __name__ == "__main__":
    main()
