"""A picture in strips is the picture in one piece, gradients included; large pictures of a batch go one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import compare, tiny
from helpers.drawing import evaluations, without_numpy
from helpers.initial import assert_different, assert_normal
from helpers.tolerances import assert_close
from reference.case import load

import pixart_fn as px
from pixart_fn import rng, tree, vae
from pixart_fn.backend import convolution
from pixart_fn.models import vae_layers

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


@pytest.fixture(params=[pytest.param(1, id="winograd", marks=pytest.mark.slow), pytest.param(10**6, id="direct")])
def counts(request, monkeypatch, eagerly):
    """MindSpore's strips of few rows, blocks of few queries; gives how many strips the layers saw."""
    without_numpy(monkeypatch)
    monkeypatch.setattr(convolution, "WIDE", request.param)
    monkeypatch.setattr(vae_layers, "STRIP", 768)
    monkeypatch.setattr(vae_layers, "SCORES", 1024)
    seen, cut = [], vae_layers.cut

    def watched(*args):
        picture = cut(*args)
        seen.append(len(picture))
        return picture

    monkeypatch.setattr(vae_layers, "cut", watched)
    return seen


@pytest.mark.parametrize(("name", "scenario"), [("vae", "oblong"), ("vae", "square"), ("vae_deep", "oblong")])
def test_strips_agree_with_diffusers(name, scenario, counts):
    errors = compare.forward_errors(name, load(name), scenario)
    assert not compare.too_far(errors, compare.MODULE)
    assert min(counts) > 1


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["decode", "encode"])
def test_gradients_through_strips_agree_with_torch(scenario, counts):
    errors = compare.gradient_errors("gradients_vae", load("gradients_vae"), scenario)
    assert not compare.too_far(errors, compare.GRADIENT)
    assert max(counts) > 1


def test_a_prime_height_goes_row_by_row(monkeypatch):
    monkeypatch.setattr(vae_layers, "STRIP", 5 * 8 * 16)
    picture = vae_layers.cut([ms.ops.zeros((1, 7, 8, 16))], vae_layers.STRIP, 16)
    assert [part.shape for part in picture] == [(1, 1, 8, 16)] * 7
    assert [part.shape for part in vae_layers.cut(picture, 7 * 8 * 16, 16)] == [(1, 7, 8, 16)]


def test_large_pictures_go_one_by_one_and_come_out_the_same(monkeypatch, eagerly):
    without_numpy(monkeypatch)
    params = tiny.params()
    x = ms.Tensor(np.tanh(rng.normal(rng.key(0), (2, 3, 16, 24))))
    z = ms.Tensor(rng.normal(rng.key(1), (2, 4, 8, 12)))
    together = vae.encode(params.vae, tiny.VAE, x), vae.decode(params.vae, tiny.VAE, z)
    rows, resnet = [], vae_layers.resnet

    def watched(p, picture, config):
        rows.append(picture[0].shape[0])
        return resnet(p, picture, config)

    monkeypatch.setattr(vae, "LARGE", 16 * 24)
    monkeypatch.setattr(vae_layers, "resnet", watched)
    apart = vae.encode(params.vae, tiny.VAE, x), vae.decode(params.vae, tiny.VAE, z)
    assert rows and set(rows) == {1}
    for ours, theirs in zip((*apart[0], apart[1]), (*together[0], together[1]), strict=True):
        assert_close(ours.asnumpy(), theirs.asnumpy(), 1e-5)


# --- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "tile", "nearest"), [(2, 13, 16), (2, 4, 8), (2, 0, 8), (4, 31, 32), (4, 500, 512), (4, -64, 32)]
)
def test_a_tile_that_is_no_multiple_is_refused(levels, tile, nearest):
    """A quarter of a tile is whole latents: 4 · 2 pixels with two levels, 4 · 8 with four."""
    config = vae.Config(block_out_channels=(32,) * levels)
    message = f"tile must be a positive multiple of {4 * 2 ** (levels - 1)} pixels, got {tile}; nearest: {nearest}"
    for call in (vae.decode_tiled, vae.encode_tiled):
        with pytest.raises(ValueError, match=message):
            call({}, config, ms.ops.zeros((1, 4, 8, 8)), tile)
    vae.check_tile(config, nearest)


def test_generate_takes_a_tile():
    params = tiny.params()

    def draw(**options):
        return px.generate(params, "a cat", px.key(0), steps=1, output="numpy", **options)

    tiled, latents = draw(tile=8), px.generate(params, "a cat", px.key(0), steps=1, output="latents")
    np.testing.assert_array_equal(tiled, px.decode_latents(params, latents, tile=8).asnumpy())
    assert np.abs(tiled - draw()).max() > 1e-3


def test_generate_refuses_a_tile_before_it_samples(monkeypatch):
    calls = evaluations(monkeypatch)
    with pytest.raises(ValueError, match="tile must be a positive multiple of 8 pixels, got 12"):
        px.generate(tiny.params(), "a cat", px.key(0), tile=12)
    with pytest.raises(ValueError, match="tile=8 is for decoding pictures"):
        px.generate(tiny.params(), "a cat", px.key(0), tile=8, output="latents")
    assert not calls


@pytest.mark.parametrize("shape", [(16, 13), (13, 16), (15, 13)])
def test_a_picture_that_does_not_halve_is_refused(shape):
    with pytest.raises(ValueError, match=f"height and width must be multiples of 2, got {shape[0]} × {shape[1]}"):
        vae.encode({}, tiny.VAE, ms.ops.zeros((1, 3, *shape)))


# --- what is around the network ---------------------------------------------------------------------------------------


def constant(biases: dict[str, list[float]], config: vae.Config) -> dict:
    """Weights of zero, so that each convolution gives its bias whatever it sees."""
    flat = {name: np.zeros(shape, np.float32) for name, shape in vae.shapes(config).items()}
    for name, values in biases.items():
        flat[name] += np.array(values, np.float32)
    if "quant_conv.weight" in flat:
        flat["quant_conv.weight"] += np.eye(2 * config.latent_channels, dtype=np.float32)[:, :, None, None]
    return tree.nest({name: ms.Tensor(value) for name, value in flat.items()})


def test_a_latent_covers_a_pixel_and_twice_as_many_with_each_further_level():
    assert [vae.factor(vae.Config(block_out_channels=(32,) * levels)) for levels in (1, 2, 4)] == [1, 2, 8]


def test_a_log_variance_is_clamped_and_a_mean_is_not():
    logvar = [-31.0, -29.5, 19.5, 21.0]
    p = constant({"encoder.conv_out.bias": [-40.0, -31.0, 21.0, 40.0, *logvar]}, tiny.VAE)
    moments = vae.encode(p, tiny.VAE, ms.ops.zeros((1, 3, 4, 4)))
    for ours, channels in ((moments.mean, [-40.0, -31.0, 21.0, 40.0]), (moments.logvar, [-30.0, -29.5, 19.5, 20.0])):
        assert ours.shape == (1, 4, 2, 2)
        assert ours.asnumpy().reshape(4, 4).T.tolist() == [channels] * 4


def test_a_sample_is_the_mean_and_noise_of_the_standard_deviation():
    """ln σ² of ln 4, ln 9 and -ln 25 is σ of 2, 3 and 1/5; the noise is NumPy's own of this seed."""
    logvar = np.log(np.array([[4.0, 9.0, 1 / 25]], np.float32)).reshape(1, 3, 1, 1).repeat(2, 2)
    mean = np.arange(6, dtype=np.float32).reshape(1, 3, 2, 1)
    noise = np.random.Generator(np.random.Philox(key=np.array([11, 0], np.uint64), counter=0)).standard_normal(6)
    drawn = vae.sample(rng.key(11), vae.Moments(ms.Tensor(mean), ms.Tensor(logvar)))
    std = np.array([2, 2, 3, 3, 0.2, 0.2])
    assert_close(drawn.asnumpy().ravel(), np.arange(6) + std * noise)


def test_pictures_are_decoded_latents_over_the_scaling_factor():
    """With weights none of which is zero: initial ones give a network that doesn't see its latents' scale."""
    case = load("vae")
    config = replace(vae.read_config(case.config), scaling_factor=0.3)
    params, weights = tiny.params(), compare.tensors(case.weights)
    params = params.replace(vae=weights, config=replace(params.config, vae=config))
    z = rng.normal(rng.key(5), (2, 4, 4, 6))
    decoded = vae.decode(weights, config, ms.Tensor(z / np.float32(0.3))).asnumpy().astype(np.float64)
    expected = np.clip(decoded * 0.5 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    assert ((expected == 0) | (expected == 1)).any() and ((expected > 0) & (expected < 1)).any()
    ours = px.decode_latents(params, ms.Tensor(z))
    assert_close(compare.array(ours), expected, 1e-5)  # one picture at a time sums in another order


def test_pictures_span_zero_to_one():
    """-1 … 1 becomes 0 … 1, and what lies beyond is cut off."""
    params = tiny.params()
    params = params.replace(vae=constant({"decoder.conv_out.bias": [-3.0, -0.5, 1.5]}, tiny.VAE))
    ours = px.decode_latents(params, ms.ops.zeros((1, 4, 2, 2)))
    assert compare.array(ours).reshape(-1, 3).tolist() == [[0.0, 0.25, 1.0]] * 16


@pytest.mark.parametrize(
    ("shape", "scale", "alone"),
    [
        ((2, 4, 32, 32), 8, True),
        ((2, 4, 31, 32), 8, False),
        ((2, 3, 256, 256), 1, True),
        ((2, 3, 256, 255), 1, False),
        ((1, 3, 512, 512), 1, False),
    ],
)
def test_pictures_of_256_pixels_and_more_go_one_by_one(shape, scale, alone):
    assert vae._alone(ms.ops.zeros(shape), scale) == alone


# --- initial weights --------------------------------------------------------------------------------------------------


def test_initial_weights_are_what_the_docstring_says():
    config = vae.Config(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4)
    leaves = {name: leaf.asnumpy() for name, leaf in tree.items(vae.init(rng.key(0), config))}
    assert {name: leaf.shape for name, leaf in leaves.items()} == vae.shapes(config)
    for name, leaf in leaves.items():
        assert leaf.dtype == np.float32
        if leaf.ndim == 1:
            assert (leaf == ("norm" in name and name.endswith("weight"))).all(), name
        elif "conv2" in name or "to_out" in name:
            assert not leaf.any(), name
        else:
            assert_normal(name, leaf, leaf[0].size ** -0.5)
    assert_different(leaves)
