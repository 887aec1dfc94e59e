"""What training promises as a whole: with other workers the same curve, and after a kill the same bits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import train_tiny
from helpers.tolerances import relative_error
from test_workers import job

from pixart_fn.files import safetensors
from pixart_fn.train import record

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("PIXART_FN_KILLS", "2"))
STEPS = 16
"""Of a run that is killed."""
CURVE = 1e-5
"""Of a loss that other workers add up, over ten steps; 1e-7 is what comes of it."""
ROUNDING = "to_k.bias"
"""Softmax cancels a key's bias, so its gradient is rounding alone, which Adam makes as large as any other."""


def losses(folder: Path) -> np.ndarray:
    return np.array([each["loss"] for each in record.read(folder).steps])


def weights(folder: Path) -> dict[str, np.ndarray]:
    stored, _ = safetensors.open_with_metadata(folder / "state.safetensors")
    return {name: leaf.copy() for name, leaf in stored.items() if ROUNDING not in name}


def test_two_workers_train_as_one_does_and_either_goes_on_where_the_other_stopped(tmp_path):
    """One worker, two, two after one, one after two."""
    names = one, two, grown, shrunk = [tmp_path / name for name in ("one", "two", "grown", "shrunk")]
    two.mkdir()
    with ThreadPoolExecutor(1) as pool:  # msrun waits for ten seconds in all, in which there is enough to do
        both = pool.submit(job, tmp_path, "python", "-m", "tests.helpers.train_tiny", two, 10, grown, 12)
        train_tiny.train(one, 5)
        shutil.copytree(one, tmp_path / "copy").rename(grown)
        train_tiny.train(one, 12)
        status, logs = both.result()
    assert status == 0, logs
    shutil.copytree(two, shrunk)
    train_tiny.train(shrunk, 12)
    expected = losses(one)
    assert [len(losses(each)) for each in names] == [12, 10, 12, 12] and np.ptp(expected) > 0.5
    for each in names[1:]:
        np.testing.assert_allclose(losses(each), expected[: len(losses(each))], rtol=CURVE, atol=0)
    for each in (grown, shrunk):
        far = {name: relative_error(leaf, weights(one)[name]) for name, leaf in weights(each).items()}
        assert max(far.values()) < CURVE, max(far, key=far.get)


def lines(folder: Path) -> int:
    log = folder / record.METRICS
    return log.read_bytes().count(b"\n") if log.exists() else 0


def killed(folder: Path, seed: int) -> int:
    """Train in a process of its own, kill it at a random step, and return how many steps it has recorded."""
    chance = random.Random(seed)
    folder.mkdir()
    command = [sys.executable, "-m", "tests.helpers.train_tiny", str(folder), str(STEPS)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    at = 1 + chance.randint(1, STEPS // 2)
    while lines(folder) < at and process.poll() is None:
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.1))  # within a step, or while it saves
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    return lines(folder) - 1


def test_a_run_that_was_killed_ends_with_the_bits_of_one_that_was_not(tmp_path):
    folders = [tmp_path / str(i) for i in range(KILLS)]
    with ThreadPoolExecutor(2) as pool:
        at = list(pool.map(killed, folders, range(KILLS)))
    whole = tmp_path / "whole"
    train_tiny.train(whole, STEPS)
    for folder, step in zip(folders, at, strict=True):
        file = folder / "state.safetensors"
        saved = int(safetensors.open_with_metadata(file)[1]["step"]) if file.exists() else 0
        print("killed at step", step, "saved at", saved)
        train_tiny.train(folder, STEPS)
        assert file.read_bytes() == (whole / "state.safetensors").read_bytes(), (step, saved)
        assert losses(folder).tolist() == losses(whole).tolist()
