"""What measures whether words and keys matter, on glyphs drawn here: right for a drawer that obeys, by chance else."""

from __future__ import annotations

import sys
import zlib

import numpy as np
import pytest

from pixart_fn import checkpoint
from pixart_fn.train.emoji import captions, data, judge, nouns, shapes, words

LABELS = sorted({label for labels in nouns.NOUNS.values() for label in labels})
SIDE = 48


def blocks(seed: int, channels: int) -> np.ndarray:
    """Random squares, 6 × 6, as a picture of SIDE pixels."""
    return np.random.default_rng(seed).integers(0, 230, (6, 6, channels)).astype("u1").repeat(8, 0).repeat(8, 1)


def glyph(concept: int, style: str) -> np.ndarray:
    """Squares of the concept's, a few of which are the style's, on a transparent ground."""
    picture = blocks(concept, 3) // 2 + blocks(1000 + concept, 3) // 2
    own = blocks(zlib.crc32(style.encode()), 1) > 170
    picture = np.where(own, blocks(zlib.crc32(style.encode()) + concept, 3), picture)
    alpha = np.zeros((SIDE, SIDE, 1), "u1")
    alpha[4:-4, 4:-4] = 255
    return np.concatenate([picture, alpha], -1)


@pytest.fixture(scope="module")
def glyphs() -> data.Glyphs:
    concepts = [{"label": label, "subgroup": "tool", "weight": 1.0} for label in LABELS]
    rows = [
        {"concept": i, "set": name, "style": word} for name, word in words.STYLES.items() for i in range(len(LABELS))
    ]
    return data.glyphs(np.stack([glyph(row["concept"], row["style"]) for row in rows]), rows, concepts)


@pytest.fixture(scope="module")
def real(glyphs) -> judge.Index:
    return judge.build(glyphs)


def drawer(glyphs, obeys=("style", "background", "both", "key")):
    """Draws the real glyph that a prompt names, with as much of the rest as it obeys."""
    known = {captions.with_article(noun): ids[0] for noun, ids in zip(nouns.NOUNS, nouns.noun_ids(glyphs), strict=True)}
    known |= {captions.with_article(captions.names(each)[0]): i for i, each in enumerate(glyphs.concepts)}
    grounds = {"white": data.WHITE, **captions.COLOURS}

    def one(prompt: str, seed: int) -> np.ndarray:
        if prompt.endswith(" in a row"):
            names = [name.split()[1:] for name in prompt.removesuffix(" in a row").replace(" and ", ", ").split(", ")]
            kinds = [shapes.Scene((shapes.Shape(kind, colour),)) for colour, kind in names]
            kinds = kinds if "all" in obeys else kinds[:1] * 3
            return np.concatenate([shapes.paint(np.random.default_rng(seed), kind, SIDE) for kind in kinds], 1)
        if " and " in prompt and prompt not in known:
            first, second = (one(name, seed) for name in prompt.split(" and "))
            return np.concatenate([first, second if "both" in obeys else first], 1)
        name, *style = prompt.split(", ")
        if name.endswith(" background"):
            name, _, ground = name.rpartition(" on ")
            colour = grounds[ground.split()[1]] if "background" in obeys else data.WHITE
        else:
            colour = data.WHITE
        word = style[0] if style and "style" in obeys else [*words.STYLES.values()][seed if "key" in obeys else 0]
        return data.compose(glyph(known[name], word)[None], colour)[0]

    return lambda prompts, seed: np.stack([one(prompt, seed) for prompt in prompts])


@pytest.mark.parametrize(
    ("name", "obeys", "expected"),
    [
        ("background", ("background",), {"background": 1, "R@1": 1, "R@5": 1}),
        ("background", (), {"background": 0, "R@1": 1}),
        ("style", ("style",), {"style": 1, "blob": 1, "3D render": 1}),
        ("style", (), {"cartoon": 1, "blob": 0, "3D render": 0, "style": 1 / 6}),
        ("pairs", ("both",), {"left": 1, "right": 1, "both": 1, "both, control": 0}),
        ("pairs", (), {"left": 1, "right": 0, "both": 0}),
        ("row", ("all",), {"row": 1}),
        ("row", (), {"row": 0}),
        ("keys", ("key", "style"), {"keys, cartoon": 0}),
        ("keys", (), {"keys": 0}),
        ("concepts", (), {"R@1": 1, "R@5": 1}),
    ],
)
def test_each_measure_tells_what_is_obeyed_from_what_is_not(glyphs, real, name, obeys, expected):
    found = words.MEASURES[name](words.Subject(drawer(glyphs, obeys), glyphs, real))
    assert {what: found[what] for what in expected} == pytest.approx(expected)
    assert all(value < 0.3 for what, value in found.items() if what.endswith("control") and not what.startswith("keys"))


def test_keys_that_matter_are_as_far_apart_as_families(glyphs, real):
    found = words.keys(words.Subject(drawer(glyphs, ("key",)), glyphs, real))
    assert 0.7 < found["keys"] < 1.4 and found["keys, control"] > 0.7


def test_the_command_prints_each_figure(glyphs, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", lambda folder: glyphs)
    monkeypatch.setattr(checkpoint, "load", lambda model: model)
    draw = drawer(glyphs)
    monkeypatch.setattr(judge, "generated", lambda params, prompts, seed, steps, guidance: draw(prompts, seed))
    words.main(["--data", "emoji", "--only", "background", "pairs"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("background: background 1.000, background, control 0.")
    assert second == "pairs: left 1.000, right 1.000, both 1.000, both, control 0.000"
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    with pytest.raises(SystemExit):
        words.main(["--data", "emoji", "--only", "nothing"])


def test_what_is_held_out_is_what_the_twin_leaves_out():
    left_out = [(c, g) for c in range(40) for g in range(1, 12) if words.is_held_out(c, g)]
    assert len(left_out) == pytest.approx(44, abs=4) and (0, 10) in left_out and (1, 1) in left_out
