"""The command where what a process usually has is missing: its streams, its working folder, room on a disk."""

from __future__ import annotations

import errno
import os
import sys

import numpy as np
import pytest

import pixart_fn as px
from pixart_fn import cli
from pixart_fn.cli import console


@pytest.fixture
def drawn(tmp_path):
    px.save_picture(np.full((8, 8, 3), 0.5, np.float32), tmp_path / "a.png", prompt="a cat", seed=0)
    return str(tmp_path / "a.png")


def test_a_stream_that_is_closed_gets_nothing(drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["show", drawn]) == 0
    assert cli.main(["show", str(tmp_path / "b.png")]) == 2


def test_prompts_of_a_closed_stdin_are_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["generate", "--prompts", "-"]) == 2
    assert capsys.readouterr().err == "pixart-fn: --prompts - reads stdin, which is closed\n"


def test_a_working_folder_that_has_gone_is_one_sentence(monkeypatch, capsys, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["models"]) == 2
    assert capsys.readouterr().err == "pixart-fn: the working folder isn't there any more; change to another one\n"


def test_a_disk_that_is_full_is_said_without_a_number(drawn, monkeypatch, capsys):
    def full(text, stream):
        if stream is sys.stdout:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        print(text, file=stream)

    monkeypatch.setattr(console, "_say", full)
    assert cli.main(["show", drawn]) == 1
    assert capsys.readouterr().err == "pixart-fn: the system says: no space left on device\n"


@pytest.mark.parametrize("name", ["pipe.png", "/dev/zero", "loop.png", "x" * 300 + ".png"])
def test_what_is_no_file_is_a_mistake_and_no_failure(name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    os.symlink("loop.png", "loop.png")
    for words in (["show", name], ["generate", "a cat", "--init", name, "--out", "o.png"],
                  ["generate", "--prompts", name], ["generate", "a cat", "--lora", name]):  # fmt: skip
        assert cli.main(words) == 2
        assert capsys.readouterr().err.startswith("pixart-fn: ")
