"""A transformer in int8: exact for the weights that it stands for, near the float32 picture, and small."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import compare, tiny
from reference.case import load

import pixart_fn as px
from pixart_fn import transformer, tree
from pixart_fn.backend import stream

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


def test_it_is_the_transformer_of_the_rounded_weights():
    case = load("gradients_transformer_conv")
    config, values = transformer.read_config(case.config), case.values["apply"]
    small = transformer.quantize(compare.tensors(case.weights))
    kinds = {name: type(leaf).__name__ for name, leaf in tree.items(small)}
    rounded = {name for name, leaf in case.weights.items() if name.endswith(".weight") and leaf.ndim == 2}
    assert {name for name, what in kinds.items() if what == "Quantized"} == rounded
    same = [compare.run(transformer, p, config, values)["out"] for p in (small, stream.tensors(small))]
    np.testing.assert_array_equal(*(out.asnumpy() for out in same))


def test_its_gradient_by_an_input_is_that_of_the_rounded_weights():
    case = load("gradients_transformer")
    config, values = transformer.read_config(case.config), case.values["apply"]
    small = transformer.quantize(compare.tensors(case.weights))
    t, text, mask, w = (ms.Tensor(values[name]) for name in ("t", "text", "mask", "w"))
    gradients = [
        px.grad(lambda x, p=p: (transformer.apply(p, config, x, t, text, mask) * w).sum())(ms.Tensor(values["x"]))
        for p in (small, stream.tensors(small))
    ]
    np.testing.assert_array_equal(*(each.asnumpy() for each in gradients))


@pytest.mark.slow
def test_it_draws_nearly_the_same_picture_in_a_quarter_of_the_memory():
    params = px.load()
    small = params.replace(transformer=transformer.quantize(params.transformer))
    assert px.memory(small).weights - px.memory(params).weights < -0.7 * 4 * tree.size(params.transformer)
    how = {"steps": 5, "output": "numpy", "progress": False}
    pictures = [px.generate(p, "a cute cat", px.key(0), **how) for p in (params, small)]
    noise = np.mean((pictures[1] - pictures[0]) ** 2)
    assert 0 < noise < 10 ** (-30 / 10)  # a PSNR of 30 dB


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_a_transformer_in_halves_becomes_int8_and_draws(dtype):
    params = tiny.params()
    halves = tree.map(lambda leaf: leaf.astype(dtype), params.transformer)
    how = {"steps": 2, "output": "latents", "progress": False}
    small, rounded = (
        px.generate(params.replace(transformer=p), "a cat", px.key(0), **how).asnumpy()
        for p in (transformer.quantize(halves), transformer.quantize(tree.map(lambda leaf: leaf.float(), halves)))
    )
    np.testing.assert_array_equal(small, rounded)


def test_another_models_tree_is_refused():
    params = tiny.params()
    for wrong in (params, None, params.text_encoder, params.vae):
        with pytest.raises(TypeError, match="p must be the model's tree, which has 'transformer_blocks'"):
            transformer.quantize(wrong)
    with pytest.raises(TypeError, match="which has 'encoder'"):
        px.t5.quantize(params.transformer)


def test_adapters_have_to_be_merged_before():
    params = tiny.params()
    adapter = px.lora.init(px.key(0), params.transformer, px.lora.Config(rank=2))
    with pytest.raises(ValueError, match="is int8 or still in its file"):
        px.lora.merge(transformer.quantize(params.transformer), adapter)
