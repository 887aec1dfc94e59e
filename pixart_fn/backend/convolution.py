"""Convolutions of channels-last pictures as products: pixels are gathered into rows of patches, which meet a matrix.

B batch, R rows of a strip, W its width, C input and O output channels. oneDNN's convolution falls into its reference
kernel on AVX-512, 100× slower; a gather of whole pixels runs at the memory's speed and the product at the chip's.

Every function takes the strip between the row above and the row below it, (B, R + 2, W, C); at the picture's edge
those are zeros. Which pixels a patch holds is said by `taps`, whose two tables are inputs of the compiled graph.

Ascend's own convolution is fast: there a "matrix" is the checkpoint's weight as it is, and the tables say nothing.
"""

from __future__ import annotations

import functools

import mindspore.nn as cells
import numpy as np
from mindspore import Tensor, ops

from . import nn

WIDE = 128
"""Input channels from which two rows at a time (Winograd) save more in the product than they cost around it."""


@functools.lru_cache(maxsize=256)
def taps(kind: str, B: int, R: int, W: int) -> tuple[Tensor, ...]:
    """Which input pixel each tap of each output pixel reads, and back: which output pixel reads an input by each tap.

    Args:
        kind: "same" 3×3; "down" 3×3 with stride 2, padded below and to the right only; "up" 2×2 for each of four
            output pixels; "row" 1×3 in a strip of R rows without neighbours.
    Returns: int32 (pixels out, taps) and (pixels in, taps); for "up" four such pairs, one an output pixel. An index one
        past the last pixel stands for zero.
    """
    if nn.ASCEND:
        return (Tensor.from_numpy(np.zeros((1, 1), np.int32)),) * (8 if kind == "up" else 2)
    rows_in = R if kind == "row" else R + 2
    step = 2 if kind == "down" else 1
    b, y, x = np.meshgrid(np.arange(B), np.arange(0, R, step), np.arange(0, W, step), indexing="ij")
    offsets = {
        "same": [(i, j - 1) for i in range(3) for j in range(3)],
        "down": [(i + 1, j) for i in range(3) for j in range(3)],
        "up": [(p + i, q + j - 1) for p in (0, 1) for q in (0, 1) for i in (0, 1) for j in (0, 1)],
        "row": [(0, j - 1) for j in range(3)],
    }[kind]
    pixels = B * rows_in * W
    columns = [
        np.where((x + j >= 0) & (x + j < W), (b * rows_in + y + i) * W + x + j, pixels).ravel() for i, j in offsets
    ]
    forward = np.stack(columns, 1).astype(np.int32)
    n, k = forward.shape
    backward = np.full((pixels + 1, k), n, np.int32)
    backward[forward, np.arange(k)] = np.arange(n, dtype=np.int32)[:, None]
    groups = 4 if kind == "up" else 1
    pairs = zip(np.split(forward, groups, 1), np.split(backward[:-1], groups, 1), strict=True)
    return tuple(Tensor.from_numpy(np.ascontiguousarray(table)) for pair in pairs for table in pair)


def rows(weight: Tensor) -> Tensor:
    """A checkpoint's (O, C, k, k) as the matrix that patches meet: (k·k·C, O)."""
    if nn.ASCEND:
        return weight
    return ops.transpose(weight, (2, 3, 1, 0)).reshape(-1, weight.shape[0])


def winograd_rows(weight: Tensor) -> tuple[Tensor, ...]:
    """(O, C, 3, 3) as four matrices (3·C, O), for F(2, 3) down the rows (Lavin & Gray, arXiv:1509.09308)."""
    g0, g1, g2 = ops.split(rows(weight), 3 * weight.shape[1])
    middle = 0.5 * (g0 + g2)
    return g0, middle + 0.5 * g1, middle - 0.5 * g1, g2


def up_rows(weight: Tensor) -> tuple[Tensor, ...]:
    """(O, C, 3, 3) as the four matrices (4·C, O) that make it and a ×2 nearest upsampling before it one step.

    Of the 3×3 pixels that an output pixel sees, several are the same small pixel: their weights add up.
    """
    if nn.ASCEND:
        return (weight,) * 4
    top, middle, bottom = ops.split(ops.transpose(weight, (2, 3, 1, 0)), 1)
    phases = []
    for pair in ((top, middle + bottom), (top + middle, bottom)):
        left, centre, right = ops.split(ops.cat(pair, 0), 1, axis=1)  # each (2, 1, C, O)
        phases.append(ops.cat((left, centre + right), 1).reshape(-1, weight.shape[0]))
        phases.append(ops.cat((left + centre, right), 1).reshape(-1, weight.shape[0]))
    return tuple(phases)


def same_tables(B: int, R: int, W: int, C: int) -> tuple[Tensor, ...]:
    """The tables of `same` for a strip of R rows."""
    return taps("row", B, R // 2, W) if pairs(R, C) else taps("same", B, R, W)


def same_matrices(weight: Tensor, R: int) -> tuple[Tensor, ...]:
    """The matrices of `same` for strips of R rows, from a checkpoint's (O, C, 3, 3)."""
    return winograd_rows(weight) if pairs(R, weight.shape[1]) else (rows(weight),)


def same(x: Tensor, matrices: tuple[Tensor, ...], forward: Tensor, backward: Tensor) -> Tensor:
    """3×3: (B, R + 2, W, C) → (B, R, W, O)."""
    if len(matrices) == 4:
        return _winograd(x, matrices, forward, backward)
    if nn.ASCEND:
        return _native(x, matrices[0], 1)
    B, R, W, _ = x.shape
    return _gathered(_pixels(x, matrices[0]), matrices[0], forward, backward).reshape(B, R - 2, W, -1)


def pairs(R: int, C: int) -> bool:
    """Whether `same` makes two rows at a time."""
    return C >= WIDE and R % 2 == 0 and not nn.ASCEND


def _winograd(x: Tensor, four: tuple[Tensor, ...], forward: Tensor, backward: Tensor) -> Tensor:
    """`same` for even R with two thirds of the multiplications: two rows from four products of half as many."""
    B, R, W, C = x.shape
    pairs, half = x.reshape(B, R // 2, 2, W * C), (B, R // 2 - 1, 1, W * C)
    d0, d1 = ops.slice(pairs, (0, 0, 0, 0), half), ops.slice(pairs, (0, 0, 1, 0), half)
    d2, d3 = ops.slice(pairs, (0, 1, 0, 0), half), ops.slice(pairs, (0, 1, 1, 0), half)
    flat = (B, R // 2 - 1, W, C)
    m0 = _gathered(_pixels((d0 - d2).reshape(flat), four[0]), four[0], forward, backward)
    m1 = _gathered(_pixels((d1 + d2).reshape(flat), four[1]), four[1], forward, backward)
    m2 = _gathered(_pixels((d2 - d1).reshape(flat), four[2]), four[2], forward, backward)
    m3 = _gathered(_pixels((d1 - d3).reshape(flat), four[3]), four[3], forward, backward)
    line = (B * (R // 2 - 1), 1, W * four[0].shape[1])
    both = ops.cat(((m0 + m1 + m2).reshape(line), (m1 - m2 - m3).reshape(line)), 1)
    return both.reshape(B, R - 2, W, -1)


def down(x: Tensor, matrix: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """3×3 with stride 2: (B, R + 2, W, C) → (B, R/2, W/2, O)."""
    B, R, W, C = x.shape
    if nn.ASCEND:
        return _native(ops.slice(x, (0, 1, 0, 0), (B, R - 1, W, C)), matrix, 2)
    return _gathered(_pixels(x, matrix), matrix, forward, backward).reshape(B, (R - 2) // 2, W // 2, -1)


def up(x: Tensor, four: tuple[Tensor, ...], *tables: Tensor) -> Tensor:
    """Nearest neighbour ×2, then 3×3: (B, R + 2, W, C) → (B, 2R, 2W, O) without the upsampled picture."""
    B, R, W, C = x.shape
    if nn.ASCEND:
        doubled = ops.broadcast_to(x.reshape(B, R, 1, W, 1, C), (B, R, 2, W, 2, C)).reshape(B, 2 * R, 2 * W, C)
        return _native(ops.slice(doubled, (0, 1, 0, 0), (B, 2 * R - 2, 2 * W, C)), four[0], 1)
    pixels = _pixels(x, four[0])
    lines = []
    for p in range(2):
        pair = []
        for q in range(2):
            i = 2 * p + q
            pair.append(_gathered(pixels, four[i], tables[2 * i], tables[2 * i + 1]))
        lines.append(ops.cat(pair, 1).reshape(B * (R - 2), 1, -1))  # (rows, 1, W · 2 · O)
    return ops.cat(lines, 1).reshape(B, 2 * (R - 2), 2 * W, -1)


def _pixels(x: Tensor, matrix: Tensor) -> Tensor:
    """All pixels below one another and a zero after the last, in the matrix's dtype: (pixels + 1, C)."""
    C = x.shape[-1]
    return ops.cat((ops.cast(x, matrix.dtype).reshape(-1, C), ops.zeros((1, C), matrix.dtype)), 0)


def _native(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Ascend's convolution: (B, R + 2, W, C) → (B, R, W, O), or with stride 2 (B, R + 1, W, C) → (B, R/2, W/2, O)."""
    pad = (0, 0, 2 - stride, 1)
    conv = ops.Conv2D(weight.shape[0], 3, pad_mode="pad", pad=pad, stride=stride)
    y = conv(ops.transpose(ops.cast(x, weight.dtype), (0, 3, 1, 2)), weight)
    return ops.transpose(y, (0, 2, 3, 1))


class _Gathered(cells.Cell):
    """(pixels + 1, C) gathered into (n, k·C), times (k·C, O).

    A stateless Cell because that is how a function gets its own backward inside jit: gathering the cotangent's
    patches is much faster than the scatter that autodiff would derive.
    """

    def construct(self, x, matrix, forward, backward):
        return ops.matmul(_patches(x, forward), matrix)

    def bprop(self, x, matrix, forward, backward, y, dy):
        k, C, out = forward.shape[1], x.shape[1], dy.shape[1]
        turned = ops.transpose(matrix.reshape(k, C, out), (0, 2, 1)).reshape(-1, C)
        padded = ops.cat((dy, ops.zeros((1, out), dy.dtype)), 0)
        dx = ops.matmul(_patches(padded, backward), turned)
        dmatrix = ops.MatMul(transpose_a=True)(_patches(x, forward), dy)
        return (
            ops.cat((dx, ops.zeros((1, C), x.dtype)), 0),
            dmatrix,
            ops.zeros_like(forward),
            ops.zeros_like(backward),
        )


_gathered = _Gathered()


def _patches(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x: (n, k) indices → (n, k·C)."""
    return ops.gather(x, index.reshape(-1), 0).reshape(index.shape[0], -1)
