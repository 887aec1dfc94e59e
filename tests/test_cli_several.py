"""The command draws several pictures: numbered, on a sheet, one for each line, shared out to workers."""

from __future__ import annotations

import io
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from helpers.command import PROMPT, files, pixels, shown
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, picture, pipeline
from pixart_fn.backend.workers import Workers
from pixart_fn.cli import outputs
from pixart_fn.cli.outputs import BATCH, batches


def test_several_pictures_are_numbered_and_each_has_its_key(run, capsys, tmp_path):
    status, out, err = run("--out", "cat.png", "--n", "3")
    assert (status, out) == (0, "cat-0.png\ncat-1.png\ncat-2.png\n"), err
    assert files(tmp_path) == ["cat-0.png", "cat-1.png", "cat-2.png"]
    for i in range(3):
        # alone, sums have another order than in the batch of three
        assert np.abs(np.asarray(shown(capsys, f"cat-{i}.png"), int) - pixels(f"cat-{i}.png")).max() <= 1


def test_more_than_a_batch_are_the_same_pictures(run, monkeypatch):
    monkeypatch.setattr(outputs, "BATCH", 2)
    n = 3
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
    alone = batches(5, each, Workers())
    assert [i for batch in alone for i in batch] == list(range(5 * each))
    assert all(len(batch) <= BATCH and batch[0] // each == batch[-1] // each for batch in alone)
    shared = [batch for rank in range(3) for batch in batches(5, each, Workers(rank, 3))]
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
