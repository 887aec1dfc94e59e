"""A picture in strips is the picture in one piece, gradients included; large pictures of a batch go one by one."""

from __future__ import annotations

from fractions import Fraction

import compare
import numpy as np
import pytest
import tiny
from reference.case import load
from tolerances import assert_close

from pixart_fn import convolution, rng, strips, tiles, vae

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


@pytest.fixture(params=[1, 10**6], ids=["winograd", "direct"])
def counts(request, monkeypatch):
    """Strips of few rows, blocks of few queries; gives how many strips the layers saw."""
    monkeypatch.setattr(convolution, "WIDE", request.param)
    monkeypatch.setattr(strips, "STRIP", 768)
    monkeypatch.setattr(strips, "SCORES", 1024)
    seen, cut = [], strips._cut

    def watched(*args):
        picture = cut(*args)
        seen.append(len(picture))
        return picture

    monkeypatch.setattr(strips, "_cut", watched)
    return seen


@pytest.mark.parametrize(("name", "scenario"), [("vae", "oblong"), ("vae", "square"), ("vae_deep", "oblong")])
def test_strips_agree_with_diffusers(name, scenario, counts):
    errors = compare.forward_errors(name, load(name), scenario)
    assert not compare.too_far(errors, compare.MODULE)
    assert min(counts) > 1


@pytest.mark.parametrize("scenario", ["decode", "encode"])
def test_gradients_through_strips_agree_with_torch(scenario, counts):
    errors = compare.gradient_errors("gradients_vae", load("gradients_vae"), scenario)
    assert not compare.too_far(errors, compare.GRADIENT)
    assert max(counts) > 1


def test_a_prime_height_goes_row_by_row(monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 5 * 8 * 16)
    picture = strips._cut([ms.ops.zeros((1, 7, 8, 16))], strips.STRIP, 16)
    assert [part.shape for part in picture] == [(1, 1, 8, 16)] * 7
    assert [part.shape for part in strips._cut(picture, 7 * 8 * 16, 16)] == [(1, 7, 8, 16)]


def test_large_pictures_go_one_by_one_and_come_out_the_same(monkeypatch):
    params = tiny.params()
    x = ms.Tensor(np.tanh(rng.normal(rng.key(0), (2, 3, 16, 24))))
    z = ms.Tensor(rng.normal(rng.key(1), (2, 4, 8, 12)))
    together = vae.encode(params.vae, tiny.VAE, x), vae.decode(params.vae, tiny.VAE, z)
    rows, resnet = [], strips.resnet

    def watched(p, picture, config):
        rows.append(picture[0].shape[0])
        return resnet(p, picture, config)

    monkeypatch.setattr(vae, "LARGE", 16 * 24)
    monkeypatch.setattr(strips, "resnet", watched)
    apart = vae.encode(params.vae, tiny.VAE, x), vae.decode(params.vae, tiny.VAE, z)
    assert rows and set(rows) == {1}
    for ours, theirs in zip((*apart[0], apart[1]), (*together[0], together[1]), strict=True):
        assert_close(ours.asnumpy(), theirs.asnumpy(), 1e-5)


# --- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (13, 21), (9, 4)])
@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(1), Fraction(1, 2)])
def test_tiles_of_a_pointwise_function_are_the_function(shape, ratio):
    """Both tiles say the same where they overlap, so nothing is left of the seams."""
    H, W = (2 * n for n in shape) if ratio < 1 else shape
    x = rng.normal(rng.key(0), (1, 2, H, W))

    def resized(x):
        x = x.asnumpy()
        x = x.repeat(2, 2).repeat(2, 3) if ratio > 1 else x[:, :, ::2, ::2] if ratio < 1 else x
        return ms.Tensor(2 * np.ascontiguousarray(x))

    assert_close(tiles.apply(resized, ms.Tensor(x), 8, ratio).asnumpy(), resized(ms.Tensor(x)).asnumpy())


def test_a_picture_within_a_tile_is_decoded_in_one_piece():
    params = tiny.params()
    z = ms.Tensor(rng.normal(rng.key(1), (1, 4, 8, 8)))
    whole = vae.decode(params.vae, tiny.VAE, z).asnumpy()
    np.testing.assert_array_equal(vae.decode_tiled(params.vae, tiny.VAE, z, 16).asnumpy(), whole)
    assert np.abs(vae.decode_tiled(params.vae, tiny.VAE, z, 8).asnumpy() - whole).max() > 1e-3


def test_a_tile_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="tile must be a positive multiple of 8 pixels, got 13; nearest: 16"):
        vae.decode_tiled({}, tiny.VAE, ms.ops.zeros((1, 4, 8, 8)), 13)


def test_generate_takes_a_tile():
    import pixart_fn as px

    params = tiny.params()

    def draw(**options):
        return px.generate(params, "a cat", px.key(0), steps=1, output="numpy", **options)

    tiled, latents = draw(tile=8), px.generate(params, "a cat", px.key(0), steps=1, output="latents")
    np.testing.assert_array_equal(tiled, px.decode_latents(params, latents, tile=8).asnumpy())
    assert np.abs(tiled - draw()).max() > 1e-3


def test_generate_refuses_a_tile_before_it_samples(monkeypatch):
    import pixart_fn as px

    monkeypatch.setattr(px.pipeline, "sample_latents", None)
    with pytest.raises(ValueError, match="tile must be a positive multiple of 8 pixels, got 12"):
        px.generate(tiny.params(), "a cat", px.key(0), tile=12)
    with pytest.raises(ValueError, match="tile=8 is about decoding pictures"):
        px.generate(tiny.params(), "a cat", px.key(0), tile=8, output="latents")


def test_a_picture_that_does_not_halve_is_refused():
    with pytest.raises(ValueError, match="height and width must be multiples of 2, got 16 × 13"):
        vae.encode({}, tiny.VAE, ms.ops.zeros((1, 3, 16, 13)))
