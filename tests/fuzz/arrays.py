"""Readers of files of numbers."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from helpers.authors_weights import HEADS, Model
from helpers.authors_weights import state as authors_state
from safetensors.numpy import save as safetensors_bytes

import pixart_fn as px
from pixart_fn.checkpoint.convert import convert
from pixart_fn.checkpoint.text import load_text
from pixart_fn.files import ckpt, pth, safetensors
from pixart_fn.files.tensors import Held
from pixart_fn.train import state
from pixart_fn.train.emoji import latents

from . import mutate
from .target import TENSORS, ZIP, Target


def _tensors() -> list[bytes]:
    some = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b.c": np.ones(5, np.float16),
        "d": np.zeros((0, 2), np.float32),
    }
    return [safetensors_bytes(some, {"format": "pt"}), safetensors_bytes({"x": np.ones(3, np.float32)})]


def _safetensors(content: bytes, folder: Path) -> Any:
    (folder / "x.safetensors").write_bytes(content)
    read = {}
    for name, leaf in safetensors.open_file(folder / "x.safetensors").items():
        leaf.check()
        read[name] = leaf.read()
        if leaf.dtype == "F32":
            leaf.prefetch()
            leaf.release()
    return read


def _texts() -> list[bytes]:
    text = {"states": np.ones((1, 3, 4), np.float32), "mask": np.ones((1, 3), np.float32)}
    return [safetensors_bytes(text, {"format": "pt"})]


def _text(content: bytes, folder: Path) -> Any:
    (folder / "text.safetensors").write_bytes(content)
    return load_text(folder / "text.safetensors")


TREE = {"a": [{"w": np.ones((2, 3), np.float32)}], "b": np.ones(2, np.float32)}
LIKE = state.TrainState(TREE, {"step": 3, "scale": 0.5, "m": TREE, "seen": np.arange(3)}, None, px.key(0), 7)


def _states() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "state.safetensors")
        state.save(file, LIKE, {"run.seed": 0})
        return [file.read_bytes()]


def _state(content: bytes, folder: Path) -> Any:
    (folder / "state.safetensors").write_bytes(content)
    return state.restore(folder / "state.safetensors", LIKE, {"run.seed": 0})


def _archives() -> list[bytes]:
    made = io.BytesIO()
    np.savez(made, latents=np.ones((2, 4, 2, 2), np.float16), captions=json.dumps([["a cat"], ["a dog"]]))
    return [made.getvalue()]


def _archive(content: bytes, folder: Path) -> Any:
    (folder / "0000000.npz").write_bytes(content)
    return latents.load(folder)


def _saved() -> list[bytes]:
    """A file of torch itself, and one of the authors' models."""
    golden = Path(__file__).parents[1] / "reference" / "pth" / "protocol2.pth"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "authors.pth")
        pth.write(file, {"state_dict": authors_state(Model(width=8, captions=4, layers=1, base=2, scale=0.5))})
        return [golden.read_bytes(), file.read_bytes()]


def _pth(content: bytes, folder: Path) -> Any:
    """Read every tensor, and convert the file where it is one of a model."""
    file = folder / "authors.pth"
    file.write_bytes(content)
    held = list(pth.open_file(file).values())
    while held:
        value = held.pop()
        if isinstance(value, dict):
            held += value.values()
        elif hasattr(value, "bits"):
            assert value.bits().shape == value.shape
    if b"x_embedder" in content:
        convert(file, folder / "there", heads=HEADS)


def _checkpoints() -> list[bytes]:
    """A checkpoint of MindSpore of one of the authors' models."""
    weights = authors_state(Model(width=8, captions=4, layers=1, base=2, scale=0.5))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "authors.ckpt")
        ckpt.write(file, {name: Held(name, "F32", value) for name, value in weights.items()})
        return [file.read_bytes()]


def _ckpt(content: bytes, folder: Path) -> Any:
    (folder / "authors.ckpt").write_bytes(content)
    for leaf in ckpt.open_file(folder / "authors.ckpt").values():
        assert leaf.bits().shape == leaf.shape
    convert(folder / "authors.ckpt", folder / "there", heads=HEADS)


TARGETS = {
    "safetensors": Target(_tensors, _safetensors, TENSORS),
    "text": Target(_texts, _text, TENSORS),
    "state": Target(_states, _state, TENSORS),
    "npz": Target(_archives, _archive, ZIP),
    "ckpt": Target(_checkpoints, _ckpt),
    "pth": Target(_saved, _pth, (*ZIP, *(mutate.of_pth,) * 12)),
}
