"""The command: what it writes, what it says, and that `show` prints a call that draws the same again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

import pixart_fn as px
from pixart_fn import cli

PROMPT = 'a "cute" cat, Größe ✓'  # quotes and letters that a careless PNG text or printed call would spoil


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "pipeline"
    px.save(tiny.params(), path)
    return str(path)


@pytest.fixture
def run(model, tmp_path, monkeypatch, capsys):
    """generate with the tiny model in an empty folder → (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, prompt=PROMPT):
        status = cli.main(["generate", prompt, "--model", model, "--steps", "2", *arguments])
        return status, *capsys.readouterr()

    return run


def shown(capsys, file):
    """What the call draws that `show` prints."""
    capsys.readouterr()
    assert cli.main(["show", str(file)]) == 0
    out, err = capsys.readouterr()
    assert not err
    return eval(out, {"px": px})


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_writes_one_picture_and_says_so(run, tmp_path, model):
    status, out, err = run("--out", "cat.png")
    assert (status, out) == (0, "wrote cat.png\n")
    assert err.startswith(f"loading {model}\nParams(PixArtAlphaPipeline: text_encoder=")
    assert "2/2" in err  # the bar
    assert files(tmp_path) == ["cat.png"]
    with Image.open("cat.png") as picture:
        assert picture.format == "PNG" and picture.size == (16, 16)
        settings = json.loads(picture.text[cli.TEXT])
    assert settings["prompt"] == PROMPT and settings["steps"] == 2 and settings["seed"] == 0


@pytest.mark.parametrize(
    ("arguments", "size", "said"),
    [
        ((), (16, 16), "px.key(0), negative_prompt='', steps=2, guidance_scale=4.5)"),
        (("--size", "8x24", "--seed", "3"), (24, 8), "px.key(3), "),
        (("--size", "8x24"), (24, 8), "height=8, width=24)"),
        (("--solver", "ddpm", "--negative", "a dog"), (16, 16), "solver=px.solvers.ddpm())"),
        (("--guidance", "1", "--size", "16"), (16, 16), "guidance_scale=1.0, height=16, width=16)"),
    ],
)
def test_show_prints_the_call_that_draws_the_same_bytes(run, capsys, arguments, size, said):
    assert run("--out", "cat.png", *arguments)[0] == 0
    assert cli.main(["show", "cat.png"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("px.generate(px.load(") and repr(PROMPT) in out and said in out
    with Image.open("cat.png") as picture:
        assert picture.size == size
        assert shown(capsys, "cat.png").tobytes() == picture.tobytes()


def test_several_pictures_are_numbered_and_each_has_its_key(run, capsys, tmp_path):
    status, out, err = run("--out", "cat.png", "--n", "3")
    assert (status, out) == (0, "wrote cat-0.png\nwrote cat-1.png\nwrote cat-2.png\n"), err
    assert files(tmp_path) == ["cat-0.png", "cat-1.png", "cat-2.png"]
    for i in range(3):
        with Image.open(f"cat-{i}.png") as picture:
            # alone, sums have another order than in the batch of three
            assert np.abs(np.asarray(shown(capsys, f"cat-{i}.png"), int) - np.asarray(picture, int)).max() <= 1


def test_a_grid_is_one_file(run, capsys, tmp_path):
    status, out, err = run("--out", "cats.png", "--n", "3", "--grid")
    assert (status, out) == (0, "wrote cats.png\n"), err
    assert files(tmp_path) == ["cats.png"]
    with Image.open("cats.png") as sheet:
        assert sheet.size == (32, 32)
        assert sheet.crop((16, 16, 32, 32)).getextrema() == ((255, 255),) * 3  # the place of a fourth
        assert cli.grid(shown(capsys, "cats.png")).tobytes() == sheet.tobytes()


def test_the_default_is_the_embedded_checkpoint():
    settings = {
        "prompt": "a cat",
        "model": None,
        "seed": 1,
        "steps": 20,
        "guidance": 4.5,
        "negative": "",
        "solver": None,
    }
    call = cli.call({**settings, "n": 1, "index": 0, "height": None, "width": None})
    expected = "px.generate(px.load(), 'a cat', px.key(1), negative_prompt='', steps=20, guidance_scale=4.5)"
    assert call == expected


def test_python_m_is_the_same_command(run, model, tmp_path):
    assert run("--out", "here.png")[0] == 0
    command = [sys.executable, "-m", "pixart_fn", "generate", PROMPT, "--model", model, "--steps", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(px.__file__).parents[1])}
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True)
    assert process.stdout == "wrote picture.png\n"
    assert files(tmp_path) == ["here.png", "picture.png"]
    assert Path("here.png").read_bytes() == Path("picture.png").read_bytes()


def test_a_write_that_fails_leaves_the_old_picture_and_nothing_else(run, tmp_path, monkeypatch):
    Path("cat.png").write_bytes(b"old")

    def fail(*_):
        raise OSError("no space left on the disk")

    monkeypatch.setattr(os, "replace", fail)
    status, _, err = run("--out", "cat.png")
    assert status == 2 and err.endswith("pixart-fn: no space left on the disk\n")
    assert files(tmp_path) == ["cat.png"] and Path("cat.png").read_bytes() == b"old"


def test_what_was_cut_from_a_prompt_is_one_sentence(run):
    status, _, err = run("--guidance", "1", prompt=" ".join([tiny.SENTENCES[0]] * 12 + ["guitar"]))
    assert status == 0
    (line,) = (line for line in err.splitlines() if line.startswith("pixart-fn: "))
    assert line.startswith("pixart-fn: prompt 0 takes") and line.endswith("guitar' was cut")
    assert "UserWarning" not in err


WRONG = {
    "format": (
        ["--out", "cat.jpg"],
        "--out must end in .png, which keeps the prompt beside the picture; got 'cat.jpg'",
    ),
    "folder": (["--out", "none/cat.png"], "the folder 'none' of --out doesn't exist"),
    "a folder": (["--out", "folder.png"], "--out 'folder.png' is a folder; name a file in it"),
    "n": (["--n", "0"], "--n must be at least 1, got 0"),
    "size": (["--size", "16x"], "--size must be HEIGHTxWIDTH or one number, such as 512x768; got '16x'"),
    "three sizes": (["--size", "1x2x3"], "--size must be HEIGHTxWIDTH or one number, such as 512x768; got '1x2x3'"),
    "odd size": (["--size", "16x18"], "width must be divisible by 4, got 18; nearest: 16, 20"),
    "solver": (["--solver", "eular"], "--solver must be one of "),
    "steps": (["--steps", "0"], "steps must be at least 1, got 0"),
    "seed": (["--seed", "-1"], "seed must be an integer with 0 ≤ seed < 2**64, got -1"),
    "guidance": (["--guidance", "nan"], "guidance_scale must be finite, got nan"),
    "model": (["--model", "nowhere"], "there is no folder nowhere; give a folder in diffusers layout or a hub id"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence_and_status_2(run, tmp_path, case):
    arguments, sentence = WRONG[case]
    (tmp_path / "folder.png").mkdir()
    status, out, err = run(*arguments)
    *progress, last = err.splitlines()
    assert (status, out) == (2, "")
    assert last.startswith(f"pixart-fn: {sentence}")
    assert all(line.startswith(("loading ", "Params(")) for line in progress)
    assert files(tmp_path) == ["folder.png"]


def test_show_of_something_else_is_one_sentence(tmp_path, capsys):
    plain, text = tmp_path / "plain.png", tmp_path / "text.png"
    Image.new("RGB", (4, 4)).save(plain)
    text.write_text("no picture")
    for file, sentence in (
        (plain, f"{plain} doesn't say how it was drawn; only pictures of pixart-fn generate do"),
        (text, "cannot identify image file"),
        (tmp_path / "none.png", "[Errno 2] No such file or directory"),
    ):
        assert cli.main(["show", str(file)]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith(f"pixart-fn: {sentence}") and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["paint"], ["generate"], ["generate", "a cat", "--seed", "one"]])
def test_a_command_that_cannot_be_parsed_shows_its_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("usage: pixart-fn")
