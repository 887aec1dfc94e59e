"""Keys and counter-based random numbers, drawn on the host: the same noise on every device.

A key is the 128-bit key of the Philox 4x64-10 cipher (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"). Numbers, splits and folds encrypt counters of three disjoint ranges, so no use of a key repeats another.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .checks import check_whole, kind, shown
from .types import Array, Key

MOST = 2**32
"""Numbers and keys at most in one call, so that a mistyped size is a sentence rather than all of the memory."""
# The highest of the counter's four words; the stream of one use never counts up to the next.
_NORMAL, _SPLIT, _FOLD = 0, 1, 2


def key(seed: int) -> Key:
    """Make the key that all randomness of a call comes from.

    Args:
        seed: integer, 0 ≤ seed < 2**64.
    Returns:
        uint64 (2,).
    Raises:
        TypeError: seed is not an integer.
        ValueError: seed is negative or does not fit into 64 bits.
    Example:
        >>> px.key(7)
        array([7, 0], dtype=uint64)
    """
    return np.array([_word("seed", seed), 0], np.uint64)


def split(key: Key, n: int = 2) -> Key:
    """Make n keys from one; the i-th key depends only on the key and on i, not on n.

    Args:
        key: uint64 (2,); split it only once, as a second split gives the same keys.
        n: how many, 0 ≤ n ≤ 2**32.
    Returns:
        uint64 (n, 2).
    Raises:
        TypeError: n is not an integer, or key isn't an array.
        ValueError: key is not one key, or n is outside its range.
    Example:
        >>> a, b = px.split(px.key(0))
        >>> bool((px.split(px.key(0), 8)[0] == a).all())
        True
    """
    if check_key(key).ndim != 1:
        raise ValueError(f"split takes one key of shape (2,), got shape {key.shape}; split its rows one by one")
    check_whole("n", n, 0, MOST)
    return _philox(key, 0, _SPLIT).random_raw(4 * int(n)).reshape(n, 4)[:, :2]


def fold_in(key: Key, i: int) -> Key:
    """Make a new key from a key and a number, such as the number of a step, a layer or a batch.

    Args:
        key: uint64 (2,), or (B, 2), of which each row is folded alone.
        i: integer, 0 ≤ i < 2**64.
    Returns:
        uint64, the shape of key.
    Raises:
        TypeError: i is not an integer, or key isn't an array.
        ValueError: key isn't a key, or i is negative or does not fit into 64 bits.
    Example:
        >>> [px.fold_in(px.key(0), step).shape for step in range(3)]
        [(2,), (2,), (2,)]
    """
    i = _word("i", i)
    rows = [_philox(row, i, _FOLD).random_raw(4)[:2] for row in check_key(key).reshape(-1, 2)]
    return np.array(rows, np.uint64).reshape(key.shape)


def normal(key: Key, shape: Sequence[int]) -> NDArray[np.float32]:
    """Draw standard normal numbers.

    Args:
        key: uint64 (2,), or (B, 2), of which row i gives row i of the result, `normal(key[i], shape[1:])`.
        shape: of the result, of at most 2**32 numbers; with B keys, shape[0] is B.
    Returns:
        float32 of that shape.
    Raises:
        TypeError: shape isn't whole numbers, or key isn't an array.
        ValueError: key isn't a key, shape has a number below 0 or is too large, or shape[0] isn't the number of keys.
    Example:
        >>> keys = px.split(px.key(0), 4)
        >>> together, alone = px.rng.normal(keys, (4, 3)), px.rng.normal(keys[2], (3,))
        >>> bool((together[2] == alone).all())
        True
    """
    _check_shape(shape)
    if check_key(key).ndim == 1:
        return np.random.Generator(_philox(key, 0, _NORMAL)).standard_normal(tuple(shape)).astype(np.float32)
    if not shape or shape[0] != len(key):
        raise ValueError(f"{len(key)} keys draw a shape that starts with {len(key)}, got {tuple(shape)}")
    out = np.empty(tuple(shape), np.float32)
    for row, one in zip(out, key, strict=True):
        row[...] = normal(one, row.shape)
    return out


def normal_like(key: Key, x: Array) -> Array:
    """Draw `normal(key, x.shape)`, as a Tensor where x is a Tensor.

    Args:
        key: uint64 (2,), or (B, 2) for x of shape (B, …).
        x: a NumPy array or a MindSpore Tensor.
    Returns:
        A float32 array or Tensor of the shape of x.
    Raises:
        TypeError: x is neither an array nor a Tensor, or key isn't an array.
        ValueError: key isn't a key, or x has another number of rows than there are keys.
    """
    if not hasattr(x, "shape"):
        raise TypeError(f"x must be an array or a Tensor, got {kind(x)}")
    noise = normal(key, x.shape)
    if isinstance(x, np.ndarray):
        return noise
    from mindspore import Tensor  # only here, so that the mathematics of solvers needs no MindSpore

    return Tensor.from_numpy(noise)


def _philox(key: Key, low: int, high: int) -> np.random.Philox:
    """The stream of blocks that starts at one counter (256 bits: a block's number low, the use of the key high)."""
    return np.random.Philox(key=key, counter=np.array([0, low, 0, high], np.uint64))


def check_key(key: Key) -> Key:
    """Return the key, or raise where it isn't a key.

    Args:
        key: what should be uint64 (2,) or (B, 2).
    Returns:
        The same.
    Raises:
        TypeError: it isn't an array.
        ValueError: it is an array of another dtype or shape.
    """
    wanted = "a key is a uint64 array of shape (2,) or (B, 2), got {}; make one with key(seed)"
    if not isinstance(key, np.ndarray):
        raise TypeError(wanted.format(shown(key)))
    if key.dtype != np.uint64 or key.ndim not in (1, 2) or key.shape[-1] != 2:
        raise ValueError(wanted.format(f"{key.dtype} {key.shape}"))
    return key


def _check_shape(shape: Sequence[int]) -> None:
    if isinstance(shape, str) or not isinstance(shape, Sequence) or len(shape) > 32:
        raise TypeError(f"shape must be a list of whole numbers, one for each axis, got {shown(shape)}")
    for side in shape:
        check_whole("a side of shape", side, 0, MOST)
    if math.prod(map(int, shape)) > MOST:
        raise ValueError(f"shape must hold at most {MOST} numbers, got {shown(shape)}")


def _word(name: str, value: int) -> int:
    """An unsigned 64-bit word."""
    wanted = f"{name} must be an integer with 0 ≤ {name} < 2**64, got {shown(value)}"
    try:
        word = operator.index(value)
    except TypeError:
        raise TypeError(wanted) from None
    if isinstance(value, bool) or hasattr(value, "asnumpy"):  # a Tensor would be read from the device
        raise TypeError(wanted)
    if not 0 <= word < 2**64:
        raise ValueError(wanted)
    return word
