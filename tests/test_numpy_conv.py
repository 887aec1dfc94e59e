"""Winograd's convolutions in NumPy against sums in float64, in strips and for sides of all kinds."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tolerances import assert_close

from pixart_fn.backend import numpy_conv, numpy_nn

EPS = 1e-6
C, O = 6, 4


def drawn(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def weights():
    return {"weight": drawn(O, C, 3, 3), "bias": drawn(O)}


def summed(p, x, step=1):
    """Of x (H + 2, W + 2, C), every `step`-th output in float64."""
    seen = np.lib.stride_tricks.sliding_window_view(x.astype(float), (3, 3), (0, 1))[::step, ::step]
    return np.einsum("hwcij,ocij->hwo", seen, p["weight"].astype(float)) + p["bias"]


def around(x):
    return np.pad(x, ((1, 1), (1, 1), (0, 0)))


@pytest.fixture(params=[2**6, 2**19])
def strip(request, monkeypatch):
    monkeypatch.setattr(numpy_conv, "STRIP", request.param)


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize(("H", "W"), [(1, 1), (2, 2), (3, 5), (8, 6), (7, 4), (1, 9), (12, 1)])
@pytest.mark.parametrize("kind", ["same", "up", "down"])
def test_a_convolution(kind, H, W):
    p, x = weights(), drawn(H, W, C)
    if kind == "down":
        x = drawn(2 * H, 2 * W, C)
        expected = summed(p, np.pad(x, ((0, 1), (0, 1), (0, 0))), 2)
    else:
        expected = summed(p, around(x if kind == "same" else x.repeat(2, 0).repeat(2, 1)))
    with numpy_nn.threads(4) as each:
        found = getattr(numpy_conv, kind)(p, x, each)
    assert_close(found.x, expected)
    norm = {"weight": drawn(O), "bias": drawn(O)}
    groups = expected.reshape(-1, 2, O // 2)
    mean, variance = groups.mean((0, 2), keepdims=True), groups.var((0, 2), keepdims=True)
    wanted = ((groups - mean) / np.sqrt(variance + EPS)).reshape(-1, O) * norm["weight"] + norm["bias"]
    scale, shift = numpy_conv.group_norm(norm, found, 2, EPS)
    assert_close(found.x.reshape(-1, O) * scale + shift, wanted, 1e-5)


@pytest.mark.usefixtures("strip")
def test_a_norm_before_and_something_added_after():
    p, x, norm, more = weights(), drawn(5, 6, C), (drawn(C), drawn(C + 1)[1:]), drawn(5, 6, O)
    y = x.astype(float) * norm[0] + norm[1]
    with numpy_nn.threads(2) as each:
        found = numpy_conv.same(p, x, each, norm, lambda rows: more[rows])
    assert_close(found.x, summed(p, around(y / (1 + np.exp(-y)))) + more)


def test_a_norm_of_numbers_far_from_zero():
    x = 1000 + drawn(40, 30, O)
    picture = numpy_conv.Picture(x, [numpy_conv.moments(x[rows]) for rows in (slice(0, 26), slice(26, 40))])
    scale, shift = numpy_conv.group_norm({"weight": np.ones(O), "bias": np.zeros(O)}, picture, O, EPS)
    assert_close(scale, 1 / np.sqrt(x.astype(float).var((0, 1)) + EPS), 1e-5)
    assert_close(shift, -x.astype(float).mean((0, 1)) * scale, 1e-5)


@pytest.mark.parametrize(("H", "row"), [(1, 1), (2, 10**9), (16, 100), (17, 2**17), (128, 2**15)])
def test_strips_are_all_rows_and_of_even_heights(H, row):
    strips = numpy_conv.strips(H, row)
    assert [i for part in strips for i in range(part.start, part.stop)] == list(range(H))
    assert all((part.stop - part.start) % 2 == 0 for part in strips[:-1])
    assert all((part.stop - part.start) * row <= numpy_conv.STRIP or part.stop - part.start <= 2 for part in strips)
