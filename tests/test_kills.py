"""Real processes that are ended while they write; PIXART_FN_KILLS says how many, 100 unless it is set."""

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
KILLS = int(os.environ.get("PIXART_FN_KILLS", "100"))
SIGNALS: dict[str, tuple[int, ...]] = {
    "SIGINT": (signal.SIGINT,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGKILL": (signal.SIGKILL,),
    "SIGINT, SIGTERM": (signal.SIGINT, signal.SIGTERM),  # as MindSpore answers the first with the second
}
STATUS = {
    "SIGINT": {writer.INTERRUPTED},
    "SIGTERM": {writer.STOPPED},
    "SIGKILL": {-signal.SIGKILL},
    "SIGINT, SIGTERM": {writer.INTERRUPTED, writer.STOPPED},  # Python calls the handler of the lower number first
}
COMES_BETWEEN = ("was replaced while it was read", "holds old and new files mixed")
"""What `load` says where it finds a pipeline that is being saved."""


class Writers:
    """Processes that write, all of them forked from one, which takes seconds until it is ready."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.writer"], cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"

    def _answer(self, *words: object) -> int:
        print(*words, sep="\t", file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def start(self, kind: str, folder: Path, first: int) -> int:
        """Start one, which writes versions from the first one on, and return its number."""
        return self._answer("write", kind, folder, first)

    def end(self, number: int, *signals: int) -> int:
        """Send signals to one and return the status with which it ended."""
        for each in signals:
            os.kill(number, each)
        return self._answer("wait", number)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def writers():
    found = Writers()
    yield found
    found.close()


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if atomic.is_temporary(path.name)]


def versions(kind: str, folder: Path) -> set[float] | None:
    """Read what is there; None where it says that it is being replaced."""
    try:
        return writer.KINDS[kind][1](folder)
    except OSError as error:
        assert kind.startswith("pipeline") and any(part in str(error) for part in COMES_BETWEEN), error
        return None


def watch(kind: str, folder: Path, seconds: float) -> None:
    """Read again and again what is written meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        found = versions(kind, folder)
        assert found is None or len(found) == 1, found
        time.sleep(min(left, 0.003))


def test_a_process_that_is_ended_while_it_writes_leaves_the_old_or_the_new(tmp_path, writers):
    chance, counts = random.Random(KILLS), collections.Counter[str]()
    for i in range(KILLS):
        kind = list(writer.KINDS)[i % len(writer.KINDS)]
        name = chance.choice(list(SIGNALS))
        folder = tmp_path / str(i)
        folder.mkdir()
        writer.KINDS["pipeline" if kind.startswith("pipeline") else kind][0](folder, 1000)
        before = {path.relative_to(folder) for path in folder.rglob("*")}
        number = writers.start(kind, folder, 1001)
        watch(kind, folder, chance.uniform(0, 0.1))
        assert writers.end(number, *SIGNALS[name]) in STATUS[name], (kind, name)
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
    print(dict(counts))


@pytest.mark.parametrize("kind", ["pipeline", "picture", "state"])
def test_processes_that_write_the_same_leave_one_that_is_whole(tmp_path, writers, kind):
    writer.KINDS[kind][0](tmp_path, 1000)
    numbers = [writers.start(kind, tmp_path, 10_000 * i + 1) for i in range(3)]
    watch(kind, tmp_path, 2)
    assert [writers.end(number, signal.SIGTERM) for number in numbers] == [writer.STOPPED] * 3
    assert len(versions(kind, tmp_path)) == 1 and not temporaries(tmp_path)
