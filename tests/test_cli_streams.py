"""The command where what a process usually has is missing: its streams, its working folder, room on a disk."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import command

import pixart_fn as px
from pixart_fn import checkpoint, cli, picture, pipeline
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


@pytest.mark.parametrize("words", [["--out", "new/" + "x" * 251 + ".png", "--n", "12"], ["--out", "x" * 300 + ".png"]])
def test_a_name_that_is_too_long_is_said_before_any_work(words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "load", None)
    assert cli.main(["generate", "a cat", *words]) == 2
    assert capsys.readouterr().err.lower().endswith("file name too long\n")


@pytest.mark.parametrize(("out", "said"), [("cat.png", "exists already"), ("cats/", "holds another picture")])
def test_what_another_process_writes_in_the_meantime_is_not_overwritten(out, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    command.painted(monkeypatch)
    theirs = "cats/picture-0.png" if out == "cats/" else out
    draw = pipeline.generate

    def late(*arguments, **options):
        px.save_picture(np.zeros((8, 8, 3)), theirs, prompt="a dog", seed=1)
        return draw(*arguments, **options)

    monkeypatch.setattr(pipeline, "generate", late)
    words = ["generate", "a cat", "--size", "16", "--quiet", "--out", out]
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"pixart-fn: {theirs!r} {said}; --force overwrites it\n"
    assert picture.read_settings(theirs)["prompt"] == "a dog"
    assert cli.main([*words, "--force"]) == 0
    assert picture.read_settings(theirs)["prompt"] == "a cat"


def test_the_same_picture_of_another_process_is_kept(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    command.painted(monkeypatch)
    words = ["generate", "a cat", "--size", "16", "--quiet", "--out", "cats/", "--json"]
    draw, calls = pipeline.generate, []

    def late(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            assert cli.main(words) == 0
            capsys.readouterr()
        return draw(*arguments, **options)

    monkeypatch.setattr(pipeline, "generate", late)
    assert cli.main(words) == 0
    assert '"kept": [\n    "cats/picture-0.png"\n  ]' in capsys.readouterr().out


@pytest.mark.parametrize(("module", "status"), [("pixart_fn.cli.given", 130), ("pixart_fn.schedule.noise", 7)])
def test_ctrl_c_while_the_command_is_imported_is_not_an_error_of_the_import(module, status):
    source = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
try:
    from pixart_fn.__main__ import main
except KeyboardInterrupt:  # of the package itself, when it is whole
    sys.exit(7 if {module!r} in sys.modules else 1)
sys.exit(main())
"""
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (status, "")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_program_that_reads_the_names_gets_the_files_own_bytes(encoding, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command.painted(monkeypatch)
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", out)
    name = "ä".encode() + b"\xff.png"
    assert cli.main(["generate", "a cat", "--size", "16", "--out", name.decode(encoding, "surrogateescape")]) == 0
    assert out.buffer.getvalue() == name + os.linesep.encode()
