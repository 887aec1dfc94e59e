"""The files of a folder are replaced together: whoever reads it finds the old ones or the new ones."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from pathlib import Path

import pytest
from helpers import interrupted
from helpers.folders import INDEX, assert_kept, fill, inode, read, replace

from pixart_fn.files import atomic, folder
from pixart_fn.process import signals


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / "old"
    path.mkdir()
    fill(path, "old")
    (path / "notes").mkdir()
    (path / "notes" / "a.txt").write_text("kept", "utf-8")
    (path / "link").symlink_to("notes/a.txt")
    return path


@pytest.fixture(params=["exchanged", "no exchange", "current folder", "mount point", "parent is protected"])
def way(request, old, monkeypatch) -> str:
    """Each reason for which files may have to be moved in one by one."""

    def missing(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    access = os.access
    if request.param == "no exchange":
        monkeypatch.setattr(folder, "_exchange", missing)
    if request.param == "current folder":
        monkeypatch.chdir(old / "vae")
    if request.param == "mount point":
        monkeypatch.setattr(folder, "_mount_points", lambda: {old})
    if request.param == "parent is protected":
        monkeypatch.setattr(os, "access", lambda path, how: Path(path) != old.parent and access(path, how))
    return request.param


def test_a_new_folder_and_those_above_it_are_made(tmp_path):
    replace(tmp_path / "deep" / "new")
    assert read(tmp_path / "deep" / "new") == {"new"} and os.listdir(tmp_path / "deep") == ["new"]


def test_files_are_replaced_and_the_others_stay(old, way):
    for name, mode in (("vae/weights", 0o600), ("notes", 0o700), ("vae", 0o750), ("", 0o755)):
        (old / name).chmod(mode)
    notes = inode(old / "notes" / "a.txt")
    before = inode(old)
    replace(old)
    assert read(old) == {"new"}
    assert_kept(old)
    assert (inode(old) != before) == (way == "exchanged") and inode(old / "notes" / "a.txt") == notes
    for name, mode in (("vae/weights", 0o600), ("notes", 0o700), ("vae", 0o750), ("", 0o755)):
        assert stat.S_IMODE((old / name).stat().st_mode) == mode, name


def test_what_fails_leaves_everything_as_it_was(old, way):
    def fail(new: Path) -> None:
        fill(new)
        raise ValueError("a weight isn't finite")

    with pytest.raises(ValueError, match="a weight isn't finite"):
        folder.replace(old, INDEX, fail)
    assert read(old) == {"old"}
    assert_kept(old)


def test_a_full_disk_names_the_folder(old, way, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"old' can't be written: no space left on device$") as raised:
            replace(old)
    assert raised.value.errno == errno.ENOSPC and read(old) == {"old"}
    assert_kept(old)


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interruption_at_any_line_leaves_the_old_files_or_the_new_ones(old, way, monkeypatch, every):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of which take seconds
    found = set()

    def check() -> None:
        found.update(content := read(old))
        assert len(content) == 1
        assert_kept(old)
        if content == {"new"}:
            replace(old, "old")

    lines = interrupted.everywhere(lambda: replace(old), check, folder, every=every)
    assert lines > 30 and found >= ({"old", "new"} if every == 1 else {"old"}) and read(old) == {"new"}


@pytest.mark.slow
def test_a_process_that_ends_at_any_line_leaves_the_old_files_or_the_new_ones_or_a_mark(old, way, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    refused = 0

    def check() -> None:
        nonlocal refused
        try:
            assert read(old) in ({"old"}, {"new"})
        except OSError as error:
            assert "holds old and new files mixed" in str(error)
            refused += 1
        replace(old, "old")
        assert read(old) == {"old"}
        assert_kept(old)

    every = int(os.environ.get("PIXART_FN_EVERY", "29"))  # a process that has loaded MindSpore takes long to fork
    lines = interrupted.everywhere(lambda: replace(old), check, folder, atomic, every=every, killed=True)
    assert lines > 100 and read(old) == {"new"} and bool(refused) == (way != "exchanged")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir(mode=0o700)
    replace(tmp_path / "empty")
    assert read(tmp_path / "empty") == {"new"} and os.listdir(tmp_path) == ["empty"]
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700


def test_a_folder_without_an_index_stays_the_same_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("kept", "utf-8")
    before = inode(tmp_path / "mine")
    replace(tmp_path / "mine")
    assert read(tmp_path / "mine") == {"new"} and inode(tmp_path / "mine") == before
    assert sorted(os.listdir(tmp_path / "mine")) == ["diary.txt", INDEX, "vae"]


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_stays_a_link(tmp_path, old, dangling):
    (tmp_path / "link").symlink_to("new" if dangling else "old")
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and read(tmp_path / ("new" if dangling else "old")) == {"new"}


def test_files_behind_a_link_inside_are_replaced_where_they_are(tmp_path, old):
    (old / "vae").rename(tmp_path / "shared")
    (old / "vae").symlink_to("../shared")
    replace(old)
    assert (old / "vae").is_symlink() and read(old) == {"new"}
    assert sorted(os.listdir(tmp_path)) == ["old", "shared"]


def test_a_linked_file_is_replaced_and_not_what_it_leads_to(tmp_path, old):
    """As in the hub's cache, where several folders share one file."""
    (old / "vae" / "weights").rename(tmp_path / "blob")
    (old / "vae" / "weights").symlink_to("../../blob")
    replace(old)
    assert read(old) == {"new"} and (tmp_path / "blob").read_text("utf-8") == "old"


def test_without_hard_links_files_are_copied(old, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    replace(old)
    assert read(old) == {"new"}
    assert_kept(old)


def test_a_file_that_is_a_mount_point_is_overwritten(old, monkeypatch):
    weights = inode(old / "vae" / "weights")
    rename = os.replace

    def busy(source: object, target: object) -> None:
        if Path(str(target)) == old / "vae" / "weights":
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(source, target)

    monkeypatch.setattr(folder, "_mount_points", lambda: {old / "vae" / "weights"})
    monkeypatch.setattr(os, "replace", busy)
    replace(old)
    assert read(old) == {"new"} and inode(old / "vae" / "weights") == weights
    assert_kept(old)


def test_what_is_no_folder_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, error, sentence in [
        ("file", FileExistsError, "file is a file; name a folder"),
        ("pipe", FileExistsError, "pipe is no folder; name a folder"),
        ("file/new", NotADirectoryError, "new' can't be written: not a directory"),
        ("a" * 256, OSError, "a' can't be written: file name too long"),
        ("a\0b", ValueError, r"a\\x00b' can't be written: no file's name can hold what it holds"),
    ]:
        with pytest.raises(error, match=sentence):
            folder.replace(tmp_path / name, INDEX, lambda new: pytest.fail("written"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"the folder '.*' can't be written to"):
        folder.replace(tmp_path, INDEX, lambda new: pytest.fail("written"))
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


@pytest.mark.parametrize("name", ["a" * 255, "two\nlines", "Ünïcödé 🐱"])
def test_every_name_that_the_system_takes_can_be_a_folders(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for content in ("old", "new"):
        replace(Path(name), content)
        assert read(Path(name)) == {content} and os.listdir(tmp_path) == [name]


# --- moving one by one ------------------------------------------------------------------------------------------------


def test_files_that_are_moved_half_way_are_refused_until_they_are_written_again(old, monkeypatch):
    real = folder._move_one

    def fail(file: Path, there: Path) -> None:
        if there.name == "weights":
            raise OSError(errno.EIO, "Input/output error")
        real(file, there)

    def missing(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(folder, "_exchange", missing)
    monkeypatch.setattr(folder, "_move_one", fail)
    with pytest.raises(OSError, match=r"old' can't be written: .*, and it holds old and new files mixed now; write it"):
        replace(old)
    with pytest.raises(OSError, match=r"old' holds old and new files mixed: they are being replaced, or"):
        read(old)
    with (
        pytest.raises(OSError, match=r"old' holds old and new files mixed"),
        folder.unchanged([old / "vae"], INDEX),  # a part that has no index of its own
    ):
        pass
    monkeypatch.undo()
    replace(old)
    assert read(old) == {"new"}
    assert_kept(old)


def test_where_the_first_move_fails_nothing_is_marked(old, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folder, "_exchange", fail)
    monkeypatch.setattr(folder, "_move_one", fail)
    with pytest.raises(OSError, match=r"old' can't be written: input/output error$"):
        replace(old)
    assert read(old) == {"old"}
    assert_kept(old)


@pytest.mark.parametrize("way", ["exchanged", "current folder"], indirect=True)
def test_threads_that_replace_one_folder_leave_one_whole_folder(old, way):
    errors: list[BaseException] = []

    def repeat(content: str) -> None:
        try:
            for _ in range(10):
                replace(old, content)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(content,)) for content in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and read(old) in ({"a"}, {"b"}, {"c"})
    assert_kept(old)


INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(
    ("numbers", "own"),
    [
        *[(numbers, False) for numbers in ((INT,), (INT, INT), (INT, TERM))],
        *[(numbers, True) for numbers in ((INT,), (INT, INT), (INT, TERM), (TERM, TERM), (TERM, INT, TERM))],
    ],
)
def test_interruptions_wait_until_all_files_were_moved(old, monkeypatch, numbers, own):
    real, left = folder._move_one, list(numbers)

    def interrupt(file: Path, there: Path) -> None:
        real(file, there)
        while left:
            signal.raise_signal(left.pop(0))

    def stop(*_):
        raise SystemExit("stopped")

    monkeypatch.setattr(folder, "_move_one", interrupt)
    monkeypatch.chdir(old)
    before = signal.getsignal(signal.SIGTERM)
    signals.prepare()
    if own:
        signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            replace(old)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not left and read(old) == {"new"}
    assert_kept(old)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_whoever_reads_meanwhile_is_told(old, way):
    with (
        pytest.raises(OSError, match="old' was replaced while it was read; read it again"),
        folder.unchanged([old], INDEX),
    ):
        replace(old)
    with (
        pytest.raises(OSError, match="vae' was replaced while it was read") as raised,
        folder.unchanged([str(old / "vae"), None, True, {}, "owner/name"], INDEX),
    ):
        replace(old)
        raise ValueError("the shapes don't fit")  # as a mixture may make a reader say
    assert isinstance(raised.value.__cause__, ValueError)
    with pytest.raises(ValueError, match="its own"), folder.unchanged([old], INDEX):
        raise ValueError("its own")


def test_other_changes_are_no_replacement(old):
    with folder.unchanged([old, old / "vae"], INDEX):
        (old / "notes" / "b.txt").write_text("more", "utf-8")
        (old / "vae").chmod(0o700)


def test_what_a_killed_process_left_is_removed(old, way):
    for parent in (old,) if way in ("mount point", "parent is protected") else (old, old.parent):
        left = parent / f".pixart_fn-{atomic._machine()}-{'0' * 32}.folder"
        left.mkdir()
        fill(left, "half")
    (old / folder.UNFINISHED).touch()
    replace(old)
    assert read(old) == {"new"}
    assert_kept(old)
