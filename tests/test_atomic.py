"""A file appears whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixart_fn.files import atomic


def test_the_file_is_seen_only_when_it_is_complete(tmp_path):
    path = tmp_path / "state.txt"
    path.write_text("old", "utf-8")

    def save(temporary: Path) -> None:
        temporary.write_text("new", "utf-8")
        assert temporary.parent == tmp_path  # a rename within one file system
        assert path.read_text("utf-8") == "old"

    atomic.write(path, save)
    assert path.read_text("utf-8") == "new" and list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "state.txt"
    path.write_text("old", "utf-8")

    def save(temporary: Path) -> None:
        temporary.write_text("half", "utf-8")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        atomic.write(path, save)
    assert path.read_text("utf-8") == "old" and list(tmp_path.iterdir()) == [path]
