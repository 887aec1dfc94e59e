"""Layers against their formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.tolerances import assert_close

from pixart_fn.backend import heads, nn

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(f: Any, *arguments: Any) -> np.ndarray:
    """f with arrays, alone or in dicts, as Tensors."""

    def tensor(x: Any) -> Any:
        if isinstance(x, dict):
            return {name: tensor(value) for name, value in x.items()}
        return ms.Tensor(x) if isinstance(x, np.ndarray) else x

    return f(*(tensor(x) for x in arguments)).asnumpy()


@pytest.mark.parametrize(("f", "inner"), [(nn.gelu_tanh, 0.044715), (nn.silu, 0.0)], ids=["gelu", "silu"])
def test_activations_are_their_formulas_point_by_point(f, inner):
    """½x(1 + tanh(√(2/π)(x + 0.044715x³))), arXiv:1606.08415, and x / (1 + exp(-x))."""
    x = np.linspace(-12, 12, 2401).astype(np.float32)
    exponents = [-v * (2 * math.sqrt(2 / math.pi) * (1 + inner * v * v) if inner else 1) for v in x.tolist()]
    # ½(1 + tanh u) is 1 / (1 + exp(-2u)), which loses no digits far below 0
    expected = np.array([v / (1 + math.exp(e)) for v, e in zip(x.tolist(), exponents, strict=True)])
    ours = run(f, x)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6)
    near = np.abs(x) <= 3
    np.testing.assert_allclose(ours[near], expected[near], rtol=5e-6)


@pytest.mark.parametrize("rows", [1, nn.FEW, nn.FEW + 1])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_a_product_and_a_bias(rows, bias):
    x, w, b = normal(0, 1, rows, 12), normal(1, 7, 3, 2, 2), normal(2, 7)
    expected = x.astype(np.float64) @ w.reshape(7, 12).T.astype(np.float64) + bias * b
    assert_close(run(nn.linear, {"weight": w, **({"bias": b} if bias else {})}, x), expected)


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_norms_are_their_formulas(size):
    """Of numbers so small, too, that eps is as large as their variance."""
    eps = 1e-6
    x, weight, bias = (size * normal(0, 2, 5, 12) + size).astype(np.float32), normal(1, 12), normal(2, 12)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    assert_close(run(nn.layer_norm, x, eps), centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps))
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight
    assert_close(run(nn.rms_norm, {"weight": weight}, x, eps), expected)
    groups = wide.reshape(2, 5, 3, 4)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = (centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + eps)).reshape(x.shape) * weight + bias
    p = {"weight": weight, "bias": bias}
    assert_close(run(nn.group_norm, p, x, 3, eps), expected)
    assert_close(run(nn.group_norm, p, x[:1], 3, eps), expected[:1])  # one picture takes another way


@pytest.mark.parametrize("biased", [True, False])
def test_attention_is_its_formula_head_by_head(biased):
    q, k, v = normal(0, 2, 5, 12), normal(1, 2, 7, 12), normal(2, 2, 7, 12)
    bias = normal(3, 2, 3, 5, 7) if biased else None
    expected = np.empty(q.shape)
    for b, a in np.ndindex(2, 3):
        part = slice(4 * a, 4 * a + 4)
        scores = 0.7 * q[b, :, part].astype(np.float64) @ k[b, :, part].T + (bias[b, a] if biased else 0)
        weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        expected[b, :, part] = weights @ v[b, :, part]
    assert_close(run(heads.attention, q, k, v, bias, 3, 0.7), expected)


def test_modulation_is_its_formula():
    x, scale, shift = normal(0, 2, 5, 12), normal(1, 2, 1, 12), normal(2, 2, 1, 12)
    assert_close(run(nn.modulate, x, scale, shift), x.astype(np.float64) * (1 + scale.astype(np.float64)) + shift)
