"""Which examples a step sees: a function of (seed, step, rank), so that a restart goes on exactly.

The examples of one size form a bucket. The examples of a bucket come in a random order, then in another random order,
and so on without end, and this stream is cut into batches. So every example is seen equally often, and none is left out
at the end of an epoch. Epoch e of the dataset has the batches that end within the e-th permutation of their bucket, in
a random order.

B examples of a batch of all workers together, N in the dataset, L tokens, D width of a state.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ... import rng
from ...checks import check_function, check_number, check_switch, check_type, check_whole, kind
from ...public import public, public_class
from ...types import Text
from ..batch import Batch
from .ahead import ahead as ahead_
from .examples import Dataset, Example, hosted, real

__all__ = ["Batches", "mixed", "prefetch"]

Order: TypeAlias = Callable[[int], Batch]
"""step → the batch that this worker sees, a pure function."""

LENGTHS = (16, 32, 64, 120, 256, 300)
"""What captions are padded to, the longest of PixArt-α and PixArt-Σ among them."""
_SHUFFLE, _MIX, _EXAMPLE = 0, 1, 2
_NOISE, _DROPOUT, _CAPTION = 0, 1, 2


class Rows(NamedTuple):
    """The examples of a step of all workers: their numbers and, of each, in which permutation of its bucket it is."""

    numbers: NDArray[np.int64]
    epochs: NDArray[np.int64]


@public_class
@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of a dataset as a function of the step: `batches(step)` is this worker's Batch, in NumPy arrays.

    An example's noise and dropout come from its own key, of (seed, epoch, number), whatever the batch and the workers.

    Args:
        dataset: from `prepared.open`, `authors.open` or `arrays`.
        batch_size: B, of all workers together, a multiple of `workers`.
        seed: of the order and of all that is drawn, 0 ≤ seed < 2**64.
        rank: which worker this is, from 0; it takes the rank-th of the equal parts of each batch.
        workers: how many there are.
        dropout: how often a caption is replaced by the empty prompt, within [0, 1].
        sample: whether latents are drawn from the VAE's posterior, mean + std · noise; False takes the mean.
        conditions: whether to give the pictures' original height and width, and the latents' aspect ratio, as a model
            with micro-conditions needs.
        null: the encoded empty prompt, one row; None takes the dataset's own.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, the dataset is empty, or there is no empty prompt for dropout.
    """

    dataset: Dataset
    batch_size: int
    seed: int
    rank: int = 0
    workers: int = 1
    dropout: float = 0.1
    sample: bool = True
    conditions: bool = False
    null: Text | None = None
    _empty: NDArray[np.float32] | None = field(init=False, repr=False)
    _buckets: tuple[NDArray[np.int64], ...] = field(init=False, repr=False)
    _lengths: NDArray[np.int32] = field(init=False, repr=False)
    _shuffled: Callable[[int, int], NDArray[np.int64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        sizes = getattr(self.dataset, "sizes", None)
        if sizes is None:
            raise TypeError(
                f"dataset must be what prepared.open, authors.open or arrays gives, got {kind(self.dataset)}"
            )
        check_whole("workers", self.workers, 1)
        check_whole("rank", self.rank, 0, self.workers - 1)
        check_whole("batch_size", self.batch_size, 1)
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size must be a multiple of workers = {self.workers}, got {self.batch_size}")
        rng.key(self.seed)
        check_number("dropout", self.dropout, 0, 1)
        check_switch("sample", self.sample)
        check_switch("conditions", self.conditions)
        if not len(sizes):
            raise ValueError("dataset must hold at least one example, got none")
        null = self.dataset.null if self.null is None else self.null
        if null is None and self.dropout > 0:
            raise ValueError("dropout needs null=, the encoded empty prompt, as px.encode_prompt(params, '') gives it")
        _, bucket = np.unique(sizes, axis=0, return_inverse=True)
        bucket = bucket.reshape(-1)
        each = tuple(np.flatnonzero(bucket == i) for i in range(int(bucket.max()) + 1))
        for name, value in {
            "_empty": None if null is None else real(hosted("null", null), 0),
            "_buckets": each,
            "_lengths": self.dataset.lengths,
            # a step needs the two permutations of each bucket that it may straddle, which take time to make
            "_shuffled": functools.lru_cache(2 * len(each))(functools.partial(_shuffle, self.seed, each)),
        }.items():
            object.__setattr__(self, name, value)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step.

        Args:
            step: from 0.
        Returns:
            B / workers examples as float32 arrays, captions padded with mask 0 to one of LENGTHS, the same for all
            workers.
        Raises:
            OSError, ValueError: a file of the dataset can't be read.
        """
        rows = self.rows(step)
        longest = max(int(self._lengths[rows.numbers].max()), 0 if self._empty is None else len(self._empty))
        share = self.batch_size // self.workers
        own = slice(self.rank * share, (self.rank + 1) * share)
        drawn = [self._draw(int(i), int(e)) for i, e in zip(rows.numbers[own], rows.epochs[own], strict=True)]
        return _batch(drawn, padded_length(longest), self.conditions)

    def rows(self, step: int) -> Rows:
        """Return which examples all workers together see in a step.

        Args:
            step: from 0.
        """
        check_whole("step", step, 0)
        B, step = self.batch_size, int(step)
        epoch = self._epoch(step)
        first, end = ([e * len(own) // B for own in self._buckets] for e in (epoch, epoch + 1))
        ends = np.cumsum(np.subtract(end, first))
        key = rng.fold_in(rng.fold_in(rng.key(self.seed), _MIX), epoch)
        place = int(_permutation(key, int(ends[-1]))[step - sum(first)])
        bucket = int(np.searchsorted(ends, place, side="right"))
        k = end[bucket] - (int(ends[bucket]) - place)
        epochs, places = np.divmod(np.arange(k * B, (k + 1) * B), len(self._buckets[bucket]))
        numbers = [
            self._shuffled(bucket, int(e))[places[epochs == e]] for e in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
        return Rows(np.concatenate(numbers), epochs)

    def epoch(self, step: int) -> float:
        """Return how often each example has been seen before a step, on average."""
        return step * self.batch_size / len(self._lengths)

    def _start(self, epoch: int) -> int:
        """Return the first step of an epoch."""
        return sum(epoch * len(own) // self.batch_size for own in self._buckets)

    def _epoch(self, step: int) -> int:
        """Return the epoch of a step, which rounding in each bucket delays by a batch at most."""
        low, high = (n * self.batch_size // len(self._lengths) for n in (step, step + len(self._buckets) + 1))
        return low - 1 + bisect.bisect_right(range(low, high + 2), step, key=self._start)

    def _draw(self, i: int, epoch: int) -> Example:
        """Read an example, draw its latents, and drop its caption, all by its own key."""
        key = rng.fold_in(rng.fold_in(rng.fold_in(rng.key(self.seed), _EXAMPLE), epoch), i)
        found = self.dataset.example(i, _uniform(rng.fold_in(key, _CAPTION)))
        x = found.mean
        if self.sample:
            x = x + found.std * rng.normal(rng.fold_in(key, _NOISE), x.shape)
        states = found.states
        if self._empty is not None and self._empty.shape[1] != states.shape[1]:
            widths = f"{self._empty.shape[1]}, the captions of {states.shape[1]}"
            raise ValueError(f"null must be of the captions' text encoder, but its states have a width of {widths}")
        if self._empty is not None and _uniform(rng.fold_in(key, _DROPOUT)) < self.dropout:
            states = self._empty
        return found._replace(mean=x * np.float32(self.dataset.scale), states=states)


@public_class
@dataclass(frozen=True, eq=False)
class Mixed:
    """Batches of two datasets, as `mixed` makes them."""

    instance: Batches
    prior: Batches
    prior_weight: float

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, in which an instance and a prior example take turns."""
        a, b = self.instance(step), self.prior(step)
        L = max(a.text.mask.shape[1], b.text.mask.shape[1])
        longer = [each._replace(text=_padded(each.text, L)) for each in (a, b)]
        weight = np.tile(np.array([1, self.prior_weight], np.float32), len(a.x0))
        names = tuple(itertools.chain.from_iterable(zip(a.names, b.names, strict=True)))
        x0, resolution, aspect_ratio = (
            _alternate(*(getattr(each, name) for each in longer)) for name in ("x0", "resolution", "aspect_ratio")
        )
        text = Text(*(_alternate(p, q) for p, q in zip(longer[0].text, longer[1].text, strict=True)))
        return Batch(x0, text, resolution, aspect_ratio, weight, names)


@public
def mixed(instance: Batches, prior: Batches, prior_weight: float = 1.0) -> Mixed:
    """Mix batches of a subject with batches of its class, as DreamBooth's prior preservation does (arXiv:2208.12242).

    The two take turns within a batch, which so has twice as many examples as each of them.

    Args:
        instance: of the subject's pictures.
        prior: of the class's pictures, with the same batch_size, rank, workers and conditions.
        prior_weight: of an example of the class in the loss, at least 0; the subject's have 1.
    Returns:
        step → Batch, with `weight`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the two don't fit together, or prior_weight is out of its range.
    """
    for name, each in (("instance", instance), ("prior", prior)):
        check_type(name, each, Batches, "a Batches")
    check_number("prior_weight", prior_weight, 0)
    for name in ("batch_size", "rank", "workers", "conditions"):
        values = getattr(instance, name), getattr(prior, name)
        if values[0] != values[1]:
            raise ValueError(f"instance and prior must have the same {name}, got {values[0]} and {values[1]}")
    every = np.unique(np.concatenate([instance.dataset.sizes, prior.dataset.sizes]), axis=0).tolist()
    if len(every) > 1:
        raise ValueError(f"instance and prior must have latents of one size, got {every}; prepare both with one size")
    return Mixed(instance, prior, float(prior_weight))


@public
def prefetch(batches: Order, start: int, ahead: int = 2) -> Iterator[Batch]:
    """Yield the batches of all steps from `start` on, while a thread reads the next ones.

    Args:
        batches: a function of the step, such as a Batches.
        start: the first step, at least 0.
        ahead: how many are read ahead, at least 1.
    Returns:
        An iterator without end of `batches(start)`, `batches(start + 1)`, …; what a call raises is raised in its place.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_function("batches", batches, "step")
    check_whole("start", start, 0)
    check_whole("ahead", ahead, 1, 2**10)
    return _prefetched(batches, int(start), int(ahead))


def padded_length(tokens: int) -> int:
    """Return the length that captions are padded to, of which there are few since each compiles graphs of its own.

    Args:
        tokens: of the longest caption.
    Returns:
        One of LENGTHS, or the next power of two.
    """
    return next((length for length in LENGTHS if length >= tokens), 1 << (tokens - 1).bit_length())


def _prefetched(batches: Order, start: int, n: int) -> Iterator[Batch]:
    with ThreadPoolExecutor(1) as pool:
        yield from ahead_(pool, batches, itertools.count(start), n)


def _shuffle(seed: int, buckets: tuple[NDArray[np.int64], ...], bucket: int, epoch: int) -> NDArray[np.int64]:
    """Return the numbers of a bucket's examples in the order of an epoch."""
    key = rng.fold_in(rng.fold_in(rng.fold_in(rng.key(seed), _SHUFFLE), epoch), bucket)
    return buckets[bucket][_permutation(key, len(buckets[bucket]))]


def _permutation(key: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """Return a random order of 0 … n - 1 that is the same under every version of NumPy."""
    return np.argsort(rng.split(key, n)[:, 0], kind="stable")


def _uniform(key: NDArray[np.uint64]) -> float:
    """Return a number in [0, 1), of the 53 bits that a float holds."""
    return (int(rng.split(key, 1)[0, 0]) >> 11) * 2.0**-53


def _batch(examples: list[Example], L: int, conditions: bool) -> Batch:
    D = examples[0].states.shape[1]
    states, mask = np.zeros((len(examples), L, D), np.float32), np.zeros((len(examples), L), np.int32)
    for row, kept, each in zip(states, mask, examples, strict=True):
        row[: len(each.states)] = each.states
        kept[: len(each.states)] = 1
    x0 = np.stack([each.mean for each in examples])
    resolution = aspect_ratio = None
    if conditions:
        resolution = np.array([each.size for each in examples], np.float32)
        aspect_ratio = np.full((len(examples), 1), x0.shape[2] / x0.shape[3], np.float32)
    names = tuple(each.name for each in examples)
    return Batch(x0, Text(states, mask), resolution, aspect_ratio, None, names)


def _padded(text: Text, L: int) -> Text:
    more = L - text.mask.shape[1]
    return Text(np.pad(text.states, ((0, 0), (0, more), (0, 0))), np.pad(text.mask, ((0, 0), (0, more))))


def _alternate(a: NDArray[np.float32] | None, b: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """Return a[0], b[0], a[1], b[1], …"""
    return None if a is None or b is None else np.stack([a, b], 1).reshape(-1, *a.shape[1:])
