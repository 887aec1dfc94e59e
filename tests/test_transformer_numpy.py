"""A small transformer that NumPy evaluates gives what MindSpore gives, and only where it may."""

from __future__ import annotations

import warnings

import mindspore as ms
import numpy as np
import pytest
from helpers.drawing import counted
from mindspore import Tensor
from threadpoolctl import threadpool_info

import pixart_fn as px
from pixart_fn import denoiser
from pixart_fn.backend import jit, numpy_nn
from pixart_fn.models import transformer, transformer_numpy

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def params():
    return px.load()


def evaluate(p, config, x, t, captions, residuals=()):
    small = transformer_numpy.prepare(numpy_nn.arrays(p), config, captions)
    return transformer_numpy.evaluate(small, config, x, t, residuals).asnumpy()


def given(config, B, h=16, w=16, L=7):
    """x, t, text of the size of the encoder's states, and a mask: rows of 1, 2, … tokens, one of them after a gap."""
    normal = np.random.default_rng(0).standard_normal
    x = Tensor(normal((B, config.in_channels, h, w)).astype(np.float32))
    text = Tensor(0.5 * normal((B, L, config.caption_channels)).astype(np.float32))
    mask = (np.arange(L) <= np.arange(B)[:, None]).astype(np.int32)
    mask[0, 3] = 1
    return x, Tensor(np.linspace(999, 20, B, dtype=np.float32)), text, Tensor(mask)


def distance(found, expected) -> float:
    """Of random texts, which nothing was trained on and which raise single errors of rounding."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("B", "h", "w"), [(1, 16, 16), (2, 16, 16), (5, 8, 24), (1, 4, 2)])
def test_it_gives_what_mindspore_gives(params, B, h, w):
    p, config = params.transformer, params.config.transformer
    x, t, text, mask = given(config, B, h, w)
    captions = transformer.captions(p, config, text, mask)
    noise = np.random.default_rng(1).standard_normal((2, B, h * w // 4, config.width)).astype(np.float32)
    residuals = tuple(map(Tensor, 0.1 * noise))
    found = evaluate(p, config, x, t, captions, residuals)
    ways = transformer.USUAL._replace(residuals=residuals)
    expected = transformer.evaluate(p, config, x, t, captions, ways=ways).asnumpy()
    assert distance(found, expected) < 1e-5


def test_a_picture_does_not_depend_on_its_batch_nor_on_the_length_of_other_texts(params):
    p, config = params.transformer, params.config.transformer
    x, t, text, mask = given(config, 7, L=12)
    whole = evaluate(p, config, x, t, transformer.captions(p, config, text, mask))
    for rows in (slice(0, 1), slice(1, 3), slice(2, 7)):
        short = int(mask.asnumpy()[rows].nonzero()[1].max()) + 1
        captions = transformer.captions(p, config, text[rows, :short], mask[rows, :short])
        part = evaluate(p, config, x[rows], t[rows], captions)
        # keys and values come from MindSpore, whose last digits may depend on the batch
        assert distance(part, whole[rows]) < 1e-5
    same = transformer.captions(p, config, text, mask)
    own = transformer.Captions([k[2:3] for k in same.keys], [v[2:3] for v in same.values], same.bias[2:3])
    np.testing.assert_array_equal(evaluate(p, config, x[2:3], t[2:3], own), whole[2:3])


def test_products_take_one_thread_each_and_as_many_as_before_afterwards(params):
    before, inside = threads(), []
    numpy_nn.in_threads(lambda row: inside.append(threads()) or np.zeros(1), 3)
    assert all(set(each) == {1} for each in inside) and threads() == before
    with pytest.raises(ZeroDivisionError):
        numpy_nn.in_threads(lambda row: 1 // 0, 2)
    assert threads() == before


def threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_what_is_not_finite_stays_so_without_a_warning(params):
    p, config = params.transformer, params.config.transformer
    x, t, text, mask = given(config, 2)
    values = x.asnumpy().copy()
    values[1, 0, 0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = evaluate(p, config, Tensor(values), t, transformer.captions(p, config, text, mask))
    assert np.isfinite(out[0]).all() and np.isnan(out[1]).all()


def test_a_denoiser_uses_it_in_the_usual_way_alone(params, monkeypatch):
    text, noise = px.encode_prompt(params, ["a cat"]), px.noise(params, px.key(0))
    used, own = [], transformer_numpy.evaluate
    monkeypatch.setattr(denoiser.transformer_numpy, "evaluate", lambda *a: used.append(a) or own(*a))

    def count(denoise, x=noise):
        used.clear()
        denoise(x, 500.0)
        return len(used)

    usual = px.text_denoiser(params, text, guidance=1)
    assert count(usual) == 1
    perturbed = px.Guidance(1, worse=px.guidance.Perturb(2, (2,)))
    assert count(px.text_denoiser(params, text, guidance=perturbed)) == 1  # the other evaluation is MindSpore's
    large = Tensor(np.zeros((1, 16, 34, 32), np.float32))
    assert count(usual, large) == 0


@pytest.mark.parametrize("dtype", [ms.bfloat16, ms.float16, ms.float64])
def test_a_denoiser_takes_all_floating_point_numbers(params, dtype):
    denoise = px.text_denoiser(params, px.encode_prompt(params, ["a cat"]), guidance=1)
    x = px.noise(params, px.key(0)).astype(dtype)
    assert denoise(x, 500.0).dtype == ms.float32
    np.testing.assert_array_equal(denoise(x, 500.0).asnumpy(), denoise(x.float(), 500.0).asnumpy())
    with pytest.raises(TypeError, match="x must hold floating-point numbers, got int32"):
        denoise(x.astype(ms.int32), 500.0)


def test_gradients_go_through_a_denoiser(params, monkeypatch):
    used = counted(monkeypatch, denoiser.transformer_numpy, "evaluate")
    text, noise = px.encode_prompt(params, ["a cat"]), px.noise(params, px.key(0))
    denoise = px.text_denoiser(params, text, guidance=1)

    def total(x):
        return denoise(x, 500.0).square().mean()

    gradient = px.grad(total)(noise).asnumpy()
    assert not used
    along = np.random.default_rng(0).standard_normal(noise.shape).astype(np.float32)
    step = 1e-2
    ahead, behind = (float(total(noise + Tensor(s * step * along)).asnumpy()) for s in (1, -1))
    assert (gradient * along).sum() == pytest.approx((ahead - behind) / (2 * step), rel=2e-3)

    def of_weights(p):  # the denoiser is made where a gradient is recorded
        return px.text_denoiser(params.replace(transformer=p), text, guidance=1)(noise, 500.0).square().mean()

    leaves = px.tree.leaves(px.grad(of_weights)(params.transformer))
    assert all(np.abs(leaf.asnumpy()).max() > 0 for leaf in leaves)


def test_it_fits_small_float32_transformers_on_a_cpu(params, monkeypatch):
    p, config = params.transformer, params.config.transformer
    assert transformer_numpy.fits(p, config)
    assert not transformer_numpy.fits(px.transformer.quantize(p), config)
    assert not transformer_numpy.fits(px.tree.map(lambda leaf: leaf.astype(ms.float16), p), config)
    monkeypatch.setattr(numpy_nn, "precision", lambda: "bf16-math")
    assert not transformer_numpy.fits(p, config)
    monkeypatch.undo()
    monkeypatch.setattr(jit, "SMALL", 2**20)
    assert not transformer_numpy.fits(p, config)
    monkeypatch.undo()
    monkeypatch.setattr(numpy_nn.device, "is_cpu", lambda: False)
    assert not transformer_numpy.fits(p, config)
