"""A set of examples in files of so many each: every file is made once, and all of the same things."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ... import tree as tree_
from ...backend.arrays import as_numpy
from ...checks import check_whole
from ...files import atomic, npy, reading
from ...types import Tree
from . import data

BEGUN = "made_of.json"
"""The file that says what the examples of a folder were made of."""


def write(folder: Path, n: int, size: int, made_of: Mapping[str, Any], make: Callable[[int], dict[str, Any]]) -> None:
    """Write the files that a folder doesn't hold yet.

    Args:
        folder: of the set.
        n: how many examples it must hold; the last file is whole, and what is there already stays.
        size: the examples of a file.
        made_of: what the examples depend on, by names, as JSON has it.
        make: the place of a file's first example → its arrays.
    Raises:
        ValueError: n isn't positive, or the folder was begun with something else.
        OSError: a file can't be written.
    """
    check_whole("n", n, 1)
    begun = folder / BEGUN
    if begun.exists():
        old = reading.json_object(begun)
        differ = [name for name in made_of if old.get(name) != made_of[name]]
        if differ:
            other = " and ".join(differ)
            raise ValueError(f"the examples in {folder} were made with another {other}; name another folder")
    elif any(folder.glob("*.npz")):
        raise ValueError(f"{folder} holds .npz files but no {BEGUN}; name another folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(begun, lambda file: file.write_text(json.dumps(dict(made_of), indent=1) + "\n", "utf-8"))
    for start in tqdm(range(0, n, size), unit="chunk"):
        file = folder / f"{start:07d}.npz"
        if not file.exists():
            atomic.write(file, partial(npy.save_archive, make(start)))


def of_weights(weights: Tree) -> str:
    """Return what tells a model's weights from others."""
    digest = hashlib.sha256()
    for name, leaf in sorted(tree_.items(weights), key=lambda item: item[0]):
        digest.update(f"{name} {tuple(leaf.shape)}".encode())
        digest.update(as_numpy(leaf).tobytes())
    return digest.hexdigest()[:16]


def of_glyphs(glyphs: data.Glyphs) -> str:
    """Return what tells rendered emoji from others: what they show, and of how many pixels they are."""
    shape, concepts = glyphs.pictures.shape, json.dumps(glyphs.concepts, sort_keys=True)
    said = repr((shape, glyphs.sets, glyphs.concept.tolist(), concepts))
    return hashlib.sha256(said.encode()).hexdigest()[:16]
