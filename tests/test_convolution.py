"""Convolutions as gathered products, and their gradients, against sums in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tolerances import assert_close

from pixart_fn.backend import autodiff, convolution, jit

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

B, R, W, C, O = 2, 6, 8, 3, 5


@jit.block
def same(weight, x, config, forward, backward):
    return convolution.same(x, convolution.same_matrices(weight, x.shape[1] - 2), forward, backward)


@jit.block
def down(weight, x, config, forward, backward):
    return convolution.down(x, convolution.kernel_matrix(weight), forward, backward)


@jit.block
def up(weight, x, config, f0, b0, f1, b1, f2, b2, f3, b3):
    return convolution.up(x, convolution.up_matrices(weight), f0, b0, f1, b1, f2, b2, f3, b3)


def columns(x: np.ndarray, before: int) -> np.ndarray:
    """Zeros to the left and right, in float64."""
    return np.pad(x.astype(float), ((0, 0), (0, 0), (before, 1), (0, 0)))


def patches(x: np.ndarray) -> np.ndarray:
    """(B, H, W, C) → (B, H - 2, W - 2, C, 3, 3)."""
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))


def expected(kind: str, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    if kind == "up":  # the row above doubled and cut to its lower half, as a strip's neighbour is
        x = x.repeat(2, 1)[:, 1:-1].repeat(2, 2)
    seen = patches(columns(x, 1)) if kind != "down" else patches(columns(x[:, 1:], 0))[:, ::2, ::2]
    return np.einsum("bhwcij,ocij->bhwo", seen, weight.astype(float))


@pytest.mark.parametrize(("kind", "wide"), [("same", 1), ("same", 10**6), ("down", 1), ("up", 1)])
def test_a_convolution_and_its_gradients(kind, wide, monkeypatch):
    monkeypatch.setattr(convolution, "WIDE", wide)
    random = np.random.default_rng(0)
    x = random.standard_normal((B, R + 2, W, C)).astype(np.float32)
    weight = random.standard_normal((O, C, 3, 3)).astype(np.float32)
    tables = convolution.same_tables(B, R, W, C) if kind == "same" else convolution.index_tables(kind, B, R, W)
    assert tables[0].shape[1] == {1: 3, 10**6: 9}[wide] or kind != "same"
    f = {"same": same, "down": down, "up": up}[kind]
    point = {"weight": ms.Tensor(weight), "x": ms.Tensor(x)}
    y = expected(kind, weight, x)
    assert_close(f(point["weight"], point["x"], config=wide, tables=tables).asnumpy(), y)

    dy = random.standard_normal(y.shape).astype(np.float32)

    def total(p):
        return (f(p["weight"], p["x"], config=wide, tables=tables) * ms.Tensor(dy)).sum()

    gradients = autodiff.grad(total)(point)
    for name in point:  # linear in each, so a difference is exact
        direction = random.standard_normal(point[name].shape).astype(np.float32)
        at = {"weight": weight, "x": x, name: direction}
        slope = (expected(kind, at["weight"], at["x"]) * dy).sum()
        assert float((gradients[name].asnumpy().astype(float) * direction).sum()) == pytest.approx(slope, rel=1e-5)
