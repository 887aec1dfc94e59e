"""Many workers: what each one's part is, what they exchange, and how a job of two runs and ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny

import pixart_fn as px
from pixart_fn import picture
from pixart_fn.backend import workers as workers_
from pixart_fn.backend.workers import Workers, agree, assigned, barrier, broadcast_tree, gather_rows, packed, share

from pixart_fn.backend.workers import is_scheduler, start, sum_trees  # isort: skip

MSRUN = ("MS_ROLE", "RANK_ID", "MS_WORKER_NUM")


@pytest.fixture
def msrun(monkeypatch):
    """Set what msrun sets."""

    def set_environment(*values):
        for name, value in zip(MSRUN, values, strict=True):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    set_environment(None, None, None)
    return set_environment


def test_without_msrun_there_is_one_worker_and_nothing_is_exchanged(msrun):
    alone = start()
    assert alone == assigned() == Workers(0, 1) and not is_scheduler()
    tree = object()  # nobody looks into it
    assert sum_trees(alone, tree) is tree and broadcast_tree(alone, tree) is tree and gather_rows(alone, tree) is tree
    assert agree(alone, True) is True and agree(alone, False) is False and barrier(alone) is None


def test_msrun_says_who_a_process_is(msrun):
    msrun("MS_WORKER", "3", "8")
    assert assigned() == Workers(3, 8) and not is_scheduler()
    msrun("MS_SCHED", "0", "8")
    assert is_scheduler()
    msrun("MS_WORKER", None, "8")
    with pytest.raises(ValueError, match=r"must set 'RANK_ID' for each worker, which it does on .* with --node_rank"):
        assigned()


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_is_below_the_size(rank, size):
    with pytest.raises(ValueError, match=r"(rank|size) must be"):
        Workers(rank, size)


@pytest.mark.parametrize("count", [0, 1, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_shares_have_no_overlap_and_leave_nothing_out(size, count):
    parts = [share(Workers(rank, size), count) for rank in range(size)]
    assert sorted(i for part in parts for i in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], []),
        ([3], [(0, 1)]),
        ([3, 4, 3, 1], [(0, 3), (3, 4)]),
        ([10, 20, 10], [(0, 1), (1, 2), (2, 3)]),  # a leaf alone may be larger
        ([0, 10, 0, 1], [(0, 3), (3, 4)]),
        ([1] * 25, [(0, 10), (10, 20), (20, 25)]),
    ],
)
def test_leaves_are_packed_in_their_order(sizes, parts):
    assert list(packed(sizes, 10)) == parts


@pytest.mark.parametrize("dtype", ["float64", "int8", "uint64", "bool", "float16"])
@pytest.mark.parametrize("shape", [(), (0, 2), (3,), (2, 3)])
def test_bytes_travel_as_whole_numbers(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    words = workers_._words(array)
    assert words.dtype == np.int32
    received = workers_._unpacked(words, array)
    assert received.dtype == array.dtype and received.shape == shape and np.array_equal(received, array)


def test_objects_do_not_travel():
    with pytest.raises(TypeError, match="must hold numbers, got objects"):
        workers_._words(np.array([None]))


# --- jobs of two workers ----------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def job(folder, *words, seconds=120):
    """Run a command as two workers, with this Python, in a folder of their own."""
    here = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    environment["MS_NODE_TIMEOUT"] = "5"
    environment["PYTHONPATH"] = str(Path(px.__file__).parents[1])
    command = [sys.executable, "-m", "mindspore.parallel.cluster.run", "--worker_num=2", "--local_worker_num=2"]
    command += [f"--master_port={free_port()}", "--join=True", "--log_dir=logs", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
    logs = "".join(file.read_text(errors="replace") for file in sorted((folder / "logs").glob("worker_*.log")))
    return done.returncode, logs


@pytest.mark.slow
def test_two_workers_get_the_same_bits_and_end_when_one_is_killed(tmp_path):
    # the last thing that the script does is to kill rank 1, for which rank 0 would wait half an hour
    status, logs = job(tmp_path, Path(__file__).with_name("helpers") / "workers_exchange.py", tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.txt")) == ["0.txt", "1.txt"], logs
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
    assert status != 0 and "Traceback" not in logs
    assert len(logs.splitlines()) < 10  # MindSpore says little


@pytest.mark.slow
def test_the_command_shares_its_prompts_out(tmp_path):
    px.save(tiny.params(), tmp_path / "model")
    (tmp_path / "lines.txt").write_text("a cat\na dog\nan apple\n")
    options = ("--prompts", "lines.txt", "--model", "model", "--steps", "2")
    status, logs = job(tmp_path, "python", "-m", "pixart_fn", "generate", *options)
    assert status == 0, logs
    names = [f"picture-{i}.png" for i in range(3)]
    assert sorted(line for line in logs.splitlines() if line.endswith(".png")) == names
    assert [picture.read_settings(tmp_path / name)["prompt"] for name in names] == ["a cat", "a dog", "an apple"]
    assert logs.count("pixart-fn: loading") == 1
