"""Two emoji in one picture, and the pools that examples are drawn from."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.glyphs import SETS, all_sets, concept, glyph

from pixart_fn.train.emoji import captions, data, sets


@pytest.fixture(scope="module")
def glyphs() -> data.Glyphs:
    return all_sets()


def lies(picture: np.ndarray, colour: str) -> tuple[float, float]:
    """The mean place of a colour, (x, y) in [0, 1]."""
    y, x = np.nonzero(np.abs(picture.astype(int) - captions.COLOURS[colour]).max(-1) < 40)
    return float(x.mean() / picture.shape[1]), float(y.mean() / picture.shape[0])


@pytest.fixture(scope="module")
def pairs() -> data.Glyphs:
    """A red, a green and a blue square by two sets in colour."""
    concepts = [concept(f"{colour} thing") for colour in ("red", "green", "blue")]
    names = ("noto", "twemoji")
    rows = [{"concept": i, "set": name, "style": SETS[name]} for name in names for i in range(3)]
    return data.glyphs(np.stack([glyph("square", c, 1.2) for c in ("red", "green", "blue")] * 2), rows, concepts)


def test_the_caption_says_where_each_of_two_lies(pairs: data.Glyphs) -> None:
    pictures, texts = data.batch(0, 0, 120, pairs, 64, n_captions=4, mix={"two": 1.0})
    sides = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}
    said = []
    for picture, row in zip(pictures, texts, strict=True):
        for text in row:
            pair = re.match(r"(?:an? )?(?:\w+ )?(\w+) thing (.*?) (?:an? )?(?:\w+ )?(\w+) thing", text)
            assert pair, text
            first, between, second = pair.groups()
            if text.endswith(f"{first} background") or text.endswith(f"{second} background"):
                continue  # the colour lies everywhere
            axis, sign = sides.get(between, (0, -1))
            apart = lies(picture, first)[axis] - lies(picture, second)[axis]
            assert apart * sign > 0.3, text
            said.append(between)
    share = {between: said.count(between) / len(said) for between in set(said)}
    assert set(share) == {*sides, "and", "next to", "beside"}
    assert 0.05 < share["above"] + share["below"] < 0.25
    assert share["and"] > share["to the left of"] > share["beside"]


def test_two_are_two_concepts_that_stand_out_and_keep_to_their_halves(pairs: data.Glyphs) -> None:
    for i in range(60):
        picture, caption = data.example(np.random.default_rng(i), pairs, 64, mix={"two": 1.0})
        text = caption(np.random.default_rng(i))
        assert len(set(re.findall(r"(\w+) thing", text))) == 2
        inner = np.abs(picture.astype(int) - picture[0, 0]).max(-1) > 30
        assert 0.15 < inner.mean() < 0.47
        assert min(inner[:, :16].sum() + inner[:, -16:].sum(), inner[:16].sum() + inner[-16:].sum()) == 0
        assert tuple(picture[0, 0]) in {data.WHITE, *captions.COLOURS.values()}
        for colour in re.findall(r"(\w+) thing", text):
            assert abs(data.luma(captions.COLOURS[colour]) - data.luma(picture[0, 0])) > 0.1


def test_two_are_of_one_set_and_without_a_style_mostly_of_the_first_one(pairs: data.Glyphs) -> None:
    for first in range(6):
        rows = [data.second_of(np.random.default_rng(i), pairs, first) for i in range(50)]
        assert all(pairs.sets[row] == pairs.sets[first] and pairs.concept[row] != pairs.concept[first] for row in rows)
    for primary, style, least, most in ((1.0, "cartoon", 0.3, 0.5), (0.0, "flat", 0.87, 0.98)):
        keys = [np.random.default_rng(i) for i in range(200)]
        texts = [data.example(rng, pairs, 16, mix={"two": 1.0}, primary=primary)[1](rng) for rng in keys]
        assert least < sum(f", {style}" in text for text in texts) / 200 < most
        assert not any(other in text for text in texts for other in {"cartoon", "flat"} - {style})


def test_two_with_only_one_concept_end(glyphs: data.Glyphs) -> None:
    rows = [{"concept": 0, "set": "noto", "style": "cartoon"}]
    alone = data.glyphs(glyphs.pictures[:1], rows, glyphs.concepts[:1])
    assert data.example(np.random.default_rng(0), alone, 33, mix={"two": 1.0}, primary=1.0)[0].shape == (33, 33, 3)


# Pools


def test_drawings_in_one_ink_are_mostly_lines_and_say_what_they_are(glyphs: data.Glyphs) -> None:
    names = ("noto", data.LINES, "game-icons", "openclipart")
    counts = (2, 1, 5, 3)
    rows = [
        {"concept": i, "set": name, "style": sets.STYLES[name]}
        for name, n in zip(names, counts, strict=True) for i in range(n)
    ]  # fmt: skip
    found = data.glyphs(glyphs.pictures[: len(rows)], rows, glyphs.concepts)
    drawn = [found.sets[data.choose(np.random.default_rng(i), found.pools["lines"])] for i in range(1000)]
    assert set(drawn) == {data.LINES, "game-icons"} and abs(drawn.count(data.LINES) / 1000 - 0.7) < 0.05
    assert {found.sets[row] for row in found.pools["others"].rows} == {"openclipart"}
    assert found.pools["lines"].cumulative[-1] == pytest.approx(1)
    _, texts = data.batch(0, 0, 200, found, 16, mix={"line": 1.0})
    silhouettes = sum("silhouette" in text for (text,) in texts)
    assert all(("silhouette" in text) != ("line drawing" in text) for (text,) in texts)
    assert 30 < silhouettes < 90


def test_the_sets_in_one_ink_are_those_of_render() -> None:
    assert tuple(data.INKS) == sets.INKS and data.PRIMARY in sets.STYLES
    assert tuple(data.MIX) == ("white", "colour", "line", "two", "shapes") and sum(data.MIX.values()) == pytest.approx(
        1
    )
