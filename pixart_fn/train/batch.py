"""What training passes around: a batch of examples, the model as a loss sees it, and what a step reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

from mindspore import Tensor

from .. import tree
from ..types import Array, Text, summary

T = TypeVar("T")

Predict: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, h, w), t (B,)) → the model's raw output (B, C or 2·C, h, w), with the batch's text inside."""

Metrics: TypeAlias = dict[str, Tensor]
"""What a loss reports beside its value: Tensors by name, those of shape (B,) one number for each example."""


class Batch(NamedTuple):
    """Examples that a step sees together; all pictures have one size.

    Args:
        x0: scaled latents, float32 (B, C, h, w).
        text: the captions' states (B, L, D) and mask (B, L).
        resolution: height and width in pixels, float32 (B, 2), for a model with micro-conditions; None elsewhere.
        aspect_ratio: height / width, float32 (B, 1), likewise.
        weight: of each example in the loss, float32 (B,); None weighs all alike.
        names: where each example came from, for errors and tables; may be empty.
        control: scaled latents of what a ControlNet follows, float32 (B, C, h, w); None where none is trained.
    """

    x0: Array
    text: Text
    resolution: Array | None = None
    aspect_ratio: Array | None = None
    weight: Array | None = None
    names: tuple[str, ...] = ()
    control: Array | None = None

    def __repr__(self) -> str:
        """Show arrays by dtype and shape."""
        return summary(self)


def size(batch: object) -> int:
    """Count the examples of a batch: the length of the first axis of its first array.

    Args:
        batch: a Batch, or any tree of arrays or Tensors whose first axis is the examples'.
    Returns:
        B.
    Raises:
        ValueError: it holds no array.
    """
    for leaf in tree.leaves(batch):
        if getattr(leaf, "shape", ()):
            return int(leaf.shape[0])
    raise ValueError("a batch must hold arrays whose first axis is the examples', got none")


def rows_of(batch: T, rows: slice) -> T:
    """Take some of the examples of a batch.

    Args:
        batch: a Batch, or any tree of arrays or Tensors whose first axis is the examples'.
        rows: which; all of them give the batch itself.
    Returns:
        A batch of the same kind.
    """
    if (rows.start or 0) == 0 and rows.stop == size(batch):
        return batch
    names = batch.names[rows] if isinstance(batch, Batch) else ()
    part: T = tree.map(lambda leaf: leaf[rows] if hasattr(leaf, "shape") else leaf, batch)
    return part._replace(names=names) if isinstance(part, Batch) else part
