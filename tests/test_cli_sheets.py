"""The command's sheets over what varies, folders that are drawn on with, and what machines read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from helpers.command import PROMPT, files, pixels
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, cli, picture, pipeline, sheets
from pixart_fn.cli import outputs

SOLVERS = {"solver": ["ddim", "heun"], "steps": [1, 2, 3]}


@pytest.fixture
def seen(monkeypatch):
    return command.painted(monkeypatch)


@pytest.fixture
def run(seen, tmp_path, monkeypatch, capsys):
    """generate in an empty folder, in no time → (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words, prompt=PROMPT):
        capsys.readouterr()
        return cli.main(["generate", *([] if prompt is None else [prompt]), *words]), *capsys.readouterr()

    return run


def calls(capsys, file):
    """What the calls draw that `show` prints."""
    capsys.readouterr()
    assert cli.main(["show", file]) == 0
    return [np.asarray(eval(line, {"px": px})) for line in capsys.readouterr().out.splitlines()]


# --- sheets -----------------------------------------------------------------------------------------------------------


def found_in(sheet, pictures):
    """Where each picture lies in a sheet: (y, x) of its corner."""
    places = []
    for one in pictures:
        h, w = one.shape[:2]
        corner = (sheet[: 1 - h or None, : 1 - w or None] == one[0, 0]).all(-1)
        places += [(y, x) for y, x in np.argwhere(corner) if np.array_equal(sheet[y : y + h, x : x + w], one)]
    return places


AXES = [
    ("--solver ddim,heun --steps 1,2,3", (2, 3), {"solver": "heun", "steps": 1}),
    ("--steps 1,2 --guidance 1,3.5", (2, 2), {"guidance": 3.5, "steps": 1}),
    ("--guidance 1,3 --seed 4,5", (2, 2), {"key": [5, 0], "guidance": 1.0}),
    ("--seed 0,1,2", (1, 3), {"key": [1, 0]}),
]


@pytest.mark.parametrize(("words", "shape", "second"), AXES)
def test_rows_and_columns_are_drawn_and_shown_one_by_one(run, capsys, seen, words, shape, second):
    assert run("--sheet", "--out", "s.png", *words.split())[:2] == (0, "s.png\n")
    rows, columns = shape
    asked = seen[columns if rows > 1 else 1]  # the first of the second row, or the second of one row
    assert {name: asked[name] for name in second} == second
    drawn = calls(capsys, "s.png")
    assert len(drawn) == rows * columns and seen[: rows * columns] == seen[rows * columns :]
    places = found_in(pixels("s.png"), drawn)
    assert len(places) == len(drawn) and places == sorted(places)
    assert len({y for y, _ in places}) == rows and len({x for _, x in places}) == columns


def test_what_a_file_claims_fills_no_memory_with_calls():
    settings = {"prompt": "a cat" * 10_000, "seed": 1, "axes": {"steps": [*range(1, 101)], "seed": [*range(100)]}}
    with pytest.raises(ValueError, match=r"^the settings of a sheet's pictures take more than 64 MiB together$"):
        sheets.calls(settings)


def test_axes_of_nothing_are_none():
    assert sheets.calls({"prompt": "a cat", "seed": 1, "axes": None}) == sheets.calls({"prompt": "a cat", "seed": 1})


def test_values_that_differ_have_labels_that_differ():
    assert sheets.labels({"guidance": [0.1, 0.10000001]})[1] == ["guidance 0.1", "guidance 0.10000001"]


def test_labels_name_what_varies_and_its_values():
    assert sheets.labels(SOLVERS) == (["solver ddim", "solver heun"], ["steps 1", "steps 2", "steps 3"])
    assert sheets.labels({"guidance": [1.0, 3.5]}) == ([""], ["guidance 1", "guidance 3.5"])
    black = [Image.new("RGB", (16, 16))] * 6
    sheet = sheets.labelled(black, SOLVERS)
    assert sheet.size == sheets.size(SOLVERS, 16, 16)
    ink, dark = np.asarray(sheet).min(-1) < 128, np.asarray(sheet).max(-1) == 0
    left, top = dark.any(0).argmax(), dark.any(1).argmax()
    beside, above = (ink & ~dark)[top:, :left], (ink & ~dark)[:top]
    for y in (dark.any(1) & ~np.roll(dark.any(1), 1)).nonzero()[0] - top:  # each row has a label beside it
        assert beside[y : y + 16].sum() > 20
    for x in (dark.any(0) & ~np.roll(dark.any(0), 1)).nonzero()[0]:  # and each column one above
        assert above[:, x : x + 16].sum() > 5
    assert not beside[:, -sheets.GAP :].any() and not above[0].any()  # they touch neither a picture nor the edge
    with pytest.raises(ValueError, match=r"^pictures must be 6, 2 x 3, got 5$"):
        sheets.labelled(black[:5], SOLVERS)


BAD_AXES = {
    "no dict": (["steps"], TypeError, "axes must be a dict of what varies, got a list"),
    "name": ({"prompt": ["a"]}, ValueError, "only solver, seed, guidance, steps can vary in a sheet, got 'prompt'"),
    "no list": ({"steps": 3}, TypeError, "steps of a sheet must be a list of values, got an int"),
    "empty": ({"steps": []}, TypeError, "steps of a sheet must be a list of values"),
    "lists": ({"steps": [[1]]}, TypeError, "steps of a sheet must be a list of texts or numbers, got a list in it"),
    "twice": ({"steps": [5, 3, 5]}, ValueError, "steps of a sheet names 5 twice"),
    "none": ({}, ValueError, "one or two of solver, seed, guidance, steps can vary in a sheet, got none"),
    "many": ({"steps": [*range(1, 10_002)]}, ValueError, "the number of pictures must be "),
    "value": ({"steps": ["__import__('os')"]}, TypeError, "steps must be a whole number, got "),
    "solver": ({"solver": ["ddim", "ddim()"]}, ValueError, "solver must be one of ddim, "),
}


@pytest.mark.parametrize("case", BAD_AXES)
def test_a_file_s_own_axes_are_checked_before_they_are_printed(case):
    axes, error, sentence = BAD_AXES[case]
    with pytest.raises(error) as raised:
        sheets.calls({"prompt": "a cat", "seed": 1, "axes": axes})
    assert str(raised.value).startswith(sentence)


WRONG = {
    "no sheet": ("--steps 1,2", "--steps 1,2 names several values, which --sheet puts side by side; add --sheet, or"),
    "three": ("--sheet --steps 1,2 --seed 0,1 --solver ddim,heun", "one or two of solver, seed, guidance, steps can"),
    "n": ("--sheet --steps 1,2 --n 2", "--n draws pictures of the same settings; beside --steps 1,2, --seed 0,1,2 dr"),
    "twice": ("--sheet --steps 5,5", "steps of a sheet names 5 twice"),
    "value": ("--sheet --steps 5,ten", "Invalid value for '--steps': 'ten' is not a valid integer"),
    "gap": ("--sheet --steps 5,,10", "Invalid value for '--steps': '' is not a valid integer"),
    "range": ("--sheet --steps 5,0", "--steps must be 1 … 10000, got 0"),
    "solver": ("--sheet --solver ddim,eular", "--solver must be one of ddim, "),
    "large": ("--sheet --steps 1,2 --size 8192 --out a.webp", "--sheet of 2 pictures is too large: a WEBP holds"),
    "init": ("--init=", "--init must not be empty"),
    "model": ("--model=", "--model must not be empty"),
    "out": ("--out=", "--out must not be empty"),
    "control": ("--control=", "--control must not be empty"),
    "prompts": ("--prompts=", "--prompts must not be empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence_before_the_model_is_loaded(run, monkeypatch, tmp_path, case):
    monkeypatch.setattr(checkpoint, "load", None)
    status, out, err = run(*WRONG[case][0].split())
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("pixart-fn: ") and WRONG[case][1] in err and files(tmp_path) == []


def test_several_prompts_do_not_vary_beside_something_else(run, tmp_path):
    (tmp_path / "two.txt").write_text("a\nb\n")
    said = run("--sheet", "--steps", "1,2", "--prompts", "two.txt", prompt=None)[2]
    assert said == "pixart-fn: a sheet over --steps 1,2 takes one prompt, got 2\n"


def test_a_prompt_and_a_negative_prompt_may_be_empty(run):
    assert run("--negative", "", prompt="")[0] == 0
    assert picture.read_settings("picture.png")["prompt"] == ""


# --- folders ----------------------------------------------------------------------------------------------------------


def test_into_a_folder_the_same_command_goes_on(run, seen, tmp_path):
    words = ("--out", "new/", "--n", "3")
    assert run(*words)[:2] == (0, "".join(f"new/picture-{i}.png\n" for i in range(3)))
    before = {name: (tmp_path / "new" / name).read_bytes() for name in files(tmp_path / "new")}
    (tmp_path / "new" / "picture-1.png").unlink()
    status, out, err = run(*words)
    assert (status, out) == (0, "new/picture-1.png\n") and "pixart-fn: pictures that are there already: 2 of 3\n" in err
    assert {name: (tmp_path / "new" / name).read_bytes() for name in files(tmp_path / "new")} == before
    drawn = len(seen)
    assert run(*words)[1] == "" and len(seen) == drawn
    # a later picture doesn't change the first ones, whose keys are the same
    assert run("--out", "new", "--n", "4")[1] == "new/picture-3.png\n"


def test_another_picture_in_a_folder_is_an_error(run, monkeypatch, tmp_path):
    assert run("--out", "new/", "--n", "2")[0] == 0
    first = (tmp_path / "new" / "picture-0.png").read_bytes()
    several = "pixart-fn: 'new/picture-0.png' and 1 more hold other pictures; --force overwrites them\n"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load", None)  # it is said before any work
        for words in (("--seed", "1"), ("--steps", "3"), ("--solver", "heun"), ("--no-clean",), ("--size", "8")):
            assert run("--out", "new/", "--n", "2", *words)[::2] == (2, several)
        assert run("--out", "new/", "--n", "2", prompt="a dog")[::2] == (2, several)
    one = "pixart-fn: 'new/picture-0.png' holds another picture; --force overwrites it\n"
    assert run("--out", "new/")[::2] == (2, one)  # a picture alone has another key than the first of two
    patched = px.load()
    config = dataclasses.replace(patched.config, call=patched.config.call._replace(steps=7))
    patched = patched.replace(config=config)
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: patched)  # another model, whose own steps are others
    assert run("--out", "new/", "--n", "2", "-q")[::2] == (2, several)
    monkeypatch.setattr(checkpoint, "load", px.load)
    (tmp_path / "new" / "picture-1.png").write_bytes(b"mine")
    assert run("--out", "new/", "--n", "2")[::2] == (2, one.replace("-0", "-1"))
    assert (tmp_path / "new" / "picture-0.png").read_bytes() == first
    assert run("--out", "new/", "--n", "2", "--seed", "1", "--force")[1].count("\n") == 2
    assert picture.read_settings("new/picture-0.png")["seed"] == 1


def test_a_batch_of_which_one_is_missing_is_drawn_whole(run, monkeypatch, tmp_path):
    monkeypatch.setattr(outputs, "BATCH", 2)
    assert run("--out", "new/", "--n", "5")[0] == 0
    (tmp_path / "new" / "picture-3.png").unlink()
    draw, counts = pipeline.generate, []
    monkeypatch.setattr(
        pipeline, "generate", lambda *a, **options: counts.append(options["images_per_prompt"]) or draw(*a, **options)
    )
    assert run("--out", "new/", "--n", "5")[1] == "new/picture-3.png\n" and counts == [2]


# --- what machines read -----------------------------------------------------------------------------------------------


def test_generate_and_show_print_json(run, capsys):
    assert run("--out", "new/", "--n", "2", "-q")[1] == ""
    Path("new/picture-1.png").unlink()
    status, out, _ = run("--out", "new/", "--n", "2", "--json")
    found = json.loads(out)
    assert status == 0 and found["kept"] == ["new/picture-0.png"]
    (one,) = found["pictures"]
    assert one["file"] == "new/picture-1.png" and one["settings"] == picture.read_settings(one["file"])
    (call,) = one["calls"]
    assert np.array_equal(np.asarray(eval(call, {"px": px})), pixels(one["file"]))
    assert cli.main(["show", one["file"], "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == one and out.isascii()


def test_json_is_whole_on_a_terminal_too(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    cli.console.document({"a": "\x1b]0;\u202e ✓", "b": [1, None]})
    assert json.loads(capsys.readouterr().out) == {"a": "\x1b]0;\u202e ✓", "b": [1, None]}


def test_convert_prints_json(tmp_path, capsys, monkeypatch):
    def convert(source, target, **_):
        (Path(target) / "inner").mkdir(parents=True)
        (Path(target) / "inner" / "a.json").write_text("{}")

    monkeypatch.setattr("pixart_fn.checkpoint.convert.convert", convert)
    out = str(tmp_path / "out")
    assert cli.main(["convert", "in.pth", out, "--json"]) == 0
    files = [{"file": f"{out}/inner/a.json", "bytes": 2}]
    assert json.loads(capsys.readouterr().out) == {"source": "in.pth", "target": out, "files": files}
    assert cli.main(["convert", "", out]) == 2
    assert capsys.readouterr().err == "pixart-fn: IN must not be empty\n"
