"""The header of a safetensors file, which is read as strictly as the format's own library reads it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeGuard

from ..checks import shown
from . import reading

BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""The bits of a number of each type that the format has."""
AXES = 32
"""Axes that an array of NumPy 1 can have."""
LONGEST = 1000
"""Letters of a tensor's name, so that a sentence can hold one."""


class Entry(NamedTuple):
    """A tensor's type, shape, and the bytes where it begins and ends, counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse(text: bytes) -> tuple[dict[str, Entry], dict[str, str]]:
    """Read a header, whose tensors lie one after another without a gap.

    Beyond what the library refuses, this refuses a name that is there twice, a name that isn't printable or has more
    than LONGEST letters, an entry written as a list, and a shape that NumPy can't have.

    Args:
        text: the header's bytes.
    Returns:
        The tensors by name, in the order of the header, and the texts of __metadata__.
    Raises:
        ValueError: it is no such header.
    """
    if text[:1] != b"{":
        raise ValueError("it doesn't begin with '{'")
    found = reading.parse(text, constant=_no_number, fraction=_finite, whole=_whole)
    metadata = found.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ must be an object of strings")
    entries = {name: _entry(name, value) for name, value in found.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != end:
            lies = "overlaps the one before it" if entry.begin < end else "leaves a gap before it"
            raise ValueError(f"{name!r} {lies}: it begins at byte {entry.begin} and should at {end}")
        end = entry.end
    return entries, metadata


def _entry(name: str, value: Any) -> Entry:
    if not name.isprintable() or len(name) > LONGEST:
        raise ValueError(f"{shown(name)} is no name of a tensor")
    fields = value if isinstance(value, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"the dtype of {name!r} must be one of the format, got {shown(dtype)}")
    if not _sizes(shape) or len(shape) > AXES or math.prod(n for n in shape if n) >= 2**60:
        raise ValueError(f"the shape of {name!r} must be a list of at most {AXES} sizes, got {shown(shape)}")
    if not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"the data_offsets of {name!r} must be two numbers of bytes, got {shown(offsets)}")
    begin, end = offsets
    if 8 * (end - begin) != BITS[dtype] * math.prod(shape):
        raise ValueError(f"{name!r} takes {end - begin} bytes, which doesn't fit its shape {shown(shape)} of {dtype}")
    return Entry(dtype, tuple(shape), begin, end)


def _sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is beyond any number")
    return number


def _whole(text: str) -> int | float:
    if text == "-0" or len(text) > 20:  # which are no whole numbers for the library
        return _finite(text)
    return int(text)
