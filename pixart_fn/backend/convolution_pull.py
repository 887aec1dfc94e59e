"""The gradients of `convolution`'s products by hand, but for a device's own convolutions. Letters as there."""

from __future__ import annotations

from mindspore import Tensor, ops

from .convolution import gathered_pull, pixels


def same(
    x: Tensor, matrices: tuple[Tensor, ...], dy: Tensor, forward: Tensor, backward: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Go back through `convolution.same`.

    Args:
        x: (B, R + 2, W, C), its input.
        matrices: what it took.
        dy: (B, R, W, O), the cotangent of its output.
        forward: the first of its tables.
        backward: the second.
    Returns:
        The cotangents of x and of the matrices.
    """
    if len(matrices) == 4:
        return _winograd(x, matrices, dy, forward, backward)
    dx, dmatrix = down(x, matrices[0], dy, forward, backward)
    return dx, (dmatrix,)


def _winograd(
    x: Tensor, four: tuple[Tensor, ...], dy: Tensor, forward: Tensor, backward: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    B, R, W, C = x.shape
    n, O = R // 2 - 1, four[0].shape[1]
    two = ops.cast(dy, four[0].dtype).reshape(B * n, 2, W * O)
    even = ops.slice(two, (0, 0, 0), (B * n, 1, W * O)).reshape(-1, O)
    odd = ops.slice(two, (0, 1, 0), (B * n, 1, W * O)).reshape(-1, O)
    by_two, half = x.reshape(B, R // 2, 2, W * C), (B, n, 1, W * C)
    d0, d1 = ops.slice(by_two, (0, 0, 0, 0), half), ops.slice(by_two, (0, 0, 1, 0), half)
    d2, d3 = ops.slice(by_two, (0, 1, 0, 0), half), ops.slice(by_two, (0, 1, 1, 0), half)
    seen, parts = (d0 - d2, d1 + d2, d2 - d1, d1 - d3), (even, even + odd, even - odd, -odd)
    back: tuple[Tensor, ...] = ()
    dmatrices: tuple[Tensor, ...] = ()
    for i in range(4):
        here = pixels(seen[i].reshape(B, n, W, C), four[i])
        dseen, dmatrix = gathered_pull(here, four[i], forward, backward, parts[i])
        back, dmatrices = (*back, dseen.reshape(half)), (*dmatrices, dmatrix)
    a, b, c, d = back
    nothing = ops.zeros((B, 1, 1, W * C), a.dtype)
    first = ops.cat((ops.cat((a, nothing), 1), ops.cat((b - c + d, nothing), 1)), 2)
    second = ops.cat((ops.cat((nothing, b + c - a), 1), ops.cat((nothing, -d), 1)), 2)
    return (first + second).reshape(x.shape), dmatrices


def kernel(dmatrices: tuple[Tensor, ...], weight: Tensor) -> Tensor:
    """Go back through `convolution.same_matrices`: the cotangent of the kernel (O, C, 3, 3)."""
    O, C = weight.shape[:2]
    if len(dmatrices) == 1:
        rows = dmatrices[0]
    else:
        a, b, c, d = dmatrices
        rows = ops.cat((a + 0.5 * (b + c), 0.5 * (b - c), 0.5 * (b + c) + d), 0)
    return ops.transpose(rows.reshape(3, 3, C, O), (3, 2, 0, 1))


def up(x: Tensor, four: tuple[Tensor, ...], dy: Tensor, *tables: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Go back through `convolution.up`.

    Args:
        x: (B, R + 2, W, C), its input.
        four: the matrices that it took.
        dy: (B, 2R, 2W, O), the cotangent of its output.
        tables: the eight index tables.
    Returns:
        The cotangents of x and of the matrices.
    """
    B, R, W, C = x.shape
    O, seen = four[0].shape[1], pixels(x, four[0])
    phases = ops.cast(dy, four[0].dtype).reshape(B * (R - 2), 2, W, 2 * O)
    dx = ops.zeros((B * R * W, C), four[0].dtype)
    dmatrices: tuple[Tensor, ...] = ()
    for p in range(2):
        for q in range(2):
            i = 2 * p + q
            part = ops.slice(phases, (0, p, 0, q * O), (B * (R - 2), 1, W, O)).reshape(-1, O)
            dseen, dmatrix = gathered_pull(seen, four[i], tables[2 * i], tables[2 * i + 1], part)
            dx, dmatrices = dx + dseen, (*dmatrices, dmatrix)
    return dx.reshape(x.shape), dmatrices


def down(x: Tensor, matrix: Tensor, dy: Tensor, forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
    """Go back through one matrix of gathered pixels, which is all of `convolution.down`. Arguments as of `same`."""
    dy = ops.cast(dy, matrix.dtype).reshape(-1, matrix.shape[1])
    dx, dmatrix = gathered_pull(pixels(x, matrix), matrix, forward, backward, dy)
    return dx.reshape(x.shape), dmatrix
