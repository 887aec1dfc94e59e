"""Convolutions and their gradients against sums in NumPy, in one piece and a strip of rows at a time."""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import assert_close

from pixart_fn import jit, nn

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


def patches(x: np.ndarray, k: int) -> np.ndarray:
    """(B, C, H, W) → (B, C, k, k, H, W) in float64, zeros outside."""
    padded = np.pad(x.astype(float), ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (2, 3))  # (B, C, H, W, k, k)
    return windows.transpose(0, 1, 4, 5, 2, 3)


# 7 rows of 20 with 27 numbers a patch: two rows at a time, then one. 11 columns, under nn.SMALL, go another way.
@pytest.mark.parametrize("strip", [nn.STRIP, 2 * 2 * 20 * 27], ids=["whole", "strips"])
@pytest.mark.parametrize("width", [20, 11])
@pytest.mark.parametrize("k", [1, 3])
def test_a_convolution_and_its_gradients(k, width, strip, monkeypatch):
    monkeypatch.setattr(nn, "STRIP", strip)

    @jit.block
    def convolve(p, x, config):
        return nn.conv2d(p, x)

    random = np.random.default_rng(0)
    x, weight, bias, dy = (
        random.standard_normal(shape).astype(np.float32)
        for shape in ((2, 3, 7, width), (4, 3, k, k), (4,), (2, 4, 7, width))
    )
    point = {"x": ms.Tensor(x), "p": {"weight": ms.Tensor(weight), "bias": ms.Tensor(bias)}}
    expected = np.einsum("ockl,bcklhw->bohw", weight, patches(x, k)) + bias[:, None, None]
    assert_close(convolve(point["p"], point["x"]).asnumpy(), expected)

    gradients = jit.grad(lambda p: (convolve(p["p"], p["x"]) * ms.Tensor(dy)).sum())(point)
    turned = weight[:, :, ::-1, ::-1]
    assert_close(gradients["x"].asnumpy(), np.einsum("ockl,boklhw->bchw", turned, patches(dy, k)))
    assert_close(gradients["p"]["weight"].asnumpy(), np.einsum("bohw,bcklhw->ockl", dy, patches(x, k)))
    assert_close(gradients["p"]["bias"].asnumpy(), dy.sum((0, 2, 3)))
