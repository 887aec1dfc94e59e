"""NumPy's own files, .npy and .npz: read within bounds and without pickles."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..checks import first_few, shown
from ..types import NumPyArray
from . import reading

LARGEST = 2**30
"""Bytes of a file, and of an array in it, at most."""


def load(path: Path, most: int = LARGEST) -> NumPyArray:
    """Read the array of a .npy file.

    Args:
        path: the file.
        most: bytes of the file at most.
    Returns:
        The array, read-only.
    Raises:
        OSError: the file can't be read.
        ValueError: it is larger, damaged, or holds objects in place of numbers.
    """
    content = reading.content(path, most)
    try:
        return _array(io.BytesIO(content), len(content))
    except Exception as error:  # NumPy raises whatever a damaged header makes it stumble over
        raise ValueError(f"{path} is no .npy file of numbers, or is damaged ({shown(str(error))})") from error


def load_archive(path: Path, names: Sequence[str], optional: Sequence[str] = (), most: int = LARGEST) -> dict[str, Any]:
    """Read arrays of a .npz file, as `arrays` does.

    Raises:
        OSError: the file can't be read.
        ValueError: it is larger than `most`, or as `arrays` says, with the file's name.
    """
    content = reading.content(path, most)
    try:
        return arrays(content, names, optional, most)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def arrays(content: bytes, names: Sequence[str], optional: Sequence[str] = (), most: int = LARGEST) -> dict[str, Any]:
    """Read arrays of the content of a .npz file, compressed or not.

    Args:
        content: of the file.
        names: of the arrays that it must hold.
        optional: of those that it may hold; what else it holds isn't read.
        most: bytes of each array at most.
    Returns:
        The arrays by name, read-only.
    Raises:
        ValueError: it is damaged, lacks an array, or holds objects in place of numbers; the file's name is left out.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            held = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
            wanted = [name for name in (*names, *optional) if name in held]
            found = {name: _entry(archive, held[name], most) for name in wanted}
    except Exception as error:  # a damaged archive makes zipfile raise whatever it stumbles over
        raise ValueError(f"is no .npz file of numbers, or is damaged ({shown(str(error))})") from error
    missing = [name for name in names if name not in held]
    if missing:
        raise ValueError(f"holds no {' and no '.join(missing)}, only {first_few(held) or 'nothing'}")
    return found


def save_archive(arrays: Mapping[str, Any], path: Path) -> None:
    """Write arrays as a .npz file.

    Args:
        arrays: by their names.
        path: the file, of any ending.
    Raises:
        OSError: the file can't be written.
    """
    buffer = io.BytesIO()  # of a path np.savez would change the ending, and on a full disk it leaves an archive open
    np.savez(buffer, **arrays)
    path.write_bytes(buffer.getbuffer())


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> NumPyArray:
    if entry.file_size > most:
        raise ValueError(f"{entry.filename} holds more than {most >> 20} MiB")
    with archive.open(entry) as file:
        return _array(file, entry.file_size)


def _array(file: IO[bytes], size: int) -> NumPyArray:
    """Read an array after its size is known to be that of the file."""
    format: Any = np.lib.format  # which NumPy leaves without types
    read = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}[format.read_magic(file)]
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    count = math.prod(shape) * dtype.itemsize
    if count != size - file.tell():
        raise ValueError("its size isn't what its header says")
    flat: NumPyArray = np.frombuffer(file.read(count), dtype)
    array: NumPyArray = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return array
