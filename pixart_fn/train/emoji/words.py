"""Whether the words of a prompt matter, and the key: backgrounds, styles, several things at once, and many concepts.

    python -m pixart_fn.train.emoji.words --data emoji
    python -m pixart_fn.train.emoji.words --data emoji --model runs/emoji --only style keys --guidance 3

Each figure has a control beside it: the same pictures, compared with what the next prompt asks for. What is similar is
what the judge (`judge.features`) finds similar.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import captions, data, judge, shapes
from .command import run
from .nouns import NOUNS, noun_ids

Draw: TypeAlias = Callable[[Sequence[str], int], NDArray[np.uint8]]
"""(prompts, seed) → pictures, uint8 (N, S, S, 3)."""

STYLES: Mapping[str, str] = MappingProxyType(
    {
        "noto": "cartoon",
        "noto-v1": "blob",
        "twemoji": "flat",
        "fluent-emoji-flat": "bold flat",
        "fluent-emoji": "gradient",
        "fluent-emoji-3d": "3D render",
    }
)
"""Sets whose styles can be told apart by eye, and the words for them in captions."""
HELD_OUT = 10
"""One in so many pairs of a concept and a background is left out of training."""


class Subject(NamedTuple):
    """What is measured: how pictures are drawn, and the real glyphs that they are compared with."""

    draw: Draw
    glyphs: data.Glyphs
    real: judge.Index


def is_held_out(concept: int, background: int) -> bool:
    """Whether training leaves a pair out: the index of a concept, and of a colour in `captions.COLOURS`, from 1."""
    return (7 * concept + 3 * background) % HELD_OUT == 0


def background(subject: Subject, n: int = 60) -> dict[str, float]:
    """Draw n concepts, each on a colour that training never gave it.

    Returns:
        "background": the share whose border is nearest to the colour asked for, of white and all colours; and R@1, R@5
        of the concepts.
    """
    names, colours = ("white", *captions.COLOURS), np.array([data.WHITE, *captions.COLOURS.values()])
    concepts = np.unique(subject.real.concept).tolist()
    pairs = _chosen([(c, g) for c in concepts for g in range(1, len(names)) if is_held_out(c, g)], n)
    images = subject.draw([f"{_name(subject, c)} on {captions.with_article(names[g])} background" for c, g in pairs], 0)
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    away = np.median(border, 1)[:, None] - colours[None]
    nearest, asked = np.square(away).sum(-1).argmin(1), np.array([g for _, g in pairs])
    return {**_agreeing("background", nearest, asked), **_recalls(subject, images, [c for c, _ in pairs])}


def style(subject: Subject, every: int = 8) -> dict[str, float]:
    """Draw every so many of the nouns in each style of STYLES.

    Returns:
        "style": the share whose most similar glyph of that noun, of those sets, is of the set whose style was asked
        for; and that share for each style.
    """
    ids, found, asked = noun_ids(subject.glyphs), [], []
    chosen = list(enumerate(NOUNS))[::every]
    for name, word in STYLES.items():
        described = judge.features(subject.draw([f"{captions.with_article(noun)}, {word}" for _, noun in chosen], 0))
        for (k, _), picture in zip(chosen, described, strict=True):
            rows, glyphs = _real(subject, ids[k], STYLES)
            if name in rows:
                found.append(rows[int((glyphs @ picture).argmax())])
                asked.append(name)
    each = {word: [f == a for f, a in zip(found, asked, strict=True) if a == name] for name, word in STYLES.items()}
    total = _agreeing("style", np.array(found), np.array(asked), shift=len(found) // len(STYLES))
    return total | {word: float(np.mean(hits)) for word, hits in each.items() if hits}


def pairs(subject: Subject, n: int = 50) -> dict[str, float]:
    """Draw n pairs of nouns, "a cat and a lemon".

    Returns:
        R@1 of the left half for the first noun, of the right half for the second, and the share where both are right.
    """
    nouns, ids = [*NOUNS], noun_ids(subject.glyphs)
    generator = np.random.default_rng(0)
    chosen = [generator.choice(len(nouns), 2, replace=False) for _ in range(n)]
    both = [" and ".join(captions.with_article(nouns[k]) for k in pair) for pair in chosen]
    images = subject.draw(both, 0)
    middle = images.shape[2] // 2
    margin = ((0, 0), (0, 0), (middle // 2, middle - middle // 2), (0, 0))
    halves = [np.pad(half, margin, constant_values=255) for half in (images[:, :, :middle], images[:, :, middle:])]
    best = [judge.scores(subject.real, half) for half in halves]

    def right(shift: int) -> list[NDArray[np.bool_]]:
        wanted = [chosen[(i + shift) % n] for i in range(n)]
        return [judge.ranks_of(best[side], [ids[pair[side]] for pair in wanted]) == 1 for side in (0, 1)]

    (left, other), shifted = right(0), right(1)
    figures = {"left": left.mean(), "right": other.mean(), "both": (left & other).mean()}
    return {name: float(value) for name, value in figures.items()} | {
        "both, control": float((shifted[0] & shifted[1]).mean())
    }


def row(subject: Subject, n: int = 60) -> dict[str, float]:
    """Draw n rows of three shapes, one of which has a kind and a colour that training never gave it together.

    Returns:
        "row": the share with the right kinds and colours from left to right, whatever the sizes.
    """
    every, generator = [(kind, colour) for kind in shapes.KINDS for colour in shapes.PAINTS], np.random.default_rng(0)
    known, held = ([each for each in every if (each in shapes.HELD_OUT) == out] for out in (False, True))
    three = [[(held, known, known)[k] for k in generator.permutation(3)] for _ in range(n)]
    asked = [[of[generator.integers(len(of))] for of in each] for each in three]
    named = [[captions.with_article(f"{colour} {kind}") for kind, colour in each] for each in asked]
    images = subject.draw(["{}, {} and {} in a row".format(*names) for names in named], 0)
    seen = [sorted(shapes.see(image), key=lambda shape: shape.centre[0]) for image in images]
    found = [[(shape.kind, shape.colour) for shape in each] for each in seen]

    def right(shift: int) -> float:
        return float(np.mean([found[i] == asked[(i + shift) % n] for i in range(n)]))

    return {"row": right(0), "row, control": right(1)}


def keys(subject: Subject, every: int = 4) -> dict[str, float]:
    """Draw every so many of the nouns with two keys, without a style and as a cartoon.

    Returns:
        How far the two pictures' features are apart, divided by how far real glyphs of two families of that concept
        are. The control is that distance between pictures of two nouns with one key.
    """
    chosen = list(enumerate(NOUNS))[::every]
    prompts, ids = [captions.with_article(noun) for _, noun in chosen], noun_ids(subject.glyphs)
    real = np.array([_spread(subject, ids[k][:1]) for k, _ in chosen])
    figures = {}
    for name, ending in (("keys", ""), ("keys, cartoon", ", cartoon")):
        one, two = (judge.features(subject.draw([prompt + ending for prompt in prompts], seed)) for seed in (1, 2))
        figures[name] = float((np.linalg.norm(one - two, axis=1) / real).mean())
        if not ending:
            figures["keys, control"] = float((np.linalg.norm(one - np.roll(one, 1, 0), axis=1) / real).mean())
    return figures


def concepts(subject: Subject, n: int = 1000) -> dict[str, float]:
    """Draw n concepts by their names.

    Returns:
        R@1, R@5, and R@1 with the names of the others.
    """
    chosen = _chosen([*np.unique(subject.real.concept).tolist()], n)
    return _recalls(subject, subject.draw([_name(subject, c) for c in chosen], 0), chosen)


MEASURES: Mapping[str, Callable[[Subject], dict[str, float]]] = MappingProxyType(
    {"background": background, "style": style, "pairs": pairs, "row": row, "keys": keys, "concepts": concepts}
)


def _chosen(of: list[Any], n: int) -> list[Any]:
    """Draw n of a list without its order; all of a shorter one."""
    return [of[i] for i in np.random.default_rng(0).permutation(len(of))[:n]]


def _name(subject: Subject, concept: int) -> str:
    return captions.with_article(captions.names(subject.glyphs.concepts[concept])[0])


def _agreeing(name: str, found: NDArray[Any], asked: NDArray[Any], shift: int = 1) -> dict[str, float]:
    """The share that is what was asked for, and the share that is what another prompt asked for."""
    return {name: float((found == asked).mean()), f"{name}, control": float((found == np.roll(asked, shift)).mean())}


def _recalls(subject: Subject, images: NDArray[np.uint8], concepts: list[int]) -> dict[str, float]:
    found = judge.report(subject.real, images, concepts)
    return {"R@1": found.r1, "R@5": found.r5, "R@1, control": found.shuffled_r1}


def _real(subject: Subject, concepts: Sequence[int], sets: Mapping[str, str]) -> tuple[list[str], NDArray[np.float32]]:
    """The sets and the features of the real glyphs of concepts, on white."""
    glyphs = subject.glyphs
    rows = [i for i in np.flatnonzero(np.isin(glyphs.concept, concepts)) if glyphs.sets[i] in sets]
    return [glyphs.sets[i] for i in rows], judge.features(data.compose(glyphs.pictures[rows], data.WHITE))


def _spread(subject: Subject, concepts: Sequence[int]) -> float:
    """The mean distance of the features of glyphs of two families."""
    sets, described = _real(subject, concepts, judge.FAMILIES)
    families = [judge.FAMILIES[each] for each in sets]
    apart = [
        np.linalg.norm(described[i] - described[j])
        for i in range(len(families)) for j in range(i) if families[i] != families[j]
    ]  # fmt: skip
    return float(np.mean(apart))


def main(arguments: list[str] | None = None) -> None:
    """The command: draw, and print each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that pixart_fn.train.emoji.render wrote")
    parser.add_argument("--model", help="a folder or id; the embedded one by default")
    parser.add_argument("--only", nargs="+", choices=[*MEASURES], default=[*MEASURES], help="what to measure")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.5)
    args = parser.parse_args(arguments)
    from ...checkpoint import load  # the model is not needed to name what can be measured

    glyphs = data.load(args.data)
    made = partial(judge.generated, load(args.model), steps=args.steps, guidance=args.guidance)
    subject = Subject(made, glyphs, judge.build(glyphs))
    for name in args.only:
        print(
            f"{name}:", ", ".join(f"{what} {value:.3f}" for what, value in MEASURES[name](subject).items()), flush=True
        )


if __name__ == "__main__":
    run(main)
