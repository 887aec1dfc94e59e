"""MindSpore's checkpoints: what MindSpore writes is read, it reads what is written, and a hostile file does no harm."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import pixart_fn  # noqa: F401 - which silences MindSpore
from pixart_fn.files import ckpt
from pixart_fn.files.tensors import Held

import mindspore as ms  # isort: skip - after pixart_fn, which silences it
from mindspore.train import serialization  # isort: skip

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(300, dtype=np.float16),
    "double": np.ones((1, 2, 1)),
    "whole": np.array([-1, 2**40]),
    "small": np.arange(5, dtype=np.int8),
    "one": np.array(7, np.float32),
}


def saved(file, **options):
    listed = [{"name": name, "data": ms.Tensor(value)} for name, value in ARRAYS.items()]
    ms.save_checkpoint(listed, str(file), **options)


@pytest.mark.parametrize("options", [{}, {"crc_check": True}, {"append_dict": {"epoch": 3, "note": "the last"}}])
def test_what_mindspore_writes_is_read(options, tmp_path):
    saved(tmp_path / "a.ckpt", **options)
    found = ckpt.open_file(tmp_path / "a.ckpt")
    if "append_dict" in options:
        assert found.pop("epoch").bits() == 3
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        bits = found[name].bits()
        assert bits.dtype == value.dtype and bits.shape == value.shape
        np.testing.assert_array_equal(bits, value)


def test_a_large_tensor_that_mindspore_writes_in_parts_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # parts of a KiB, which else are of half a GiB
    large = np.arange(700, dtype=np.float32).reshape(7, 100)
    ms.save_checkpoint([{"name": name, "data": ms.Tensor(large)} for name in "ab"], str(tmp_path / "a.ckpt"))
    assert (tmp_path / "a.ckpt").read_bytes().count(b"Float32") == 6
    for leaf in ckpt.open_file(tmp_path / "a.ckpt").values():
        np.testing.assert_array_equal(leaf.bits(), large)


def test_mindspore_reads_what_is_written(tmp_path):
    codes = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "int8": "I8"}
    leaves = {name: Held(name, codes[str(value.dtype)], value) for name, value in ARRAYS.items()}
    upper = np.array([[0x3F80, 0xC000]], np.uint16)
    ckpt.write(tmp_path / "a.ckpt", leaves | {"bf": Held("bf", "BF16", upper)})
    found = ms.load_checkpoint(str(tmp_path / "a.ckpt"))
    bf = found.pop("bf")
    assert str(bf.dtype) == "BFloat16" and bf.float().asnumpy().tolist() == [[1, -2]]
    for name, value in ARRAYS.items():
        values = found[name].asnumpy()
        assert values.dtype == value.dtype and values.shape == value.shape
        np.testing.assert_array_equal(values, value)


def test_both_write_the_same_bytes(tmp_path):
    value = ARRAYS["a.weight"]
    ms.save_checkpoint([{"name": "a", "data": ms.Tensor(value)}], str(tmp_path / "theirs.ckpt"))
    ckpt.write(tmp_path / "ours.ckpt", {"a": Held("a", "F32", value)})
    assert (tmp_path / "ours.ckpt").read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def tensor(dims: bytes = b"\x08\x02", kind: bytes = b"Float32", content: bytes = bytes(8)) -> bytes:
    return field(2, dims + field(2, kind) + field(3, content))


NAME = field(1, b"a")
RIGHT = field(1, NAME + tensor())
WRONG = {
    "more numbers than there are": (
        field(1, NAME + tensor(b"\x08\x03")),
        r"8 bytes for a, which aren't \(3,\) numbers",
    ),
    "numbers without end": (field(1, NAME + tensor(b"\x08" + b"\xff" * 8 + b"\x7f")), "holds 8 bytes for a"),
    "a size of less than nothing": (field(1, NAME + tensor(b"\x08" + b"\xff" * 9 + b"\x01")), "in another way"),
    "sides without end": (field(1, NAME + tensor(b"\x08\x01" * 40)), "in another way than MindSpore"),
    "sides in one field": (field(1, NAME + tensor(b"\x0a\x01\x02")), "in another way than MindSpore"),
    "complex numbers": (field(1, NAME + tensor(kind=b"Complex64")), "a tensor of 'Complex64', which isn't supported"),
    "no type": (field(1, NAME + field(2, b"\x08\x02")), "a tensor of '', which isn't supported"),
    "no name": (field(1, tensor()), "a tensor without a name"),
    "two names": (field(1, NAME + NAME + tensor()), "something else than tensors"),
    "a name of lines": (field(1, field(1, b"a\n") + tensor()), r"'a\\n' is no name"),
    "a name that isn't UTF-8": (field(1, field(1, b"\xff") + tensor()), "is no name"),
    "no tensor": (field(1, NAME), "a name without a tensor"),
    "a map": (field(1, NAME + field(3, b"")), "something else than tensors"),
    "one again": (RIGHT + field(1, field(1, b"b") + tensor()) + RIGHT, "holds a twice"),
    "parts of other types": (RIGHT + field(1, NAME + tensor(kind=b"Int32")), "16 bytes for a"),
    "another field": (field(2, b""), "something else than tensors"),
    "a field of another kind": (b"\x0d" + bytes(8), "is no field"),
    "a field beyond the end": (RIGHT + b"\x0a\x7f", "is no field, or ends beyond it"),
    "a number without end": (b"\x0a" + b"\xff" * 10, "has no end"),
    "cut off": (RIGHT[:-1], "is no field, or ends beyond it"),
    "encrypted": (struct.pack("<2I", 1, 2) + bytes(range(64)), "is no field|no end"),
}


@pytest.mark.parametrize("label", WRONG)
def test_a_damaged_or_hostile_file_is_one_sentence(label, tmp_path):
    """MindSpore itself writes beyond its memory for the first of these, and the process ends."""
    content, sentence = WRONG[label]
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.ckpt is no checkpoint of MindSpore, .*(" + sentence + ")") as error:
        ckpt.open_file(tmp_path / "a.ckpt")
    assert str(error.value).isprintable() and len(str(error.value)) < 400


def test_the_right_one_is_right(tmp_path, monkeypatch):
    (tmp_path / "a.ckpt").write_bytes(RIGHT)
    np.testing.assert_array_equal(ckpt.open_file(tmp_path / "a.ckpt")["a"].bits(), [0, 0])
    (tmp_path / "a.ckpt").write_bytes(b"")
    assert ckpt.open_file(tmp_path / "a.ckpt") == {}
    monkeypatch.setattr(ckpt, "MOST", 9)
    (tmp_path / "a.ckpt").write_bytes(RIGHT * 10)
    with pytest.raises(ValueError, match="something else than tensors"):
        ckpt.open_file(tmp_path / "a.ckpt")
