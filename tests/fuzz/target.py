"""What a reader is to the fuzzer, and what several of them need."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import mutate

Errors = tuple[type[Exception], ...]
READ: Errors = (ValueError, OSError)


class Target(NamedTuple):
    """A reader.

    Args:
        seeds: makes valid inputs.
        read: (input, an empty folder) → reads it; what it returns is only looked at by `same`.
        mutations: how inputs are damaged.
        errors: what it may raise.
        named: whether an error must name the file or the folder.
    """

    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[bytes, Path], Any]
    mutations: tuple[mutate.Mutation, ...] = mutate.BYTES
    errors: Errors = READ
    named: bool = True


def dumped(*objects: Any) -> list[bytes]:
    return [json.dumps(each).encode() for each in objects]


def check_sentence(said: str) -> None:
    """Fail where an error isn't one line that a terminal can show."""
    assert said and said.isprintable() and len(said) < 6000, f"the sentence is {said[:500]!r}"


# --- files of a folder: an input is the name of a file, a line end, and the file --------------------------------------


def in_file(name: str, content: bytes) -> bytes:
    """An input that says which file of a folder it is."""
    return name.encode() + b"\n" + content


def put(content: bytes, folder: Path) -> None:
    """Write an input into its file."""
    name, _, rest = content.partition(b"\n")
    if re.fullmatch(rb"([a-z_]+/)?[a-zA-Z0-9_.-]{1,60}\.(json|model|npy|safetensors)", name):  # as long as it is whole
        (folder / name.decode()).write_bytes(rest)


def within(*mutations: mutate.Mutation) -> tuple[mutate.Mutation, ...]:
    """Mutations of the file that an input holds, by its name."""

    def changed(rng: Any, content: bytes) -> bytes:
        name, _, rest = content.partition(b"\n")
        kind = Path(name.decode()).suffix
        of = {".json": mutate.as_json, ".safetensors": mutate.with_header}.get(kind, mutate.flip)
        return name + b"\n" + rng.choice((of, of, *mutations))(rng, rest)

    return (changed,)


PNG = (*mutate.BYTES, *(mutate.of_png,) * 6)
TENSORS = (*mutate.BYTES, *(mutate.with_header,) * 8)
JSON = (*mutate.BYTES, *(mutate.as_json,) * 8)
ZIP = (*mutate.BYTES, *(mutate.of_zip,) * 12)
