"""The command with a tiny model, and what it wrote."""

from __future__ import annotations

import numpy as np
from helpers import tiny
from PIL import Image

import pixart_fn as px
from pixart_fn import cli

PROMPT = 'a "cute" cat, Größe ✓'  # quotes and letters that a careless text in a picture or printed call would spoil


def save_model(tmp_path_factory):
    """The tiny pipeline in a folder of its own, whose name is returned."""
    path = tmp_path_factory.mktemp("tiny") / "pipeline"
    px.save(tiny.params(), path)
    return str(path)


def runner(model, tmp_path, monkeypatch, capsys):
    """generate with the tiny model in an empty folder → (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, prompt=PROMPT):
        status = cli.main(
            ["generate", *([] if prompt is None else [prompt]), "--model", model, "--steps", "2", *arguments]
        )
        return status, *capsys.readouterr()

    return run


def shown(capsys, file):
    """What the call draws that `show` prints."""
    capsys.readouterr()
    assert cli.main(["show", str(file)]) == 0
    out, err = capsys.readouterr()
    assert not err
    return eval(out, {"px": px})


def pixels(file):
    with Image.open(file) as opened:
        return np.asarray(opened, int)


def files(folder):
    return sorted(path.name for path in folder.iterdir())
