"""Which device the command computes on, and what doctor says of an NVIDIA GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pixart_fn as px
from pixart_fn import checkpoint, cli
from pixart_fn.backend import cuda, device, runtime
from pixart_fn.cli import machine

GIB = 2**30


def run(capsys, *words):
    capsys.readouterr()
    return cli.main([*words]), *capsys.readouterr()


CARD = cuda.Card("H", 80 * GIB, 9, 0)


@pytest.mark.parametrize(
    ("driver", "held", "rows"),
    [
        (None, 0, [("GPU", "can't be used: no driver")]),
        (None, 2, [("CUDA 11", "2 of 13 libraries from wheels"), ("GPU", "can't be used: no driver")]),
        (
            cuda.Driver(0, 12040, (CARD,)), 13,
            [
                ("NVIDIA", "driver for CUDA 12.4; H, 80.0 GiB, 9.0"), ("CUDA 11", "13 of 13 libraries from wheels"),
                ("GPU", "can be used"),
            ],
        ),
        (
            cuda.Driver(100, 11080, ()), 0,
            [
                ("NVIDIA", "driver for CUDA 11.8; no card"), ("CUDA 11", "0 of 13 libraries from wheels"),
                ("GPU", "can't be used: no driver"),
            ],
        ),
    ],
)  # fmt: skip
def test_doctor_says_what_is_there_of_nvidia(monkeypatch, driver, held, rows):
    places = {name: Path("/wheels", name) if i < held else None for i, name in enumerate(cuda.LIBRARIES)}
    monkeypatch.setattr(cuda, "driver", lambda: driver)
    monkeypatch.setattr(cuda, "libraries", lambda: places)
    monkeypatch.setattr(cuda, "missing", lambda: None if driver and not driver.status else "no driver")
    found = machine.facts()
    json.dumps(found)
    assert [row for row in machine.lines(found) if row[0] in ("NVIDIA", "CUDA 11", "GPU")] == rows


def test_a_device_that_is_not_there_is_a_sentence_before_any_work(capsys, monkeypatch):
    monkeypatch.setattr(cuda, "missing", lambda: "no driver")
    monkeypatch.setattr(device, "has_ascend", lambda: False)
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: pytest.fail("it was loaded"))
    said = "pixart-fn: the device can't be 'GPU' here: no driver\n"
    verbs = ["generate a-cat", "train small", "prepare . --out out", "bench", "doctor", "app"]
    assert {run(capsys, *verb.split(), "--device", "gpu") for verb in verbs} == {(1, "", said)}
    assert "the device can't be 'Ascend' here: there is no Ascend NPU" in run(capsys, "bench", "--device", "Ascend")[2]
    status, _, err = run(capsys, "bench", "--device", "tpu")
    assert status == 2 and "'tpu' is not one of 'cpu', 'gpu', 'ascend'" in err
    assert runtime.CHOICE not in os.environ


def test_the_device_holds_for_the_process_and_those_that_it_starts(capsys, monkeypatch):
    monkeypatch.setenv(runtime.CHOICE, "Ascend")  # the option goes first
    assert run(capsys, "train", "--list", "--device", "cpu")[0] == 0
    assert os.environ[runtime.CHOICE] == "CPU" and px.device() == "CPU"


def test_without_mindspore_the_command_says_what_to_install():
    code = "import sys; sys.modules['mindspore'] = None; from pixart_fn import cli; sys.exit(cli.main(sys.argv[1:]))"
    for words, stream in ((["generate", "a cat"], "stderr"), (["train", "small"], "stderr"), (["doctor"], "stdout")):
        ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert "MindSpore isn't installed, and models compute with it" in getattr(ran, stream)
        assert "Traceback" not in ran.stderr
