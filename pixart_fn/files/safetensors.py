"""The safetensors format: 8 bytes of header length, a JSON header, then the tensors' bytes.

The library's own reader copies each tensor and can't give bfloat16 to NumPy, and its writer needs all in memory.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import mmap
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..types import NumPyArray
from . import header as header_
from . import reading
from .owned import Owned

_STORAGE: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
}
PIECE = 2**24
"""The number of bytes that are read at a time."""
FEW = 2**16
"""The numbers that are converted and checked at a time, since they stay in the processor's cache."""
MAPPED = 2**26
"""The bytes of a file from which float32 tensors are views of it. Those of a smaller file are copied, which takes 30 ms
for the largest, since a process is ended when it reads a mapped file that another has cut off."""
LARGEST_HEADER = 100_000_000
"""The format's own limit."""
_POPULATE_READ = 22 if sys.platform == "linux" else None  # MADV_POPULATE_READ, which Python doesn't name
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Opened(Owned):
    """A file that stays open for as long as a tensor may be read from it, and says so when its content is changed.

    It stays open since `save` may put another file in its place, with other bytes than those that were opened.
    """

    def __init__(self, path: Path):
        super().__init__(reading.descriptor(path))
        self.path = path
        self.finite: set[str] = set()
        """The tensors in which no NaN and no infinity was found."""
        self._was, self._lock = self._now(), threading.Lock()

    @property
    def size(self) -> int:
        """The file's bytes when it was opened."""
        return self._was[0]

    @functools.cached_property
    def bytes(self) -> mmap.mmap:
        """The mapped file."""
        # Copy-on-write: an operation in place on a tensor changes neither the file nor, by a fault, ends the process.
        return mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_COPY)

    def check(self) -> None:
        """Raise an OSError where the file was changed in place after it was opened."""
        if self._now() != self._was:
            raise self._changed()

    def read_into(self, array: NumPyArray, offset: int) -> None:
        """Fill a contiguous array with the file's bytes from an offset on."""
        rest = memoryview(array.reshape(-1).view(np.uint8).data)
        while rest:
            size = self._read(rest[:PIECE], offset)
            if size == 0:
                raise self._changed()
            rest, offset = rest[size:], offset + size

    def _read(self, piece: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.descriptor, [piece], offset)
        with self._lock:  # Windows can't read at an offset in one step
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            found = os.read(self.descriptor, len(piece))
        piece[: len(found)] = found
        return len(found)

    def _now(self) -> tuple[int, int]:
        found = os.fstat(self.descriptor)
        return found.st_size, found.st_mtime_ns

    def _changed(self) -> OSError:
        return OSError(f"{self.path} was changed after it was opened; load it again")


@dataclass(frozen=True, eq=False, repr=False)
class Stored:
    """A tensor in a file, of which nothing is read until `read`; it is a leaf of a streamed tree."""

    file: Opened
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def __repr__(self) -> str:
        return f"Stored({self.dtype} {self.shape} in {self.file.path.name})"

    def read(self) -> NDArray[np.float32]:
        """Return the tensor in float32: a view of the file if that is large and holds float32, or else a copy.

        Raises:
            OSError: the file was changed in place after it was opened.
            ValueError: a number is NaN or infinite, or the file's type of numbers isn't supported.
        """
        if not self._mapped():
            return self.copy()
        self.file.check()
        values: NDArray[np.float32] = np.ndarray(self.shape, np.float32, self.file.bytes, self.offset)
        if self.name not in self.file.finite:
            self._check_finite(values)
            self.release()  # it is read again when it is used
        return self._checked(values)

    def copy(self) -> NDArray[np.float32]:
        """Return the tensor in float32, in memory of its own; it raises what `read` raises."""
        self.check()
        count = math.prod(self.shape)
        raw = np.empty(4 * count + 64, np.uint8)
        start = -raw.ctypes.data % 64  # at the beginning of a cache line
        values = raw[start : start + 4 * count].view(np.float32)
        piece, new = np.empty(min(count, FEW), _STORAGE[self.dtype]), self.name not in self.file.finite
        for first in range(0, count, FEW):
            part, wide = piece[: count - first], values[first : first + FEW]
            self.file.read_into(part, self.offset + first * part.itemsize)
            _widen(part, self.dtype, wide)
            if new:
                self._check_finite(wide)
        return self._checked(values.reshape(self.shape))

    def rows(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return rows of a matrix in float32, without reading the others; it raises what `read` raises."""
        self.check()
        each, where = np.unique(ids, return_inverse=True)
        stored = np.empty((len(each), self.shape[1]), _STORAGE[self.dtype])
        for row, i in zip(stored, each.tolist(), strict=True):
            self.file.read_into(row, self.offset + range(self.shape[0])[i] * row.nbytes)
        values = np.empty(stored.shape, np.float32)
        _widen(stored, self.dtype, values)
        self.file.check()
        self._check_finite(values)
        picked: NDArray[np.float32] = values[where.reshape(ids.shape)]
        return picked

    def prefetch(self) -> None:
        """Read the bytes that are mapped from the disk, in large pieces, before they are used one by one."""
        if not self._mapped():
            return
        piece = np.empty(min(PIECE, self._size()), np.uint8)
        for start in range(0, self._size(), PIECE):
            part = piece[: self._size() - start]
            self.file.read_into(part, self.offset + start)
            self._advise(_POPULATE_READ, self.offset + start, len(part))

    def release(self) -> None:
        """Give the memory of the tensor's bytes back; if they are used again, they are read again.

        Raises:
            OSError: the file was changed in place, so that what was computed may be wrong.
        """
        if self._mapped():
            self._advise(getattr(mmap, "MADV_DONTNEED", None), self.offset, self._size())
        self.file.check()

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

    def _mapped(self) -> bool:
        large = self.dtype == "F32" and self.file.size >= MAPPED and sys.byteorder == "little"
        return large and self.offset % 4 == 0 and 0 not in self.shape

    def _checked(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the tensor's numbers, which are finite, if the file is still what it was."""
        self.file.finite.add(self.name)
        self.file.check()
        return values

    def _check_finite(self, values: NDArray[np.float32]) -> None:
        flat = values.reshape(-1)
        for first in range(0, flat.size, FEW):
            finite = np.isfinite(flat[first : first + FEW])
            if not finite.all():
                value = flat[first + int(np.argmin(finite))]
                raise ValueError(
                    f"{self.file.path} holds {value} in {self.name}, where only finite numbers can be used; its"
                    " training failed or the file is damaged"
                )


def _widen(stored: NumPyArray, dtype: str, values: NDArray[np.float32]) -> None:
    """Write stored numbers into a contiguous float32 array of their shape."""
    if dtype == "BF16":  # the upper half of a float32
        bits = values.view(np.uint32)
        np.left_shift(stored, 16, out=bits, dtype=np.uint32)
    elif dtype in ("F8_E4M3", "F8_E5M2"):
        np.take(_float8(dtype), stored, out=values)
    else:
        values[...] = stored


@functools.cache
def _float8(dtype: str) -> NDArray[np.float32]:
    """The number that each byte stands for (arXiv:2209.05433): (256,) float32."""
    bits = np.arange(256, dtype=np.uint16)
    values: NDArray[np.float32]
    if dtype == "F8_E5M2":  # the upper half of a float16
        values = (bits << 8).view(np.float16).astype(np.float32)
        return values
    # a float16's exponent is one bit longer, and its bias 15 in place of 7
    values = ((bits & 0x80) << 8 | (bits & 0x7F) << 7).view(np.float16).astype(np.float32) * np.float32(2**8)
    values[bits & 0x7F == 0x7F] = np.nan  # there are no infinities
    return values


def open_file(path: Path) -> dict[str, Stored]:
    """Open a file without reading a tensor.

    Args:
        path: a .safetensors file.
    Returns:
        The tensors by name, with `.shape` and `.dtype`; `.read()` gives float32.
    Raises:
        OSError: the file can't be read, or isn't a regular one.
        ValueError: the file is truncated or not safetensors.
    """
    return open_with_metadata(path)[0]


def open_with_metadata(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Do as `open_file`, and return the texts of the file's __metadata__ as well."""
    file = Opened(path)
    head = np.empty(min(12, file.size), np.uint8)
    file.read_into(head, 0)
    length = int.from_bytes(head[:8].tobytes(), "little")
    if len(head) < 8 or length > LARGEST_HEADER:
        pointer = " but a Git LFS pointer: run `git lfs pull`" if head.tobytes() == b"version http" else ""
        raise ValueError(f"{path} isn't a safetensors file{pointer}")
    start = 8 + length
    if start > file.size:
        raise ValueError(
            f"{path} is truncated: its header ends at byte {start}, the file at {file.size}; download it again"
        )
    text = np.empty(length, np.uint8)
    file.read_into(text, 8)
    try:
        entries, metadata = header_.parse(text.tobytes())
    except ValueError as error:
        raise ValueError(f"{path} has a damaged safetensors header ({error}); download it again") from error
    end = start + max((entry.end for entry in entries.values()), default=0)
    if end != file.size:
        what = "is truncated" if end > file.size else "holds more than its tensors"
        raise ValueError(f"{path} {what}: its tensors end at byte {end}, the file at {file.size}; download it again")
    stored = {name: Stored(file, name, e.dtype, e.shape, start + e.begin) for name, e in entries.items()}
    return stored, metadata


def write_file(
    path: Path, leaves: Mapping[str, Any], dtypes: Mapping[str, str], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors one at a time, so that a model that just fits in memory can be saved.

    Args:
        path: the file to write.
        leaves: NumPy arrays, MindSpore Tensors or Stored tensors, by name.
        dtypes: "F32", "F16" or "BF16" for each name.
        metadata: texts that the file keeps by name.
    Raises:
        ValueError: a finite value is beyond float16.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
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
