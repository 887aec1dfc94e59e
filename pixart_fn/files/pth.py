"""The zip files that torch.save writes (.pth, .pt, .bin): read and written without torch, and nothing in them is run.

A file holds a pickle, data.pkl, and beside it the numbers of each storage; the tensors in the pickle say which storage
is theirs, and where in it they lie.
"""

from __future__ import annotations

import math
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checks import first_few, kind, shown
from ..types import NumPyArray
from . import atomic, pickles, unpickle, zips
from .header import AXES, LONGEST
from .safetensors import Opened
from .tensors import DTYPES, Held, Leaf, Tensor, contiguous, span
from .unpickle import Global

STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
_ORDERED, _SIZE, _DEVICE = Global("collections", "OrderedDict"), Global("torch", "Size"), Global("torch", "device")
_TENSOR, _PARAMETER = (Global("torch._utils", f"_rebuild_{name}") for name in ("tensor_v2", "parameter"))
_NUMBERS = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
_NAMES = {
    *(_ORDERED, _SIZE, _DEVICE, _TENSOR, _PARAMETER),
    *(Global("torch", name) for name in (*STORAGES, *_NUMBERS)),
}
_AGAIN = "load it once with torch.load(…, weights_only=True) and write it with torch.save, of torch 1.6 or later"


# --- reading ----------------------------------------------------------------------------------------------------------


def open_file(path: Path) -> dict[str, Any]:
    """Open a file without reading a tensor.

    Args:
        path: a file of torch.save.
    Returns:
        What was saved: dicts, lists, numbers and texts, in which tensors and parameters are Tensors.
    Raises:
        OSError: the file can't be read, or isn't a regular one.
        ValueError: it is damaged, in an older format, or holds anything else than tensors, numbers and texts; it may
            be there to run code, and it isn't run.
    """
    file = Opened(path)
    head = np.empty(min(16, file.size), np.uint8)
    file.read_into(head, 0)
    if not zips.begins(head.tobytes()):
        raise ValueError(f"{path} {_instead(head.tobytes())}")
    try:
        found = zips.entries(file)
        root = _root(found)
        if f"{root}byteorder" in found and zips.content(file, found, f"{root}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine; write it again on a little-endian one")
        archive = _Archive(file, found, root)
        reader = unpickle.Reader(_NAMES, partial(_make, archive), partial(_storage, archive))
        held = unpickle.load(zips.content(file, found, f"{root}data.pkl"), reader)
        if type(held) not in (dict, OrderedDict):
            raise ValueError(f"it holds no dict of tensors but {kind(held)}")
    except ValueError as error:
        raise ValueError(f"{path} isn't read, and nothing in it was run: {error}") from error
    return {str(name): value for name, value in held.items()}


class _Archive(NamedTuple):
    file: Opened
    entries: dict[str, zips.Entry]
    root: str


class _Storage(NamedTuple):
    """Numbers of one type that tensors share."""

    dtype: str
    offset: int
    numbers: int


def _instead(head: bytes) -> str:
    """Say what a file is that is no zip."""
    if head[:1] == b"\x80" and head[2:6] == b"\x8a\x0al\xfc":
        return f"is in the format of torch before 1.6, which isn't read; {_AGAIN}"
    if head == b"" or head.startswith(b"version https://"):
        return "is a Git LFS pointer: run `git lfs pull`" if head else "is empty; download it again"
    return "is no file of torch.save, or it is damaged; download it again"


def _root(found: Mapping[str, zips.Entry]) -> str:
    """Return the folder in the archive that holds the pickle, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in found if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError(
            f"it must hold one data.pkl, as torch.save writes it; it holds {first_few(found) or 'nothing'}"
        )
    if f"{roots[0]}constants.pkl" in found or any(name.startswith(f"{roots[0]}code/") for name in found):
        raise ValueError("it holds a TorchScript program; save the state_dict() of what torch.jit.load gives instead")
    return roots[0]


def _storage(archive: _Archive, named: Any) -> _Storage:
    """Return the storage that a persistent id stands for: ("storage", type, key, device, count)."""
    kinds = [type(each) for each in named] if type(named) is tuple else []
    if kinds != [str, Global, str, str, int] or named[0] != "storage" or named[1].name not in STORAGES:
        raise ValueError("its pickle names a storage in another way than torch.save does")
    dtype, key, count = STORAGES[named[1].name], named[2], named[4]
    entry = zips.in_place(archive.entries, f"{archive.root}data/{key}")
    if count < 0 or entry.size != count * DTYPES[dtype].itemsize:
        raise ValueError(f"its storage {shown(key)} has {entry.size} bytes, which aren't {shown(count)} of {dtype}")
    return _Storage(dtype, entry.offset, count)


def _make(archive: _Archive, called: Global, arguments: tuple[Any, ...]) -> Any:
    """Return what a call in the pickle stands for."""
    if called == _ORDERED and not arguments:
        return OrderedDict()
    if called == _DEVICE and arguments and all(type(each) in (str, int) for each in arguments):
        return ":".join(map(str, arguments))
    if called == _SIZE and len(arguments) == 1 and _sizes(arguments[0]):
        return arguments[0]
    if called == _TENSOR and len(arguments) in (6, 7) and not any(arguments[5:]):  # no hooks, no flags
        return _tensor(archive.file, *arguments[:4])
    if called == _PARAMETER and len(arguments) == 3 and type(arguments[0]) is Tensor and not arguments[2]:
        return arguments[0]
    raise ValueError(f"its pickle calls {called} in another way than torch.save does")


def _tensor(file: Opened, storage: Any, first: Any, shape: Any, strides: Any) -> Tensor:
    if type(storage) is not _Storage or not _sizes((first,)) or not _sizes(shape) or not _sizes(strides):
        raise ValueError("its pickle makes a tensor in another way than torch.save does")
    if len(shape) != len(strides) or len(shape) > AXES:
        raise ValueError(f"it holds a tensor with {len(shape)} sides and {len(strides)} strides")
    # A tensor may show numbers more than once; more of them than there are is a way to fill the memory.
    if math.prod(shape) > storage.numbers or first + span(shape, strides) > storage.numbers:
        raise ValueError(
            f"it holds a tensor of {shown(shape)} that reaches beyond its storage of {storage.numbers} numbers"
        )
    offset = storage.offset + first * DTYPES[storage.dtype].itemsize
    ordered = all(n == 1 or a == b for n, a, b in zip(shape, strides, contiguous(shape), strict=True))
    return Tensor(file, "a tensor", storage.dtype, shape, offset, contiguous(shape) if ordered else strides)


def _sizes(value: Any) -> bool:
    return type(value) is tuple and all(type(n) is int and 0 <= n < 2**63 for n in value)


# --- writing ----------------------------------------------------------------------------------------------------------


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that torch.load reads, also with weights_only=True, one tensor at a time.

    Args:
        path: the file; an existing one is replaced in one step.
        content: dicts by text, inside each other, of leaves and NumPy arrays.
    Raises:
        TypeError: something else is in it.
        OSError: the file can't be written; what was there is there still.
        ValueError: a name is too long or no text.
    """
    leaves: list[Leaf] = []
    text = pickles.dump(_listed(content, leaves))
    atomic.write(path, partial(_fill, text, leaves))


def _listed(content: Any, leaves: list[Leaf]) -> Any:
    """Return the content with the description of each tensor in its place, and list the tensors."""
    if isinstance(content, Mapping):
        if wrong := [name for name in content if not isinstance(name, str) or not 0 < len(name) <= LONGEST]:
            raise ValueError(f"a name must be a text of at most {LONGEST} letters, got {shown(wrong[0])}")
        return {name: _listed(value, leaves) for name, value in content.items()}
    if isinstance(content, np.ndarray):
        codes = [code for code, dtype in DTYPES.items() if dtype == content.dtype and code not in ("BF16", "BOOL")]
        if not codes:
            raise TypeError(f"an array must be of {first_few(DTYPES)}, got {content.dtype}")
        content = Held("an array", codes[0], content)
    if not isinstance(content, Leaf):
        raise TypeError(f"only dicts and tensors are written, got {kind(content)}")
    leaves.append(content)
    storage = next(name for name, code in STORAGES.items() if code == content.dtype)
    return pickles.Described(storage, len(leaves) - 1, content.shape, contiguous(content.shape))


def _fill(text: bytes, leaves: list[Leaf], path: Path) -> None:
    with open(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:

        def put(name: str, content: bytes | NumPyArray) -> None:
            entry = zipfile.ZipInfo(f"archive/{name}")
            # Numbers begin at a multiple of 64 bytes, as torch has it, behind a field that nothing reads.
            empty = -(file.tell() + 30 + len(entry.filename) + 4) % 64
            entry.extra = b"FB" + empty.to_bytes(2, "little") + b"Z" * empty
            data = memoryview(content).cast("B") if isinstance(content, bytes) else content.reshape(-1).view("u1").data
            entry.file_size = len(data)
            with archive.open(entry, "w") as opened:
                opened.write(data)

        put("data.pkl", text)
        put("byteorder", b"little")
        for i, leaf in enumerate(leaves):
            put(f"data/{i}", leaf.bits())
        put("version", b"3\n")
