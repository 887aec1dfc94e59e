"""The command: what it draws and writes, and that `show` prints a call that draws the same again."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import command, tiny
from helpers.command import PROMPT, files, pixels, shown
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, cli, picture, pipeline


def test_it_writes_one_picture_and_names_it(run, tmp_path, model):
    status, out, err = run("--out", "cat.png")
    assert (status, out) == (0, "cat.png\n")
    assert err.startswith(f"pixart-fn: loading {model}\npixart-fn: Params(PixArtAlphaPipeline: text_encoder=")
    assert "2/2" in err  # the bar
    assert files(tmp_path) == ["cat.png"]
    with Image.open("cat.png") as opened:
        assert opened.format == "PNG" and opened.size == (16, 16)
    settings = picture.read_settings("cat.png")
    assert settings["prompt"] == PROMPT and settings["steps"] == 2 and settings["seed"] == 0


SHOWN = [
    ((), (16, 16), "px.key(0), negative_prompt='', steps=2, guidance=4.5)"),
    (("--solver", "ddpm", "--negative", "a dog"), (16, 16), "solver='ddpm')"),
]
SHOWN_WITHOUT_DRAWING = [
    (("--size", "8x24", "--seed", "3"), (24, 8), "px.key(3), "),
    (("--size", "8x24"), (24, 8), "height=8, width=24)"),
    (("--guidance", "1", "--size", "16"), (16, 16), "guidance=1.0, height=16, width=16)"),
    (("--tile", "8", "--no-clean", "--no-binning"), (16, 16), "tile=8, clean=False, binning=False)"),
]


@pytest.mark.parametrize(("arguments", "size", "said"), SHOWN + SHOWN_WITHOUT_DRAWING)
def test_show_prints_the_call_that_draws_the_same_bytes(run, capsys, monkeypatch, arguments, size, said):
    if (arguments, size, said) in SHOWN_WITHOUT_DRAWING:
        command.painted(monkeypatch)
    assert run("--out", "cat.png", *arguments)[0] == 0
    assert cli.main(["show", "cat.png"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("px.generate(px.load(") and repr(PROMPT) in out and said in out
    with Image.open("cat.png") as opened:
        assert opened.size == size
        assert shown(capsys, "cat.png").tobytes() == opened.tobytes()


def test_every_option_reaches_the_library(run, monkeypatch):
    asked = {}

    def generate(params, prompt, key, **options):
        asked.update(options, prompt=prompt, key=key.tolist())
        return Image.new("RGB", (8, 8))

    def load(source, **options):
        asked.update(options)
        return tiny.params()

    monkeypatch.setattr(pipeline, "generate", generate)
    monkeypatch.setattr(checkpoint, "load", load)
    arguments = "--variant fp16 --revision v1 --dtype float16 --tile 8 --memory 2 --no-clean --no-binning --guidance 2"
    arguments += " --size 8x16 --seed 5 --solver heun --tokens 7"
    assert run(*arguments.split(), "--negative", "a dog")[0] == 0
    assert asked.pop("progress")
    assert asked == {
        "variant": "fp16", "revision": "v1", "dtype": "float16", "tile": 8, "clean": False, "binning": False,
        "guidance": 2.0, "height": 8, "width": 16, "negative_prompt": "a dog", "steps": 2, "solver": "heun",
        "prompt": PROMPT, "images_per_prompt": 1, "key": [px.key(5).tolist()], "memory": 2**31, "tokens": 7,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_other_formats_are_shown_too(run, capsys, monkeypatch, suffix):
    command.painted(monkeypatch)
    name = f"cat.{suffix}"
    assert run("--out", name)[:2] == (0, f"{name}\n")
    again = f"again.{suffix}"  # the formats lose a little, and the same of the same pixels
    picture.save_picture(shown(capsys, name), again)
    assert np.array_equal(pixels(again), pixels(name))


@pytest.mark.parametrize("order", ["before", "after"])
def test_options_stand_before_or_after_the_prompt(model, tmp_path, monkeypatch, order):
    monkeypatch.chdir(tmp_path)
    options = ["--steps", "1", "--model", model, "-q"]
    words = [*options, PROMPT] if order == "before" else [PROMPT, *options]
    assert cli.main(["generate", *words]) == 0
    assert picture.read_settings("picture.png")["prompt"] == PROMPT


def test_a_missing_folder_is_made(run):
    name = str(Path("new") / "folder" / "cat.png")
    assert run("--out", name)[:2] == (0, f"{name}\n")
    assert Path(name).is_file()


def test_quiet_says_nothing_but_errors(run):
    assert run("--quiet", "--tokens", "4", prompt=f"{tiny.SENTENCES[0]} guitar") == (0, "", "")
    status, out, err = run("--quiet")
    assert (status, out) == (2, "") and err == "pixart-fn: 'picture.png' exists already; --force overwrites it\n"


def test_a_write_that_fails_leaves_the_old_picture_and_nothing_else(run, tmp_path, monkeypatch):
    Path("cat.png").write_bytes(b"old")

    def fail(*_):
        raise OSError("no space left on the disk")

    monkeypatch.setattr(os, "replace", fail)
    status, _, err = run("--out", "cat.png", "--force")
    assert status == 1 and err.endswith("pixart-fn: 'cat.png' can't be written: no space left on the disk\n")
    assert files(tmp_path) == ["cat.png"] and Path("cat.png").read_bytes() == b"old"


def test_what_was_cut_from_a_prompt_is_one_sentence(run):
    status, _, err = run("--tokens", "4", prompt=f"{tiny.SENTENCES[0]} guitar")
    assert status == 0
    (line,) = (line for line in err.splitlines() if line.startswith("pixart-fn: prompt"))
    assert line.startswith("pixart-fn: prompt 0 takes") and line.endswith("guitar' was cut")
    assert "UserWarning" not in err


# --- the process ------------------------------------------------------------------------------------------------------


def process(*words, source="import sys; from pixart_fn.cli import main; sys.exit(main())", **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(px.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", source, *words], env=environment, stderr=subprocess.PIPE, **options)


@pytest.mark.slow
def test_python_m_is_the_same_command(run, model, tmp_path):
    assert run("--out", "here.png")[0] == 0
    command = [sys.executable, "-m", "pixart_fn", "generate", PROMPT, "--model", model, "--steps", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(px.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "picture.png\n"
    assert files(tmp_path) == ["here.png", "picture.png"]
    assert Path("here.png").read_bytes() == Path("picture.png").read_bytes()


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"], ["--version"], ["show", "none.png"]])
def test_what_draws_nothing_imports_no_mindspore(words):
    source = "import sys; from pixart_fn.cli import main; main(); sys.exit('mindspore' in sys.modules)"
    assert process(*words, source=source, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("words", [["--help"], ["show", "cat.png"]])
def test_a_reader_that_has_gone_is_no_error(tmp_path, words):
    picture.save_picture(np.zeros((4, 4, 3)), tmp_path / "cat.png", prompt="a cat", seed=1)
    reader, writer = os.pipe()
    os.close(reader)
    done = process(*words, stdout=writer, cwd=tmp_path)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


# --- what it says -----------------------------------------------------------------------------------------------------


def test_help_names_every_default(capsys):
    assert cli.main(["generate", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for default in ("picture.png", "0", "1", "float32", "(the model's own)", "(the embedded one)"):
        assert f"[default: {default}]" in out
    assert "--grid" not in out and all(solver in out for solver in px.solvers.SOLVERS)
    assert cli.main(["-h"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "generate Draw pictures" in out and "show Print the Python call" in out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pixart-fn {px.__version__}\n"


def test_a_stream_that_lacks_letters_gets_their_escapes(tmp_path, monkeypatch):
    picture.save_picture(np.zeros((4, 4, 3)), tmp_path / "cat.png", prompt="✓ ß", seed=1)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["show", str(tmp_path / "cat.png")]) == 0
    assert stream.buffer.getvalue() == b"px.generate(px.load(), '\\u2713 \\xdf', px.key(1))\n"
