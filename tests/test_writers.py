"""Every writer of files writes them whole: its mode, a full disk, links."""

from __future__ import annotations

import errno
import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest

import pixart_fn as px
from pixart_fn.checkpoint import layout
from pixart_fn.checkpoint.text import save_text
from pixart_fn.files import atomic, npy, safetensors
from pixart_fn.models import tokenizer
from pixart_fn.picture import save_picture
from pixart_fn.train import state
from pixart_fn.train.emoji import render
from pixart_fn.types import Text

NOISE = np.random.default_rng(0).random((32, 32, 3), np.float32)
LEAVES = {"a": NOISE}


def text(path: Path) -> None:
    save_text(Text(NOISE, np.ones((32, 32), np.int32)), path)


def training(path: Path) -> None:
    state.save(path, state.TrainState(LEAVES, {"m": LEAVES}, None, px.key(0), 3))


WRITERS = {
    "cat.png": lambda path: save_picture(NOISE, path, seed=1),
    "cat.jpg": lambda path: save_picture(NOISE, path, seed=1),
    "cat.webp": lambda path: save_picture(NOISE, path, seed=1),
    "text.safetensors": text,
    "state.safetensors": training,
    "config.json": lambda path: layout.write_json({"numbers": list(range(1000))}, path),
    "latents.npz": lambda path: atomic.write(path, lambda temporary: npy.save_archive(LEAVES, temporary)),
}
"""A function that writes a file of some kilobytes, by the file's name."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", WRITERS)
def test_a_new_file_follows_the_umask_and_an_old_one_keeps_its_mode(tmp_path, name):
    before = os.umask(0o027)
    try:
        WRITERS[name](tmp_path / name)
        assert mode(tmp_path / name) == 0o640
        for own in (0o600, 0o666, 0o444):
            (tmp_path / name).chmod(own)
            WRITERS[name](tmp_path / name)
            assert mode(tmp_path / name) == own
    finally:
        os.umask(before)


@pytest.mark.parametrize("fails", ["writing", "fsync", "replace"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch, name, fails):
    WRITERS[name](tmp_path / name)
    before = (tmp_path / name).read_bytes()
    assert len(before) > 512

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "a temporary")

    if fails != "writing":
        monkeypatch.setattr(os, fails, full)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if fails == "writing":  # Python ignores the signal, so that the write is an error
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
        with pytest.raises(OSError, match=rf"{name}' can't be written: (no space left on device|file too large)$") as e:
            WRITERS[name](tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert e.value.errno in (errno.ENOSPC, errno.EFBIG) and "\n" not in str(e.value)
    assert (tmp_path / name).read_bytes() == before and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_follows_a_link_and_leaves_nothing_beside_it(tmp_path, name):
    (tmp_path / "real").mkdir()
    (tmp_path / name).symlink_to(f"real/{name}")
    for _ in range(2):  # the first time, the link dangles
        WRITERS[name](tmp_path / name)
        assert (tmp_path / name).is_symlink() and sorted(os.listdir(tmp_path)) == sorted(["real", name])
        assert os.listdir(tmp_path / "real") == [name]


def test_the_tokenizers_files_are_whole_too(tmp_path, spiece, monkeypatch):
    ours = tokenizer.Tokenizer(spiece.read_bytes(), extra_ids=0)
    tokenizer.save(ours, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"spiece\.model' can't be written: no space left on device"):
        tokenizer.save(ours, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_rendered_pictures_and_what_they_show_are_replaced_together(tmp_path):
    first, second = np.zeros((2, 16, 16, 4), np.uint8), np.ones((3, 16, 16, 4), np.uint8)
    render.write(tmp_path, first, "two")
    np.testing.assert_array_equal(np.load(tmp_path / "glyphs.npy"), first)
    np.save(tmp_path / "saved.npy", first)
    assert (tmp_path / "glyphs.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 16 * 16 * 4, hard))  # the header isn't counted
        with pytest.raises(OSError, match="can't be written: file too large"):
            render.write(tmp_path, second, "three")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    np.testing.assert_array_equal(np.load(tmp_path / "glyphs.npy"), first)
    assert (tmp_path / "glyphs.json").read_text("utf-8") == "two"
    assert sorted(os.listdir(tmp_path)) == ["glyphs.json", "glyphs.npy", "saved.npy"]


def test_the_metadata_of_a_safetensors_file_is_kept(tmp_path):
    safetensors.write_file(tmp_path / "a.safetensors", LEAVES, {"a": "F32"}, {"step": "3"})
    assert safetensors.open_with_metadata(tmp_path / "a.safetensors")[1] == {"format": "pt", "step": "3"}
