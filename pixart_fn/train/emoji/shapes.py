"""Pictures whose captions can be checked exactly: "a small red circle above a blue square"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .captions import COLOURS, with_article

KINDS = ("circle", "square", "triangle", "star")
SIZES = {"small": (0.20, 0.25), "": (0.30, 0.35), "large": (0.40, 0.44)}
RELATIONS = ("above", "below", "left of", "right of")
PLACES = ("at the top", "at the bottom", "on the left", "on the right")
PAINTS = ("red", "orange", "yellow", "green", "blue", "purple", "black")
HELD_OUT = frozenset({("circle", "purple"), ("square", "green"), ("triangle", "blue"), ("star", "red")})
"""(kind, colour) that training never draws: a model that gets them right has composed them."""


class Shape(NamedTuple):
    """One coloured shape; size is a key of `SIZES`, "" for middling."""

    kind: str
    colour: str
    size: str = ""


class Scene(NamedTuple):
    """One shape, perhaps at a place, or two in a relation, on white."""

    shapes: tuple[Shape, ...]
    where: str | None = None


class Seen(NamedTuple):
    """A shape found in a picture: side and centre (x, y) as fractions of the picture's side."""

    kind: str
    colour: str
    side: float
    centre: tuple[float, float]


def draw_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """Draw a scene; one with a held-out combination where asked, none otherwise."""
    combinations = [(kind, colour) for kind in KINDS for colour in PAINTS]
    first = [each for each in combinations if (each in HELD_OUT) == held_out]
    other = [each for each in combinations if each not in HELD_OUT]

    def shape(choices: Sequence[tuple[str, str]]) -> Shape:
        kind, colour = choices[int(rng.integers(len(choices)))]
        return Shape(kind, colour, str(rng.choice(list(SIZES))))

    if rng.random() < 0.5:
        return Scene((shape(first),), str(rng.choice(PLACES)) if rng.random() < 0.5 else None)
    return Scene((shape(first), shape(other)), str(rng.choice(RELATIONS)))


def caption(scene: Scene) -> str:
    """Say what a scene shows: "a small red circle above a blue square"."""
    words = [with_article(f"{s.size} {s.colour} {s.kind}".strip()) for s in scene.shapes]
    if len(words) == 1:
        return f"{words[0]} {scene.where}" if scene.where else words[0]
    joint = f"to the {scene.where}" if scene.where in ("left of", "right of") else scene.where
    return f"{words[0]} {joint} {words[1]}"


def centres(rng: np.random.Generator, scene: Scene) -> list[tuple[float, float]]:
    """Draw where the shapes' centres lie, (x, y) in [0, 1]."""
    step = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}
    step |= dict(zip(PLACES, ((0, -1), (0, 1), (-1, 0), (1, 0)), strict=True))
    dx, dy = step.get(scene.where or "", (0, 0))
    jitter = rng.uniform(-0.015, 0.015, (len(scene.shapes), 2))
    return [
        (0.5 + side * 0.26 * dx + jx, 0.5 + side * 0.26 * dy + jy)
        for side, (jx, jy) in zip((1, -1), jitter, strict=False)
    ]


def outline(kind: str) -> NDArray[np.float64]:
    """The polygon of a shape, float (n, 2), filling the box [-1, 1]²."""
    if kind == "square":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    if kind == "triangle":
        return np.array([(0, -1), (1, 1), (-1, 1)], float)
    points = 5 if kind == "star" else 64
    angle = np.arange(2 * points) * np.pi / points - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2, 0.42, 1.0) if kind == "star" else np.ones(2 * points)
    corners = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    low, high = corners.min(0), corners.max(0)
    filling: NDArray[np.float64] = (corners - low) / (high - low) * 2 - 1
    return filling


def paint(rng: np.random.Generator, scene: Scene, size: int) -> NDArray[np.uint8]:
    """Paint a scene, antialiased by 4 × 4 samples per pixel: uint8 (size, size, 3)."""
    fine = 4 * size
    image = Image.new("RGB", (fine, fine), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    for shape, centre in zip(scene.shapes, centres(rng, scene), strict=True):
        side = rng.uniform(*SIZES[shape.size])
        corners = (outline(shape.kind) * side / 2 + np.asarray(centre)) * fine
        pen.polygon([tuple(corner) for corner in corners.tolist()], fill=COLOURS[shape.colour])
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The connected parts of a boolean (H, W) mask, the largest first, specks of under 0.4 % of it left out."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.maximum.reduce([padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2],
                                    padded[1:-1, 2:]])  # fmt: skip
        spread = np.where(mask, spread, 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    found, counts = np.unique(labels[mask], return_counts=True)
    order = np.argsort(-counts)
    return [labels == found[i] for i in order if counts[i] > 0.004 * mask.size]


def see(picture: NDArray[np.uint8]) -> list[Seen]:
    """Find the shapes in a picture of any origin, uint8 (S, S, 3) on a plain ground, the largest first."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]).astype(float)
    ground = np.median(border, axis=0)
    mask = np.abs(picture.astype(float) - ground).max(-1) > 70
    return [recognise(picture, part) for part in components(mask)]


def recognise(picture: NDArray[np.uint8], part: NDArray[np.bool_]) -> Seen:
    """Name the colour (nearest to the median) and the kind (best overlap with the outline) of one part."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    paint_ = np.median(picture[part].astype(float), axis=0)
    colour = min(PAINTS, key=lambda name: float(np.square(paint_ - COLOURS[name]).sum()))
    crop = Image.fromarray(part[top:bottom, left:right]).convert("L").resize((32, 32), Image.Resampling.BILINEAR)
    filled = np.asarray(crop) > 127

    def overlap(kind: str) -> float:
        template = Image.new("L", (32, 32))
        ImageDraw.Draw(template).polygon([tuple(p) for p in ((outline(kind) + 1) * 15.5).tolist()], fill=255)
        other = np.asarray(template) > 127
        return float((filled & other).sum() / (filled | other).sum())

    size = len(picture)
    side = max(bottom - top, right - left) / size
    return Seen(max(KINDS, key=overlap), colour, float(side), ((left + right) / 2 / size, (top + bottom) / 2 / size))


def check(picture: NDArray[np.uint8], scene: Scene) -> dict[str, bool]:
    """Whether a picture shows a scene.

    Args:
        picture: uint8 (S, S, 3).
        scene: what it should show.
    Returns:
        count, kinds, colours, sizes and where, each True or False; all but count are False where the count is wrong,
        and where is True for a scene that names no place.
    """
    seen = see(picture)
    if len(seen) != len(scene.shapes):
        return {"count": False, "kinds": False, "colours": False, "sizes": False, "where": False}
    if len(seen) == 2:  # the order that names more of them right, by place where that doesn't decide
        seen = max((seen, seen[::-1]), key=lambda s: (agreement(s, scene), is_placed(s, scene)))
    matched = list(zip(seen, scene.shapes, strict=True))
    # Halfway between the ranges that SIZES paints.
    limits = {"small": (0.0, 0.275), "": (0.275, 0.375), "large": (0.375, 1.0)}
    return {
        "count": True,
        "kinds": all(s.kind == shape.kind for s, shape in matched),
        "colours": all(s.colour == shape.colour for s, shape in matched),
        "sizes": all(limits[shape.size][0] <= s.side < limits[shape.size][1] for s, shape in matched),
        "where": is_placed(seen, scene),
    }


def agreement(seen: Sequence[Seen], scene: Scene) -> int:
    """How many kinds and colours are right, shape by shape."""
    return sum((s.kind == shape.kind) + (s.colour == shape.colour) for s, shape in zip(seen, scene.shapes, strict=True))


def is_placed(seen: Sequence[Seen], scene: Scene) -> bool:
    """Whether the first shape lies where the scene says, relative to the second or to the picture's centre."""
    if scene.where is None:
        return True
    axis = 1 if scene.where in ("above", "below", "at the top", "at the bottom") else 0
    sign = -1 if scene.where in ("above", "left of", "at the top", "on the left") else 1
    reference = seen[1].centre[axis] if len(seen) == 2 else 0.5
    return sign * (seen[0].centre[axis] - reference) > 0.08


def accuracy(pictures: NDArray[np.uint8], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of pictures, uint8 (N, S, S, 3), that are right in each respect of `check`, and in "all" of them."""
    checks = [check(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
    shares = {name: sum(c[name] for c in checks) / len(checks) for name in checks[0]}
    return shares | {"all": sum(all(c.values()) for c in checks) / len(checks)}
