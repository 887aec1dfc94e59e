"""Tensors in files or in memory as they are stored: their bits, without a conversion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..types import NumPyArray
from .safetensors import Opened, Stored

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}  # fmt: skip
"""The types of numbers, as safetensors names them, and what NumPy has for their bits."""
FLOATS = ("F32", "F16", "BF16")
"""Those whose numbers float32 holds."""


@runtime_checkable
class Leaf(Protocol):
    """A tensor of a type in DTYPES that isn't in memory before it is asked for, or is there already."""

    @property
    def dtype(self) -> str:
        """A key of DTYPES."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    def bits(self) -> NumPyArray:
        """Return the numbers as they are stored, without a check; those of bfloat16 as uint16, and bools as uint8.

        Raises:
            OSError: the file was changed in place after it was opened.
        """

    def read(self) -> NDArray[np.float32]:
        """Return the numbers in float32.

        Raises:
            OSError: the file was changed in place after it was opened.
            ValueError: a number is NaN or infinite, or of a type that float32 doesn't hold.
        """


@dataclass(frozen=True, eq=False, repr=False)
class Tensor:
    """A tensor in a file; `read` gives a view of it where that is large and the numbers lie in order."""

    file: Opened
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Of its first number, in bytes from the beginning of the file."""
    strides: tuple[int, ...]
    """How many numbers lie from one to the next along each axis."""

    def __repr__(self) -> str:
        return f"Tensor({self.dtype} {self.shape} in {self.file.path.name})"

    def bits(self) -> NumPyArray:
        dtype = DTYPES[self.dtype]
        if 0 in self.shape:
            return np.empty(self.shape, dtype)
        raw = np.empty(span(self.shape, self.strides), dtype)
        self.file.read_into(raw, self.offset)
        self.file.check()
        strides = [step * dtype.itemsize for step in self.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(raw, self.shape, strides)).reshape(self.shape)

    def read(self) -> NDArray[np.float32]:
        if self.strides == contiguous(self.shape) or self.dtype not in FLOATS:
            return Stored(self.file, self.name, self.dtype, self.shape, self.offset).read()
        return _widened(self.bits(), self.dtype, f"{self.file.path} holds NaN or infinity in {self.name}")

    def rows(self, first: int, last: int) -> Tensor:
        """Return the part of a tensor from one row to the one before another."""
        offset = self.offset + first * self.strides[0] * DTYPES[self.dtype].itemsize
        return replace(self, name=f"{self.name}[{first}:{last}]", shape=(last - first, *self.shape[1:]), offset=offset)


@dataclass(frozen=True, eq=False, repr=False)
class Held:
    """A tensor in memory, whose values are of the type that DTYPES has."""

    name: str
    dtype: str
    values: NumPyArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def bits(self) -> NumPyArray:
        return np.ascontiguousarray(self.values).reshape(self.shape)

    def read(self) -> NDArray[np.float32]:
        return _widened(self.values, self.dtype, f"{self.name} holds NaN or infinity")

    def rows(self, first: int, last: int) -> Held:
        """Return the part of a tensor from one row to the one before another."""
        return replace(self, name=f"{self.name}[{first}:{last}]", values=self.values[first:last])


@dataclass(frozen=True, eq=False, repr=False)
class Joined:
    """Tensors of one type, and of one shape but for their rows, one under another."""

    parts: Sequence[Leaf]

    @property
    def dtype(self) -> str:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    def bits(self) -> NumPyArray:
        return np.concatenate([part.bits() for part in self.parts])

    def read(self) -> NDArray[np.float32]:
        return np.concatenate([part.read() for part in self.parts])


def in_order(stored: Stored) -> Tensor:
    """Return a tensor of a safetensors file as a Tensor.

    Args:
        stored: as `safetensors.open_file` gives it.
    """
    return Tensor(stored.file, stored.name, stored.dtype, stored.shape, stored.offset, contiguous(stored.shape))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor whose numbers lie in order, as torch counts them.

    Args:
        shape: its shape.
    """
    return tuple(math.prod(max(n, 1) for n in shape[axis + 1 :]) for axis in range(len(shape)))


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many numbers lie from the first of a tensor to its last.

    Args:
        shape: its shape.
        strides: how many numbers lie from one to the next along each axis.
    """
    return 0 if 0 in shape else 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))


def _widened(bits: NumPyArray, dtype: str, wrong: str) -> NDArray[np.float32]:
    wide: NDArray[np.float32]
    wide = (bits.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else bits.astype(np.float32)
    if not np.isfinite(wide).all():
        raise ValueError(f"{wrong}, where only finite numbers can be used; its training failed or it is damaged")
    return wide
