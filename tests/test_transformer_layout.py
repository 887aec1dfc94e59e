"""Blocks whose weights are laid out give what the blocks give."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import pixart_fn as px
from pixart_fn.backend import heads, jit
from pixart_fn.models import transformer, transformer_blocks, transformer_layout


@pytest.fixture(scope="module")
def params():
    return px.load()


def given(config, B, h=16, w=16, L=7):
    normal = np.random.default_rng(0).standard_normal
    x = Tensor(normal((B, config.in_channels, h, w)).astype(np.float32))
    text = Tensor(normal((B, L, config.caption_channels)).astype(np.float32))
    return x, Tensor(np.linspace(999, 20, B, dtype=np.float32)), text, Tensor(np.ones((B, L), np.int32))


@pytest.mark.parametrize(("B", "h", "w"), [(1, 16, 16), (2, 16, 16), (5, 8, 24), (1, 4, 2)])
def test_blocks_that_are_laid_out_give_what_the_blocks_give(params, B, h, w):
    p, config = params.transformer, params.config.transformer
    x, t, text, mask = given(config, B, h, w)
    captions, layout = transformer.captions(p, config, text, mask), transformer_layout.lay_out(p, config)
    assert len(layout) == config.num_layers
    laid_out = transformer.evaluate(p, config, x, t, captions, layout=layout).asnumpy()
    plain = transformer.evaluate(p, config, x, t, captions).asnumpy()
    assert np.abs(laid_out - plain).max() < 5e-6 * np.abs(plain).max()


def test_the_other_ways_go_through_the_plain_blocks(params, monkeypatch):
    p, config = params.transformer, params.config.transformer
    x, t, text, mask = given(config, 1)
    captions, layout = transformer.captions(p, config, text, mask), transformer_layout.lay_out(p, config)
    used = []
    monkeypatch.setattr(transformer_blocks.transformer_layout, "run", lambda p, x, *_, config: used.append(p) or x)

    def count(**ways):
        used.clear()
        transformer.watch(p, config, x, t, captions, ways=transformer.USUAL._replace(**ways), layout=layout)
        return len(used)

    assert count() == 8
    assert count(perturbed=(2,)) == count(skipped=(2,)) == count(blurred=(2,)) == count(collect=("block3/self",)) == 7
    assert count(collect=("block3",)) == 8
    monkeypatch.setattr(heads, "SCORES", 64**2)  # of one head
    assert count() == 0


def test_gradients_go_through_a_denoiser_with_laid_out_blocks(params):
    text, noise = px.encode_prompt(params, ["a cat"]), px.noise(params, px.key(0))
    denoise = px.text_denoiser(params, text, guidance=1)

    def total(x):
        return denoise(x, 500.0).square().mean()

    gradient = px.grad(total)(noise).asnumpy()
    along = np.random.default_rng(0).standard_normal(noise.shape).astype(np.float32)
    step = 1e-2
    ahead, behind = (float(total(noise + Tensor(s * step * along)).asnumpy()) for s in (1, -1))
    assert (gradient * along).sum() == pytest.approx((ahead - behind) / (2 * step), rel=2e-3)

    def of_weights(p):  # the denoiser is made where a gradient is recorded
        return px.text_denoiser(params.replace(transformer=p), text, guidance=1)(noise, 500.0).square().mean()

    leaves = px.tree.leaves(px.grad(of_weights)(params.transformer))
    assert all(np.abs(leaf.asnumpy()).max() > 0 for leaf in leaves)


def test_nothing_is_laid_out_where_it_is_not_worth_it_or_not_the_same(params, monkeypatch):
    p, config = params.transformer, params.config.transformer
    assert transformer_layout.lay_out(px.transformer.quantize(p), config) is None
    assert transformer_layout.lay_out(px.tree.map(lambda leaf: leaf.astype(ms.float16), p), config) is None
    monkeypatch.setattr(jit, "SMALL", 2**20)
    assert transformer_layout.lay_out(p, config) is None
    monkeypatch.setattr(jit, "SMALL", 2**22)
    monkeypatch.setattr(transformer_layout.device, "is_cpu", lambda: False)
    assert transformer_layout.lay_out(p, config) is None
