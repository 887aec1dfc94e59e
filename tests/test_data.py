"""The training data and its judge, on glyphs drawn here: the real ones are not part of the repository."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pixart_fn.train.emoji import captions, data, judge, nouns, sets, shapes

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


@pytest.fixture(scope="module")
def glyphs() -> data.Glyphs:
    combinations = [(kind, colour) for kind in shapes.KINDS for colour in ("red", "green", "blue")]
    concepts = [concept(f"{colour} {kind}", flip=i % 2 == 0) for i, (kind, colour) in enumerate(combinations)]
    rows, pictures = [], []
    for k, (name, style) in enumerate(SETS.items()):
        for i, (kind, colour) in enumerate(combinations):
            rows.append({"concept": i, "set": name, "style": style})
            pictures.append(glyph(kind, colour, 1.0 - 0.1 * k))
    return data.glyphs(np.stack(pictures), rows, concepts)


# Captions


@pytest.mark.parametrize(
    "noun, phrase",
    [
        ("cat", "a cat"),
        ("apple", "an apple"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("ufo", "a ufo"),
        ("hourglass", "an hourglass"),
        ("honeybee", "a honeybee"),
        ("x-ray", "an x-ray"),
        ("ewe", "a ewe"),
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("onion", "an onion"),
        ("octopus", "an octopus"),
        ("bus", "a bus"),
        ("dress", "a dress"),
        ("hippopotamus", "a hippopotamus"),
        ("socks", "socks"),
        ("nest with eggs", "a nest with eggs"),
        ("cherries", "cherries"),
        ("milk", "milk"),
        ("Aries", "Aries"),
    ],
)
def test_article(noun: str, phrase: str) -> None:
    assert captions.with_article(noun) == phrase


def test_a_caption_is_a_function_of_the_generators_state() -> None:
    cat = concept("cat face", "animal-mammal")
    drawn = [captions.draw(np.random.default_rng(i), cat, "flat", "blue") for i in range(200)]
    assert drawn == [captions.draw(np.random.default_rng(i), cat, "flat", "blue") for i in range(200)]
    assert len(set(drawn)) > 20
    assert all(", flat" in text and "on a blue background" in text for text in drawn)
    assert {"a cat on a blue background, flat", "a cute cat, flat, on a blue background"} <= set(drawn)


def test_white_goes_without_saying_mostly_and_other_backgrounds_are_named() -> None:
    rng = np.random.default_rng(0)
    white = sum("white background" in captions.draw(rng, concept("key"), None, "white") for _ in range(600))
    assert 150 < white < 250
    assert all("an orange background" in captions.draw(rng, concept("key"), None, "orange") for _ in range(50))


def test_faces_of_animals_answer_to_the_animal_and_other_faces_do_not() -> None:
    assert captions.names(concept("cat face", "animal-mammal"))[0] == "cat"
    assert captions.names(concept("angry face", "face-negative")) == ("angry face",)
    assert "car" in captions.names(concept("automobile"))


def test_line_drawings_name_their_colour() -> None:
    cat = concept("cat face", "animal-mammal")
    drawn = {captions.line_drawing(np.random.default_rng(i), cat, "orange", "yellow") for i in range(40)}
    assert "an orange cat line drawing on a yellow background" in drawn


# Composition


def test_compose_is_the_rounded_blend() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 4)).astype(np.uint8)
    alpha = picture[..., 3:].astype(np.float64) / 255
    expected = picture[..., :3] * alpha + np.array((10.0, 200.0, 255.0)) * (1 - alpha)
    np.testing.assert_array_equal(data.compose(picture, (10, 200, 255)), np.floor(expected + 0.5 + 1e-9))


def test_a_white_glyph_goes_on_a_colour(glyphs: data.Glyphs) -> None:
    blank = glyphs.pictures.copy()
    blank[..., :3] = 255
    pale = glyphs._replace(pictures=blank)
    for i in range(20):
        picture, caption = data.example(np.random.default_rng(i), pale, 32, mix={"white": 1.0})
        text = caption(np.random.default_rng(i))
        assert "background" in text and "white" not in text
        assert tuple(picture[0, 0]) in captions.COLOURS.values()


def test_an_example_depends_on_seed_and_index_alone(glyphs: data.Glyphs) -> None:
    pictures, texts = data.batch(3, 7, 12, glyphs, 32)
    assert pictures.shape == (12, 32, 32, 3) and pictures.dtype == np.uint8
    later, later_texts = data.batch(3, 9, 5, glyphs, 32)
    np.testing.assert_array_equal(pictures[2:7], later)
    assert texts[2:7] == later_texts
    assert not np.array_equal(data.batch(4, 9, 5, glyphs, 32)[0], later)


def test_a_picture_has_as_many_captions_as_asked_for(glyphs: data.Glyphs) -> None:
    pictures, texts = data.batch(0, 0, 10, glyphs, 32, n_captions=8, mix={"white": 1.0})
    once, first = data.batch(0, 0, 10, glyphs, 32, mix={"white": 1.0})
    np.testing.assert_array_equal(pictures, once)
    assert [len(row) for row in texts] == [8] * 10 and [row[:1] for row in texts] == first
    assert all(len(set(row)) > 1 for row in texts)
    for row in texts:  # whatever is said of it, it is the same concept
        assert len({kind for text in row for kind in shapes.KINDS if kind in text}) == 1


def test_style_is_left_out_for_the_primary_set_mostly_and_given_for_the_others(glyphs: data.Glyphs) -> None:
    def share(primary: float, word: str) -> float:
        texts = [data.batch(0, i, 1, glyphs, 16, mix={"white": 1}, primary=primary)[1][0][0] for i in range(300)]
        return sum(word in text for text in texts) / 300

    assert 0.1 < share(1.0, "cartoon") < 0.3
    assert share(0.0, "flat") == 1.0


def test_only_glyphs_that_may_be_mirrored_are(glyphs: data.Glyphs) -> None:
    half = np.zeros((8, 8, 4), np.uint8)
    half[:, :4] = 255
    straight = [data.place(np.random.default_rng(i), half, 32, False)[..., 3] for i in range(8)]
    mirrored = [data.place(np.random.default_rng(i), half, 32, True)[..., 3] for i in range(8)]
    assert all(a[:, :16].sum() > a[:, 16:].sum() for a in straight)
    assert all(a[:, :16].sum() < a[:, 16:].sum() for a in mirrored)


def test_without_flips_and_jitter_a_glyph_is_one_picture(glyphs: data.Glyphs) -> None:
    def distinct(**options: float) -> int:
        pictures, _ = data.batch(0, 0, 100, glyphs, 32, mix={"white": 1}, primary=1.0, **options)
        return len(np.unique(pictures, axis=0))

    n = sum(name == data.PRIMARY for name in glyphs.sets)
    assert distinct(flips=0.0, jitter=0.0) <= n < distinct(flips=0.0) and n < distinct(jitter=0.0)


def test_weights_shift_the_frequencies(glyphs: data.Glyphs) -> None:
    concepts = [{**c, "weight": 9.0 if i == 0 else 1.0} for i, c in enumerate(glyphs.concepts)]
    rows = [
        {"concept": int(c), "set": s, "style": t}
        for c, s, t in zip(glyphs.concept, glyphs.sets, glyphs.styles, strict=True)
    ]
    pool = data.glyphs(glyphs.pictures, rows, concepts).pools["primary"]
    drawn = [data.choose(np.random.default_rng(i), pool) for i in range(1000)]
    assert abs(drawn.count(0) / 1000 - 9 / 20) < 0.06


def test_load_reads_what_was_written_and_names_what_is_missing(tmp_path, glyphs: data.Glyphs) -> None:
    with pytest.raises(FileNotFoundError, match=r"glyphs\.npy is missing"):
        data.load(tmp_path)
    np.save(tmp_path / "glyphs.npy", glyphs.pictures)
    rows = [{"concept": 0, "set": "noto", "style": "cartoon"}] * len(glyphs.pictures)
    (tmp_path / "glyphs.json").write_text(json.dumps({"rows": rows, "concepts": glyphs.concepts}), "utf-8")
    np.testing.assert_array_equal(data.load(tmp_path).pictures, glyphs.pictures)


def test_unknown_kind_in_the_mix(glyphs: data.Glyphs) -> None:
    with pytest.raises(ValueError, match="mix must name some of white, colour, line, two, shapes, got photos"):
        data.example(np.random.default_rng(0), glyphs, 16, mix={"photos": 1.0})


# Two at once


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
    assert 0.15 < share["above"] + share["below"] < 0.35
    assert share["and"] > share["to the left of"] > share["beside"]


def test_two_are_two_concepts_that_stand_out_and_keep_to_their_halves(pairs: data.Glyphs) -> None:
    for i in range(60):
        picture, caption = data.example(np.random.default_rng(i), pairs, 64, mix={"two": 1.0})
        text = caption(np.random.default_rng(i))
        assert len(set(re.findall(r"(\w+) thing", text))) == 2
        inner = np.abs(picture.astype(int) - picture[0, 0]).max(-1) > 30
        assert 0.15 < inner.mean() < 0.47
        assert min(inner[:, :2].sum() + inner[:, -2:].sum(), inner[:2].sum() + inner[-2:].sum()) == 0
        assert tuple(picture[0, 0]) in {data.WHITE, *captions.COLOURS.values()}
        for colour in re.findall(r"(\w+) thing", text):
            assert abs(data.luma(captions.COLOURS[colour]) - data.luma(picture[0, 0])) > 0.1


def test_two_are_mostly_of_one_set_and_only_then_is_the_style_said(pairs: data.Glyphs) -> None:
    rows = [data.second_of(np.random.default_rng(i), pairs, 0, 0.5) for i in range(400)]
    same = sum(pairs.sets[row] == pairs.sets[0] for row in rows) / 400
    assert abs(same - 0.85) < 0.07  # of the other 30 %, half are of the same set by chance
    assert all(pairs.concept[row] != pairs.concept[0] for row in rows)
    other = pairs._replace(pools={**pairs.pools, "noto": pairs.pools["twemoji"], "primary": pairs.pools["noto"]})
    mixed = [data.example(np.random.default_rng(i), other, 16, mix={"two": 1.0}, primary=1.0) for i in range(200)]
    texts = [caption(np.random.default_rng(i)) for i, (_, caption) in enumerate(mixed)]
    assert 0.03 < sum("cartoon" in text for text in texts) / 200 < 0.12  # 30 % of one set, of which a fifth says it
    assert not any("flat" in text for text in texts)
    flat = [data.batch(0, i, 1, pairs, 16, mix={"two": 1.0}, primary=0.0)[1][0][0] for i in range(50)]
    assert all(", flat" in text for text in flat)


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


# Shapes


@pytest.mark.parametrize("held_out", [False, True])
def test_the_checker_reads_what_the_painter_painted(held_out: bool) -> None:
    rng = np.random.default_rng(0)
    scenes = [shapes.draw_scene(rng, held_out) for _ in range(60)]
    pictures = [shapes.paint(rng, scene, 64) for scene in scenes]
    assert shapes.accuracy(np.stack(pictures), scenes) == dict.fromkeys(
        ("count", "kinds", "colours", "sizes", "where", "all"), 1.0
    )
    shown = [{(s.kind, s.colour) for s in scene.shapes} & shapes.HELD_OUT for scene in scenes]
    assert all(shown) if held_out else not any(shown)


@pytest.mark.parametrize(
    "wrong, what",
    [
        ({"kind": "circle"}, "kinds"),
        ({"colour": "blue"}, "colours"),
        ({"size": "large"}, "sizes"),
    ],
)
def test_the_checker_sees_a_wrong_shape(wrong: dict, what: str) -> None:
    right = shapes.Scene((shapes.Shape("star", "yellow", "small"), shapes.Shape("square", "red")), "above")
    painted = shapes.paint(
        np.random.default_rng(0), right._replace(shapes=(right.shapes[0]._replace(**wrong), right.shapes[1])), 64
    )
    result = shapes.check(painted, right)
    assert {name for name, ok in result.items() if not ok} == {what}


def test_the_checker_sees_a_wrong_relation_a_missing_shape_and_a_blank_picture() -> None:
    scene = shapes.Scene((shapes.Shape("star", "yellow"), shapes.Shape("square", "red")), "left of")
    swapped = shapes.paint(np.random.default_rng(0), scene._replace(where="right of"), 64)
    assert [name for name, ok in shapes.check(swapped, scene).items() if not ok] == ["where"]
    alone = shapes.paint(np.random.default_rng(0), shapes.Scene(scene.shapes[:1], "on the left"), 64)
    assert not shapes.check(alone, scene)["count"]
    assert not shapes.check(np.full((64, 64, 3), 255, np.uint8), scene)["count"]


def test_scenes_are_said_in_words() -> None:
    pair = shapes.Scene((shapes.Shape("circle", "orange", "small"), shapes.Shape("square", "orange")), "left of")
    assert shapes.caption(pair) == "a small orange circle to the left of an orange square"
    assert shapes.caption(shapes.Scene((shapes.Shape("star", "red"),), "at the top")) == "a red star at the top"


# The judge


def test_a_glyph_is_found_wherever_it_lies_on_whatever_ground(glyphs: data.Glyphs) -> None:
    index = judge.build(glyphs)
    small = data.place(np.random.default_rng(0), glyphs.pictures[4], 64, flip=True)
    for picture in (data.compose(glyphs.pictures[4], data.WHITE), data.compose(small, captions.COLOURS["yellow"])):
        assert judge.ranks(index, picture[None], [4])[0] == 1


def test_features_ignore_place_and_ground() -> None:
    canvas = np.zeros((96, 96, 4), np.uint8)
    canvas[20:84, 5:69] = glyph("star", "red", 1.0)
    first = judge.features(data.compose(glyph("star", "red", 1.0), data.WHITE)[None])
    for background in (data.WHITE, captions.COLOURS["yellow"]):
        moved = judge.features(data.compose(canvas, background)[None])
        assert float((first @ moved.T)[0, 0]) > 0.98
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)


def test_control_finds_the_other_familys_glyph(glyphs: data.Glyphs) -> None:
    result = judge.control(judge.build(glyphs), glyphs)
    assert result["noto"] == result["twemoji"] == (1.0, 1.0)
    assert "noto-v1" not in result
    moved = glyphs.pictures.copy()
    moved[:12] = np.roll(moved[:12], 5, axis=0)  # noto now disagrees with the rest, and only with the rest
    result = judge.control(judge.build(glyphs._replace(pictures=moved)), glyphs._replace(pictures=moved))
    assert result["noto"][0] == 0.0


def test_a_mirror_image_scores_the_same(glyphs: data.Glyphs) -> None:
    index = judge.build(glyphs)
    image = data.compose(glyphs.pictures[3:4], data.WHITE)
    np.testing.assert_allclose(judge.scores(index, image), judge.scores(index, image[:, :, ::-1]), atol=1e-6)
    assert not np.allclose(judge.features(image), judge.features(image[:, :, ::-1]), atol=1e-3)


def test_report_on_the_right_and_on_shuffled_captions(glyphs: data.Glyphs) -> None:
    images = data.compose(glyphs.pictures[:12], data.WHITE)
    right = judge.report(judge.build(glyphs), images, [[i] for i in range(12)])
    assert (right.r1, right.r5, right.n) == (1.0, 1.0, 12) and right.shuffled_r1 == 0.0


def test_ranks_by_hand() -> None:
    best = np.array([[0.1, 0.9, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    assert judge.ranks_of(best[:1], [1])[0] == 1
    assert judge.ranks_of(best[:1], [[0, 2]])[0] == 3, "a tie counts against the picture"
    assert judge.ranks_of(best[:1], [(1, 2)])[0] == 1
    assert judge.ranks_of(best[1:], [2])[0] == 4, "a blank picture is last"


def test_the_judge_says_the_new_name_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--grid"], ["--data", "emoji", "--control", "--grid", "nouns.png"]):
        with pytest.raises(SystemExit) as ended:
            judge.main(words)
        assert ended.value.code == 2 and "--grid is called --sheet now" in capsys.readouterr().err


def test_an_animal_drawn_twice_is_its_face_unless_the_caption_says_more() -> None:
    assert captions.names(concept("dog face", "animal-mammal"))[0] == "dog"
    assert captions.names(concept("dog", "animal-mammal")) == ("dog from the side", "whole dog")
    assert captions.with_article("dog from the side") == "a dog from the side"
    assert captions.names(concept("fox", "animal-mammal")) == ("fox",)


def test_a_hundred_nouns_that_share_no_concept_and_that_captions_use() -> None:
    labels = [label for labels in nouns.NOUNS.values() for label in labels]
    assert len(nouns.NOUNS) == 100 and len(set(labels)) == len(labels)
    for noun, several in nouns.NOUNS.items():
        assert noun in captions.names(concept(several[0], "animal-mammal")), noun
