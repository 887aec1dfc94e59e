"""The command: what it draws and writes, and that `show` prints a call that draws the same again."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, cli, picture, pipeline
from pixart_fn.backend.workers import Workers
from pixart_fn.cli.generate import BATCH, _batches

PROMPT = 'a "cute" cat, Größe ✓'  # quotes and letters that a careless text in a picture or printed call would spoil


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
        status = cli.main(
            ["generate", *([] if prompt is None else [prompt]), "--model", model, "--steps", "2", *arguments]
        )
        return status, *capsys.readouterr()

    return run


def shown(capsys, file):
    """What the call draws that `show` prints."""
    capsys.readouterr()
    assert cli.main(["show", str(file)]) == 0
    out, err = capsys.readouterr()
    assert not err
    return eval(out, {"px": px})


def pixels(file):
    with Image.open(file) as opened:
        return np.asarray(opened, int)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


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


@pytest.mark.parametrize(
    ("arguments", "size", "said"),
    [
        ((), (16, 16), "px.key(0), negative_prompt='', steps=2, guidance=4.5)"),
        (("--size", "8x24", "--seed", "3"), (24, 8), "px.key(3), "),
        (("--size", "8x24"), (24, 8), "height=8, width=24)"),
        (("--solver", "ddpm", "--negative", "a dog"), (16, 16), "solver='ddpm')"),
        (("--guidance", "1", "--size", "16"), (16, 16), "guidance=1.0, height=16, width=16)"),
        (("--tile", "8", "--no-clean", "--no-binning"), (16, 16), "tile=8, clean=False, binning=False)"),
    ],
)
def test_show_prints_the_call_that_draws_the_same_bytes(run, capsys, arguments, size, said):
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
    arguments = (
        "--variant fp16 --dtype float16 --tile 8 --memory 2 --no-clean --no-binning --guidance 2 --size 8x16 --seed 5"
    )
    arguments += " --solver heun --tokens 7"
    assert run(*arguments.split(), "--negative", "a dog")[0] == 0
    assert asked.pop("progress")
    assert asked == {
        "variant": "fp16", "dtype": "float16", "tile": 8, "clean": False, "binning": False, "guidance": 2.0,
        "height": 8, "width": 16, "negative_prompt": "a dog", "steps": 2, "solver": "heun", "prompt": PROMPT,
        "images_per_prompt": 1, "key": [px.key(5).tolist()], "memory": 2**31, "tokens": 7,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_other_formats_are_shown_too(run, capsys, suffix):
    name = f"cat.{suffix}"
    assert run("--out", name)[:2] == (0, f"{name}\n")
    again = f"again.{suffix}"  # the formats lose a little, and the same of the same pixels
    picture.save_picture(shown(capsys, name), again)
    assert np.array_equal(pixels(again), pixels(name))


def test_several_pictures_are_numbered_and_each_has_its_key(run, capsys, tmp_path):
    status, out, err = run("--out", "cat.png", "--n", "3")
    assert (status, out) == (0, "cat-0.png\ncat-1.png\ncat-2.png\n"), err
    assert files(tmp_path) == ["cat-0.png", "cat-1.png", "cat-2.png"]
    for i in range(3):
        # alone, sums have another order than in the batch of three
        assert np.abs(np.asarray(shown(capsys, f"cat-{i}.png"), int) - pixels(f"cat-{i}.png")).max() <= 1


def test_more_than_a_batch_are_the_same_pictures(run):
    n = BATCH + 2
    assert run("--n", str(n))[0] == 0
    drawn = px.generate(tiny.params(), PROMPT, px.key(0), steps=2, images_per_prompt=n, progress=False)
    for i in range(n):
        assert np.abs(np.asarray(drawn[i], int) - pixels(f"picture-{i}.png")).max() <= 1


def test_a_sheet_is_one_file(run, capsys, tmp_path):
    status, out, err = run("--out", "cats.png", "--n", "3", "--sheet")
    assert (status, out) == (0, "cats.png\n"), err
    assert files(tmp_path) == ["cats.png"]
    with Image.open("cats.png") as sheet:
        assert sheet.size == (32, 32)
        assert sheet.crop((16, 16, 32, 32)).getextrema() == ((255, 255),) * 3  # the place of a fourth
        assert picture.sheet(shown(capsys, "cats.png")).tobytes() == sheet.tobytes()


LINES = "a cute cat\r\n\n  \nthe big dog ✓\n"


@pytest.fixture(params=["file", "stdin", "with a mark"])
def lines(request, tmp_path, monkeypatch):
    """The word after --prompts."""
    content = LINES.encode("utf-8-sig" if request.param == "with a mark" else "utf-8")
    if request.param == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
        return "-"
    (tmp_path / "lines.txt").write_bytes(content)
    return "lines.txt"


def test_each_line_is_a_prompt_with_its_own_keys(run, capsys, lines):
    status, out, err = run("--prompts", lines, "--n", "2", "--seed", "5", prompt=None)
    assert (status, out.split()) == (0, [f"picture-{i}.png" for i in range(4)]), err
    prompts = ["a cute cat", "the big dog ✓"]
    drawn = px.generate(tiny.params(), prompts, px.key(5), images_per_prompt=2, steps=2, progress=False)
    for i in range(4):
        file = f"picture-{i}.png"
        assert picture.read_settings(file)["prompt"] == prompts[i // 2]
        assert np.abs(np.asarray(drawn[i], int) - pixels(file)).max() <= 1
        assert np.abs(np.asarray(shown(capsys, file), int) - pixels(file)).max() <= 1


def test_a_file_with_one_line_is_numbered_too(run, tmp_path):
    (tmp_path / "one.txt").write_text(PROMPT, encoding="utf-8")
    assert run("--prompts", "one.txt", prompt=None)[:2] == (0, "picture-0.png\n")
    assert run()[0] == 0
    assert np.array_equal(pixels("picture-0.png"), pixels("picture.png"))


def test_a_sheet_of_lines_is_drawn_again_by_one_call(run, capsys, tmp_path):
    (tmp_path / "lines.txt").write_text(LINES, encoding="utf-8")
    assert run("--prompts", "lines.txt", "--sheet", "--out", "sheet.png", prompt=None)[:2] == (0, "sheet.png\n")
    drawn = picture.sheet(shown(capsys, "sheet.png"))
    assert drawn.size == (32, 16) and np.abs(np.asarray(drawn, int) - pixels("sheet.png")).max() <= 1


@pytest.fixture
def worker(monkeypatch):
    """Make this process the worker that msrun starts so."""

    def set_environment(rank, size, role="MS_WORKER"):
        for name, value in {"MS_ROLE": role, "RANK_ID": rank, "MS_WORKER_NUM": size}.items():
            monkeypatch.setenv(name, str(value))

    return set_environment


def test_workers_draw_each_picture_once_and_as_one_process_does(run, worker, tmp_path):
    (tmp_path / "lines.txt").write_text("a cute cat\nthe big dog\na red apple\n", encoding="utf-8")
    arguments = ("--prompts", "lines.txt", "--seed", "5")
    assert run(*arguments, "--out", "alone/cat.png", prompt=None)[0] == 0
    said = []
    for rank in range(2):
        worker(rank, 2)
        status, out, err = run(*arguments, "--out", "shared/cat.png", prompt=None)
        assert status == 0 and ("loading" in err, "2/2" in err) == (rank == 0, rank == 0)
        said += out.split()
    assert sorted(Path(name).name for name in said) == files(tmp_path / "alone") == files(tmp_path / "shared")
    for name in files(tmp_path / "alone"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes()


@pytest.mark.parametrize("each", [1, BATCH, 2 * BATCH + 3])
def test_what_is_drawn_together_does_not_depend_on_the_number_of_workers(each):
    alone = _batches(5, each, Workers())
    assert [i for batch in alone for i in batch] == list(range(5 * each))
    assert all(len(batch) <= BATCH and batch[0] // each == batch[-1] // each for batch in alone)
    shared = [batch for rank in range(3) for batch in _batches(5, each, Workers(rank, 3))]
    assert sorted(shared, key=lambda batch: batch.start) == alone


def test_a_worker_without_a_picture_does_nothing(run, worker, tmp_path):
    worker(1, 2)
    assert run() == (0, "", "") and files(tmp_path) == []
    worker(0, 2, role="MS_SCHED")
    assert run() == (0, "", "") and files(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sheet",), "--sheet needs one worker, since several can't draw into one file; leave out --sheet or msrun"),
        (("--prompts", "-"), "several workers can't share stdin; --prompts must name a file"),
    ],
)
def test_what_workers_cannot_share_is_refused(run, worker, arguments, said):
    worker(0, 2)
    prompt = None if "--prompts" in arguments else PROMPT
    assert run(*arguments, prompt=prompt) == (2, "", f"pixart-fn: {said}\n")


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
    long = " ".join([tiny.SENTENCES[0]] * 12 + ["guitar"])
    assert run("--quiet", prompt=long) == (0, "", "")
    status, out, err = run("--quiet")
    assert (status, out) == (2, "") and err == "pixart-fn: 'picture.png' exists already; --force overwrites it\n"


def test_nothing_is_overwritten_without_force(run, monkeypatch, tmp_path):
    (tmp_path / "cat-1.png").write_bytes(b"mine")
    (tmp_path / "cat-2.png").symlink_to("nowhere")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load", None)  # it is said before any work
        status, out, err = run("--out", "cat.png", "--n", "3")
    assert (status, out) == (2, "")
    assert err == "pixart-fn: 'cat-1.png' and 1 more exist already; --force overwrites them\n"
    assert files(tmp_path) == ["cat-1.png", "cat-2.png"] and Path("cat-1.png").read_bytes() == b"mine"
    assert run("--out", "cat.png", "--n", "3", "--force")[0] == 0
    assert picture.read_settings("cat-1.png")["index"] == 1


def test_a_write_that_fails_leaves_the_old_picture_and_nothing_else(run, tmp_path, monkeypatch):
    Path("cat.png").write_bytes(b"old")

    def fail(*_):
        raise OSError("no space left on the disk")

    monkeypatch.setattr(os, "replace", fail)
    status, _, err = run("--out", "cat.png", "--force")
    assert status == 2 and err.endswith("pixart-fn: 'cat.png' can't be written: no space left on the disk\n")
    assert files(tmp_path) == ["cat.png"] and Path("cat.png").read_bytes() == b"old"


def test_what_was_cut_from_a_prompt_is_one_sentence(run):
    status, _, err = run("--guidance", "1", prompt=" ".join([tiny.SENTENCES[0]] * 12 + ["guitar"]))
    assert status == 0
    (line,) = (line for line in err.splitlines() if line.startswith("pixart-fn: prompt"))
    assert line.startswith("pixart-fn: prompt 0 takes") and line.endswith("guitar' was cut")
    assert "UserWarning" not in err


def test_ctrl_c_keeps_what_is_whole_and_is_130(run, tmp_path, monkeypatch):
    draw, calls = pipeline.generate, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return draw(*arguments, **options)

    monkeypatch.setattr(pipeline, "generate", interrupted)
    (tmp_path / "lines.txt").write_text(LINES, encoding="utf-8")
    status, out, err = run("--prompts", "lines.txt", prompt=None)
    assert (status, out) == (130, "picture-0.png\n") and "Traceback" not in err
    assert files(tmp_path) == ["lines.txt", "picture-0.png"]


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
    out = capsys.readouterr().out
    assert "generate  Draw pictures" in out and "show      Print the Python call" in out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pixart-fn {px.__version__}\n"


def test_a_stream_that_lacks_letters_gets_their_escapes(tmp_path, monkeypatch):
    picture.save_picture(np.zeros((4, 4, 3)), tmp_path / "cat.png", prompt="✓ ß", seed=1)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["show", str(tmp_path / "cat.png")]) == 0
    assert stream.buffer.getvalue() == b"px.generate(px.load(), '\\u2713 \\xdf', px.key(1))\n"
