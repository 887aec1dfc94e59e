"""PixArt-Σ's compression of keys and values against its formula in NumPy, and its configuration."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import compare
from hypothesis import given
from hypothesis import strategies as st
from reference.case import load

from pixart_fn import rng, transformer, tree
from pixart_fn.backend import heads
from pixart_fn.models import compression
from pixart_fn.models.compression import Compression

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

SAMPLINGS = ("conv", "ave", "uniform", "uniform_every")
FIELDS = {"num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "caption_channels": 8}


def restated(p, x, how, rows, columns):
    """The formula, one compressed patch after another, in float64."""
    r, x = how.factor, x.astype(np.float64)
    if how.sampling == "uniform_every":
        return np.stack([x[:, i * r] for i in range(x.shape[1] // r)], 1)
    x = x.reshape(len(x), rows, columns, -1)
    out = []
    for i, j in np.ndindex(rows // r, columns // r):
        square = x[:, i * r : (i + 1) * r, j * r : (j + 1) * r]  # (B, r, r, D)
        if how.sampling != "conv":
            out.append(square[:, 0, 0])
            continue
        y = np.einsum("bijd,dij->bd", square, p["sr.weight"][:, 0]) + p["sr.bias"]
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
        out.append(y * p["norm.weight"] + p["norm.bias"])
    return np.stack(out, 1)


@given(st.sampled_from(SAMPLINGS), st.integers(2, 4), st.integers(4, 9), st.integers(4, 9), st.integers(0, 99))
def test_each_way_follows_its_formula(sampling, factor, rows, columns, seed):
    how, random = Compression(sampling, factor, (0,)), np.random.default_rng(seed)
    shapes = compression.shapes(how, 0, 12)
    p = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    x = random.standard_normal((2, rows * columns, 12), np.float32)
    weights = tree.nest({name: ms.Tensor(value) for name, value in p.items()})
    block = compression.Block(1, 12, 1e-6, sampling, factor, rows, columns)
    y = compression.compress(weights, ms.Tensor(x), block)
    expected = restated(p, x, how, rows, columns)
    assert tuple(y.shape) == expected.shape
    np.testing.assert_allclose(y.asnumpy(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_large_pictures_agree_with_torch(monkeypatch):
    monkeypatch.setattr(heads, "SCORES", 100)
    monkeypatch.setattr(heads, "ROWS", 10)
    errors = compare.gradient_errors("gradients_transformer_conv", load("gradients_transformer_conv"), "apply")
    assert not compare.too_far(errors, compare.GRADIENT)


def test_shapes_name_every_tensor():
    case = load("gradients_transformer_conv")
    expected = {name: value.shape for name, value in case.weights.items()}
    assert transformer.shapes(transformer.read_config(case.config)) == expected


def test_compressed_keys_start_as_averages():
    config = transformer.Config(**FIELDS, num_layers=2, sample_size=8, kv_compression=Compression("conv", 2, (1,)))
    leaves = {name: leaf.asnumpy() for name, leaf in tree.items(transformer.init(rng.key(0), config))}
    added = {name: leaf for name, leaf in leaves.items() if ".sr." in name or ".norm." in name}
    values = {name.removeprefix("transformer_blocks.1.attn1."): set(leaf.ravel()) for name, leaf in added.items()}
    assert values == {"sr.weight": {0.25}, "sr.bias": {0.0}, "norm.weight": {1.0}, "norm.bias": {0.0}}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_configuration_goes_to_json_and_back(sampling):
    config = transformer.Config(kv_compression=Compression(sampling, 2, tuple(range(14, 28))))
    content = json.loads(json.dumps(transformer.to_json(config)))
    layers = list(range(14, 28))
    assert content["kv_compress_config"] == {"sampling": sampling, "scale_factor": 2, "kv_compress_layer": layers}
    assert transformer.read_config(content) == config


def test_without_compression_the_file_is_as_diffusers_writes_it():
    assert "kv_compress_config" not in transformer.to_json(transformer.Config())
    for off in (None, {"sampling": None, "scale_factor": 1, "kv_compress_layer": []}):
        assert transformer.read_config({"kv_compress_config": off}) == transformer.Config()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"sampling": "conv"}, "must be null or an object of sampling, scale_factor, kv_compress_layer"),
        ({"sampling": "max", "scale_factor": 2, "kv_compress_layer": [1]}, "'conv' or 'ave' or 'uniform'"),
        (
            {"sampling": "conv", "scale_factor": 0, "kv_compress_layer": [1]},
            "scale_factor must be a whole number within 2 … 64, got 0",
        ),
        ({"sampling": "conv", "scale_factor": 2, "kv_compress_layer": [28]}, "within 0 … 27, got 28"),
        ({"sampling": "conv", "scale_factor": 2, "kv_compress_layer": [1, 1]}, "different blocks, from 0, got [1, 1]"),
        ({"sampling": "conv", "scale_factor": 2, "kv_compress_layer": "1"}, "config: kv_compress_layer must be a list"),
        ([], "must be null or an object"),
    ],
)
def test_what_is_wrong_is_said(content, words):
    with pytest.raises(ValueError, match="kv_compress") as caught:
        transformer.read_config({"kv_compress_config": content})
    assert words in str(caught.value)


def test_a_picture_of_fewer_patches_than_the_factor_is_refused():
    config = transformer.Config(**FIELDS, num_layers=1, sample_size=8, kv_compression=Compression("ave", 4, (0,)))
    p = transformer.init(rng.key(0), config)
    x, text = ms.ops.zeros((1, 4, 4, 16)), ms.ops.zeros((1, 2, 8))
    with pytest.raises(ValueError, match="at least 4 patches along each side, got 2 × 8"):
        transformer.apply(p, config, x, ms.ops.zeros(1), text, ms.ops.ones((1, 2)))
