"""A file appears whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import interrupted

from pixart_fn.files import atomic, owned


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "state.txt"
    path.write_text("old", "utf-8")
    return path


def write(path: Path, content: str = "new") -> None:
    atomic.write(path, lambda temporary: temporary.write_text(content, "utf-8"))


def temporary(folder: Path, machine: str | None = None, ending: str = "tmp") -> Path:
    """A name as a process takes it, of this machine or another."""
    return folder / f".pixart_fn-{machine or atomic._machine()}-{uuid.uuid4().hex}.{ending}"


def test_the_file_is_seen_only_when_it_is_complete(path):
    def save(temporary: Path) -> None:
        temporary.write_text("new", "utf-8")
        assert temporary.parent == path.parent  # a rename within one file system
        assert path.read_text("utf-8") == "old"

    atomic.write(path, save)
    assert path.read_text("utf-8") == "new" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, SystemExit])
def test_what_fails_leaves_the_old_file_and_nothing_else(path, error):
    def save(temporary: Path) -> None:
        temporary.write_text("half", "utf-8")
        raise error("the disk is full")

    with pytest.raises(error, match="the disk is full"):
        atomic.write(path, save)
    assert path.read_text("utf-8") == "old" and list(path.parent.iterdir()) == [path]


def test_an_interruption_at_any_line_leaves_one_whole_file_and_nothing_else(path):
    def check() -> None:
        assert path.read_text("utf-8") in ("old", "new") and list(path.parent.iterdir()) == [path]
        path.write_text("old", "utf-8")

    lines = interrupted.everywhere(lambda: write(path), check, atomic)
    assert lines > 40


@pytest.mark.slow
def test_a_process_that_ends_at_any_line_leaves_one_whole_file_and_the_next_write_removes_the_rest(path):
    def check() -> None:
        assert path.read_text("utf-8") in ("old", "new")
        write(path, "old")
        assert list(path.parent.iterdir()) == [path]

    lines = interrupted.everywhere(lambda: write(path), check, atomic, every=3, killed=True)
    assert lines > 40 and path.read_text("utf-8") == "new"


def test_a_timeout_of_the_callers_own_is_no_error_of_the_file(path):
    def late(*_):
        raise TimeoutError("too slow")

    def save(temporary: Path) -> None:
        signal.raise_signal(signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, late)
    try:
        with pytest.raises(TimeoutError, match=r"^too slow$"):
            atomic.write(path, save)
        first, second = (owned.Lock(path.parent, os.O_RDONLY) for _ in range(2))
        first.take()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(TimeoutError, match=r"^too slow$"):
            second.take()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
def test_interruptions_while_a_temporary_is_removed_leave_nothing_either(tmp_path, monkeypatch, folder):
    module, name = (shutil, "rmtree") if folder else (os, "unlink")
    real, left = getattr(module, name), [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]

    def remove(*args, **options):
        while left:
            signal.raise_signal(left.pop(0))
        return real(*args, **options)

    def stop(*_):
        raise SystemExit("stopped")

    def save(temporary: Path) -> None:
        if folder:
            (temporary / "unet").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, remove)
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with pytest.raises(SystemExit):
            atomic.temporarily(tmp_path, save, folder=folder)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not left and not list(tmp_path.iterdir())


def test_threads_that_write_one_file_leave_one_whole_file(path):
    wrong: list[str] = []

    def repeat(letter: str) -> None:
        for _ in range(25):
            write(path, letter * 10_000)
            if len(set(content := path.read_text("utf-8"))) != 1 or len(content) != 10_000:
                wrong.append(content)

    threads = [threading.Thread(target=repeat, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and list(path.parent.iterdir()) == [path]


# --- targets ----------------------------------------------------------------------------------------------------------


def test_a_link_to_another_file_system_stays_a_link(path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == path.stat().st_dev:
        pytest.skip("there is no second file system")
    real = other / f"pixart_fn-{uuid.uuid4().hex}"
    try:
        real.write_text("old", "utf-8")
        path.unlink()
        path.symlink_to(real)
        write(path)
        assert path.is_symlink() and real.read_text("utf-8") == "new" and list(path.parent.iterdir()) == [path]
    finally:
        real.unlink()


def test_a_link_that_leads_nowhere_says_so(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "none" / "file")
    with pytest.raises(FileNotFoundError, match=r"dangling', a link to '.*none/file', can't be written: .* no folder"):
        write(tmp_path / "dangling")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match=r"circle' can't be written: too many levels of symbolic links"):
        write(tmp_path / "circle")
    assert sorted(os.listdir(tmp_path)) == ["circle", "dangling"]


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.open(tmp_path, os.O_RDONLY)
        try:
            opened.bind(f"/proc/self/fd/{here}/socket")  # a socket's name holds at most 108 bytes
        finally:
            os.close(here)
        targets = {"pipe": "a pipe", "folder": "a folder", "socket": "a socket"}
        for name, kind in {**targets, "/dev/null": "a device", "/dev/full": "a device"}.items():
            with pytest.raises(OSError, match=f"{name}' is {kind}; name a"):
                write(tmp_path / name)
        (tmp_path / "link").symlink_to("/dev/null")
        with pytest.raises(OSError, match="link' is a device"):
            write(tmp_path / "link")
        assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe", "socket"]


def test_a_folder_that_cannot_be_written_to_is_one_sentence(path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"a\.txt' can't be written: there is no folder '.*none'"):
        write(path.parent / "none" / "a.txt")
    with pytest.raises(NotADirectoryError, match=r"a\.txt' can't be written: not a directory"):
        write(path / "a.txt")

    def refuse(name, flags, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(name))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=r"state\.txt' can't be written: permission denied$"):
        write(path)
    monkeypatch.undo()
    assert path.read_text("utf-8") == "old" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a" * 255, "кот" * 42, "two\nlines", "Ünïcödé 🐱", " ", "-rf", "a\udcffb"])
def test_every_name_that_the_system_takes_can_be_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        write(Path(name), "content")
        assert os.listdir(tmp_path) == [name] and Path(name).read_text("utf-8") == "content"


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("a" * 256, OSError, "can't be written: file name too long$"),
        ("a\0b", ValueError, r"'.*a\\x00b' can't be written: no file's name can hold what it holds"),
        ("a\ud800b", ValueError, r"'.*a\\ud800b' can't be written: no file's name can hold what it holds"),
    ],
)
def test_no_other_name_is_tried(tmp_path, name, error, sentence):
    with pytest.raises(error, match=sentence):
        write(tmp_path / name)
    assert not os.listdir(tmp_path)


def test_a_mount_point_is_overwritten_once_there_is_room(path, monkeypatch):
    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    inode = path.stat().st_ino
    for content in ("longer than before", "short", ""):
        write(path, content)
        assert path.read_text("utf-8") == content and path.stat().st_ino == inode
        assert list(path.parent.iterdir()) == [path]

    def full(descriptor, offset, size):
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, "No space left on device")

    write(path, "old")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no space left on device"):
        write(path, "longer than before")
    assert path.read_text("utf-8") == "old" and list(path.parent.iterdir()) == [path]


# --- what killed processes leave --------------------------------------------------------------------------------------


def test_what_a_killed_process_left_is_removed_and_nothing_else(path):
    left, older = temporary(path.parent), temporary(path.parent, "0" * 8)
    recent, live = temporary(path.parent, "0" * 8), temporary(path.parent)
    foreign = [path.parent / name for name in (".state.txt.tmp", ".pixart_fn-x.tmp", "pixart_fn.tmp")]
    for file in (left, older, recent, live, *foreign):
        file.write_text("half", "utf-8")
    folder = temporary(path.parent, ending="folder")
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "config.json").write_text("{}", "utf-8")
    temporary(path.parent).symlink_to(path)
    ago = time.time() - atomic.DAY - 60
    os.utime(older, (ago, ago))
    os.utime(live, (ago, ago))
    lock = owned.Lock(live, os.O_RDWR)
    assert lock.take(wait=False)
    write(path)
    lock.close()
    there = {each for each in path.parent.iterdir() if not each.is_symlink()}
    assert there == {path, recent, live, *foreign} and path.read_text("utf-8") == "new"
    write(path)
    assert not live.exists()  # its process is gone now


def test_without_locks_a_temporary_stays_for_a_day(path, monkeypatch):
    monkeypatch.setattr(owned.Lock, "take", lambda *_, **__: None)
    recent, older = temporary(path.parent), temporary(path.parent)
    for file in (recent, older):
        file.write_text("half", "utf-8")
    ago = time.time() - atomic.DAY - 60
    os.utime(older, (ago, ago))
    write(path)
    assert set(path.parent.iterdir()) == {path, recent}


@pytest.mark.parametrize("folder", [False, True])
def test_a_temporary_that_is_cleared_away_before_it_is_locked_is_made_again(tmp_path, monkeypatch, folder):
    take, calls = owned.Lock.take, []

    def late(lock: owned.Lock, wait: bool = True) -> bool | None:
        calls.append(lock)
        if len(calls) == 1:  # another process comes between
            atomic.clear(tmp_path)
        return take(lock, wait)

    monkeypatch.setattr(owned.Lock, "take", late)
    there = []
    atomic.temporarily(tmp_path, lambda temporary: there.append(temporary.exists()), folder=folder)
    assert there == [True] and not os.listdir(tmp_path)


def test_a_file_of_the_temporary_name_is_somebody_elses(path, monkeypatch):
    monkeypatch.setattr(uuid, "uuid4", lambda: SimpleNamespace(hex="0" * 32))
    theirs = temporary(path.parent)
    lock = owned.Lock(theirs, os.O_RDWR | os.O_CREAT)
    assert lock.take(wait=False)
    with pytest.raises(FileExistsError, match="is in use"):
        write(path)
    lock.close()
    assert theirs.exists() and path.read_text("utf-8") == "old"
