"""The command's answer to a mistake: one sentence and status 2, before the model is loaded where that can be."""

from __future__ import annotations

import io
import sys

import pytest
from helpers import tiny
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, cli, picture, pipeline
from pixart_fn.cli import console

BLACK = Image.new("RGB", (4, 4))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command in a folder with a few files, where loading a model counts as work → (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "plain.txt").write_bytes(b"a cat\n")
    (tmp_path / "empty.txt").write_bytes(b"\n \r\n")
    (tmp_path / "latin.txt").write_bytes("a cat\nGröße\n".encode("latin-1"))
    before = files(tmp_path)

    def run(*words):
        status = cli.main(list(words))
        assert files(tmp_path) == before
        return status, *capsys.readouterr()

    return run


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def options(text):
    return ("generate", "a cat", *text.split())


SIZE = "--size must be HEIGHTxWIDTH or one number, such as 512x768; got "
SIDE = "--size must be at least 1 and at most 8192 pixels along a side, got "
ENDING = "a picture's name must end in .png, .jpg, .jpeg or .webp, got "
WRONG = {
    "ending": (options("--out cat.gif"), ENDING + "'cat.gif'"),
    "no ending": (options("--out cat"), ENDING + "'cat'"),
    "here": (options("--n 2 --sheet --out ."), "'.' is a folder; name a file in it"),
    "a folder": (options("--sheet --out folder.png"), "'folder.png' is a folder; name a file in it"),
    "in a file": (options("--out plain.txt/cat.png"), "/plain.txt' is not a folder, so 'plain.txt/cat.png' can't be"),
    "long settings": (("generate", "a" * 66_000, "--out", "a.jpg"), "the settings take "),
    "n": (options("--n 0"), "--n must be "),
    "many": (options("--n 10001"), "--n must be "),
    "size": (options("--size 16x"), SIZE + "'16x'"),
    "three sizes": (options("--size 1x2x3"), SIZE + "'1x2x3'"),
    "no size": (options("--size 0"), SIDE + "'0'"),
    "a million": (options("--size 1000000"), SIDE + "'1000000'"),
    "one side": (options("--size 16x8193"), SIDE + "'16x8193'"),
    "a long number": (options("--size " + "9" * 5000), SIDE),
    "sheet": (options("--sheet --n 9 --size 8192"), "--sheet of 9 pictures is too large: a PNG holds at most "),
    "sheet's format": (options("--sheet --n 9 --size 8000 --out a.webp"), "--sheet of 9 pictures is too large: a WEBP"),
    "solver": (options("--solver eular"), "--solver must be one of ddim, "),
    "nearest": (options("--solver eular"), ", got 'eular'; the nearest is 'euler'"),
    "steps": (options("--steps 0"), "--steps must be "),
    "seed": (options("--seed -1"), "--seed must be "),
    "large seed": (options(f"--seed {2**64}"), "--seed must be "),
    "guidance": (options("--guidance nan"), "--guidance must be "),
    "tile": (options("--tile 0"), "--tile must be "),
    "not UTF-8": (("generate", "caf\udce9"), "prompt must be text that UTF-8 can hold, got 'caf\\udce9'"),
    "negative": (options("--negative caf\udce9"), "--negative must be text that UTF-8 can hold"),
    "no prompt": (("generate",), "give a PROMPT or --prompts FILE"),
    "both": (options("--prompts plain.txt"), "give a PROMPT or --prompts FILE, not both"),
    "no quotes": (("generate", "a", "cute", "cat"), 'put the prompt in quotes: "a cute cat"'),
    "no file": (("generate", "--prompts", "none.txt"), "none.txt: No such file or directory"),
    "empty": (("generate", "--prompts", "empty.txt"), "there are no prompts in 'empty.txt'"),
    "latin": (("generate", "--prompts", "latin.txt"), "the prompts in 'latin.txt' are not UTF-8: byte 0xf6 in line 2"),
    "grid": (options("--grid"), "--grid is called --sheet now"),
    "option": (options("--sed 1"), "there is no option --sed; the nearest is --seed"),
    "equals": (options("--sed=1"), "there is no option --sed; the nearest is --seed"),
    "one dash": (options("-seed 1"), "there is no option -seed; the nearest is --seed"),
    "its option": (("--versoin",), "there is no option --versoin; the nearest is --version"),
    "show's option": (("show", "--seed"), "there is no option --seed; pixart-fn show --help lists the options"),
    "nothing like it": (options("--xyzzy"), "there is no option --xyzzy; pixart-fn generate --help lists the options"),
    "PAG": (
        options("--pag-scale 2"),
        "there is no option --pag-scale; --guidance takes the scale alone, and px.Guidance",
    ),
    "rescale": (options("--rescale=0.5"), "there is no option --rescale; --guidance takes the scale alone"),
    "a word": (options("--seed one"), "Invalid value for '--seed': 'one' is not a valid integer"),
    "no value": (options("--seed"), "Option '--seed' requires an argument"),
    "dtype": (options("--dtype float8"), "Invalid value for '--dtype': 'float8' is not one of 'float32', 'float16'"),
    "nothing": (
        (),
        "name a command: generate, show, models, fetch, convert, prepare, train, plot, bench, doctor, app,",
    ),
    "command": (
        ("xyzzy",),
        "there is no command 'xyzzy'; the commands are generate, show, models, fetch, convert, prepare, train, plot,",
    ),
    "a misspelt command": (("genrate",), "there is no command 'genrate'; the nearest is generate"),
    "show nothing": (("show",), "Missing argument 'PICTURE'"),
    "show none": (("show", "none.png"), "there is no file 'none.png'"),
    "show text": (("show", "plain.txt"), "'plain.txt' is not a whole PNG, JPEG or WebP picture"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence_and_status_2(run, monkeypatch, case):
    words, sentence = WRONG[case]
    monkeypatch.setattr(checkpoint, "load", None)  # before any work
    status, out, err = run(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("pixart-fn: ") and sentence in err


def test_stdin_that_is_not_utf_8(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert (
        run("generate", "--prompts", "-")[2] == "pixart-fn: the prompts in stdin are not UTF-8: byte 0xff in line 1\n"
    )


WITH_A_MODEL = {
    "odd size": ("--size 16x18", "width must be divisible by 4, got 18"),
    "tile": ("--tile 9", "tile must be "),
    "model": ("--model nowhere", "there is no folder nowhere; give a folder in diffusers layout or a hub id"),
    "dtype": ("--dtype bfloat16", "MindSpore has no products in bfloat16 on a CPU"),
}


@pytest.mark.parametrize("case", WITH_A_MODEL)
def test_what_the_model_says_is_one_sentence_too(run, tmp_path_factory, case):
    arguments, sentence = WITH_A_MODEL[case]
    model = tmp_path_factory.mktemp("tiny") / "pipeline"
    px.save(tiny.params(), model)
    status, out, err = run("generate", "a cat", "--model", str(model), *arguments.split())
    *notes, last = err.splitlines()
    assert (status, out) == (2, "") and sentence in last
    assert all(line.startswith(("pixart-fn: loading ", "pixart-fn: Params(")) for line in notes)


def test_a_sheet_of_the_model_s_own_size_is_measured_before_it_is_drawn(run, monkeypatch):
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: tiny.params())
    monkeypatch.setattr(pipeline, "generate", None)
    monkeypatch.setattr(picture, "PIXELS", 9 * 16 * 16 - 1)
    status, _, err = run("generate", "a cat", "--sheet", "--n", "9", "-q")
    assert status == 2
    assert err.startswith("pixart-fn: --sheet of 9 pictures is too large: ") and "got 48 x 48" in err


def test_settings_that_show_does_not_print(run, tmp_path):
    file = tmp_path / "folder.png" / "cat.png"
    picture.save_picture(BLACK, file, prompt="a cat", seed=1, solver="__import__('os')")
    status, out, err = run("show", str(file))
    assert (status, out) == (2, "")
    assert err.startswith(f"pixart-fn: {str(file)!r} can't be drawn again: solver must be one of ddim, ")


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate"), RuntimeError("Allocate memory failed\n\n- C++ ")])
def test_too_little_memory_is_one_sentence(run, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(pipeline, "generate", fail)
    status, _, err = run("generate", "a cat", "-q")
    assert status == 1
    assert err == "pixart-fn: there is too little memory for this; a smaller --size or --n, or --tile 512, needs less\n"


def test_what_does_not_fit_is_refused_in_the_words_of_the_command(run, tmp_path):
    status, _, err = run(
        "generate", "a cat", "-q", "--size", "2048", "--memory", "2", "--out", str(tmp_path / "cat.png")
    )
    assert status == 1 and not (tmp_path / "cat.png").exists()
    assert "takes about" in err and "and there are 2.0 GiB; --size 1024x1024 would fit" in err
    assert err.endswith("--memory sets another limit, in GiB\n") and "memory=" not in err
    status, _, err = run("generate", "a cat", "--memory", "nan")
    assert (status, err) == (2, "pixart-fn: --memory must be within (0, 1e+09], got nan\n")
    status, _, err = run("generate", "a cat", "--memory", "1e308")
    assert (status, err) == (2, "pixart-fn: --memory must be within (0, 1e+09], got 1e+308\n")


def test_an_error_of_ours_is_not_hidden(run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(pipeline, "generate", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        run("generate", "a cat", "-q")


def test_a_terminal_is_not_steered(capsys, monkeypatch):
    hostile = "\x1b]0;title\x07\u202e\x9b31m"
    assert cli.main(["show", hostile]) == 2
    assert cli.main(["generate", "a cat", "--model", hostile, "--out", hostile + ".gif"]) == 2
    assert cli.main([hostile]) == 2
    assert cli.main(["generate", f"--{hostile}"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 4 and err.replace("\n", "").isprintable()
    console.result(hostile)  # for a pipe, which takes names as they are
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    console.result(hostile)
    assert capsys.readouterr().out == f"{hostile}\n\\x1b]0;title\\x07\\u202e\\x9b31m\n"
