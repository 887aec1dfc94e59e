"""Choosing a device: what is said where something is missing, what MindSpore finds, and that a CPU stays as it was."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pixart_fn as px
from pixart_fn.backend import convolution, cuda, device, nn, runtime
from pixart_fn.checkpoint.load import streamed as is_streamed

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

ROOT = Path(px.__file__).parents[1]
CARD = cuda.Driver(0, 12040, (cuda.Card("a card", 2**34, 8, 6),))


def python(source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**{name: value for name, value in os.environ.items() if name != runtime.CHOICE}, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", source]
    return subprocess.run(run, env={**env, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture
def all_there(monkeypatch):
    """As on a machine with all that a GPU needs; a test takes something away."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cuda, "driver", lambda: CARD)
    monkeypatch.setattr(cuda, "libraries", lambda: {name: Path("/lib", name) for name in cuda.LIBRARIES})
    monkeypatch.setattr(cuda, "plugin", lambda: Path("/plugin"))


# --- what is said -----------------------------------------------------------------------------------------------------


def test_without_an_argument_it_only_tells():
    assert px.device() == "CPU"


def test_the_device_in_use_may_be_chosen_again_in_capitals_or_not():
    assert px.device("cpu") == px.device("CPU") == "CPU"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("cuda", ValueError, r"name must be one of 'CPU', 'GPU', 'Ascend', got 'cuda'"),
        (0, TypeError, r"name must be one of 'CPU', 'GPU', 'Ascend', got"),
        (
            "GPU",
            RuntimeError,
            r"chosen before .*, and this process computes on CPU: call px.device\('GPU'\) right after",
        ),
    ],
)
def test_what_cant_be_chosen_is_refused(name, error, message):
    px.device()  # MindSpore is imported from here on
    with pytest.raises(error, match=message):
        px.device(name)


def test_nothing_is_missing_where_all_is_there(all_there):
    assert cuda.missing() is None


@pytest.mark.parametrize(
    ("where", "name", "value", "said"),
    [
        (platform, "system", "Darwin", r"on Linux with x86-64 alone, and this is Darwin on x86_64"),
        (platform, "machine", "aarch64", r"and this is Linux on aarch64"),
        (cuda, "plugin", None, r"plug-in for GPUs .* isn't there, which pip install 'mindspore==2.10.\*' brings"),
        (cuda, "driver", None, r"there is no NVIDIA driver \(libcuda.so.1 can't be loaded\)"),
        (cuda, "driver", cuda.Driver(100, 12040, ()), r"can't be used: cuInit gives the error 100"),
        (cuda, "driver", cuda.Driver(0, 10020, CARD.cards), r"is for CUDA 10.2: install one for CUDA 11 or newer"),
        (cuda, "driver", cuda.Driver(0, 12040, ()), r"sees no card; CUDA_VISIBLE_DEVICES hides"),
        (
            *(cuda, "libraries", dict.fromkeys(["libno-such.so.1", "libnone.so.2"])),
            r"the library libno-such.so.1 and 1 more of CUDA 11 isn't there, which pip install '\.\[gpu\]'",
        ),
    ],
)
def test_what_is_missing_is_said(all_there, monkeypatch, where, name, value, said):
    monkeypatch.setattr(where, name, lambda: value)
    with pytest.raises(RuntimeError, match=said):
        raise RuntimeError(cuda.missing())


def test_the_driver_is_asked_in_another_process(tmp_path, monkeypatch):
    assert cuda.driver() is None or cuda.driver().version > 0
    monkeypatch.setattr(cuda, "ASK", "import os; os.abort()")
    assert cuda.driver().status != 0
    monkeypatch.setattr(
        cuda, "ASK", 'print(\'{"status": 0, "version": 12040, "cards": [["a card", 17179869184, 8, 6]]}\')'
    )
    assert cuda.driver() == CARD


def test_the_environments_choice_is_refused_when_it_is_needed():
    run = python("import pixart_fn as px; print(px.split); px.device()", PIXART_FN_DEVICE="tpu")
    assert "ValueError: the environment variable PIXART_FN_DEVICE must be one of" in run.stderr
    assert "<function split" in run.stdout


# --- the script in place of nvcc --------------------------------------------------------------------------------------


def test_a_script_says_the_version(tmp_path):
    home = cuda.stand_in({"XDG_CACHE_HOME": str(tmp_path)})
    assert home == tmp_path / "pixart_fn" / "cuda-11.6" and cuda.release(str(home)) == "11.6"
    before = (home / "bin" / "nvcc").stat().st_mtime_ns
    assert cuda.stand_in({"XDG_CACHE_HOME": str(tmp_path)}) == home
    assert (home / "bin" / "nvcc").stat().st_mtime_ns == before


def test_a_folder_that_others_can_change_is_left_alone(tmp_path):
    (tmp_path / "pixart_fn" / "cuda-11.6" / "bin").mkdir(parents=True)
    (tmp_path / "pixart_fn" / "cuda-11.6" / "bin").chmod(0o777)
    home = cuda.stand_in({"XDG_CACHE_HOME": str(tmp_path)})
    assert tmp_path not in home.parents and cuda.release(str(home)) == "11.6"


@pytest.mark.parametrize(("version", "respected"), [("11.8", True), ("11.1", True), ("12.4", False), (None, False)])
def test_the_users_own_cuda_11_is_respected(tmp_path, monkeypatch, version, respected):
    own = tmp_path / "own"
    if version:
        (own / "bin").mkdir(parents=True)
        nvcc = own / "bin" / "nvcc"
        nvcc.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {version}, V{version}.89"\n')
        nvcc.chmod(0o755)
    loaded = []
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name, mode: loaded.append((name, mode)))
    monkeypatch.setattr(cuda, "libraries", lambda: {name: Path("/wheel", name) for name in cuda.LIBRARIES})
    environment = {"CUDA_HOME": str(own), "XDG_CACHE_HOME": str(tmp_path), "CUDA_MODULE_LOADING": "EAGER"}
    cuda.prepare(environment)
    assert (environment["CUDA_HOME"] == str(own)) == respected
    assert cuda.release(environment["CUDA_HOME"]) == (version if respected else "11.6")
    assert environment["CUDA_MODULE_LOADING"] == "EAGER" and int(environment["CUDA_CACHE_MAXSIZE"]) > 2**30
    names = cuda.LIBRARIES if respected else [f"/wheel/{name}" for name in cuda.LIBRARIES]
    assert loaded == [(name, cuda.ctypes.RTLD_GLOBAL) for name in ("libcuda.so.1", *names)]


# --- what follows from a device ---------------------------------------------------------------------------------------


def test_the_devices_differ_where_it_is_known():
    assert set(device.DEVICES) == set(device.NAMES)
    assert all(name == each.name for name, each in device.DEVICES.items())
    assert device.traits() == device.DEVICES["CPU"]


def channels_last(x, weight, pad, stride):
    """A convolution of (B, H, W, C) with (O, 3, 3, C), by its definition; it is padded above, below, left, right."""
    x = np.pad(x.asnumpy(), ((0, 0), pad[:2], pad[2:], (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::stride, ::stride]
    return ms.Tensor(np.einsum("bhwcij,oijc->bhwo", windows, weight.asnumpy()))


@pytest.mark.parametrize("name", ["same", "down", "up"])
def test_a_gpus_own_convolution_is_that_of_the_cpu(monkeypatch, name):
    weight = ms.Tensor(px.rng.normal(px.key(0), (5, 4, 3, 3)))
    x = ms.Tensor(px.rng.normal(px.key(1), (2, 6, 6, 4)))
    results = []
    for each in ("CPU", "GPU"):
        monkeypatch.setattr(nn, "DEVICE", device.DEVICES[each])
        monkeypatch.setattr(convolution, "_channels_last", channels_last)
        convolution.index_tables.cache_clear()
        tables = convolution.index_tables(name, 2, 4, 6)
        matrices = {"same": convolution.same_matrices(weight, 4), "down": convolution.kernel_matrix(weight)}
        matrices["up"] = convolution.up_matrices(weight)
        results.append(getattr(convolution, name)(x, matrices[name], *tables).asnumpy())
    convolution.index_tables.cache_clear()
    np.testing.assert_allclose(*results, atol=1e-5)


@pytest.mark.parametrize(
    ("gib", "dtype", "card", "streamed"),
    [
        (18, "float32", None, True),
        (18, "float16", None, False),
        (18, "float32", 80, False),
        (18, "float32", 24, True),
        (18, "float16", 24, False),
        (18, "float16", 16, True),
        (1, "float32", 1, False),
    ],
)
def test_t5_stays_on_a_card_whose_half_holds_it(gib, dtype, card, streamed):
    numbers = gib * 2**30 // 4
    assert is_streamed(numbers, dtype, card and card * 2**30) == streamed


def test_a_gpu_leaves_threads_and_waiting_to_the_system(all_there, monkeypatch):
    monkeypatch.setattr(cuda, "prepare", lambda environment: environment.update(CUDA_HOME="/here"))
    environment = {"MS_DEV_HOST_BLOCKING_RUN": "1"}
    monkeypatch.setattr(runtime.os, "environ", environment)
    monkeypatch.setattr(runtime._STATE, "blocking", True)
    assert runtime._prepare_gpu() is None
    assert environment == {"CUDA_HOME": "/here"}


# --- with a card ------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(cuda.missing() is not None, reason=f"no GPU to compute on: {cuda.missing()}")
def test_a_picture_is_drawn_on_the_card():
    run = python(
        "import pixart_fn as px; print(px.device('GPU'), px.precision());"
        "print(px.generate(px.load(), 'a cat', px.key(0), steps=2, progress=False).size)"
    )
    assert run.stdout.split() == ["GPU", "float32", "(128,", "128)"], run.stderr[-2000:]
