"""A small T5 encoder in NumPy gives the states that MindSpore gives, whatever the batch."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from helpers.drawing import counted
from helpers.tolerances import assert_close
from mindspore import Tensor

import pixart_fn as px
from pixart_fn import t5
from pixart_fn.backend import jit, numpy_nn
from pixart_fn.models import t5_numpy

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def params():
    return px.load()


def tokens(config, lengths, L=40):
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (len(lengths), L)).astype(np.int32)
    return ids, (np.arange(L) < np.array(lengths)[:, None]).astype(np.int32)


def test_it_gives_what_mindspore_gives(params):
    p, config = params.text_encoder, params.config.text_encoder
    ids, mask = tokens(config, [1, 40, 7])
    mask[2, 3] = 0  # a token that isn't real between others
    expected = t5.encode(p, config, Tensor(ids), Tensor(mask)).asnumpy()
    found = t5_numpy.encode(p, config, ids, mask).asnumpy()
    assert_close(found[mask > 0], expected[mask > 0], 5e-6)
    assert not found[mask == 0].any()


def test_a_prompt_does_not_depend_on_its_batch_nor_on_its_padding(params):
    p, config = params.text_encoder, params.config.text_encoder
    ids, mask = tokens(config, [5, 40, 7])
    whole = t5_numpy.encode(p, config, ids, mask).asnumpy()
    for i, n in enumerate((5, 40, 7)):
        alone = t5_numpy.encode(p, config, ids[i : i + 1, :n], mask[i : i + 1, :n]).asnumpy()
        np.testing.assert_array_equal(alone[0], whole[i, :n])


def test_it_fits_small_float32_encoders_on_a_cpu(params, monkeypatch):
    p, config = params.text_encoder, params.config.text_encoder
    assert t5_numpy.fits(p, config)
    assert not t5_numpy.fits(px.tree.map(lambda leaf: leaf.astype(ms.float16), p), config)
    for target, value in ((jit, ("SMALL", 2**10)), (numpy_nn, ("precision", lambda: "bf16-math"))):
        monkeypatch.setattr(target, *value)
        assert not t5_numpy.fits(p, config)
        monkeypatch.undo()
    monkeypatch.setattr(numpy_nn.device, "is_cpu", lambda: False)
    assert not t5_numpy.fits(p, config)


def test_encode_prompt_uses_it_without_a_gradient_alone(params, monkeypatch):
    calls = counted(monkeypatch, t5_numpy, "encode")
    px.encode_prompt(params, ["a cat", "a dog"])
    assert len(calls) == 1

    def total(p):
        return px.encode_prompt(params.replace(text_encoder=p), "a cat").states.sum()

    leaves = px.tree.leaves(px.grad(total)(params.text_encoder))
    assert len(calls) == 1 and any(np.abs(leaf.asnumpy()).max() > 0 for leaf in leaves)


def test_an_encoder_that_lacks_a_tensor_is_one_sentence(params):
    p = px.tree.map(lambda leaf: leaf, params.text_encoder)
    del p["encoder"]["final_layer_norm"]
    with pytest.raises(ValueError, match="final_layer_norm"):
        px.encode_prompt(params.replace(text_encoder=p), "a cat")
