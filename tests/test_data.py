"""The training data and its judge, on glyphs drawn here: the real ones are not part of the repository."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.glyphs import all_sets, concept, glyph

from pixart_fn.train.emoji import captions, data, judge, nouns, shapes


@pytest.fixture(scope="module")
def glyphs() -> data.Glyphs:
    return all_sets()


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
