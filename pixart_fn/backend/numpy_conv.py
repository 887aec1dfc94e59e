"""3×3 convolutions of a picture on a CPU, with NumPy, by Winograd's F(2×2, 3×3) (arXiv:1509.09308).

Four neighbours d in a row give two outputs of a filter g in four products: m = (d0 - d2) g0, (d1 + d2)(g0 + g1 + g2)/2,
(d2 - d1)(g0 - g1 + g2)/2, (d1 - d3) g2, of which the outputs are m0 + m1 + m2 and m1 - m2 - m3. In both directions that
is 16 products of matrices for four outputs, where the filter itself takes 36. After nearest neighbour ×2, d1 = d2, so
that 9 are left.

H and W a picture's height and width, R rows of a strip, C channels in and O channels out; arrays are float32, channels
last. Strips are the same ones for any number of CPUs, since the last digits of a product depend on its number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..types import Tree
from .numpy_nn import Floats

STRIP = 2**19
"""Numbers in what a strip's products read: fewer take more calls, more don't stay in a CPU's cache."""
LEAST = 2
"""Strips of a picture at least, for as many CPUs."""

FILTER = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
"""What a filter's three numbers in a row are multiplied by."""
DOUBLED = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 1]], np.float32)
"""The same for a picture that is made twice as large."""

Affine: TypeAlias = tuple[Floats, Floats]
"""A group norm as a scale and a shift, (C,) each."""
Each: TypeAlias = Callable[[Callable[[slice], Any], Sequence[slice]], list[Any]]
"""What maps a function over strips, as `numpy_nn.threads` gives it."""
Moments: TypeAlias = tuple[int, Floats, Floats]
"""Of a strip: its pixels, and float64 (C,) each the mean and the sum of squared distances from it."""


class Picture(NamedTuple):
    """A picture with what group norm wants to know of it, which is cheapest while a strip is in the cache."""

    x: Floats
    """(H, W, C)."""
    moments: list[Moments]
    """Of each strip."""


def strips(H: int, row: int, most: int | None = None) -> list[slice]:
    """Cut H rows of so many numbers into strips of even heights and of about so many numbers at most, or `STRIP`."""
    n = max(LEAST, math.ceil(H * row / (most or STRIP)))
    R = 2 * math.ceil(H / (n + n % 2) / 2)
    return [slice(i, min(i + R, H)) for i in range(0, H, R)]


def moments(x: Floats) -> Moments:
    """The moments of a strip (R, W, C)."""
    R, W, C = x.shape
    rows = x.reshape(R, W * C)
    mean = rows.sum(0).reshape(W, C).sum(0, dtype=np.float64) / (R * W)
    centred = rows - np.tile(mean.astype(np.float32), W)
    return R * W, mean, np.einsum("rk,rk->k", centred, centred).reshape(W, C).sum(0, dtype=np.float64)


def group_norm(p: Tree, picture: Picture, groups: int, eps: float) -> Affine:
    """The group norm of a whole picture."""
    counts, means, squares = (np.array(values, np.float64) for values in zip(*picture.moments, strict=True))
    weights = counts[:, None] / counts.sum()
    mean = (weights * means).sum(0).reshape(groups, -1).mean(1, keepdims=True)  # (G, 1)
    away = (weights * (means.reshape(len(means), groups, -1) - mean).reshape(means.shape) ** 2).sum(0)
    variance = (squares.sum(0) / counts.sum() + away).reshape(groups, -1).mean(1, keepdims=True)
    scale = p["weight"].reshape(groups, -1) / np.sqrt(variance + eps)
    shift = p["bias"].reshape(groups, -1) - scale * mean
    return scale.ravel().astype(np.float32), shift.ravel().astype(np.float32)


def same(
    p: Tree, x: Floats, each: Each, norm: Affine | None = None, added: Callable[[slice], Floats] | None = None
) -> Picture:
    """A 3×3 convolution of (H, W, C).

    Args:
        p: weight (O, C, 3, 3) and bias (O,).
        x: (H, W, C).
        each: maps over strips.
        norm: a group norm that goes before, and SiLU after it.
        added: gives what is added to some rows, (R, W, O).
    Returns:
        A Picture of O channels.
    """
    (H, W, C), O = x.shape, len(p["weight"])
    matrices, out = _matrices(FILTER, p["weight"], each), np.empty((H, W, O), np.float32)

    def strip(rows: slice) -> Moments:
        squares = _squares(_framed(x, rows, norm))
        a, b = squares.shape[2:4]
        m = (squares.reshape(16, a * b, C) @ matrices).reshape(4, 4, a, b, O)
        y = np.empty((a, 2, 2, b, O), np.float32)  # above or below, left or right of each square
        _sums(m, m[:2])
        _sums(m[:2].swapaxes(0, 1), y.transpose(2, 1, 0, 3, 4))
        y = y.reshape(2 * a, 2, b, O)[: rows.stop - rows.start]
        for i in (0, 1):
            columns = out[rows, i::2]
            np.add(y[:, i, : columns.shape[1]], p["bias"], out=columns)
        if added is not None:
            out[rows] += added(rows)
        return moments(out[rows])

    return Picture(out, each(strip, strips(H, 4 * W * max(C, O))))


def up(p: Tree, x: Floats, each: Each) -> Picture:
    """Nearest neighbour ×2, then a 3×3 convolution: (H, W, C) → (2H, 2W, O)."""
    (H, W, C), O = x.shape, len(p["weight"])
    matrices, out = _matrices(DOUBLED, p["weight"], each), np.empty((H, 2, W, 2, O), np.float32)

    def strip(rows: slice) -> Moments:
        R, (low, high) = rows.stop - rows.start, _reach(rows, H)
        framed = np.zeros((R + 2, W + 2, C), np.float32)
        framed[low - rows.start + 1 : high - rows.start + 1, 1:-1] = x[low:high]
        once = np.empty((3, R, W + 2, C), np.float32)
        _steps(framed[:-2], framed[1:-1], framed[2:], once)
        twice = np.empty((3, 3, R, W, C), np.float32)
        _steps(once[:, :, :-2], once[:, :, 1:-1], once[:, :, 2:], twice.swapaxes(0, 1))
        m = (twice.reshape(9, R * W, C) @ matrices).reshape(3, 3, R, W, O)
        m[0] += m[1]
        np.subtract(m[1], m[2], out=m[1])
        m = m[:2].swapaxes(0, 1)  # (3, 2, R, W, O), of which the 2 are rows
        m[1] += p["bias"]
        y = out[rows].transpose(3, 1, 0, 2, 4)
        np.add(m[0], m[1], out=y[0])
        np.subtract(m[1], m[2], out=y[1])
        return moments(out[rows].reshape(2 * R, 2 * W, O))

    found = each(strip, strips(H, 9 * W * max(C, O)))
    return Picture(out.reshape(2 * H, 2 * W, O), found)


def down(p: Tree, x: Floats, each: Each) -> Picture:
    """A 3×3 convolution with stride 2, of (H, W, C) with a row of zeros below and a column to the right."""
    (H, W, C), O = x.shape, len(p["weight"])
    matrix, out = p["weight"].transpose(2, 3, 1, 0).reshape(9 * C, O), np.empty((H // 2, W // 2, O), np.float32)

    def strip(rows: slice) -> Moments:
        R, part = rows.stop - rows.start, x[2 * rows.start : 2 * rows.stop + 1]
        framed = np.zeros((2 * R + 1, W + 1, C), np.float32)
        framed[: len(part), :W] = part
        row, column, one = framed.strides
        windows = as_strided(framed, (R, W // 2, 3, 3 * C), (2 * row, 2 * column, row, one))
        out[rows] = (windows.reshape(-1, 9 * C) @ matrix).reshape(R, W // 2, O)
        out[rows] += p["bias"]
        return moments(out[rows])

    return Picture(out, each(strip, strips(H // 2, 9 * W // 2 * C)))


def _matrices(transform: Floats, weight: Floats, each: Each) -> Floats:
    """Filters (O, C, 3, 3) as matrices for products: (9 or 16, C, O)."""
    (O, C), both = weight.shape[:2], np.kron(transform, transform)
    out = np.empty((len(both), O, C), np.float32)

    def part(rows: slice) -> None:
        out[:, rows] = (both @ weight[rows].reshape(-1, 9).T).reshape(len(both), -1, C)

    each(part, strips(O, 16 * C) if O * C >= STRIP // 32 else [slice(0, O)])
    matrices: Floats = out.swapaxes(1, 2)
    return matrices


def _reach(rows: slice, H: int) -> tuple[int, int]:
    """Rows with their neighbours, of a picture of H rows."""
    return max(rows.start - 1, 0), min(rows.stop + 1, H)


def _framed(x: Floats, rows: slice, norm: Affine | None) -> Floats:
    """Rows of (H, W, C) in a frame of their neighbours, or of zeros beyond the picture and up to even sides.

    Columns are apart, 0, 2, 4 … and 1, 3, 5 …: (R + 2, 2, W/2 + 1, C), so that squares are made of long lines.
    """
    (W, C), R, (low, high) = x.shape[1:], rows.stop - rows.start, _reach(rows, len(x))
    framed = np.empty((R + 2 + R % 2, 2, W // 2 + 1 + W % 2, C), np.float32)
    top, bottom = low - rows.start + 1, high - rows.start + 1
    framed[:top], framed[bottom:], framed[:, 0, 0], framed[:, 1, W // 2 + W % 2 :] = 0, 0, 0, 0
    framed[:, 0, W // 2 + 1 :] = 0
    even, odd = framed[top:bottom, 1, : W // 2 + W % 2], framed[top:bottom, 0, 1 : W // 2 + 1]
    y = x[low:high]
    if norm is None:
        even[...], odd[...] = y[:, ::2], y[:, 1::2]
    else:
        y = y * norm[0]
        y += norm[1]
        divisor = _one_and_exp(y)
        np.divide(y[:, ::2], divisor[:, ::2], out=even)
        np.divide(y[:, 1::2], divisor[:, 1::2], out=odd)
    return framed


def _one_and_exp(y: Floats) -> Floats:
    """1 + exp(-y), by which SiLU divides."""
    divisor = np.negative(y)
    np.exp(divisor, out=divisor)
    divisor += np.float32(1)
    return divisor


def _squares(framed: Floats) -> Floats:
    """What of each 4×4 square is multiplied by `_matrices`: (2a + 2, 2, b + 1, C) → (4, 4, a, b, C)."""
    a, b, C = len(framed) // 2 - 1, framed.shape[2] - 1, framed.shape[3]
    pairs = framed.reshape(a + 1, 2, -1)
    once = np.empty((4, a, 2, b + 1, C), np.float32)
    _differences(pairs[:-1, 0], pairs[:-1, 1], pairs[1:, 0], pairs[1:, 1], once.reshape(4, a, -1))
    left, right = once[:, :, :, :-1], once[:, :, :, 1:]
    twice = np.empty((4, 4, a, b, C), np.float32)
    _differences(left[:, :, 0], left[:, :, 1], right[:, :, 0], right[:, :, 1], twice.swapaxes(0, 1))
    return twice


def _differences(d0: Floats, d1: Floats, d2: Floats, d3: Floats, out: Floats) -> None:
    np.subtract(d0, d2, out=out[0])
    np.add(d1, d2, out=out[1])
    np.subtract(d2, d1, out=out[2])
    np.subtract(d1, d3, out=out[3])


def _steps(before: Floats, own: Floats, after: Floats, out: Floats) -> None:
    """`_differences` where d1 = d2."""
    np.subtract(before, own, out=out[0])
    out[1] = own
    np.subtract(own, after, out=out[2])


def _sums(m: Floats, out: Floats) -> None:
    """Sum up m, which this changes, for two outputs."""
    m[0] += m[1]
    np.add(m[0], m[2], out=out[0])
    m[1] -= m[2]
    np.subtract(m[1], m[3], out=out[1])
