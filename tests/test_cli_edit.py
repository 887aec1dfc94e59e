"""The command draws from a picture: what it stores, what `show` prints, and its answer to a mistake."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from helpers import command, tiny
from helpers.command import PROMPT, files, pixels, shown
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, cli, picture
from pixart_fn.checkpoint import controlnet
from pixart_fn.cli.drawing import size_for

RANDOM = np.random.default_rng(0)


@pytest.fixture
def run(model, tmp_path, monkeypatch, capsys):
    """generate in a folder with a picture and a mask that aren't square."""
    photo = Image.fromarray(RANDOM.integers(0, 256, (20, 32, 3), np.uint8))
    photo.save(tmp_path / "photo.png")
    mask = np.zeros((20, 32), np.uint8)
    mask[:, :16] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return command.runner(model, tmp_path, monkeypatch, capsys)


def sha256(file):
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "size", "said"),
    [
        ((), (16, 16), "px.edit.image_to_image(px.load("),
        (("--strength", "0", "--size", "8x16"), (16, 8), ", 8, 16, sha256="),
        (("--mask", "mask.png"), (16, 16), "px.edit.inpaint(px.load("),
    ],
)
def test_show_prints_the_call_that_draws_the_same_bytes(run, capsys, monkeypatch, arguments, size, said):
    if "--size" in arguments:
        command.painted(monkeypatch)
    status, out, err = run("--init", "photo.png", "--out", "cat.png", *arguments)
    assert (status, out) == (0, "cat.png\n"), err
    assert cli.main(["show", "cat.png"]) == 0
    printed = capsys.readouterr().out
    assert said in printed and repr(PROMPT) in printed and "px.edit.read_picture('photo.png', " in printed
    with Image.open("cat.png") as opened:
        assert opened.size == size
        assert shown(capsys, "cat.png").tobytes() == opened.tobytes()


def test_outside_the_mask_the_pixels_are_the_picture_s(run):
    for name in ("photo", "mask"):
        with Image.open(f"{name}.png") as opened:
            opened.crop((8, 0, 24, 16)).save(f"{name}-16.png")
    words = ("--init", "photo-16.png", "--mask", "mask-16.png", "--strength", "0", "--out", "cat.png")
    assert run(*words)[0] == 0
    photo, cat = pixels("photo-16.png"), pixels("cat.png")
    assert np.array_equal(cat[:, 8:], photo[:, 8:]) and not np.array_equal(cat[:, :8], photo[:, :8])


def test_the_settings_name_the_files_by_their_bytes_and_without_their_folders(run, tmp_path, monkeypatch):
    command.painted(monkeypatch)
    arguments = ("--init", str(tmp_path / "photo.png"), "--mask", str(tmp_path / "mask.png"))
    assert run(*arguments, "--out", "cat.png")[0] == 0
    settings = picture.read_settings("cat.png")
    assert settings["init"] == "photo.png" and settings["mask"] == "mask.png" and settings["strength"] == 1.0
    assert (settings["init_sha256"], settings["mask_sha256"]) == (sha256("photo.png"), sha256("mask.png"))
    assert (settings["height"], settings["width"]) == (16, 16)


def test_another_file_in_the_place_of_the_picture_is_said(run, capsys, monkeypatch):
    command.painted(monkeypatch)
    assert run("--init", "photo.png", "--out", "cat.png")[0] == 0
    Image.new("RGB", (32, 20)).save("photo.png")
    with pytest.raises(ValueError, match=r"'photo\.png' isn't the file that was meant: its sha256 isn't "):
        shown(capsys, "cat.png")


def test_several_pictures_have_their_keys_and_a_sheet_is_drawn_by_one_call(run, capsys, tmp_path, monkeypatch):
    command.painted(monkeypatch)
    assert run("--init", "photo.png", "--n", "3", "--out", "cat.png")[1] == "cat-0.png\ncat-1.png\ncat-2.png\n"
    drawn = [np.asarray(shown(capsys, f"cat-{i}.png"), int) for i in range(3)]
    for i, one in enumerate(drawn):
        assert np.array_equal(one, pixels(f"cat-{i}.png"))
    assert not np.array_equal(drawn[0], drawn[1])
    assert run("--init", "photo.png", "--n", "3", "--sheet", "--out", "sheet.png")[0] == 0
    assert picture.sheet(shown(capsys, "sheet.png")).tobytes() == pixels("sheet.png").astype(np.uint8).tobytes()
    assert files(tmp_path) == ["cat-0.png", "cat-1.png", "cat-2.png", "mask.png", "photo.png", "sheet.png"]


def test_a_released_model_draws_at_the_nearest_size_that_it_was_trained_at(run):
    params = tiny.params(tiny.RELEASED_SIZE, tiny.RELEASED_FACTOR)
    assert size_for(params, "photo.png") == (192, 320)  # 0.6 is nearest to 20/32


CONTROLLED = [
    ((), (), "controls=px.controlnet.control(params, px.controlnet.load(), px.edges.canny(px.edit.read_picture("),
    (("--control-scale", "0.5", "--controlnet", "net"), ("scale=0.5",), "px.controlnet.load('net')"),
    (("--init", "photo.png", "--strength", "1"), (), "px.edit.image_to_image(params := px.load("),
]


@pytest.mark.parametrize(("arguments", "ends", "said"), CONTROLLED)
def test_the_edges_of_a_picture_are_followed(run, capsys, monkeypatch, arguments, ends, said):
    config = controlnet.Config(1, tiny.TRANSFORMER.num_attention_heads, tiny.TRANSFORMER.attention_head_dim)
    net = controlnet.init(tiny.params().transformer, tiny.TRANSFORMER, config), config
    monkeypatch.setattr(controlnet, "load", lambda source=None: loaded.append(source) or net)
    loaded, seen = [], command.painted(monkeypatch)
    status, out, err = run("--control", "photo.png", "--out", "cat.png", *arguments)
    assert (status, out) == (0, "cat.png\n"), err
    latents, scale, _ = seen[0]["controls"]
    edges = px.edges.canny(px.edit.read_picture("photo.png", 16, 16))
    assert latents == px.encode_image(tiny.params(), edges).asnumpy().tobytes()
    assert scale == (0.5 if ends else 1.0)
    assert seen[0].get("binning", False) is False  # the size that is drawn is that of the edges
    assert cli.main(["show", "cat.png"]) == 0
    printed = capsys.readouterr().out
    assert said in printed and all(end in printed for end in ends)
    assert np.array_equal(np.asarray(shown(capsys, "cat.png"), int), pixels("cat.png"))
    assert loaded == [loaded[0]] * 2 and seen[0] == seen[1]


WRONG = {
    "strength alone": ("--strength 0.5", "--strength needs --init, the picture to draw from"),
    "mask alone": ("--mask mask.png", "--mask needs --init, the picture to draw from"),
    "binning": ("--init photo.png --no-binning", "--no-binning is for pictures without --init; with it, --size is"),
    "none": ("--init none.png", "there is no file 'none.png'"),
    "a folder": ("--init .", "'.' is a folder; name a file in it"),
    "text": ("--init plain.txt", "'plain.txt' is not a whole PNG, JPEG or WebP picture"),
    "no mask": ("--init photo.png --mask none.png", "there is no file 'none.png'"),
    "sizes": ("--init photo.png --mask small.png", "--mask must have the size of --init, 20 x 32, got 4 x 6"),
    "above": ("--init photo.png --strength 1.5", "--strength must be "),
    "nan": ("--init photo.png --strength nan", "--strength must be "),
    "control's size": ("--control-scale 2", "--control-scale needs --control, the picture whose edges are followed"),
    "a net alone": ("--controlnet net", "--controlnet needs --control, the picture whose edges are followed"),
    "no control": ("--control none.png", "there is no file 'none.png'"),
    "over what is followed": ("--control photo.png --out photo.png --force", "--out must be another file than --contr"),
    "effect": ("--control photo.png --control-scale nan", "--control-scale must be "),
    "its own source": ("--init photo.png --out photo.png --force", "--out must be another file than --init"),
    "sixteen bits": ("--init deep.png", "'deep.png' has more than 8 bits per channel; save it with 8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence_before_the_model_is_loaded(run, monkeypatch, case):
    Path("plain.txt").write_text("no picture")
    Image.new("L", (6, 4)).save("small.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save("deep.png")
    monkeypatch.setattr(checkpoint, "load", None)
    words, sentence = WRONG[case]
    status, out, err = run(*words.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("pixart-fn: ") and sentence in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--strength 0.1", "strength must be within [1/2, 1] for 2 steps, got 0.1"),
        ("--size 18", "height must be divisible by 4, got 18"),
        ("--mask black.png", "mask must be white (at least 0.5) where the picture is drawn anew"),
    ],
)
def test_what_the_model_says_is_one_sentence_too(run, arguments, said):
    Image.new("L", (32, 20)).save("black.png")
    status, out, err = run("--init", "photo.png", "-q", *arguments.split())
    assert (status, out, err.count("\n")) == (2, "", 1) and said in err
