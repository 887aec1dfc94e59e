"""Pickles that would make a file if Python's own unpickler read them, one for each way to do so."""

from __future__ import annotations

import codecs
import copyreg
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

EXTENSIONS = {1: (b"\x82", "<B", 0xF1), 2: (b"\x83", "<H", 0xF1F1), 4: (b"\x84", "<i", 0x1F1F1F1)}
PROTOCOL = b"\x80\x04"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def on_stack(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def octets(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


EXEC, SYSTEM, IMPORT = name("builtins", "exec"), name("os", "system"), name("importlib", "import_module")
OS = call(IMPORT, text("os"))
SPACE = name("types", "SimpleNamespace") + b")R"
STORAGE = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x06tQ"
HOOKS = name("collections", "OrderedDict") + b")R"
TENSOR = name("torch._utils", "_rebuild_tensor_v2")


def tensor(*arguments: bytes) -> bytes:
    return call(TENSOR, *arguments)


SIX = tensor(STORAGE, b"K\x00", b"K\x02K\x03\x86", b"K\x03K\x01\x86", b"\x89", HOOKS)
"""A tensor of (2, 3) as torch.save writes it, of the storage "0"."""


class Reduced:
    def __init__(self, code: str):
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


def code(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()"


def shell(marker: Path) -> bytes:
    return text(f"touch '{marker}'")


def source(marker: Path) -> bytes:
    return text(code(marker))


def _array(marker: Path) -> bytes:
    """A .npy file of an object whose pickle makes the marker, and the call that loads it."""
    file = marker.with_suffix(".npy")
    np.save(file, np.array([Reduced(code(marker))], object), allow_pickle=True)
    return call(name("numpy", "load"), text(str(file)), b"N", b"\x88")


def _saved(marker: Path, module: str, attribute: str) -> bytes:
    """A call of torch with the name of another file, whose pickle makes the marker."""
    file = marker.with_suffix(".bin")
    file.write_bytes(archive(call(EXEC, source(marker)) + b"."))
    return call(name(module, attribute), text(str(file)))


def _lazily(marker: Path) -> bytes:
    """bytes(map(exec, [code])), whose parts are made by NEWOBJ."""
    arguments = EXEC + source(marker) + b"\x85" + b"\x86"
    return name("builtins", "bytes") + name("builtins", "map") + arguments + b"\x81" + b"\x85\x81"


def _with_keywords(marker: Path) -> bytes:
    arguments = EXEC + source(marker) + b"\x85" + b"\x86"
    return name("builtins", "bytes") + name("builtins", "map") + arguments + b"}\x92" + b"\x85" + b"}\x92"


RUN: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda m: call(SYSTEM, shell(m)),
    "posix.system": lambda m: call(name("posix", "system"), shell(m)),
    "a name on the stack": lambda m: call(on_stack("os", "system"), shell(m)),
    "subprocess": lambda m: call(name("subprocess", "getoutput"), shell(m)),
    "exec": lambda m: call(EXEC, source(m)),
    "eval": lambda m: call(name("builtins", "eval"), source(m)),
    "eval in Python 2's names": lambda m: b"\x80\x02" + call(name("__builtin__", "eval"), source(m)),
    "NEWOBJ": _lazily,
    "NEWOBJ_EX": _with_keywords,
    "INST": lambda m: b"(" + source(m) + b"ibuiltins\nexec\n",
    "OBJ": lambda m: b"(" + EXEC + source(m) + b"o",
    "BUILD of __setstate__": lambda m: SPACE + b"}" + text("__setstate__") + EXEC + b"sb" + source(m) + b"b",
    "APPEND of an object": lambda m: SPACE + b"}" + text("append") + EXEC + b"sb" + source(m) + b"a",
    "ADDITEMS of an object": lambda m: SPACE + b"}" + text("add") + EXEC + b"sb(" + source(m) + b"\x90",
    "__reduce__": lambda m: pickle.dumps(Reduced(code(m)), 4)[2:-1],
    "getattr": lambda m: call(call(name("builtins", "getattr"), OS, text("system")), shell(m)),
    "functools.partial": lambda m: call(call(name("functools", "partial"), EXEC, source(m))),
    "operator.attrgetter": lambda m: call(call(call(name("operator", "attrgetter"), text("system")), OS), shell(m)),
    "operator.methodcaller": lambda m: call(call(name("operator", "methodcaller"), text("system"), shell(m)), OS),
    "numpy.load": _array,
    "codecs": lambda m: call(
        EXEC, call(name("codecs", "decode"), text(codecs.encode(code(m), "rot13")), text("rot13"))
    ),
    "ctypes": lambda m: call(
        call(name("operator", "methodcaller"), text("system"), octets(f"touch '{m}'".encode())),
        call(name("ctypes", "CDLL"), b"N"),
    ),
    "a nested pickle": lambda m: call(name("pickle", "loads"), octets(pickle.dumps(Reduced(code(m))))),
    "a name with dots": lambda m: call(on_stack("os", "path.os.system"), shell(m)),
    "by way of an allowed module": lambda m: call(
        call(name("operator", "methodcaller"), text("system"), shell(m)),
        call(name("operator", "itemgetter"), text("os")) + on_stack("collections", "_sys.modules") + b"\x85R",
    ),
    "in a dict, beside a tensor": lambda m: b"}(" + text("a") + call(EXEC, source(m)) + b"u",
    "thrown away": lambda m: call(EXEC, source(m)) + b"0}",
    "from the memo": lambda m: EXEC + b"q\x050h\x05" + source(m) + b"\x85R",
    **{
        f"EXT{size}": lambda m, size=size: call(EXTENSIONS[size][0] + struct.pack(*EXTENSIONS[size][1:]), source(m))
        for size in EXTENSIONS
    },
}
"""Those that Python's own unpickler runs, so that a test can see that they would."""
REFUSED: dict[str, Callable[[Path], bytes]] = {
    "torch.load": lambda m: _saved(m, "torch", "load"),
    "torch.hub.load": lambda m: _saved(m, "torch.hub", "load"),
    "torch.serialization.load": lambda m: _saved(m, "torch.serialization", "load"),
    "torch._utils with dots": lambda m: on_stack("torch._utils", "_rebuild_tensor_v2.__globals__"),
    "OrderedDict.fromkeys": lambda m: call(on_stack("collections", "OrderedDict.fromkeys"), EXEC),
    "OrderedDict of a call": lambda m: call(name("collections", "OrderedDict"), b"(" + call(EXEC, source(m)) + b"l"),
    "a tensor of a callable": lambda m: tensor(EXEC, b"K\x00", b")", b")", b"\x89", HOOKS),
    "a tensor of a name that is allowed": lambda m: tensor(
        name("collections", "OrderedDict"), b"K\x00", b")", b")", b"\x89", HOOKS
    ),
    "a tensor with hooks": lambda m: tensor(
        STORAGE, b"K\x00", b")", b")", b"\x89", HOOKS + text("__call__") + EXEC + b"s"
    ),
    "a parameter of a text": lambda m: call(name("torch._utils", "_rebuild_parameter"), source(m), b"\x89", HOOKS),
    "a type of torch that is called": lambda m: call(name("torch", "FloatStorage"), source(m)),
    "from a type with state": lambda m: call(
        name("torch._tensor", "_rebuild_from_type_v2"), EXEC, EXEC, source(m) + b"\x85", b"}"
    ),
    "a persistent id that is a text": lambda m: text(code(m)) + b"Q",
    "a persistent id in letters": lambda m: b"P" + code(m).encode() + b"\n",
    "a persistent id of a module": lambda m: b"(" + text("module") + EXEC + source(m) + source(m) + b"tQ",
    "a persistent id of a callable": lambda m: b"(" + text("storage") + EXEC + text("0") + text("cpu") + b"K\x06tQ",
    "a persistent id that leads out": lambda m: (
        b"(" + text("storage") + name("torch", "FloatStorage") + text("../../data.pkl") + text("cpu") + b"K\x06tQ"
    ),
    "the state of a tensor": lambda m: SIX + b"}" + text("__setstate__") + source(m) + b"sb",
    "the state of a dict": lambda m: b"}}" + text("__reduce__") + source(m) + b"sb",
    "the state of an OrderedDict that is a pair": lambda m: HOOKS + b"N}" + text("__class__") + source(m) + b"s\x86b",
    "a call of a text": lambda m: source(m) + b")R",
    "a call of a tensor": lambda m: SIX + b")R",
    "a call with a list": lambda m: name("collections", "OrderedDict") + b"]R",
    "items of a name": lambda m: name("collections", "OrderedDict") + text("a") + source(m) + b"s",
    "a name from a number": lambda m: b"K\x01K\x02\x93",
    "a second pickle": lambda m: b"}." + PROTOCOL + call(EXEC, source(m)),
}
"""Those that need torch, or that are there to mislead a reader that is careful."""
PAYLOADS = RUN | REFUSED


def pickled(payload: bytes) -> bytes:
    return (b"" if payload.startswith(b"\x80") else PROTOCOL) + payload + b"."


def archive(content: bytes, files: dict[str, bytes] | None = None, *, packed: int = zipfile.ZIP_STORED) -> bytes:
    """A file as torch.save writes it, with six numbers in the storage "0"."""
    made = io.BytesIO()
    entries = {"data.pkl": content, "byteorder": b"little", "data/0": np.arange(6, dtype="<f4").tobytes()}
    with zipfile.ZipFile(made, "w", packed) as opened:
        for file, held in {**entries, "version": b"3\n", **(files or {})}.items():
            opened.writestr(f"archive/{file}", held)
    return made.getvalue()


@contextmanager
def extensions() -> Iterator[None]:
    """exec in Python's registry of extensions, as a program may have put it there."""
    numbers = [number for _, _, number in EXTENSIONS.values()]
    copyreg._inverted_registry.update(dict.fromkeys(numbers, ("builtins", "exec")))
    try:
        yield
    finally:
        for number in numbers:
            del copyreg._inverted_registry[number]
        copyreg.clear_extension_cache()
