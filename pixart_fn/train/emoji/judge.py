"""Whether a picture can be recognised: retrieval among all emoji by shape and colour, with no learned model.

    python -m pixart_fn.train.emoji.judge --data emoji --control
    python -m pixart_fn.train.emoji.judge --data emoji --model weights/emoji --sheet nouns.png

A picture is cropped to its content and described by a 12 × 12 colour thumbnail, a histogram of oriented gradients and a
histogram of colours; concepts rank by the cosine with the most similar of their real glyphs, over every colour set.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from ... import rng
from ...picture import prepare, save_picture
from ...types import NumPyArray
from . import captions, data, shapes
from .command import run
from .nouns import NOUNS, noun_ids

if TYPE_CHECKING:
    from ...guidance import Guidance, Scale
    from ...params import Params

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "noto": "noto",
        "noto-v1": "blob",
        "fluent-emoji-flat": "fluent",
        "fluent-emoji": "fluent",
        "fluent-emoji-3d": "fluent",
        "twemoji": "twemoji",
        "emojione": "emojione",
    }
)
"""Which sets are variants of the same drawings: a control must not find a glyph's own family."""

SIDE, CELL, BINS, THUMBNAIL, LEVELS = 48, 8, 9, 12, 4
CHUNK = 10
"""How many pictures are drawn together."""
WEIGHTS = (1.0, 1.0, 0.1)
"""Of thumbnail, gradients and histogram in the squared norm."""


class Index(NamedTuple):
    """Features (G, F) of real glyphs sorted by concept, each one's family, and the number of concepts."""

    features: NDArray[np.float32]
    concept: NDArray[np.int_]
    family: NDArray[np.str_]
    n_concepts: int


class Report(NamedTuple):
    """Recall at 1 and at 5, recall at 1 with the captions of other pictures, and the pictures it was measured on."""

    r1: float
    r5: float
    shuffled_r1: float
    n: int


def crop(picture: NDArray[np.uint8], threshold: int = 24) -> NDArray[np.uint8]:
    """Cut a picture, uint8 (S, S, 3), to what differs from its border's median; pad to a square on white; resize.
    Returns:
        uint8 (SIDE, SIDE, 3).
    """
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ground = np.median(border, axis=0)
    mask = np.abs(picture.astype(np.int16) - ground.astype(np.int16)).max(-1) > threshold
    rows, columns = np.flatnonzero(mask.sum(1) > 1), np.flatnonzero(mask.sum(0) > 1)  # a stray pixel is no content
    if not len(rows) or not len(columns):
        return np.full((SIDE, SIDE, 3), 255, np.uint8)
    on_white = np.where(mask[..., None] | (ground > 240).all(), picture, np.uint8(255))
    cut = on_white[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(cut.shape[:2])
    canvas = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return np.asarray(Image.fromarray(canvas).resize((SIDE, SIDE), Image.Resampling.BOX))


def gradients(gray: NumPyArray) -> NDArray[np.float32]:
    """Histograms of oriented gradients, each cell's block-normalised: float32 (N, H, W) → (N, cells · BINS)."""
    dy, dx = np.gradient(np.pad(gray, ((0, 0), (1, 1), (1, 1)), mode="edge"), axis=(1, 2))
    dy, dx = dy[:, 1:-1, 1:-1], dx[:, 1:-1, 1:-1]
    magnitude: NDArray[np.float32] = np.hypot(dx, dy)
    angle = np.arctan2(dy, dx) % np.pi / np.pi * BINS
    low = np.floor(angle).astype(int)
    share = (angle - low).astype(np.float32)
    n, cells = len(gray), SIDE // CELL
    histogram = np.zeros((n, cells, cells, BINS), np.float32)
    for k in range(BINS):
        votes = magnitude * ((low % BINS == k) * (1 - share) + ((low + 1) % BINS == k) * share)
        histogram[..., k] = votes.reshape(n, cells, CELL, cells, CELL).sum((2, 4))
    padded = np.pad(np.square(histogram).sum(-1), ((0, 0), (1, 1), (1, 1)))
    near = sum(padded[:, i : i + cells, j : j + cells] for i in range(3) for j in range(3))
    return np.asarray(histogram / np.expand_dims(np.sqrt(near + 0.1), -1), np.float32).reshape(n, -1)


def smooth(gray: NumPyArray) -> NumPyArray:
    """Convolve rows and columns, (N, H, W), with 1 4 6 4 1 / 16: a sharp glyph must resemble a soft picture."""
    for axis in (1, 2):
        padded = np.pad(gray, [(0, 0) if k != axis else (2, 2) for k in range(3)], mode="edge")
        part = [np.take(padded, range(i, i + gray.shape[axis]), axis) for i in range(5)]
        gray = (part[0] + part[4] + 4 * (part[1] + part[3]) + 6 * part[2]) / 16
    return gray


def unit(x: NumPyArray) -> NumPyArray:
    """Rows of length one; a row of zeros stays."""
    length: NumPyArray = np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
    return x / length


def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe pictures so that a cosine compares them.

    Args:
        images: uint8 (N, S, S, 3), each on a plain background.
    Returns:
        float32 (N, F), rows of length one.
    """
    cut = np.stack([crop(image) for image in images])
    value = cut.astype(np.float32) / 255
    n, step = len(cut), SIDE // THUMBNAIL
    thumbnail = value.reshape(n, THUMBNAIL, step, THUMBNAIL, step, 3).mean((2, 4))
    darkness = 1 - thumbnail.reshape(n, -1)  # white, the background, is zero
    levels = np.minimum((value * LEVELS).astype(int), LEVELS - 1) @ np.array([LEVELS**2, LEVELS, 1])
    content: NDArray[np.bool_] = np.asarray((cut < 250).any(-1))
    histogram = np.stack(
        [np.bincount(row[keep], minlength=LEVELS**3) for row, keep in zip(levels, content, strict=True)]
    )
    gray = smooth(value @ np.array([0.299, 0.587, 0.114], np.float32))
    parts = (darkness, gradients(gray), np.sqrt(histogram))
    total = sum(WEIGHTS)
    return np.concatenate(
        [unit(p) * np.sqrt(w / total) for p, w in zip(parts, WEIGHTS, strict=True)], -1, dtype=np.float32
    )


def build(glyphs: data.Glyphs) -> Index:
    """Describe every glyph of the colour sets, on white.

    Args:
        glyphs: as `data.load` reads them.
    Returns:
        The index to rank against.
    """
    rows = np.array([i for i, name in enumerate(glyphs.sets) if name in FAMILIES])
    rows = rows[np.argsort(glyphs.concept[rows], kind="stable")]
    chunks = np.array_split(rows, max(1, len(rows) // 256))
    described = [
        features(data.compose(glyphs.pictures[chunk], data.WHITE)) for chunk in tqdm(chunks, desc="judge", leave=False)
    ]
    family = np.array([FAMILIES[glyphs.sets[row]] for row in rows])
    return Index(np.concatenate(described), glyphs.concept[rows], family, len(glyphs.concepts))


def scores(index: Index, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Cosine of each picture or its mirror image with each concept's most similar glyph: (N, C), −1 without glyphs."""
    both = [features(images), features(images[:, :, ::-1])]
    similar = np.maximum(*(described @ index.features.T for described in both))
    present, starts = np.unique(index.concept, return_index=True)
    best = np.full((len(images), index.n_concepts), -1.0, np.float32)
    best[:, present] = np.maximum.reduceat(similar, starts, axis=1)
    return best


def ranks_of(best: NDArray[np.float32], concept_ids: Sequence[int | Collection[int]]) -> NDArray[np.int_]:
    """How many wrong concepts score at least as high as the right ones do, plus one: (N, C) → int (N,).

    A tie counts against the picture, so that a blank one is never right.
    """
    result = []
    for row, ids in zip(best, concept_ids, strict=True):
        right = [ids] if isinstance(ids, int | np.integer) else list(ids)
        result.append(int((row >= row[right].max()).sum() - (row[right] == row[right].max()).sum()) + 1)
    return np.array(result)


def ranks(index: Index, images: NDArray[np.uint8], concept_ids: Sequence[int | Collection[int]]) -> NDArray[np.int_]:
    """At which rank pictures are recognised.

    Args:
        index: of `build`.
        images: uint8 (N, S, S, 3).
        concept_ids: for each picture what it should show, or all that would be right.
    Returns:
        int (N,), 1 the best.
    """
    return ranks_of(scores(index, images), concept_ids)


def report(index: Index, images: NDArray[np.uint8], concept_ids: Sequence[int | Collection[int]]) -> Report:
    """Measure recall, also with every picture judged by the other pictures' captions, which must come to chance.

    Args:
        index: of `build`.
        images: uint8 (N, S, S, 3), N ≥ 2.
        concept_ids: for each picture what it should show, or all that would be right.
    Returns:
        The recalls; the shuffled one is the mean over all N − 1 cyclic shifts of the captions.
    """
    best, n = scores(index, images), len(images)
    rank = ranks_of(best, concept_ids)
    shifted = [ranks_of(best, [concept_ids[(i + k) % n] for i in range(n)]) for k in range(1, n)]
    return Report(float((rank == 1).mean()), float((rank <= 5).mean()), float((np.stack(shifted) == 1).mean()), n)


def control(index: Index, glyphs: data.Glyphs) -> dict[str, tuple[float, float]]:
    """Recall at 1 and 5 of real glyphs: each family's against the other families', and blurred ones against all.

    Args:
        index: of `build(glyphs)`.
        glyphs: the same glyphs.
    Returns:
        {set: (R@1, R@5)} for one set of each family, and "noto, blurred".
    """
    result = {}
    for name in ("noto", "noto-v1", "fluent-emoji-3d", "twemoji", "emojione"):
        others = index.family != FAMILIES[name]
        rest = index._replace(features=index.features[others], concept=index.concept[others])
        rows = [i for i, s in enumerate(glyphs.sets) if s == name and glyphs.concept[i] in rest.concept]
        if rows:
            result[name] = recall(rest, glyphs, rows)
    rows = [i for i, s in enumerate(glyphs.sets) if s == data.PRIMARY]
    if rows:
        result["noto, blurred"] = recall(index, glyphs, rows, blurred=True)
    return result


def recall(index: Index, glyphs: data.Glyphs, rows: list[int], blurred: bool = False) -> tuple[float, float]:
    """Recall at 1 and 5 of some glyphs on white, perhaps blurred as if seen at 8 × 8 pixels."""
    images = data.compose(glyphs.pictures[rows], data.WHITE)
    if blurred:
        images = np.stack([blur(image) for image in images])
    rank = ranks(index, images, [int(i) for i in glyphs.concept[rows]])
    return float((rank == 1).mean()), float((rank <= 5).mean())


def blur(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce a picture to 8 × 8 pixels and enlarge it again."""
    small = Image.fromarray(image).resize((8, 8), Image.Resampling.BOX)
    return np.asarray(small.resize((image.shape[1], image.shape[0]), Image.Resampling.BICUBIC))


def sheet(images: NDArray[np.uint8], titles: Sequence[str], columns: int = 10) -> Image.Image:
    """Put pictures side by side in rows, each with a line of text below it."""
    side, text = images.shape[1], 14
    lines = -(-len(images) // columns)
    together = Image.new("RGB", (columns * side, lines * (side + text)), (255, 255, 255))
    pen = ImageDraw.Draw(together)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        x, y = i % columns * side, i // columns * (side + text)
        together.paste(Image.fromarray(image), (x, y))
        pen.text((x + side / 2, y + side + 1), title, fill=(0, 0, 0), anchor="ma")
    return together


def generated(
    params: Params, prompts: Sequence[str], seed: int, *, steps: int = 20, guidance: Guidance | Scale = 4.5
) -> NDArray[np.uint8]:
    """Pictures of a model for prompts, with keys that depend on the seed and the place in the list alone: uint8."""
    from ...pipeline import generate  # the model is not needed to judge real glyphs

    keys = rng.split(rng.key(seed), len(prompts))
    pictures = []
    for start in tqdm(range(0, len(prompts), CHUNK), desc="pictures"):
        part = slice(start, start + CHUNK)
        made = generate(
            params, list(prompts[part]), keys[part], steps=steps, guidance=guidance, output="numpy", progress=False
        )
        pictures.append(np.round(made * 255).astype(np.uint8))
    return np.concatenate(pictures)


def judge_model(args: argparse.Namespace, glyphs: data.Glyphs, index: Index) -> None:
    """Generate the nouns and scenes of held-out combinations, print what is recognised, save the sheet."""
    from ...checkpoint import load

    if args.sheet:
        prepare(args.sheet, {})
    params = load(args.model or None)
    nouns = [captions.with_article(noun) for noun in NOUNS]
    images = generated(params, nouns, args.seed, steps=args.steps, guidance=args.guidance)
    result = report(index, images, noun_ids(glyphs))
    print(f"{result.n} nouns: R@1 {result.r1:.2f}  R@5 {result.r5:.2f}  shuffled R@1 {result.shuffled_r1:.3f}")
    if args.sheet:
        rank = ranks(index, images, noun_ids(glyphs))
        save_picture(sheet(images, [f"{noun} {r}" for noun, r in zip(NOUNS, rank, strict=True)]), args.sheet)
        print(f"wrote {args.sheet}")
    if args.shapes:
        choices = np.random.default_rng(args.seed)
        scenes = [shapes.draw_scene(choices, held_out=True) for _ in range(args.shapes)]
        prompts = [shapes.caption(scene) for scene in scenes]
        drawn = generated(params, prompts, args.seed, steps=args.steps, guidance=args.guidance)
        print(f"{args.shapes} scenes of held-out combinations:", shapes.accuracy(drawn, scenes))


class _Renamed(argparse.Action):
    """An option by its old name, which is refused before the others are read."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error("--grid is called --sheet now")


def main(arguments: list[str] | None = None) -> None:
    """The command: judge real glyphs, a model, or both."""
    parser = argparse.ArgumentParser(prog="pixart_fn.train.emoji.judge", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that pixart_fn.train.emoji.render wrote")
    parser.add_argument("--control", action="store_true", help="judge real glyphs")
    parser.add_argument("--model", nargs="?", const="", help="judge a model: a folder or id; the embedded one if bare")
    parser.add_argument("--sheet", type=Path, help="save the model's pictures here, each with its noun and rank")
    parser.add_argument("--grid", nargs="?", action=_Renamed, help=argparse.SUPPRESS)
    parser.add_argument("--shapes", type=int, default=0, help="also generate so many scenes of shapes and check them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.5)
    args = parser.parse_args(arguments)
    if not args.control and args.model is None:
        parser.error("nothing to judge: give --control, --model, or both")
    glyphs = data.load(args.data)
    index = build(glyphs)
    if args.control:
        for name, (r1, r5) in control(index, glyphs).items():
            print(f"{name:16s} R@1 {r1:.2f}  R@5 {r5:.2f}")
    if args.model is not None:
        judge_model(args, glyphs, index)


if __name__ == "__main__":
    run(main)
