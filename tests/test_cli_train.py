"""The command's verbs of training: what they are given reaches the library, and a mistake is one sentence."""

from __future__ import annotations

import json
import sys

import matplotlib
import numpy as np
import pytest
from helpers import tiny
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, cli, plots
from pixart_fn.backend import workers as workers_
from pixart_fn.backend.workers import Workers
from pixart_fn.checkpoint import lora
from pixart_fn.train import data, job, recipe, record
from pixart_fn.train.data import sources
from pixart_fn.train.data.entries import Skipped
from pixart_fn.train.data.prepare import Report

matplotlib.use("Agg")
GIVEN = ("--data", "data", "--out", "out")
TRAIN, PREPARE = (sys.modules[f"pixart_fn.cli.{name}"] for name in ("train", "prepare"))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command in an empty folder, in this process, whose device is settled → (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for verb in (TRAIN, PREPARE):
        monkeypatch.setattr(verb, "settle_on_cpu", lambda: None)

    def run(*words):
        capsys.readouterr()
        return cli.main([*map(str, words)]), *capsys.readouterr()

    return run


class State:
    step = 400


# --- train ------------------------------------------------------------------------------------------------------------


def test_help_lists_every_field(run):
    status, out, err = run("train", "--help")
    assert (status, err) == (0, "") and "default: ()" not in out
    words = " ".join(out.split())
    for each in recipe.fields():
        assert f"{each.name} {each.help} [{each.kind}" in words
    assert "default: adamw]" in words and "default: 0.9999]" in words and "default: true]" in words


def test_the_recipes_are_listed(run):
    status, out, err = run("train", "--list")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == list(recipe.names())
    assert "small                           The embedded model on your own pictures, in minutes on two cores.\n" in out


def test_what_is_given_reaches_the_training(run, monkeypatch):
    seen = {}
    monkeypatch.setattr(job, "run", lambda made, **options: seen.update(options, recipe=made) or State)
    words = (
        "model.start=me/mine", "run.dtype=float16", 'samples.prompts=["a", "b"]', "lora.dora=true", "run.seed=7",
        "run.steps=400",
    )  # fmt: skip
    status, out, err = run("train", "lora", *GIVEN, *(word for each in words for word in ("--set", each)))
    assert (status, out, err) == (0, "out/adapter\n", "")
    changes = {
        "data.path": "data", "run.out": "out", "model.start": "me/mine", "run.dtype": "float16",
        "samples.prompts": ["a", "b"], "lora.dora": True, "run.seed": 7, "run.steps": 400,
    }  # fmt: skip
    assert seen == {"recipe": recipe.read("lora", changes), "workers": Workers(0, 1), "progress": True}
    assert run("train", "small", *GIVEN, "--set", "model.train=lora")[1] == "out/adapter\n"
    assert run("train", "small", *GIVEN)[1] == "out/pipeline\n"
    said = "pixart-fn: stopped after step 400 of 500; the same command goes on from here\n"
    assert run("train", "small", *GIVEN, "--set", "run.steps=500") == (0, "out/pipeline\n", said)


def test_texts_may_stand_without_quotes():
    for text in ("a/b", '"a/b"', "'a/b'"):
        assert recipe.assigned([f"model.start={text}"]) == {"model.start": "a/b"}
    assert recipe.assigned(["optimiser.eps=none", 'model.start="none"']) == {
        "optimiser.eps": None,
        "model.start": "none",
    }
    assert recipe.assigned(["model.start=2026", "run.out=a=b", "run.steps=1_000", "optimiser.lr=1e-4"]) == {
        "model.start": "2026", "run.out": "a=b", "run.steps": 1000, "optimiser.lr": 1e-4,
    }  # fmt: skip


@pytest.mark.parametrize("words", [("-q",), ()])
def test_only_the_first_worker_speaks(run, monkeypatch, words):
    seen = []
    monkeypatch.setattr(job, "run", lambda made, **options: seen.append(options) or State)
    monkeypatch.setattr(workers_, "start", lambda: Workers(0 if words else 1, 2))
    assert run("train", "small", *GIVEN, *words) == (0, "", "")
    assert seen == [{"workers": Workers(0 if words else 1, 2), "progress": False}]


STOPPED = (
    "pixart-fn: stopped; the same command goes on from here, and with --set run.minutes=0 it writes the model as it is"
)


def test_ctrl_c_says_how_to_go_on(run, monkeypatch, tmp_path):
    def stopped(made, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run", stopped)
    status, out, err = run("train", "small", *GIVEN)  # before there was anything to go on from
    assert (status, out, err.strip()) == (130, "", "")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.safetensors").touch()
    status, out, err = run("train", "small", *GIVEN)
    assert (status, out, err.strip()) == (130, "", STOPPED)


WRONG = {
    "twice": (
        ("train", "small", *GIVEN, "--set", "run.out=other"),
        "--out and --set run.out are the same; give one of them",
    ),
    "list": (("train", "--list", "small"), "--list takes no recipe and no other options than --quiet"),
    "nothing": (("train",), "name a recipe; pixart-fn train --list lists those that come with the package"),
    "recipe": (("train", "smal", *GIVEN), "there is no recipe 'smal'; the nearest is 'small'"),
    "no data": (("train", "small"), "small must say data.path: --data DIR"),
    "no folder": (("train", "small", "--data", "x"), "small must say run.out: --out DIR"),
    "field": (
        ("train", "small", "--set", "run.step=3"),
        "a recipe has no field 'run.step'; the nearest is 'run.steps'",
    ),
    "no value": (("train", "small", "--set", "run.steps"), "an assignment is such as run.steps=500, got 'run.steps'"),
    "TOML": (
        ("train", "small", "--set", "run.steps=ten"),
        "run.steps must be a whole number within 0 … 2147483648 as TOML writes it, got 'ten'",
    ),
    "two lines": (("train", "small", "--set", "run.steps=1\nseed=2"), "run.steps must be a whole number"),
    "range": (("train", "small", *GIVEN, "--set", "data.dropout=2"), "dropout must be a finite number within 0 … 1"),
    "a field as an option": (("train", "small", "--lr", "3"), "there is no option --lr; --set optimiser.lr=… gives it"),
    "with its section": (("train", "--run.batch", "1"), "there is no option --run.batch; "),
    "dashes": (("train", "--batch-size", "1"), "there is no option --batch-size; --set data.batch_size=… gives it"),
    "option": (("train", "--quite"), "there is no option --quite; the nearest is --quiet"),
    "source": (("prepare", "nowhere", "--out", "data"), "there is no folder or file 'nowhere'"),
    "out": (("prepare", "nowhere"), "Missing option '--out'"),
    "kind": (("prepare", "x", "--out", "y", "--kind", "z"), "'z' is not one of 'imagefolder', 'webdataset', 'authors'"),
    "size": (("prepare", "x", "--out", "y", "--size", "8x8"), "--size must be a number of pixels or multi, got '8x8'"),
    "workers": (("prepare", "x", "--out", "y", "--workers", "0"), "--workers must be 1 … 256, got 0"),
    "shard": (("prepare", "x", "--out", "y", "--shard", "4/4"), "--shard must be I/N, the I-th of N parts from 0"),
    "no run": (("plot",), "Missing argument 'RUN"),
    "not there": (("plot", "nowhere"), "nowhere/metrics.jsonl: No such file or directory"),
    "ending": (("plot", "run", "--out", "a.gif"), "the name of a figure must end in .png, .svg, .pdf; got 'a.gif'"),
    "a folder missing": (("plot", "run", "--out", "no/a.png"), "'no/a.png' can't be written"),
}


@pytest.mark.parametrize("content", ["a = " + "[" * 100_000, "[run]\nsteps = " + "9" * 5000])
def test_a_recipe_that_its_parser_chokes_on_is_one_sentence(run, tmp_path, content):
    (tmp_path / "a.toml").write_text(content)
    status, _, err = run("train", "a.toml", *GIVEN)
    assert status == 2 and err.startswith("pixart-fn: a.toml isn't TOML: ")
    status, _, err = run("train", "small", *GIVEN, "--set", f"run.steps={content.partition(' = ')[2]}")
    assert status == 2 and " as TOML writes it, got " in err


def test_records_that_their_parser_chokes_on_are_one_sentence(run, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"header": {}}\n' + "[" * 100_000 + "\n")
    assert run("plot", ".") == (2, "", "pixart-fn: line 2 of metrics.jsonl isn't JSON\n")


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence(run, monkeypatch, name, tmp_path):
    words, sentence = WRONG[name]
    monkeypatch.setattr(checkpoint, "load", None)  # before any work
    status, out, err = run(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("pixart-fn: ") and sentence in err and not [*tmp_path.iterdir()]


# --- prepare ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a cat" if i % 2 else "a dog")
    return folder


def test_what_is_given_reaches_the_preparation(run, monkeypatch, pictures):
    seen, report = {}, Report(6, (Skipped("a.png", "it is none"), *[Skipped("b.png", "nor this")] * 4), True)

    def encoded(source, params, out, **options):
        seen.update(options, source=source, out=out)
        return report

    def opened(*words):
        seen["words"] = words
        return listed(*words)

    listed = sources.open
    monkeypatch.setattr(sources, "open", opened)
    monkeypatch.setattr(data.prepare, "run", encoded)
    monkeypatch.setattr(checkpoint, "load", lambda *args, **options: seen.update(load=(args, options)))
    status, out, err = run(
        "prepare", "pictures", "--out", "data", "--model", "m", "--variant", "fp16", "--revision", "v1",
        "--size", "multi", "--shard", "1/3", "--no-clean", "--workers", "5", "--caption", "a", "--kind", "imagefolder",
        "--column", "c", "--edges", "canny",
    )  # fmt: skip
    assert (status, out) == (0, "6 examples in data, 5 skipped (listed in data/skipped.jsonl)\n")
    assert err.splitlines()[3:] == [
        "pixart-fn: skipped a.png: it is none", *["pixart-fn: skipped b.png: nor this"] * 2
    ]  # fmt: skip
    assert len(seen.pop("source")) == 8 and seen.pop("words") == ("pictures", "imagefolder", "c", "a")
    assert seen == {
        "load": (("m",), {"variant": "fp16", "revision": "v1"}), "out": "data", "size": "multi", "shard": (1, 3),
        "clean": False, "workers": 5, "progress": True, "edges": "canny",
    }  # fmt: skip
    report = Report(6, (), False)
    assert run("prepare", "pictures", "--out", "data", "--size", "32")[1] == (
        "6 examples of this shard in data; other shards aren't ready yet\n"
    )
    assert (seen["size"], seen["shard"], seen["load"]) == (32, (0, 1), ((None,), {}))
    monkeypatch.setattr(workers_, "assigned", lambda: Workers(1, 2))
    assert run("prepare", "pictures", "--out", "data")[1:] == ("", "") and seen["shard"] == (1, 2)


def test_the_kinds_are_those_of_sources():
    assert PREPARE.KINDS == sources.KINDS


# --- plot -------------------------------------------------------------------------------------------------------------


def write_run(folder, steps):
    folder.mkdir(parents=True)
    rows = [{"header": {}}, *({"step": i + 1, "loss": 1 / (i + 1), "norm": 2.0} for i in range(steps))]
    (folder / record.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Figure:
    """What matplotlib would draw, in no time."""

    def savefig(self, path, format, dpi):
        path.write_text(format)


def test_a_run_is_drawn_into_a_file(run, tmp_path):
    write_run(tmp_path / "mine", 3)
    assert run("plot", "mine", "--out", "a.png") == (0, "a.png\n", "")
    with Image.open("a.png") as opened:
        assert opened.format == "PNG" and min(opened.size) > 400


def test_several_runs_are_drawn_by_their_names(run, tmp_path, monkeypatch):
    drawn = []
    axes = [type("Axes", (), {"figure": Figure()})]
    monkeypatch.setattr(plots, "training", lambda named: drawn.append(named) or axes)
    for name in ("a", "b", "c/a"):
        write_run(tmp_path / name, 3)
    assert run("plot", "a") == (0, "curves.png\n", "")
    assert run("plot", "a", "b") == (2, "", "pixart-fn: 'curves.png' exists already; --force overwrites it\n")
    assert run("plot", "a", "b/", "--force")[0] == run("plot", "a", "c/a", "--out", "both.svg")[0] == 0
    assert (tmp_path / "both.svg").read_text() == "svg"
    assert [list(named) for named in drawn] == [["a"], ["a", "b"], ["a", "c/a"]]
    assert [row["loss"] for row in drawn[0]["a"]] == [1, 1 / 2, 1 / 3]
    write_run(tmp_path / "new", 0)
    assert run("plot", "new", "--force")[2] == "pixart-fn: the training in 'new' has taken no step yet\n"
    assert run("plot", "a", "a", "--force")[2] == "pixart-fn: a RUN is named twice\n"


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_a_model_and_an_adapter_that_draw(run, tmp_path, pictures):
    (pictures / "broken.png").write_bytes(b"no picture")
    (pictures / "broken.txt").write_text("a cat")
    px.save(tiny.params(), tmp_path / "tiny")
    status, out, err = run("prepare", "pictures", "--out", "data", "--model", "tiny")
    assert (status, out) == (0, "8 examples in data, 1 skipped (listed in data/skipped.jsonl)\n"), err

    short = [f"--set={each}" for each in ("data.batch_size=4", "run.steps=4", "optimiser.lr=1e-2", "run.ema=0")]
    sheets = [f"--set={each}" for each in ("samples.every=4", "samples.steps=2", 'samples.prompts=["a cat"]')]
    words = ("train", "small", "--data", "data", "--out", "run", "--set", "model.start=tiny", *short, *sheets)
    status, out, err = run(*words, "--set", "run.minutes=0")  # what is there so far is written
    assert (status, out) == (0, "run/pipeline\n") and "stopped after step 0 of 4" in err
    assert px.load("run/pipeline").config.transformer == tiny.params().config.transformer
    status, out, err = run(*words)
    assert (status, out) == (0, "run/pipeline\n"), err
    rows = record.read("run")
    assert [row["step"] for row in rows.steps] == [1, 2, 3, 4] and rows.header["recipe"]["run"]["steps"] == 4
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["step-0000004.png"]
    assert run("plot", "run") == (0, "curves.png\n", "")
    assert run(*words)[:2] == (0, "run/pipeline\n") and record.read("run") == rows  # it goes on, where nothing is left

    options = {"steps": 2, "progress": False}
    drawn = px.generate(px.load("run/pipeline"), "a cat", px.key(0), **options)
    before = px.generate(tiny.params(), "a cat", px.key(0), **options)
    assert np.asarray(drawn).shape == (16, 16, 3) and not np.array_equal(drawn, before)
    with Image.open("run/samples/step-0000004.png") as sheet:  # of the recipe's guidance, 3
        again = px.generate(px.load("run/pipeline"), "a cat", px.key(0), guidance=3.0, **options)
        assert np.abs(np.asarray(sheet, int) - np.asarray(again, int)).max() <= 1

    words = ("train", "lora", "--data", "data", "--out", "adapted", "--set", "model.start=run/pipeline", *short)
    assert run(*words)[:2] == (0, "adapted/adapter\n")
    adapter, params = lora.load("adapted/adapter"), px.load("run/pipeline")
    merged = params.replace(transformer=px.lora.merge(params.transformer, adapter))
    assert not np.array_equal(px.generate(merged, "a cat", px.key(0), **options), drawn)
