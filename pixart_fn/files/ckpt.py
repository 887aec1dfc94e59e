"""MindSpore's checkpoints (.ckpt): a message of protobuf for each tensor, read in place and written one by one.

MindSpore's own reader takes a file's sizes for true, and writes beyond its memory where they are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..checks import shown
from . import atomic
from .header import AXES, LONGEST
from .safetensors import Opened
from .tensors import DTYPES, Held, Leaf, Tensor, contiguous

TYPES = {
    "Float32": "F32", "Float16": "F16", "BFloat16": "BF16", "Float64": "F64", "Int64": "I64", "Int32": "I32",
    "Int16": "I16", "Int8": "I8", "UInt8": "U8", "Bool": "BOOL",
}  # fmt: skip
"""MindSpore's names of types, with those of DTYPES."""
MOST = 2**16
"""Messages of a file at most."""
_SUM, _SUM_SIZE = b"crc_num", 17
"""How a checksum after the messages begins, and how many bytes it has."""
_NUMBER, _BYTES = 0, 2
"""The kinds of a field."""


class _Field(NamedTuple):
    """A field of a message: its number, its kind, and its value or where its bytes begin; and where it ends."""

    number: int
    kind: int
    value: int
    end: int


class _Piece(NamedTuple):
    """A tensor, or a part of a large one."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def open_file(path: Path) -> dict[str, Tensor | Held]:
    """Open a file without reading a tensor, but for one of more than half a GiB, which MindSpore writes in parts.

    Args:
        path: a file of mindspore.save_checkpoint.
    Returns:
        The tensors by name; texts that lie beside them are left out.
    Raises:
        OSError: the file can't be read, or isn't a regular one.
        ValueError: it is damaged or encrypted, or holds what is no tensor.
    """
    file = Opened(path)
    end = file.size
    if end >= _SUM_SIZE and _bytes(file, end - _SUM_SIZE, len(_SUM), end) == _SUM:
        end -= _SUM_SIZE
    try:
        pieces: dict[str, list[_Piece]] = {}
        last = None
        for count, field in enumerate(_fields(file, 0, end)):
            if count == MOST or (field.number, field.kind) != (1, _BYTES):
                raise ValueError("it holds something else than tensors")
            piece = _piece(file, field.value, field.end)
            if piece.name in pieces and piece.name != last:
                raise ValueError(f"it holds {piece.name} twice")
            pieces.setdefault(piece.name, []).append(piece)
            last = piece.name
        return {name: _leaf(file, parts) for name, parts in pieces.items() if parts[0].dtype != "str"}
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint of MindSpore, or is damaged or encrypted: {error}") from error


def _piece(file: Opened, at: int, end: int) -> _Piece:
    name, found = None, None
    for field in _fields(file, at, end):
        if (field.number, field.kind) == (1, _BYTES) and name is None:
            name = _text(file, field)
        elif (field.number, field.kind) == (2, _BYTES) and found is None:
            found = _tensor(file, field.value, field.end)
        else:
            raise ValueError("it holds something else than tensors")
    if name is None or found is None:
        raise ValueError("it holds a tensor without a name, or a name without a tensor")
    return found._replace(name=name)


def _tensor(file: Opened, at: int, end: int) -> _Piece:
    shape: list[int] = []
    dtype, content = "", None
    for field in _fields(file, at, end):
        if (field.number, field.kind) == (1, _NUMBER) and len(shape) < AXES and field.value < 2**63:
            shape.append(field.value)
        elif (field.number, field.kind) == (2, _BYTES):
            dtype = _text(file, field)
        elif (field.number, field.kind) == (3, _BYTES):
            content = field
        else:
            raise ValueError("it holds a tensor in another way than MindSpore writes it")
    if dtype not in (*TYPES, "str"):
        raise ValueError(f"it holds a tensor of {shown(dtype)}, which isn't supported")
    offset, size = (content.value, content.end - content.value) if content else (at, 0)
    return _Piece("", TYPES.get(dtype, dtype), () if shape == [0] else tuple(shape), offset, size)  # [0] is one number


def _leaf(file: Opened, parts: list[_Piece]) -> Tensor | Held:
    name, dtype, shape, offset, _ = parts[0]
    size = sum(part.size for part in parts)
    if any(part[:3] != parts[0][:3] for part in parts) or size != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"it holds {size} bytes for {name}, which aren't {shown(shape)} numbers of {dtype}")
    if len(parts) == 1:
        return Tensor(file, name, dtype, shape, offset, contiguous(shape))
    joined = np.concatenate([np.frombuffer(_bytes(file, p.offset, p.size, file.size), np.uint8) for p in parts])
    return Held(name, dtype, joined.view(DTYPES[dtype]).reshape(shape))


def _fields(file: Opened, at: int, end: int) -> Iterator[_Field]:
    """Read the fields of a message, without the bytes in them."""
    while at < end:
        key, at = _varint(file, at, end)
        value, at = _varint(file, at, end)
        if key & 7 == _NUMBER:
            yield _Field(key >> 3, _NUMBER, value, at)
        elif key & 7 == _BYTES and value <= end - at:
            yield _Field(key >> 3, _BYTES, at, at + value)
            at += value
        else:
            raise ValueError(f"what is at its byte {at} is no field, or ends beyond it")


def _varint(file: Opened, at: int, end: int) -> tuple[int, int]:
    """Return a number that is written in groups of seven bits, and where it ends."""
    found = 0
    for i, byte in enumerate(_bytes(file, at, min(10, end - at), end)):
        found |= (byte & 127) << 7 * i
        if byte < 128:
            return found, at + i + 1
    raise ValueError(f"the number at its byte {at} has no end")


def _text(file: Opened, field: _Field) -> str:
    raw = _bytes(file, field.value, min(field.end - field.value, LONGEST + 1), field.end)
    text = raw.decode(errors="replace")
    if not 0 < len(raw) <= LONGEST or not text.isprintable() or text.encode() != raw:
        raise ValueError(f"{shown(text)} is no name of a tensor or of a type")
    return text


def _bytes(file: Opened, offset: int, size: int, end: int) -> bytes:
    if offset + size > end:
        raise ValueError("it is cut off")
    array = np.empty(size, np.uint8)
    file.read_into(array, offset)
    return array.tobytes()


# --- writing ----------------------------------------------------------------------------------------------------------


def write(path: Path, leaves: Mapping[str, Leaf]) -> None:
    """Write a file that mindspore.load_checkpoint reads, one tensor at a time.

    Args:
        path: the file; an existing one is replaced in one step.
        leaves: the tensors by name.
    Raises:
        OSError: the file can't be written; what was there is there still.
    """
    atomic.write(path, partial(_fill, leaves))


def _fill(leaves: Mapping[str, Leaf], path: Path) -> None:
    names = {code: name for name, code in TYPES.items()}
    with open(path, "wb") as file:
        for name, leaf in leaves.items():
            bits = leaf.bits()
            head = b"".join(_field(1, n) for n in leaf.shape or (0,)) + _field(2, names[leaf.dtype].encode())
            head += _key(3, _BYTES) + _number(bits.nbytes)
            inner = _field(1, name.encode()) + _key(2, _BYTES) + _number(len(head) + bits.nbytes) + head
            file.write(_key(1, _BYTES) + _number(len(inner) + bits.nbytes) + inner)
            file.write(bits.reshape(-1).view("u1").data)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _key(number, _NUMBER) + _number(value)
    return _key(number, _BYTES) + _number(len(value)) + value


def _key(number: int, kind: int) -> bytes:
    return _number(number << 3 | kind)


def _number(value: int) -> bytes:
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])
