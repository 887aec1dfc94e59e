"""Glyphs drawn here: the real ones are not part of the repository."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from pixart_fn.train.emoji import captions, data, shapes

SETS = {"noto": "cartoon", "twemoji": "flat", "fluent-emoji-high-contrast": "line drawing"}


def concept(label: str, subgroup: str = "tool", **fields) -> dict:
    defaults = {"code": "0", "tags": ["one", "two", "three"], "unique_tags": [], "group": 7, "weight": 1.0}
    return {**defaults, "label": label, "subgroup": subgroup, "flip": False, "animal_or_food": False, **fields}


def glyph(kind: str, colour: str, grow: float, size: int = 64) -> np.ndarray:
    """A shape with a dark disc in it, so that not only the outline counts."""
    image = Image.new("RGBA", (size, size))
    points = shapes.outline(kind) * 0.4 * grow * size + size / 2
    ImageDraw.Draw(image).polygon([tuple(p) for p in points.tolist()], fill=(*captions.COLOURS[colour], 255))
    ImageDraw.Draw(image).ellipse([size * 0.45, size * 0.5, size * 0.6, size * 0.65], fill=(20, 20, 20, 255))
    return np.asarray(image)


def all_sets() -> data.Glyphs:
    """Each shape in three colours by three sets, smaller from set to set."""
    combinations = [(kind, colour) for kind in shapes.KINDS for colour in ("red", "green", "blue")]
    concepts = [concept(f"{colour} {kind}", flip=i % 2 == 0) for i, (kind, colour) in enumerate(combinations)]
    rows, pictures = [], []
    for k, (name, style) in enumerate(SETS.items()):
        for i, (kind, colour) in enumerate(combinations):
            rows.append({"concept": i, "set": name, "style": style})
            pictures.append(glyph(kind, colour, 1.0 - 0.1 * k))
    return data.glyphs(np.stack(pictures), rows, concepts)
