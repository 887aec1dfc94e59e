"""Convolutions of channels-last pictures as products: pixels are gathered into rows of patches, which meet a matrix.

B batch, R rows of a strip, W its width, C input and O output channels, k side of the kernel. oneDNN's convolution falls
into its reference kernel on AVX-512, 100× slower; a gather of whole pixels runs at the memory's speed and the product
at the chip's.

Every convolution takes the strip between the row above and the row below it, (B, R + 2, W, C); at the picture's edge
those are zeros. `index_tables` says which pixels a patch holds; its tables are inputs of the compiled graph.

The own convolutions of Ascend and of GPUs (cuDNN) are fast. There a "matrix" is the checkpoint's weight, for a GPU with
its channels last, and the tables say nothing.
"""

from __future__ import annotations

import functools

import mindspore.nn as cells
import numpy as np
from mindspore import Tensor, ops

from . import nn

WIDE = 128
"""Input channels from which two rows at a time (Winograd) save more in the product than they cost around it."""


def is_native() -> bool:
    """Whether convolutions are the device's own."""
    return nn.DEVICE.convolution != "gathered"


@functools.lru_cache(maxsize=256)
def index_tables(kind: str, B: int, R: int, W: int) -> tuple[Tensor, ...]:
    """List which input pixels each output pixel reads, and back: which output pixels read an input pixel.

    Args:
        kind: "same", 3×3; "down", 3×3 with stride 2, padded below and to the right only; "up", 2×2 for each of four
            output pixels; "row", 1×3 in a strip without neighbours.
        B: pictures.
        R: rows of the strip without its neighbours.
        W: pixels of a row.
    Returns:
        Two int32 tables, (pixels out, places in the kernel) of indices into the pixels in, and (pixels in, places) of
        indices into the pixels out; for "up" four times two, one for each of its output pixels. An index one past the
        last pixel stands for zero.
    """
    if is_native():
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
    both = zip(np.split(forward, groups, 1), np.split(backward[:-1], groups, 1), strict=True)
    return tuple(Tensor.from_numpy(np.ascontiguousarray(table)) for tables in both for table in tables)


def kernel_matrix(weight: Tensor) -> Tensor:
    """Turn a kernel into the matrix that patches meet.

    Args:
        weight: (O, C, k, k), as checkpoints have it.
    Returns:
        (k·k·C, O); on Ascend the weight itself, and on a GPU (O, k, k, C).
    """
    if is_native():
        return ops.transpose(weight, (0, 2, 3, 1)) if nn.DEVICE.convolution == "NHWC" else weight
    return ops.transpose(weight, (2, 3, 1, 0)).reshape(-1, weight.shape[0])


def winograd_matrices(weight: Tensor) -> tuple[Tensor, ...]:
    """Turn a kernel into the matrices of F(2, 3) down the rows (Lavin & Gray, arXiv:1509.09308, sec. 4.1).

    Args:
        weight: (O, C, 3, 3).
    Returns:
        Four matrices (3·C, O).
    """
    g0, g1, g2 = ops.split(kernel_matrix(weight), 3 * weight.shape[1])
    middle = 0.5 * (g0 + g2)
    return g0, middle + 0.5 * g1, middle - 0.5 * g1, g2


def up_matrices(weight: Tensor) -> tuple[Tensor, ...]:
    """Turn a kernel into the matrices that make one step of it and of a ×2 nearest upsampling before it.

    Of the 3×3 pixels that an output pixel sees, several are the same small pixel: their weights add up.

    Args:
        weight: (O, C, 3, 3).
    Returns:
        Four matrices (4·C, O), one for each of the output pixels of a small pixel; on Ascend and a GPU four times
        what `kernel_matrix` gives.
    """
    if is_native():
        return (kernel_matrix(weight),) * 4
    top, middle, bottom = ops.split(ops.transpose(weight, (2, 3, 1, 0)), 1)
    phases = []
    for halves in ((top, middle + bottom), (top + middle, bottom)):
        left, centre, right = ops.split(ops.cat(halves, 0), 1, axis=1)  # each (2, 1, C, O)
        phases.append(ops.cat((left, centre + right), 1).reshape(-1, weight.shape[0]))
        phases.append(ops.cat((left + centre, right), 1).reshape(-1, weight.shape[0]))
    return tuple(phases)


def same_tables(B: int, R: int, W: int, C: int) -> tuple[Tensor, ...]:
    """Make the tables of `same`.

    Args:
        B: pictures.
        R: rows of the strip without its neighbours.
        W: pixels of a row.
        C: input channels.
    Returns:
        Two int32 tables, as `index_tables` gives them.
    """
    return index_tables("row", B, R // 2, W) if uses_winograd(R, C) else index_tables("same", B, R, W)


def same_matrices(weight: Tensor, R: int) -> tuple[Tensor, ...]:
    """Turn a kernel into the matrices of `same`.

    Args:
        weight: (O, C, 3, 3).
        R: rows of the strip without its neighbours.
    Returns:
        One matrix (9·C, O), or four (3·C, O) where `uses_winograd`.
    """
    return winograd_matrices(weight) if uses_winograd(R, weight.shape[1]) else (kernel_matrix(weight),)


def same(x: Tensor, matrices: tuple[Tensor, ...], forward: Tensor, backward: Tensor) -> Tensor:
    """A 3×3 convolution.

    Args:
        x: (B, R + 2, W, C), a strip with its neighbours.
        matrices: what `same_matrices` gave.
        forward: the first of `same_tables`.
        backward: the second, for the gradient.
    Returns:
        (B, R, W, O), of the matrices' dtype.
    """
    if len(matrices) == 4:
        return _winograd(x, matrices, forward, backward)
    if is_native():
        return _native(x, matrices[0], 1)
    B, R, W, _ = x.shape
    return _gathered(pixels(x, matrices[0]), matrices[0], forward, backward).reshape(B, R - 2, W, -1)


def uses_winograd(R: int, C: int) -> bool:
    """Whether `same` makes two rows of a strip at a time, with R rows and C input channels."""
    return C >= WIDE and R % 2 == 0 and not is_native()


def _winograd(x: Tensor, four: tuple[Tensor, ...], forward: Tensor, backward: Tensor) -> Tensor:
    """`same` for even R with two thirds of the multiplications: two rows from four products of half as many."""
    B, R, W, C = x.shape
    by_two, half = x.reshape(B, R // 2, 2, W * C), (B, R // 2 - 1, 1, W * C)
    d0, d1 = ops.slice(by_two, (0, 0, 0, 0), half), ops.slice(by_two, (0, 0, 1, 0), half)
    d2, d3 = ops.slice(by_two, (0, 1, 0, 0), half), ops.slice(by_two, (0, 1, 1, 0), half)
    flat = (B, R // 2 - 1, W, C)
    m0 = _gathered(pixels((d0 - d2).reshape(flat), four[0]), four[0], forward, backward)
    m1 = _gathered(pixels((d1 + d2).reshape(flat), four[1]), four[1], forward, backward)
    m2 = _gathered(pixels((d2 - d1).reshape(flat), four[2]), four[2], forward, backward)
    m3 = _gathered(pixels((d1 - d3).reshape(flat), four[3]), four[3], forward, backward)
    line = (B * (R // 2 - 1), 1, W * four[0].shape[1])
    both = ops.cat(((m0 + m1 + m2).reshape(line), (m1 - m2 - m3).reshape(line)), 1)
    return both.reshape(B, R - 2, W, -1)


def down(x: Tensor, matrix: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """A 3×3 convolution with stride 2, padded below and to the right only.

    Args:
        x: (B, R + 2, W, C), a strip with its neighbours; R and W are even.
        matrix: (9·C, O), what `kernel_matrix` gave.
        forward: the first of the index tables of "down".
        backward: the second, for the gradient.
    Returns:
        (B, R/2, W/2, O), of the matrix's dtype.
    """
    B, R, W, C = x.shape
    if is_native():
        return _native(ops.slice(x, (0, 1, 0, 0), (B, R - 1, W, C)), matrix, 2)
    return _gathered(pixels(x, matrix), matrix, forward, backward).reshape(B, (R - 2) // 2, W // 2, -1)


def up(x: Tensor, four: tuple[Tensor, ...], *tables: Tensor) -> Tensor:
    """Nearest neighbour ×2, then a 3×3 convolution, without the upsampled picture in memory.

    Args:
        x: (B, R + 2, W, C), a strip with its neighbours.
        four: what `up_matrices` gave.
        tables: the eight index tables of "up".
    Returns:
        (B, 2R, 2W, O), of the matrices' dtype.
    """
    B, R, W, C = x.shape
    if is_native():
        doubled = ops.broadcast_to(x.reshape(B, R, 1, W, 1, C), (B, R, 2, W, 2, C)).reshape(B, 2 * R, 2 * W, C)
        return _native(ops.slice(doubled, (0, 1, 0, 0), (B, 2 * R - 2, 2 * W, C)), four[0], 1)
    every = pixels(x, four[0])
    lines = []
    for p in range(2):
        line = []
        for q in range(2):
            i = 2 * p + q
            line.append(_gathered(every, four[i], tables[2 * i], tables[2 * i + 1]))
        lines.append(ops.cat(line, 1).reshape(B * (R - 2), 1, -1))  # (rows, 1, W · 2 · O)
    return ops.cat(lines, 1).reshape(B, 2 * (R - 2), 2 * W, -1)


def pixels(x: Tensor, matrix: Tensor) -> Tensor:
    """All pixels below one another and a zero after the last, in the matrix's dtype: (pixels + 1, C)."""
    C = x.shape[-1]
    return ops.cat((ops.cast(x, matrix.dtype).reshape(-1, C), ops.zeros((1, C), matrix.dtype)), 0)


def _native(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The device's own: (B, R + 2, W, C) → (B, R, W, O), or with stride 2 (B, R + 1, W, C) → (B, R/2, W/2, O)."""
    pad = (0, 0, 2 - stride, 1)
    x = ops.cast(x, weight.dtype)
    if nn.DEVICE.convolution == "NHWC":
        return _channels_last(x, weight, pad, stride)
    conv = ops.Conv2D(weight.shape[0], 3, pad_mode="pad", pad=pad, stride=stride)
    return ops.transpose(conv(ops.transpose(x, (0, 3, 1, 2)), weight), (0, 2, 3, 1))


def _channels_last(x: Tensor, weight: Tensor, pad: tuple[int, ...], stride: int) -> Tensor:
    """cuDNN's convolution of (B, H, W, C) with (O, 3, 3, C), which only a GPU has in MindSpore."""
    y: Tensor = ops.Conv2D(weight.shape[0], 3, pad_mode="pad", pad=pad, stride=stride, data_format="NHWC")(x, weight)
    return y


class _Gathered(cells.Cell):
    """(pixels + 1, C) gathered into (n, k·C), times (k·C, O).

    A stateless Cell because that is how a function gets its own backward inside jit: gathering the cotangent's
    patches is much faster than the scatter that autodiff would derive.
    """

    def construct(self, x: Tensor, matrix: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        return ops.matmul(_patches(x, forward), matrix)

    def bprop(
        self, x: Tensor, matrix: Tensor, forward: Tensor, backward: Tensor, y: Tensor, dy: Tensor
    ) -> tuple[Tensor, ...]:
        dx, dmatrix = gathered_pull(x, matrix, forward, backward, dy)
        zero = ops.zeros((1, x.shape[1]), x.dtype)
        return ops.cat((dx, zero), 0), dmatrix, ops.zeros_like(forward), ops.zeros_like(backward)


_gathered = _Gathered()


def gathered_pull(x: Tensor, matrix: Tensor, forward: Tensor, backward: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """The cotangents of the pixels, without the zero after the last, and of the matrix."""
    k, C, out = forward.shape[1], x.shape[1], dy.shape[1]
    turned = ops.transpose(matrix.reshape(k, C, out), (0, 2, 1)).reshape(-1, C)
    padded = ops.cat((dy, ops.zeros((1, out), dy.dtype)), 0)
    dx = ops.matmul(_patches(padded, backward), turned)
    return dx, ops.MatMul(transpose_a=True)(_patches(x, forward), dy)


def _patches(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x: (n, k) indices → (n, k·C)."""
    return ops.gather(x, index.reshape(-1), 0).reshape(index.shape[0], -1)
