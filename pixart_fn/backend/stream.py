"""Weights that stay where they are until a layer needs them: in a file, or as int8.

A leaf of such a tree has a `shape`, `read()` → float32 array, `rows(ids)`, `prefetch()` and `release()`. Only what
walks its layers one by one, as the text encoder does, takes it; everything else wants Tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor

from .. import tree
from ..files.safetensors import array
from ..types import Tree


@dataclass(frozen=True, eq=False, repr=False)
class Quantized:
    """A matrix as int8 with one scale a row: values (O, I) int8, scale (O,) float32; W ≈ scale · values."""

    values: np.ndarray
    scale: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __repr__(self) -> str:
        return f"Quantized(int8 {self.shape})"

    def read(self) -> np.ndarray:
        return np.multiply(self.values, self.scale[:, None], dtype=np.float32)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        return np.multiply(self.values[ids], self.scale[ids][..., None], dtype=np.float32)

    def prefetch(self) -> None:
        pass

    def release(self) -> None:
        pass


def quantize(matrix: Any) -> Quantized:
    """A matrix (O, I) rounded to int8, each row by its own scale: at most half a step of scale away."""
    full = array(matrix)
    scale = np.maximum(np.abs(full).max(1) / np.float32(127), np.finfo(np.float32).tiny)
    return Quantized(np.rint(full / scale[:, None]).astype(np.int8), scale.astype(np.float32))


def is_stored(leaf: Any) -> bool:
    """Whether a leaf has yet to be read."""
    return hasattr(leaf, "read")


def tensors(weights: Tree) -> Tree:
    """The tree with every leaf as a Tensor."""
    return tree.map(lambda leaf: Tensor.from_numpy(leaf.read()) if is_stored(leaf) else leaf, weights)


def each(layers: Iterable[Tree]) -> Iterator[Tree]:
    """Each layer with its leaves as Tensors; the next is read meanwhile, and what was used is let go of."""
    layers = list(layers)
    if not any(is_stored(leaf) for layer in layers for leaf in tree.leaves(layer)):
        yield from layers
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(_read, layer) for layer in layers[:1]]
        for i, layer in enumerate(layers):
            read = ahead.pop().result()
            ahead += [reader.submit(_read, following) for following in layers[i + 1 : i + 2]]
            yield tree.map(lambda leaf: Tensor.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf, read)
            del read
            for leaf in tree.leaves(layer):
                if is_stored(leaf):
                    leaf.release()


def rows(matrix: Any, ids: np.ndarray) -> Tensor:
    """The rows of a matrix that is still stored: (V, D) and int (…) → (…, D)."""
    picked = Tensor.from_numpy(matrix.rows(ids))
    matrix.release()
    return picked


def _read(layer: Tree) -> Tree:
    def read(leaf: Any) -> Any:
        if not is_stored(leaf):
            return leaf
        leaf.prefetch()
        return leaf.read()

    return tree.map(read, layer)
