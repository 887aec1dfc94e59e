"""The safetensors format: 8 bytes of header length, a JSON header, then the tensors' bytes.

The library's own reader copies each tensor and can't give bfloat16 to NumPy, and its writer needs all in memory.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import sys
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..types import NumPyArray

_STORAGE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
PIECE = 2**24
"""The number of bytes that are read at a time."""
_POPULATE_READ = 22 if sys.platform == "linux" else None  # MADV_POPULATE_READ, which Python doesn't name
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Mapped:
    """A file that stays mapped and open for as long as a tensor may be read from it.

    It stays open since `save` may put another file in its place, with other bytes than those that are mapped.
    """

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        # Copy-on-write: an operation in place on a tensor changes neither the file nor, by a fault, ends the process.
        self.bytes = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY)


@dataclass(frozen=True, eq=False, repr=False)
class Stored:
    """A tensor in a mapped file, of which nothing is read until `read`; it is a leaf of a streamed tree."""

    file: Mapped
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def __repr__(self) -> str:
        return f"Stored({self.dtype} {self.shape} in {self.file.path.name})"

    def read(self) -> NDArray[np.float32]:
        """Return the tensor in float32: a view of the mapped file if that holds float32, or else a converted copy."""
        return _float32(self._mapped(), self.dtype)

    def rows(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return rows of a matrix in float32, without reading the others."""
        return _float32(self._mapped()[ids], self.dtype)

    def prefetch(self) -> None:
        """Read the bytes from the disk and map them, in large pieces, before they are used one by one."""
        piece = memoryview(bytearray(min(PIECE, self._size())))
        for start in range(0, self._size(), PIECE):
            size = os.preadv(self.file.descriptor, [piece[: self._size() - start]], self.offset + start)
            self._advise(_POPULATE_READ, self.offset + start, size)

    def release(self) -> None:
        """Give the memory of the tensor's bytes back; if they are used again, they are read again."""
        self._advise(getattr(mmap, "MADV_DONTNEED", None), self.offset, self._size())

    def _advise(self, advice: int | None, offset: int, size: int) -> None:
        """Advise the kernel about the whole pages among some bytes; a kernel may ignore the advice without harm."""
        first, last = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE, (offset + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if advice is not None and last > first:
            with contextlib.suppress(OSError):
                self.file.bytes.madvise(advice, first, last - first)

    def _size(self) -> int:
        return math.prod(self.shape) * _STORAGE[self.dtype].itemsize

    def check(self) -> None:
        """Raise a ValueError where the file's type of numbers isn't supported."""
        if self.dtype not in _STORAGE:
            raise ValueError(
                f"{self.file.path} stores {self.dtype}, which isn't supported; convert it to F32, F16 or BF16"
            )

    def _mapped(self) -> NumPyArray:
        self.check()
        array: NumPyArray = np.ndarray(self.shape, _STORAGE[self.dtype], self.file.bytes, self.offset)
        return array


def _float32(array: NumPyArray, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of a float32
        wide = np.zeros(array.shape, np.uint32)
        wide.view(np.uint16)[..., 1::2] = array
        return wide.view(np.float32)
    return np.require(array, np.float32, "A")


def open_file(path: Path) -> dict[str, Stored]:
    """Map a file without reading a tensor.

    Args:
        path: a .safetensors file.
    Returns:
        The tensors by name, with `.shape` and `.dtype`; `.read()` gives float32.
    Raises:
        ValueError: the file is truncated or not safetensors.
    """
    size = path.stat().st_size
    with open(path, "rb") as head:
        length = int.from_bytes(head.read(8), "little")
        if size < 8 or length > 100_000_000:  # the format's own limit
            head.seek(0)
            pointer = " but a Git LFS pointer: run `git lfs pull`" if head.read(12) == b"version http" else ""
            raise ValueError(f"{path} isn't a safetensors file{pointer}")
        header = head.read(length)
    start = 8 + length
    if start > size:
        raise ValueError(f"{path} is truncated: its header ends at byte {start}, the file at {size}; download it again")
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        spans = {name: (*map(int, entry["data_offsets"]),) for name, entry in entries.items()}
        shapes = {name: (*map(int, entry["shape"]),) for name, entry in entries.items()}
        dtypes = {name: str(entry["dtype"]) for name, entry in entries.items()}
        ends = [end for _, end in spans.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has a damaged safetensors header ({error!r}); download it again") from error
    if start + max(ends, default=0) > size:
        raise ValueError(
            f"{path} is truncated: its tensors end at byte {start + max(ends)}, the file at {size}; download it again"
        )
    for name, (begin, end) in spans.items():
        width = _STORAGE[dtypes[name]].itemsize if dtypes[name] in _STORAGE else None
        if begin < 0 or (width and end - begin != width * math.prod(shapes[name])):
            raise ValueError(f"{path}: the place of {name} in the file doesn't fit its shape; download it again")
    file = Mapped(path)
    return {name: Stored(file, dtypes[name], shapes[name], start + spans[name][0]) for name in entries}


def write_file(path: Path, leaves: Mapping[str, Any], dtypes: Mapping[str, str]) -> None:
    """Write tensors one at a time, so that a model that just fits in memory can be saved.

    Args:
        path: the file to write.
        leaves: NumPy arrays, MindSpore Tensors or Stored tensors, by name.
        dtypes: "F32", "F16" or "BF16" for each name.
    Raises:
        ValueError: a finite value is beyond float16.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    order = sorted(leaves, key=lambda name: -_STORAGE[dtypes[name]].itemsize)  # keeps each tensor aligned
    for name in order:
        begin, end = end, end + _STORAGE[dtypes[name]].itemsize * math.prod(leaves[name].shape)
        shape = [int(n) for n in leaves[name].shape]
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(_encode(name, leaves[name], dtypes[name]).tobytes())


def array(leaf: Any) -> NDArray[np.float32]:
    """Return a NumPy array, a MindSpore Tensor or a Stored tensor as a contiguous float32 array."""
    if hasattr(leaf, "read"):
        leaf = leaf.read()
    elif hasattr(leaf, "asnumpy"):
        # MindSpore 2.10 is built with NumPy 1, and under NumPy 2 gives none of its arrays in bfloat16.
        leaf = (leaf.float() if "bfloat16" in str(leaf.dtype).lower() else leaf).asnumpy()
    return np.ascontiguousarray(leaf, np.float32)


def _encode(name: str, leaf: Any, dtype: str) -> NumPyArray:
    """Return the array whose bytes are stored for a leaf."""
    values = array(leaf)
    if dtype == "F32":
        return values
    if dtype == "F16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.isinf(half).sum() > np.isinf(values).sum():
            raise ValueError(f"{name} has values beyond float16's 65504; save with dtype='bfloat16' or 'float32'")
        return half
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to nearest, ties to even
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
