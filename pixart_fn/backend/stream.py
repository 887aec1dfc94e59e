"""Weights that stay where they are until a layer needs them: in a file, or as int8.

A leaf of such a tree has a `shape`, `read()` → float32 array, `rows(ids)`, `prefetch()` and `release()`. Only a model
that goes through its layers one by one takes such leaves, as the text encoder and the transformer do; everything else
wants Tensors.

I and O are a matrix's inputs and outputs, V the tokens of a vocabulary, D its width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from .. import tree
from ..checks import kind
from ..files.safetensors import array
from ..types import Tree


@dataclass(frozen=True, eq=False, repr=False)
class Quantized:
    """A matrix as int8 with one scale for each row: W ≈ scale · values."""

    values: NDArray[np.int8]
    """(O, I) int8."""
    scale: NDArray[np.float32]
    """(O,) float32."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(O, I)."""
        return self.values.shape

    def __repr__(self) -> str:
        return f"Quantized(int8 {self.shape})"

    def read(self) -> NDArray[np.float32]:
        """The matrix (O, I) float32."""
        return np.multiply(self.values, self.scale[:, None], dtype=np.float32)

    def rows(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Some rows of the matrix: int (…) → (…, I) float32."""
        return np.asarray(np.multiply(self.values[ids], self.scale[ids][..., None], dtype=np.float32))

    def prefetch(self) -> None:
        """Nothing to do: it is in memory."""

    def release(self) -> None:
        """Nothing to do: it stays in memory."""


def quantize(matrix: Any) -> Quantized:
    """Round a matrix to int8, each row by its own scale: no entry moves by more than half of its row's scale.

    Args:
        matrix: (O, I), an array, a Tensor or a leaf that is still stored.
    Returns:
        The matrix as int8.
    """
    full = array(matrix)
    scale = np.maximum(np.abs(full).max(1) / np.float32(127), np.finfo(np.float32).tiny)
    return Quantized(np.rint(full / scale[:, None]).astype(np.int8), scale.astype(np.float32))


def quantize_matrices(p: Tree, part: str, chosen: Callable[[str], bool]) -> Tree:
    """Round matrices of a model to int8.

    Its other leaves become float32 Tensors of their own: matrices come back as float32, and a file can be let go.

    Args:
        p: the model's tree.
        part: a name that such a tree has.
        chosen: whether the matrix of a name is rounded.
    Returns:
        The tree.
    Raises:
        TypeError: it isn't such a model's tree, or a leaf is neither a Tensor nor one that is still stored.
    """
    if not isinstance(p, dict) or part not in p:
        raise TypeError(f"p must be the model's tree, which has {part!r}, got {kind(p)}")
    for name, leaf in tree.items(p):
        if not (isinstance(leaf, Tensor) or is_stored(leaf)):
            raise TypeError(f"p must be a model's tree of Tensors, got {kind(leaf)} at {name or 'the root'!r}")

    def small(name: str, leaf: Any) -> Any:
        if len(leaf.shape) != 2 or not chosen(name):
            return Tensor.from_numpy(array(leaf).copy())
        quantized = quantize(leaf)
        if is_stored(leaf):
            leaf.release()
        return quantized

    return tree.unflatten(p, [small(name, leaf) for name, leaf in tree.items(p)])


def is_stored(leaf: Any) -> bool:
    """Whether a leaf is still stored and has to be read before it is used."""
    return hasattr(leaf, "read")


def tensors(weights: Tree) -> Tree:
    """Read every leaf that is still stored, so that all leaves are Tensors."""
    return tree.map(lambda leaf: Tensor.from_numpy(leaf.read()) if is_stored(leaf) else leaf, weights)


def each(layers: Iterable[Tree]) -> Iterator[Tree]:
    """Give one layer after another with its leaves as Tensors.

    While a layer is used, the next one is read; after a layer was used, its memory is released.

    Args:
        layers: trees with leaves that are Tensors or still stored.
    Yields:
        The layers, with Tensors as leaves.
    """
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


def rows(matrix: Any, ids: NDArray[np.int32]) -> Tensor:
    """Read rows of a matrix that is still stored.

    Args:
        matrix: (V, D), a leaf that is still stored.
        ids: int (…), of rows.
    Returns:
        (…, D) float32.
    """
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
