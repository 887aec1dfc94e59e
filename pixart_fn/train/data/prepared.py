"""The folder that `prepare.run` writes: its files, and the dataset that they are.

NNNNNN.safetensors holds the examples of one chunk of the source, with a row for each: `latents_{h}x{w}` (n, 2·C·h·w),
mean and standard deviation, and `states` (tokens, D), the real tokens of all captions one after another. Its metadata
say what the rows are. index.json is written last. N examples, C latent channels, h/w size of latents, D text width.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...checkpoint.sources import written
from ...checkpoint.text import load_text
from ...checks import is_number, shown
from ...files import reading
from ...files.safetensors import Stored, open_with_metadata
from ...public import public
from ...types import Text
from .entries import Skipped
from .examples import Example, hosted

__all__ = ["open"]

INDEX, BEGUN, NULL, SKIPPED = "index.json", "options.json", "null.safetensors", "skipped.jsonl"
LARGEST_INDEX = 2**30
"""Bytes of an index at most: twenty for each example."""
OPEN = 64
"""Chunks that stay open at most, with what they say of their examples."""


class Chunk(NamedTuple):
    """A file of examples.

    Args:
        tensors: by name, unread.
        examples: of each the name, caption, (height, width) of the picture, (h, w) of its latents, and tokens.
        skipped: what couldn't be read.
        rows: of each example, its row among those of its size, and where its states begin.
    """

    tensors: dict[str, Stored]
    examples: tuple[tuple[str, str, tuple[int, int], tuple[int, int], int], ...]
    skipped: tuple[Skipped, ...]
    rows: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False, repr=False)
class Prepared:
    """A dataset on the disk, as `open` makes it."""

    folder: Path
    options: Mapping[str, Any]
    files: tuple[str, ...]
    starts: NDArray[np.int64]
    """The number of the first example of each file, and of all examples."""
    sizes: NDArray[np.int32]
    lengths: NDArray[np.int32]
    scale: float
    null: Text

    def __len__(self) -> int:
        return len(self.sizes)

    def __repr__(self) -> str:
        buckets = len(np.unique(self.sizes, axis=0))
        return f"Prepared({str(self.folder)!r}: {len(self)} examples of {buckets} size{'s' * (buckets != 1)})"

    def example(self, i: int, choice: float = 0.0) -> Example:
        """Read an example.

        Args:
            i: its number, from 0.
            choice: not used, since each example has one caption.
        Raises:
            OSError: its file isn't there.
            ValueError: its file is damaged.
        """
        chunk, k = self._place(i)
        name, _, size, (h, w), tokens = chunk.examples[k]
        row, start = chunk.rows[k]
        moments = chunk.tensors[f"latents_{h}x{w}"].rows(np.array([row], np.int32))
        mean, std = moments.reshape(2, -1, h, w)
        states = chunk.tensors["states"].rows(np.arange(start, start + tokens, dtype=np.int32))
        return Example(mean, std, states, name, size)

    def caption(self, i: int) -> str:
        """Return an example's caption."""
        chunk, k = self._place(i)
        return chunk.examples[k][1]

    def _place(self, i: int) -> tuple[Chunk, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"there are {len(self)} examples, got number {i}")
        file = int(np.searchsorted(self.starts, i, side="right")) - 1
        chunk = _opened(self.folder / self.files[file], self.options["digest"])
        k = i - int(self.starts[file])
        if len(chunk.examples) != self.starts[file + 1] - self.starts[file]:
            raise ValueError(f"{self.folder / self.files[file]} holds other examples than {INDEX} says")
        return chunk, k


@public
def open(path: str | os.PathLike[str]) -> Prepared:
    """Open a folder that `prepare.run` has written; each example is read when it is needed.

    Args:
        path: the folder.
    Returns:
        The dataset.
    Raises:
        TypeError: path isn't a path.
        FileNotFoundError: there is no such folder, or its preparation isn't complete.
        ValueError: a file in it is damaged.
    """
    folder = Path(os.path.expanduser(written(path, "path", "a folder that was prepared")))
    index = folder / INDEX
    if not index.is_file():
        begun = "is not complete; the same command goes on" if (folder / BEGUN).is_file() else f"holds no {INDEX}"
        raise FileNotFoundError(f"the preparation in {str(folder)!r} {begun}")
    found = read_json(index)
    files: Any = found.get("files")
    options = found["options"] if isinstance(found.get("options"), dict) else {}
    scale = options.get("scaling_factor")
    if not is_number(scale) or not isinstance(options.get("digest"), str) or not _are_files(files):
        raise ValueError(f"{index} isn't what a preparation writes; delete it, and the same command writes it again")
    counts = [len(each["tokens"]) for each in files]
    return Prepared(
        folder,
        options,
        tuple(each["file"] for each in files),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.array([size for each in files for size in each["sizes"]], np.int32).reshape(-1, 2),
        np.array([n for each in files for n in each["tokens"]], np.int32),
        float(scale),
        hosted("null", load_text(folder / NULL)),
    )


def _are_files(files: object) -> bool:
    if not isinstance(files, list) or not files or not all(isinstance(each, dict) for each in files):
        return False
    return all(
        isinstance(each.get("file"), str)
        and Path(each["file"]).name == each["file"]
        and _are_counts(each.get("tokens"))
        and isinstance(each.get("sizes"), list)
        and len(each["sizes"]) == len(each["tokens"])
        and all(_are_counts(size) and len(size) == 2 for size in each["sizes"])
        for each in files
    )


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 < n < 2**31 for n in values)


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object of a file of a prepared folder.

    Args:
        path: the file.
    Raises:
        OSError: it can't be read.
        ValueError: it holds no JSON object.
    """
    try:
        found = reading.parse(reading.content(path, LARGEST_INDEX))
    except ValueError as error:
        raise ValueError(f"{path} isn't valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} should hold a JSON object, not {shown(found)}")
    return found


@functools.lru_cache(maxsize=OPEN)
def _opened(path: Path, digest: str) -> Chunk:
    """Open a file of examples once; another preparation has another digest."""
    return read_chunk(path, digest)


def read_chunk(path: Path, digest: str) -> Chunk:
    """Open a file of examples.

    Args:
        path: the file.
        digest: of the preparation that it must be part of.
    Raises:
        OSError: it can't be read.
        ValueError: it is damaged, or part of another preparation.
    """
    tensors, metadata = open_with_metadata(path)
    if metadata.get("digest") != digest:
        raise ValueError(f"{path} is part of another preparation; delete it, and the same command writes it again")
    said = [reading.parse(metadata.get(name, "null").encode()) for name in ("examples", "skipped")]
    wrong = f"{path} isn't what a preparation writes; delete it, and the same command writes it again"
    try:
        examples = tuple(
            (str(name), str(caption), (int(H), int(W)), (int(h), int(w)), int(tokens))
            for name, caption, H, W, h, w, tokens in said[0]
        )
        skipped = tuple(Skipped(str(name), str(reason)) for name, reason in said[1])
    except (TypeError, ValueError):
        raise ValueError(wrong) from None
    rows, counts, start = [], dict[tuple[int, int], int](), 0
    for *_, size, tokens in examples:
        rows.append((counts.get(size, 0), start))
        counts[size], start = counts.get(size, 0) + 1, start + tokens
    shapes = {f"latents_{h}x{w}": n for (h, w), n in counts.items()} | ({"states": start} if examples else {})
    if {name: each.shape[0] for name, each in tensors.items() if len(each.shape) == 2} != shapes:
        raise ValueError(wrong)
    return Chunk(tensors, examples, skipped, tuple(rows))
