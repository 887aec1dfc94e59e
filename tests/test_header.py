"""A safetensors file's header, against the verdict of the format's own library."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from fuzz import mutate
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pixart_fn.files import header, safetensors

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
SEEDS = [
    save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b.c": np.ones(5, np.float16)}, {"format": "pt"}),
    save({"x": np.ones(3, np.float32), "none": np.zeros((0, 4), np.float32), "y": np.ones((), np.int8)}),
]


def write(path: Path, head: object, data: bytes = bytes(4)) -> Path:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def library(path: Path) -> list[str] | None:
    """The names that the library finds, or None where it refuses the file."""
    try:
        with safe_open(path, "np") as file:
            return sorted(file.keys())
    except (SafetensorError, OSError):
        return None


def ours(path: Path) -> list[str] | None:
    try:
        return sorted(safetensors.open_file(path))
    except ValueError as error:
        assert str(path) in str(error) and str(error).isprintable()
        return None


@settings(max_examples=200)
@given(random=st.randoms(use_true_random=False), chosen=st.sampled_from(SEEDS), times=st.integers(0, 3))
def test_what_the_library_refuses_is_refused_and_what_it_reads_is_read_alike(tmp_path_factory, random, chosen, times):
    path, content = tmp_path_factory.getbasetemp() / "mutated.safetensors", chosen
    for _ in range(times):
        content = random.choice((mutate.with_header, mutate.with_header, *mutate.BYTES))(random, content)
    path.write_bytes(content)
    theirs, found = library(path), ours(path)
    assert found is None or found == theirs
    assert times or found == sorted(json.loads(content[8 : 8 + content[0]]).keys() - {"__metadata__"})


REFUSED = {
    "overlap": ({"a": ENTRY, "b": ENTRY}, "'b' overlaps the one before it: it begins at byte 0 and should at 4"),
    "gap": (
        {"a": {**ENTRY, "data_offsets": [4, 8]}},
        "'a' leaves a gap before it: it begins at byte 4 and should at 0",
    ),
    "backwards": ({"a": {**ENTRY, "data_offsets": [4, 0]}}, "'a' takes -4 bytes, which doesn't fit its shape"),
    "negative": ({"a": {**ENTRY, "data_offsets": [-4, 0]}}, "the data_offsets of 'a' must be two numbers of bytes"),
    "three ends": ({"a": {**ENTRY, "data_offsets": [0, 4, 8]}}, "the data_offsets of 'a' must be two numbers"),
    "a float": ({"a": {**ENTRY, "data_offsets": [0, 4.0]}}, r"the data_offsets of 'a' must be .*, got \[0, 4.0\]"),
    "minus zero": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', "the data_offsets of 'a' must be two"),
    "a bool": ({"a": {**ENTRY, "shape": [True]}}, r"the shape of 'a' must be a list of .* sizes, got \[True\]"),
    "huge": ({"a": {**ENTRY, "shape": [2**63, 2, 0]}}, "the shape of 'a' must be a list of"),
    "overflow": ({"a": {**ENTRY, "shape": [2**32, 2**32, 2**32]}}, "the shape of 'a' must be a list of"),
    "a dtype": ({"a": {**ENTRY, "dtype": "f32"}}, "the dtype of 'a' must be one of the format, got 'f32'"),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, "the dtype of 'a' must be one of the format, got None"),
    "half a byte": ({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, "'a' takes 1 bytes, which doesn't"),
    "a list": ([], "it doesn't begin with '{'"),
    "nan": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":NaN}}', "NaN is no number of JSON"),
    "infinite": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1e999}}', "'1e999' is beyond any number"),
    "a field twice": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "the key 'dtype' is th"),
    "deep": (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "it is nested more than 64 deep"),
    "deeper": (b'{"a":' + b"[" * 200_000, "it is nested more than 64 deep"),
    "half a pair": (b'{"__metadata__":{"a":"\\ud800"}}', "a string holds half a surrogate pair"),
    "not UTF-8": (b'{"\xff":1}', "can't decode byte 0xff"),
    "metadata": ({"__metadata__": {"step": 3}, "a": ENTRY}, "__metadata__ must be an object of strings"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_header_is_one_sentence_as_it_is_an_error_of_the_library(tmp_path, case):
    head, sentence = REFUSED[case]
    path = write(tmp_path / "x.safetensors", head)
    assert library(path) is None
    with pytest.raises(ValueError, match=rf"x\.safetensors has a damaged safetensors header \(.*{sentence}") as raised:
        safetensors.open_file(path)
    assert str(raised.value).isprintable() and str(raised.value).endswith("; download it again")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(3, "is truncated: its tensors end at byte"), (5, "holds more than its tensors: its tensors")],
)
def test_the_tensors_fill_the_file(tmp_path, data, sentence):
    path = write(tmp_path / "x.safetensors", {"a": ENTRY}, bytes(data))
    assert library(path) is None
    with pytest.raises(ValueError, match=sentence):
        safetensors.open_file(path)


EMPTY = {"dtype": "F32", "data_offsets": [0, 0]}
STRICTER = {
    "white space first": (b" " + json.dumps({"a": ENTRY}).encode(), bytes(4)),  # which the format's description forbids
    "a name twice": (b'{"a":%b,"a":%b}' % ((json.dumps(ENTRY).encode(),) * 2), bytes(4)),
    "an entry as a list": (b'{"a":["F32",[1],[0,4]]}', bytes(4)),
    "a name that steers a terminal": ({"a\x1b[31m": ENTRY}, bytes(4)),
    "a long name": ({"a" * 1001: ENTRY}, bytes(4)),
    "many axes": ({"a": {**ENTRY, "shape": [1] * 33}}, bytes(4)),
    "an axis beyond NumPy's": ({"a": {**EMPTY, "shape": [0, 2**63]}}, b""),
}


@pytest.mark.parametrize("case", STRICTER)
def test_what_the_library_reads_and_we_refuse(tmp_path, case):
    """Every deliberate difference: each would be read as something else somewhere, or can't be an array."""
    path = write(tmp_path / "x.safetensors", *STRICTER[case])
    assert library(path) is not None
    with pytest.raises(ValueError, match=r"x\.safetensors has a damaged safetensors header"):
        safetensors.open_file(path)


@pytest.mark.parametrize("dtype", header.BITS)
def test_every_type_of_the_format_is_known_though_only_five_are_read(tmp_path, dtype):
    size = header.BITS[dtype]
    path = write(
        tmp_path / "x.safetensors", {"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}, bytes(size)
    )
    assert library(path) == ours(path) == ["a"]
    if dtype not in ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"):
        with pytest.raises(ValueError, match=rf"stores {dtype}, which isn't supported; convert it to F32, F16 or BF16"):
            safetensors.open_file(path)["a"].read()
