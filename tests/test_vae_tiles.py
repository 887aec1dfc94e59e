"""Tiles: where they lie, and that they are blended as by hand and by diffusers' formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import pytest
from helpers.tolerances import assert_close

from pixart_fn import rng, vae
from pixart_fn.models import vae_tiles

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


def constants(values: Iterable[float], ratio: Fraction = Fraction(1)) -> Callable[[ms.Tensor], ms.Tensor]:
    """A function that fills its n-th result with the n-th value, whatever it is given."""
    following = iter(values)

    def f(x: ms.Tensor) -> ms.Tensor:
        sides = (int(side * ratio) for side in x.shape[2:])
        return ms.Tensor(np.full((x.shape[0], 1, *sides), next(following), np.float32))

    return f


def one_row(values: list[float], width: int, tile: int, ratio: Fraction = Fraction(1)) -> list[float]:
    """The first row that `apply` makes of a picture of this width whose tiles have these values."""
    x = ms.ops.zeros((1, 1, 2, width))
    return vae_tiles.apply(constants(values, ratio), x, tile, ratio).asnumpy()[0, 0, 0].tolist()


def blended(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, tile: int, ratio: Fraction) -> np.ndarray:
    """diffusers' AutoencoderKL.tiled_decode and tiled_encode, in float64, pixel row by pixel row."""
    out_tile = int(tile * ratio)
    step, extent = int(tile * (1 - 0.25)), int(out_tile * 0.25)
    rows = [
        [f(x[:, :, i : i + tile, j : j + tile]).astype(np.float64) for j in range(0, x.shape[3], step)]
        for i in range(0, x.shape[2], step)
    ]

    def blend(a: np.ndarray, b: np.ndarray, axis: int) -> None:
        a, b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)  # views: b changes in place
        n = min(len(a), len(b), extent)
        for k in range(n):
            b[k] = a[len(a) - n + k] * (1 - k / n) + b[k] * (k / n)

    for i, row in enumerate(rows):
        for j, y in enumerate(row):
            if i:
                blend(rows[i - 1][j], y, 2)
            if j:
                blend(row[j - 1], y, 3)
    keep = out_tile - extent
    return np.concatenate([np.concatenate([y[:, :, :keep, :keep] for y in row], 3) for row in rows], 2)


def test_tiles_start_every_three_quarters_of_a_tile():
    x = np.arange(13 * 15, dtype=np.float32).reshape(1, 1, 13, 15)
    seen = []

    def watched(part):
        seen.append((*divmod(int(part.asnumpy()[0, 0, 0, 0]), 15), *part.shape[2:]))
        return part

    vae_tiles.apply(watched, ms.Tensor(x), 8, Fraction(1))
    columns = [(0, 8), (6, 8), (12, 3)]
    assert seen == [(top, left, h, w) for top, h in ((0, 8), (6, 7), (12, 1)) for left, w in columns]


def test_two_tiles_go_into_each_other_linearly():
    """The share is k / extent: the first pixel of an overlap is the earlier tile's."""
    assert one_row([0, 1], 24, 16) == [0.0] * 12 + [0.0, 0.25, 0.5, 0.75] + [1.0] * 8
    assert one_row([2, -6], 24, 16) == [2.0] * 12 + [2.0, 0.0, -2.0, -4.0] + [-6.0] * 8


def test_the_ramp_is_as_long_as_the_overlap_of_the_results():
    assert one_row([0, 1], 12, 8, Fraction(2)) == [0.0] * 12 + [0.0, 0.25, 0.5, 0.75] + [1.0] * 8
    assert one_row([0, 1], 24, 16, Fraction(1, 2)) == [0.0] * 6 + [0.0, 0.5] + [1.0] * 4


def test_a_last_tile_narrower_than_the_overlap_is_a_shorter_ramp():
    begun = [0.0] * 12 + [0.0, 0.25, 0.5, 0.75] + [1.0] * 8
    assert one_row([0, 1, 5], 27, 16) == pytest.approx([*begun, 1.0, 1 + 4 / 3, 1 + 8 / 3])
    assert one_row([0, 1, 5], 26, 16) == [*begun, 1.0, 3.0]
    assert one_row([0, 1, 5], 25, 16) == [*begun, 1.0]


def test_four_tiles_meet_as_in_diffusers():
    """Down first, then across: each neighbour is taken as it was blended itself."""
    top_left, top_right, low_left, low_right = values = (1.0, 2.0, 4.0, 8.0)
    out = vae_tiles.apply(constants(values), ms.ops.zeros((1, 1, 24, 24)), 16, Fraction(1)).asnumpy()[0, 0]
    for i, a in enumerate((0.0, 0.25, 0.5, 0.75)):
        for j, b in enumerate((0.0, 0.25, 0.5, 0.75)):
            above = (1 - b) * top_left + b * top_right
            left = (1 - a) * top_left + a * low_left
            assert out[12 + i, 12 + j] == (1 - b) * left + b * ((1 - a) * above + a * low_right)
    assert out[13, 20] == 0.75 * top_right + 0.25 * low_right
    assert out[20, 13] == 0.75 * low_left + 0.25 * low_right


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

    assert_close(vae_tiles.apply(resized, ms.Tensor(x), 8, ratio).asnumpy(), resized(ms.Tensor(x)).asnumpy())


@pytest.mark.parametrize("shape", [(2, 3, 24, 17), (1, 1, 9, 31)])
def test_tiles_of_a_function_that_sees_its_whole_tile_are_blended_as_in_diffusers(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def centred(x: np.ndarray) -> np.ndarray:
        return (x - x.mean((2, 3), keepdims=True, dtype=np.float64)).astype(np.float32)

    ours = vae_tiles.apply(lambda x: ms.Tensor(centred(x.asnumpy())), ms.Tensor(x), 8, Fraction(1))
    assert_close(ours.asnumpy(), blended(centred, x, 8, Fraction(1)))


@pytest.mark.parametrize(("levels", "tile"), [(2, 8), (3, 16), (3, 32)])
def test_a_vae_is_tiled_as_in_diffusers(levels, tile, monkeypatch):
    """With a VAE of one line in either direction, which sees its whole tile as group norms do."""
    config, scale = vae.Config(block_out_channels=(32,) * levels, in_channels=2), 2 ** (levels - 1)

    def decode(z: np.ndarray) -> np.ndarray:
        return (z - z.mean((2, 3), keepdims=True)).repeat(scale, 2).repeat(scale, 3)

    def encode(x: np.ndarray) -> np.ndarray:
        centred = x - x.mean((2, 3), keepdims=True)
        return np.concatenate([part * centred for part in (1, 2, 3, 4)], 1)[:, :, ::scale, ::scale]

    def moments(p, config, x):
        return vae.Moments(*ms.ops.split(ms.Tensor(encode(x.asnumpy())), config.latent_channels, axis=1))

    monkeypatch.setattr(vae, "decode", lambda p, config, z: ms.Tensor(decode(z.asnumpy())))
    monkeypatch.setattr(vae, "encode", moments)
    random = np.random.default_rng(1)
    z = random.standard_normal((1, 4, 17, 9)).astype(np.float32)
    x = random.standard_normal((1, 2, 9 * scale, 17 * scale)).astype(np.float32)
    theirs = blended(decode, z, tile // scale, Fraction(scale))
    assert_close(vae.decode_tiled({}, config, ms.Tensor(z), tile).asnumpy(), theirs)
    ours = vae.encode_tiled({}, config, ms.Tensor(x), tile)
    assert_close(np.concatenate([part.asnumpy() for part in ours], 1), blended(encode, x, tile, Fraction(1, scale)))


def test_a_picture_within_a_tile_is_in_one_piece(monkeypatch):
    """16 pixels are 4 latents of this factor; that there are more channels than pixels changes nothing."""
    channels, seen = 20, []
    config = vae.Config(block_out_channels=(32,) * 3, latent_channels=channels, in_channels=channels)

    def scaled(x, scale):
        seen.append(x.shape[2:])
        return ms.ops.zeros((1, channels, *(int(side * scale) for side in x.shape[2:])))

    monkeypatch.setattr(vae, "decode", lambda p, config, z: scaled(z, 4))
    monkeypatch.setattr(vae, "encode", lambda p, config, x: vae.Moments(*[scaled(x, 1 / 4)] * 2))
    for shape, pieces in (((4, 4), 1), ((4, 1), 1), ((4, 5), 4), ((5, 4), 4)):
        pixels = tuple(4 * n for n in shape)
        seen.clear()
        assert vae.decode_tiled({}, config, ms.ops.zeros((1, channels, *shape)), 16).shape == (1, channels, *pixels)
        assert len(seen) == pieces
        seen.clear()
        assert vae.encode_tiled({}, config, ms.ops.zeros((1, channels, *pixels)), 16).mean.shape == (
            1,
            channels,
            *shape,
        )
        assert len(seen) == pieces
