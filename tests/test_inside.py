"""Looking inside a transformer and changing its blocks, against diffusers' block restated in NumPy on goldens."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import compare
from hypothesis import given
from hypothesis import strategies as st
from reference.case import load

from pixart_fn import transformer
from pixart_fn.models.transformer_blocks import blur_matrix

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

CASE = load("transformer")
CONFIG = transformer.read_config(CASE.config)
VALUES = CASE.values["oblong"]
NAMES = ("x", "t", "text", "mask")


def applied(**options):
    inputs = [ms.Tensor(VALUES[name]) for name in NAMES]
    return transformer.apply(compare.tensors(CASE.weights), CONFIG, *inputs, **options)


def linear(name, x):
    return x @ CASE.weights[f"{name}.weight"].astype(np.float64).T + CASE.weights[f"{name}.bias"]


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def heads(x):
    return x.reshape(*x.shape[:2], CONFIG.num_attention_heads, -1).transpose(0, 2, 1, 3)


def modulated(x, i, modulation):
    """What enters the self-attention of a block."""
    table = CASE.weights[f"transformer_blocks.{i}.scale_shift_table"] + modulation.reshape(len(x), 6, -1)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CONFIG.norm_eps)
    return normal * (1 + table[:, 1:2]) + table[:, :1]


def test_maps_of_attention_are_those_of_the_formula():
    """Of the second block, from what left the first."""
    _, seen = applied(collect=["block0", "block1", "block1/self", "block1/cross"])
    seen = {name: value.asnumpy().astype(np.float64) for name, value in seen.items()}
    p = compare.tensors(CASE.weights)
    modulation = transformer.conditioned(p, ms.Tensor(VALUES["t"]).float())[1].asnumpy().astype(np.float64)
    h = modulated(seen["block0"], 1, modulation)
    q, k = (heads(linear(f"transformer_blocks.1.attn1.to_{part}", h)) for part in "qk")
    expected = softmax(q @ k.transpose(0, 1, 3, 2) / math.sqrt(CONFIG.attention_head_dim))
    np.testing.assert_allclose(seen["block1/self"], expected, rtol=0, atol=2e-6)
    assert seen["block1/cross"].shape == (3, CONFIG.num_attention_heads, h.shape[1], VALUES["text"].shape[1])
    hidden = np.broadcast_to((VALUES["mask"] == 0)[:, None, None], seen["block1/cross"].shape)
    assert not seen["block1/cross"][hidden].any()
    np.testing.assert_allclose(seen["block1/cross"].sum(-1), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(seen["block1"], VALUES["block.1"], rtol=1e-4, atol=1e-4)


def test_what_is_collected_changes_nothing():
    out, seen = applied(
        collect=[f"block{i}{part}" for i in range(CONFIG.num_layers) for part in ("", "/self", "/cross")]
    )
    assert compare.rel(out, VALUES["out"]) < compare.MODULE and len(seen) == 3 * CONFIG.num_layers
    again, nothing = applied(collect=[])
    assert not nothing and compare.rel(again, VALUES["out"]) < compare.MODULE


def test_a_skipped_block_passes_on_what_enters_it():
    _, seen = applied(skipped=[1], collect=["block0", "block1"])
    np.testing.assert_array_equal(seen["block0"].asnumpy(), seen["block1"].asnumpy())
    flat = {name: value for name, value in CASE.weights.items() if not name.startswith("transformer_blocks.1.")}
    moved = {name.replace("blocks.2.", "blocks.1."): value for name, value in flat.items()}
    shorter = transformer.read_config({**CASE.config, "num_layers": 2})
    inputs = [ms.Tensor(VALUES[name]) for name in NAMES]
    expected = transformer.apply(compare.tensors(moved), shorter, *inputs)
    np.testing.assert_array_equal(applied(skipped=[1]).asnumpy(), expected.asnumpy())


def test_residuals_are_added_before_the_second_block_and_the_next():
    inputs = applied(collect=["block0", "block1"])[1]
    B, N, D = inputs["block0"].shape
    assert compare.rel(applied(residuals=[ms.ops.zeros((B, N, D))] * 2), VALUES["out"]) < compare.MODULE
    # adding the difference of two states makes the second block see the other state
    shift = inputs["block1"] - inputs["block0"]
    seen = applied(residuals=[shift], skipped=[1], collect=["block1"])[1]["block1"]
    np.testing.assert_allclose(seen.asnumpy(), inputs["block1"].asnumpy(), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 9), st.floats(0.2, 4))
def test_a_blur_is_a_gaussian_of_the_mirrored_picture(n, sigma):
    matrix, far = blur_matrix(n, sigma), math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-far, far + 1) / sigma) ** 2)
    x = np.random.default_rng(n).standard_normal(n)
    mirrored = np.pad(x, far, mode="reflect") if n > 1 else np.repeat(x, 2 * far + 1)
    expected = np.convolve(mirrored, weights / weights.sum(), mode="valid")
    np.testing.assert_allclose(matrix @ x, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(blur_matrix(n, math.inf) @ x, np.full(n, x.mean()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [1.0, math.inf])
def test_blurred_queries_attend_as_the_formula_says(sigma):
    _, seen = applied(blurred=[1], blur_sigma=sigma, collect=["block0", "block1/self"])
    seen = {name: value.asnumpy().astype(np.float64) for name, value in seen.items()}
    modulation = transformer.conditioned(compare.tensors(CASE.weights), ms.Tensor(VALUES["t"]).float())[1].asnumpy()
    h = modulated(seen["block0"], 1, modulation.astype(np.float64))
    rows, columns = (side // CONFIG.patch_size for side in VALUES["x"].shape[2:])
    q, k = (linear(f"transformer_blocks.1.attn1.to_{part}", h) for part in "qk")
    q = q.reshape(len(q), rows, columns, -1)
    q = np.einsum("ir,jc,brcd->bijd", blur_matrix(rows, sigma), blur_matrix(columns, sigma), q).reshape(k.shape)
    expected = softmax(heads(q) @ heads(k).transpose(0, 1, 3, 2) / math.sqrt(CONFIG.attention_head_dim))
    np.testing.assert_allclose(seen["block1/self"], expected, rtol=0, atol=2e-6)


def test_compressed_keys_are_blurred_and_collected_too():
    case = load("gradients_transformer_conv")
    config, values = transformer.read_config(case.config), case.values["apply"]
    inputs = [ms.Tensor(values[name]) for name in NAMES]
    p, both = compare.tensors(case.weights), ["block1", "block1/self"]
    plain = transformer.apply(p, config, *inputs, collect=both)[1]
    assert plain["block1/self"].shape == (2, 4, 20, 4)
    small = transformer.apply(p, config, *inputs, blurred=[1], blur_sigma=0.01, collect=both)[1]  # changes nothing
    for name in both:
        np.testing.assert_allclose(small[name].asnumpy(), plain[name].asnumpy(), rtol=1e-5, atol=1e-6)
    large = transformer.apply(p, config, *inputs, blurred=[1], collect=both)[1]
    assert (
        np.ptp(large["block1/self"].asnumpy(), axis=2).max()
        < 1e-5
        < np.ptp(plain["block1/self"].asnumpy(), axis=2).max()
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"collect": ["block3"]}, "'block0' … 'block2', each alone or with '/self' or '/cross', got 'block3'"),
        ({"collect": ["block1/keys"]}, "got 'block1/keys'"),
        ({"collect": ["block1/self"], "perturbed": [1]}, "can't be collected where that block is perturbed or skipped"),
        ({"perturbed": [1], "blurred": [1]}, "must name different blocks, got [1, 1]"),
        ({"skipped": [3]}, "skipped must name blocks within 0 … 2, got [3]"),
        ({"blur_sigma": 1.0}, "blur_sigma=1.0 blurs the blocks that blurred names, and it names none"),
        ({"blurred": [0], "blur_sigma": 0}, "blur_sigma must be a number above 0, got 0"),
        ({"residuals": [ms.ops.zeros((1, 2, 3))]}, "each of residuals must have the shape (3, 21, 64), got (1, 2, 3)"),
        ({"residuals": [ms.ops.zeros((3, 21, 64))] * 3}, "residuals must be at most 2, got 3"),
    ],
)
def test_what_is_wrong_is_said(options, words):
    with pytest.raises(ValueError, match=r"block|residuals|blur") as caught:
        applied(**options)
    assert words in str(caught.value)
