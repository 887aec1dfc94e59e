"""A pipeline of small files, which is replaced and read."""

from __future__ import annotations

import os
from pathlib import Path

from pixart_fn.files import atomic, folder

INDEX = "index.json"
FILES = ("vae/config.json", "vae/weights", INDEX)


def fill(new: Path, content: str = "new") -> None:
    for name in FILES:
        (new / name).parent.mkdir(exist_ok=True)
        atomic.write(new / name, lambda temporary: temporary.write_text(content, "utf-8"))


def replace(path: Path, content: str = "new") -> None:
    folder.replace(path, INDEX, lambda new: fill(new, content))


def read(path: Path) -> set[str]:
    """What the files hold; those that belong together hold the same."""
    with folder.unchanged([path], INDEX):
        return {(path / name).read_text("utf-8") for name in FILES}


def inode(path: Path) -> int:
    return path.stat().st_ino


def assert_kept(old: Path) -> None:
    assert (old / "notes" / "a.txt").read_text("utf-8") == "kept"
    assert (old / "link").is_symlink() and os.readlink(old / "link") == "notes/a.txt"
    assert os.listdir(old.parent) == [old.name]
    assert sorted(os.listdir(old)) == [INDEX, "link", "notes", "vae"]
    assert sorted(os.listdir(old / "vae")) == ["config.json", "weights"]
