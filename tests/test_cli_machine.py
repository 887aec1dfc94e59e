"""doctor, bench, completion and the page: what they say of this machine, and the exit status."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import command, tiny
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, cli, pipeline, stages
from pixart_fn.checkpoint import controlnet, lora
from pixart_fn.cli import machine
from pixart_fn.process import limits

BENCH, DOCTOR, PAGE = (sys.modules[f"pixart_fn.cli.{name}"] for name in ("bench", "doctor", "app"))
GIB = 2**30


@pytest.fixture
def run(capsys):
    def run(*words):
        capsys.readouterr()
        return cli.main([*words]), *capsys.readouterr()

    return run


# --- doctor -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def circle(monkeypatch):
    """The embedded checkpoint's picture, in no time: its sixteen squares' mean colours."""
    colours = np.array(DOCTOR.MEANS, np.uint8)
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: tiny.params())
    picture = Image.fromarray(colours.repeat(32, 0).repeat(32, 1))
    monkeypatch.setattr(pipeline, "generate", lambda *_, **__: picture)
    return picture


def test_doctor_says_what_is_here_and_that_it_is_right(run, circle):
    status, out, err = run("doctor")
    lines = {line.split(maxsplit=1)[0]: line for line in out.splitlines()}
    assert (status, err) == (0, "") and "BROKEN" not in out
    assert lines["numpy"].split() == ["numpy", np.__version__] and lines["pixart_fn"].split()[1] == px.__version__
    assert lines["device"].split()[1] == "CPU" and "pinning: " in lines["threads"] and " GiB free" in lines["memory"]
    assert lines["product"].split()[1] == lines["picture"].split()[1] == "right,"
    assert {"python", "mindspore", "platform", "flags", "precision", "cache", "slow"} <= {*lines}


def test_doctor_as_json(run, circle):
    status, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert status == 0 and found["broken"] == [] and found["machine"]["device"] == "CPU"
    assert [each["name"] for each in found["checks"]] == ["MindSpore", "product", "picture"]
    assert found["machine"]["cpus_allowed"] == len(os.sched_getaffinity(0)) and found["versions"]["python"]


def test_a_wrong_picture_and_a_wrong_product_are_status_1(run, circle, monkeypatch):
    monkeypatch.setattr(pipeline, "generate", lambda *_, **__: Image.new("RGB", (128, 128), "white"))
    status, out, _ = run("doctor")
    assert status == 1 and "BROKEN: 'a red circle' of the embedded checkpoint looks wrong: a mean colour is 89" in out
    monkeypatch.setattr(DOCTOR, "ERROR", {"float32": 1e-12})
    status, out, _ = run("doctor", "--json")
    assert status == 1 and "a product of matrices is wrong by " in json.loads(out)["broken"][0]


def test_what_breaks_in_a_check_is_said(run, circle, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no\nlibrary")

    monkeypatch.setattr(DOCTOR, "product", fail)
    status, out, _ = run("doctor")
    assert status == 1 and "BROKEN: RuntimeError: no library\n" in out and "picture          right" in out
    monkeypatch.setattr(DOCTOR, "_import", fail)
    assert json.loads(run("doctor", "--json")[1])["broken"] == ["MindSpore: RuntimeError: no library"]


@pytest.mark.slow
def test_the_embedded_checkpoint_draws_what_doctor_expects():
    assert DOCTOR.picture().startswith("right, to ")


QUICK = {
    "device": "CPU", "cpu": "a CPU", "flags": ["avx512f", "amx_bf16"], "cpus": 8, "cpus_allowed": 8, "load": 0.5,
    "pinning": "shared", "memory_free": 64 * GIB, "nvidia": {"lacks": "no card"},
}  # fmt: skip


def test_what_is_slow_is_said_with_its_reason(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (always,) = machine.slow(QUICK)
    assert always.startswith("a released model takes minutes for a picture of 512 pixels")
    changes = {
        "lacks AVX-512": {"flags": ["amx_bf16"]},
        "lacks AMX": {"flags": ["avx512f"]},
        "2 of 8 CPUs alone": {"cpus_allowed": 2},
        "a load of 12.5": {"load": 12.5},
        "CPUs of their own": {"pinning": "free"},
        "8.0 GiB are free; so px.load leaves the encoder in its file": {"memory_free": 8 * GIB},
    }
    for said, change in changes.items():
        (_, found) = machine.slow(QUICK | change)
        assert said in found
    assert "px.device('GPU')" in machine.slow(QUICK | {"nvidia": {"lacks": None}})[1]
    assert machine.slow(QUICK | {"device": "GPU", "flags": []}) == []
    unknown = dict.fromkeys(("cpus_allowed", "load", "memory_free"))
    assert machine.slow(QUICK | unknown) == [always]


def test_the_limit_is_the_narrowest_group_s_or_the_system_s(tmp_path):
    assert limits.limit(tmp_path) is None
    group = tmp_path / "sys/fs/cgroup/a"
    for file, text in (
        (tmp_path / "proc/meminfo", "MemTotal: 9000 kB\n"),
        (tmp_path / "proc/self/cgroup", "0::/a\n"),
        (group / "memory.max", "max\n"),
        (group / "memory.current", "1000\n"),
        (group / "memory.stat", "anon 7\n"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert limits.limit(tmp_path) == 9000 * 1024
    (group / "memory.max").write_text("5000\n")
    assert limits.limit(tmp_path) == 5000


# --- bench ------------------------------------------------------------------------------------------------------------


def test_bench_measures_each_part(run, monkeypatch):
    """Without drawing, where each run takes longer than the one before."""
    clock = iter(range(10_000))
    command.painted(monkeypatch)
    monkeypatch.setattr(stages, "decode_latents", lambda params, latents: types.SimpleNamespace(asnumpy=lambda: None))
    monkeypatch.setattr(BENCH, "SIDE", 8)
    monkeypatch.setattr(BENCH, "_step", lambda params, side: lambda: None)
    monkeypatch.setattr(BENCH.time, "perf_counter", lambda: next(clock) ** 2)
    status, out, _ = run("bench", "--json", "-q")
    found = json.loads(out)["measured"]
    assert status == 0 and {*found} == {
        "import", "load", "first_picture", "later_picture", "decode", "first_step", "training_step", "product"
    }  # fmt: skip
    assert found["product"]["unit"] == "GFLOP/s" and found["load"]["unit"] == "s"
    assert all(each["value"] > 0 for each in found.values())
    assert found["later_picture"]["about"] == "20 steps"
    status, out, err = run("bench")
    assert status == 0 and err == "pixart-fn: this takes about a minute\n"
    assert [line.split("  ")[0] for line in out.splitlines()] == [name.replace("_", " ") for name in found] + ["device"]


def test_the_median_counts_and_the_first_run_apart(monkeypatch):
    times = iter([0, 9, 10, 11, 20, 25, 30, 32])
    monkeypatch.setattr(BENCH.time, "perf_counter", lambda: next(times))
    assert BENCH._timed(lambda: None) == (9, 2)


@pytest.mark.slow
def test_bench_trains_a_whole_transformer():
    step = BENCH._step(tiny.params(), 8)
    step()
    step()


# --- completion and the exit status -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_the_shell_reads(run, monkeypatch, shell):
    status, out, _ = run("completion", shell)
    assert status == 0 and f"_PIXART_FN_COMPLETE={shell}_complete" in out
    assert run("completion", "tcsh")[0] == 2


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("doc", "doctor"),
        ("generate --contr", "--control"),
        ("generate --solver ddim,heu", "ddim,heun"),
        ("generate --init ", None),
        ("fetch sigma-10", "sigma-1024"),
    ],
)
def test_a_shell_is_given_verbs_options_solvers_checkpoints_and_files(words, found):
    from click.shell_completion import ShellComplete

    *before, last = words.split(" ")
    given = ShellComplete(cli.command, {}, "pixart-fn", "_PIXART_FN_COMPLETE").get_completions(before, last)
    assert [each.type for each in given] == ["file"] if found is None else found in [each.value for each in given]


def test_bash_completes(tmp_path):
    """As a shell does with what was printed."""
    script = (
        'eval "$(pixart-fn completion bash)"; COMP_WORDS=(pixart-fn mod); COMP_CWORD=1;'
        "_pixart_fn_completion pixart-fn; echo ${COMPREPLY[@]}"
    )
    source = "import sys; from pixart_fn.cli import main; sys.exit(main())"
    (tmp_path / "pixart-fn").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{source}" "$@"\n')
    (tmp_path / "pixart-fn").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(px.__file__).parents[1])}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "models", done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FileNotFoundError("there is no file"), 2),
        (PermissionError("not yours"), 2),
        (ValueError("no"), 2),
        (OSError("the disk is full"), 1),
        (ConnectionError("the hub can't be reached"), 1),
        (MemoryError("a picture takes about 9 GiB; memory=9 would fit"), 1),
        (RuntimeError("the device can't be 'GPU' here: there is no driver"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_exit_status_says_whose_mistake_it_is(run, monkeypatch, error, status):
    def fail(*_):
        raise error

    monkeypatch.setattr("pixart_fn.picture.read_settings", fail)
    assert run("show", "cat.png")[0] == status
    assert "Exit status" in run("show", "--help")[1] and "130  Stopped by Ctrl-C" in run("--help")[1]


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch):
    """The arguments of `serve`, with a tiny model."""
    seen = []
    page = types.SimpleNamespace(check_free=lambda host, port: None)
    page.serve = lambda params, **options: seen.append((params, options))
    monkeypatch.setitem(sys.modules, "pixart_fn.app", page)
    monkeypatch.setattr(PAGE, "find_spec", lambda name: name)
    monkeypatch.setattr(checkpoint, "load", lambda source, **options: seen.append((source, options)) or tiny.params())
    monkeypatch.setattr(controlnet, "load", lambda source: ("net", source))
    return seen


def test_the_page_is_shown_with_what_is_given(run, served):
    notes = f"pixart-fn: loading the embedded checkpoint\npixart-fn: {tiny.params()!r}\n"
    assert run("app") == (0, "", notes)
    assert served[1] == (tiny.params(), {
        "host": "127.0.0.1", "port": 7860, "controlnet": ("net", None), "loaded": {"dtype": "float32"},
    })  # fmt: skip


def test_the_page_s_own_model_and_adapters(run, served, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lora, "load", lambda source, sha256: ("adapter", source))
    monkeypatch.setattr(lora, "merge", lambda params, adapter, weight: [*params, adapter, weight])
    monkeypatch.setattr(checkpoint, "load", lambda source, **options: served.append((source, options)) or [])
    for name in ("l", "k"):
        Path(name).write_bytes(name.encode())
    words = "--model m --variant fp16 --revision v1 --dtype float16"
    words += " --lora l --lora k --lora-weight 1 --lora-weight -0.5"
    assert run("app", *words.split(), *["--host", "0.0.0.0", "--port", "80", "-q"]) == (0, "", "")
    assert served[0] == ("m", {"dtype": "float16", "variant": "fp16", "revision": "v1"})
    params, options = served[1]
    assert params == [("adapter", "l"), 1.0, ("adapter", "k"), -0.5]
    hashes = [hashlib.sha256(name).hexdigest() for name in (b"l", b"k")]
    loaded = {"model": "m", "variant": "fp16", "revision": "v1", "dtype": "float16"}
    loaded |= {"lora": ["l", "k"], "lora_sha256": hashes, "lora_weight": [1.0, -0.5]}
    assert options == {"host": "0.0.0.0", "port": 80, "controlnet": None, "loaded": loaded}
    assert run("app", "--model", "m", "--controlnet", "c", "-q")[0] == 0
    assert served[3][1]["controlnet"] == ("net", "c") and served[3][1]["loaded"]["controlnet"] == "c"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--port", "0"), "--port must be 1 … 65535, got 0"),
        (["--lora=a", "--lora=b", "--lora-weight=1"], "--lora-weight must be given as often as --lora, 2, got 1"),
        (["--lora=a", "--lora-weight=nan"], "--lora-weight must be within [-1000, 1000], got nan"),
        (("--share",), "there is no option --share; pixart-fn app --help lists the options"),
        ((), "the page needs gradio: pip install '.[app]' in a clone"),
    ],
)
def test_a_mistake_about_the_page_is_one_sentence(run, monkeypatch, words, said):
    monkeypatch.setattr(PAGE, "find_spec", lambda name: None)
    monkeypatch.setattr(checkpoint, "load", None)
    status, out, err = run("app", *words)
    assert (status, out, err.count("\n")) == (2, "", 1) and said in err
