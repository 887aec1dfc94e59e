"""Real processes that are ended while they write; PIXART_FN_KILLS says how many, 8 unless it is set."""

from __future__ import annotations

import collections
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import writer

from pixart_fn.files import atomic

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
KILLS = int(os.environ.get("PIXART_FN_KILLS", "8"))
SIGNALS: dict[str, tuple[int, ...]] = {
    "SIGINT": (signal.SIGINT,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGKILL": (signal.SIGKILL,),
    "SIGINT, SIGTERM": (signal.SIGINT, signal.SIGTERM),  # as MindSpore answers the first with the second
}
COMES_BETWEEN = ("was replaced while it was read", "holds old and new files mixed")
"""What `load` says where it finds a pipeline that is being saved."""


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.writer"], cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if atomic.is_temporary(path.name)]


def versions(kind: str, folder: Path) -> set[float] | None:
    """Read what is there; None where it says that it is being replaced."""
    try:
        return writer.KINDS[kind][1](folder)
    except OSError as error:
        assert kind.startswith("pipeline") and any(part in str(error) for part in COMES_BETWEEN), error
        return None


def kill(process: subprocess.Popen[str], kind: str, signals: tuple[int, ...], folder: Path, pause: float) -> None:
    """Let a process write, read what it writes meanwhile, and end it."""
    assert process.stdout.readline() == "ready\n"
    process.stdin.write(f"{kind}\t{folder}\t1001\n")
    process.stdin.flush()
    assert process.stdout.readline() == "begins\n"
    end = time.monotonic() + pause
    while (left := end - time.monotonic()) > 0:
        found = versions(kind, folder)
        assert found is None or len(found) == 1, found
        time.sleep(min(left, 0.003))
    assert process.poll() is None, process.stderr.read()
    for number in signals:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and (signals == (signal.SIGKILL,) or "Interrupt" in errors or "stopped" in errors)


def test_a_process_that_is_ended_while_it_writes_leaves_the_old_or_the_new(tmp_path):
    chance, counts = random.Random(KILLS), collections.Counter[str]()
    waiting = start()
    for i in range(KILLS):
        process, waiting = waiting, start()  # it takes seconds until it is ready
        kind = list(writer.KINDS)[i % len(writer.KINDS)]
        name = chance.choice(list(SIGNALS))
        folder = tmp_path / str(i)
        folder.mkdir()
        writer.KINDS["pipeline" if kind.startswith("pipeline") else kind][0](folder, 1000)
        before = {path.relative_to(folder) for path in folder.rglob("*")}
        kill(process, kind, SIGNALS[name], folder, chance.uniform(0, 0.3))
        left, found = temporaries(folder), versions(kind, folder)
        counts[f"{kind}, {name}"] += 1
        counts["temporaries"] += bool(left)
        counts["refused"] += found is None
        counts["old"] += found == {1000}
        assert found is None or len(found) == 1, (kind, name, found)
        if name != "SIGKILL":
            assert not left and found is not None, (kind, name, left)
            assert {path.relative_to(folder) for path in folder.rglob("*")} == before
        writer.KINDS["pipeline" if kind.startswith("pipeline") else kind][0](folder, 2000)
        assert not temporaries(folder) and versions(kind, folder) == {2000}, (kind, name)
        assert {path.relative_to(folder) for path in folder.rglob("*")} == before
    waiting.kill()
    waiting.communicate()
    print(dict(counts))


@pytest.mark.parametrize("kind", ["pipeline", "picture", "state"])
def test_processes_that_write_the_same_leave_one_that_is_whole(tmp_path, kind):
    writer.KINDS[kind][0](tmp_path, 1000)
    processes = [start() for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for i, process in enumerate(processes):
        process.stdin.write(f"{kind}\t{tmp_path}\t{10_000 * i + 1}\n")
        process.stdin.flush()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        found = versions(kind, tmp_path)
        assert found is None or len(found) == 1, found
    for process in processes:
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert len(versions(kind, tmp_path)) == 1 and not temporaries(tmp_path)
