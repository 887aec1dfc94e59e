"""What a training example is before its noise is drawn, what a dataset must offer, and a dataset of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...backend.arrays import as_float, as_tensor, check_finite, check_mask
from ...checks import check_type, shown
from ...process.lock import exclusive
from ...public import public
from ...types import Array, Text, summary


class Example(NamedTuple):
    """A picture's unscaled latents and its caption.

    Args:
        mean: of the VAE's posterior, float32 (C, h, w).
        std: its standard deviation, likewise.
        states: of the caption's real tokens, float32 (L, D).
        name: where it came from.
        size: (height, width) in pixels of the picture before it was resized.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    states: NDArray[np.float32]
    name: str
    size: tuple[int, int]

    def __repr__(self) -> str:
        """Show arrays by dtype and shape."""
        return summary(self)


class Dataset(Protocol):
    """Examples by number, of which only those are read that are asked for."""

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(h, w) of each example's latents, (N, 2)."""

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Real tokens of each example's caption at most, (N,)."""

    @property
    def scale(self) -> float:
        """What unscaled latents are multiplied by."""

    @property
    def null(self) -> Text | None:
        """The encoded empty prompt, or None where the dataset has none."""

    def example(self, i: int, choice: float) -> Example:
        """Read an example.

        Args:
            i: its number, from 0.
            choice: a number in [0, 1) that chooses among its captions, where it has several.
        """


@dataclass(frozen=True, eq=False, repr=False)
class Arrays:
    """A dataset in memory, as `arrays` makes it."""

    latents: NDArray[np.float32]
    texts: Text
    names: tuple[str, ...]
    pixels: NDArray[np.int32]
    null: Text | None
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.latents)

    def __repr__(self) -> str:
        return f"Arrays({len(self)} examples of {self.latents.shape[1:]})"

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(h, w) of each example's latents, (N, 2)."""
        return np.full((len(self), 2), self.latents.shape[2:], np.int32)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Real tokens of each caption, (N,)."""
        lengths: NDArray[np.int32] = self.texts.mask.sum(1).astype(np.int32)
        return lengths

    def example(self, i: int, choice: float) -> Example:
        """Return an example, whose latents have no spread."""
        mean, (height, width) = self.latents[i], self.pixels[i].tolist()
        return Example(mean, np.zeros_like(mean), real(self.texts, i), self.names[i], (height, width))


@public
@exclusive
def arrays(
    latents: Array,
    texts: Text,
    *,
    names: Sequence[str] = (),
    sizes: Sequence[tuple[int, int]] | None = None,
    null: Text | None = None,
) -> Arrays:
    """Make a dataset of what is in memory already.

    Args:
        latents: scaled latents, as `px.encode_image` gives them, (N, C, h, w).
        texts: the captions, as `px.encode_prompt` gives them, N rows.
        names: of the examples; empty takes their numbers.
        sizes: (height, width) in pixels of each picture before it was resized, for a model with micro-conditions; None
            takes 8 pixels for each latent.
        null: the encoded empty prompt, for caption dropout; one row.
    Returns:
        The dataset.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the arrays don't fit together, or a number isn't finite.
    """
    x = as_float(latents, "latents")
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"latents must have the shape (N, C, h, w), got {tuple(x.shape)}")
    check_finite(x, "latents")
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be a list of texts, got {shown(names)}")
    N, text = len(x), hosted("texts", texts)
    named = tuple(names) or tuple(map(str, range(N)))
    if len(text.mask) != N or len(named) != N or (sizes is not None and np.shape(sizes) != (N, 2)):
        counts = f"{len(text.mask)} texts, {len(named)} names and sizes of the shape {np.shape(sizes or [])}"
        raise ValueError(f"texts, names and sizes must be as many as the {N} latents, got {counts}")
    pixels = np.full((N, 2), np.multiply(x.shape[2:], 8)) if sizes is None else np.asarray(sizes)
    if pixels.dtype.kind not in "iu" or (pixels < 1).any():
        raise ValueError(f"sizes must be whole numbers of pixels, at least 1, got {shown(sizes)}")
    empty = None if null is None else hosted("null", null)
    return Arrays(x.asnumpy(), text, named, pixels.astype(np.int32), empty)


def hosted(name: str, text: Text) -> Text:
    """Return a Text as float32 states and int32 mask on the host, checked.

    Args:
        name: the argument's name, for errors.
        text: of arrays or Tensors.
    Raises:
        TypeError: it is no Text.
        ValueError: its arrays don't fit together, or a state isn't finite.
    """
    check_type(name, text, Text, "a Text, as px.encode_prompt makes one")
    states, mask = as_float(text.states, f"{name}.states"), as_tensor(text.mask, f"{name}.mask")
    if states.ndim != 3 or 0 in states.shape or tuple(mask.shape) != tuple(states.shape[:2]):
        shapes = f"{tuple(states.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"{name} must have states (B, L, D) and a mask (B, L), got {shapes}")
    check_mask(mask, f"{name}.mask")
    check_finite(states, f"{name}.states")
    return Text(states.asnumpy(), mask.asnumpy().astype(np.int32))


def real(text: Text, i: int) -> NDArray[np.float32]:
    """Return the states of the real tokens of a row, (L, D)."""
    states: NDArray[np.float32] = text.states[i][np.asarray(text.mask[i]) == 1]
    return states
