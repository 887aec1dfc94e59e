"""Bins and crops against diffusers, sizes that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import make_sizes

from pixart_fn.models import sizes

GOLDEN = json.loads((Path(__file__).parent / "reference" / "sizes.json").read_text(encoding="utf-8"))
BASES = (256, 512, 1024, 2048)
SIDE = st.integers(1, 4096)


def shapes(height: int, width: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(1, height), st.integers(1, width))


@pytest.mark.parametrize("base", BASES)
def test_tables_and_their_keys_are_diffusers(base):
    ours = [[str(round(h / w, 2)), [float(h), float(w)]] for h, w in sizes.BINS[base]]
    assert ours == GOLDEN[f"table {base}"]


@pytest.mark.parametrize("base", BASES)
def test_nearest_bin_is_diffusers(base):
    for (height, width), theirs in GOLDEN[f"nearest {base}"]:
        assert sizes.nearest_bin(height, width, sizes.BINS[base]) == tuple(theirs), (height, width)


@pytest.mark.parametrize("base", BASES)
def test_a_size_of_the_table_is_its_own_bin_and_can_be_drawn(base):
    for size in sizes.BINS[base]:
        assert sizes.nearest_bin(*size, sizes.BINS[base]) == size
        sizes.check(*size, 16)


def test_of_two_equally_near_the_wider_wins():
    assert sizes.nearest_bin(3, 2, ((1, 1), (2, 1))) == (1, 1)


def test_bin_for_the_released_models_and_for_others():
    assert [sizes.bin_for(n) for n in (32, 64, 128, 256)] == [sizes.BINS[base] for base in BASES]
    assert sizes.bin_for(16) is None
    assert sizes.bin_for(32, factor=4) is None  # 128 pixels: no released model


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        ((500, 512), ValueError, "height must be divisible by 16, got 500; nearest: 496, 512"),
        ((512, 500), ValueError, "width must be divisible by 16, got 500; nearest: 496, 512"),
        ((8, 16), ValueError, "height must be divisible by 16, got 8; nearest: 16"),
        ((0, 16), ValueError, "height must be positive, got 0; nearest: 16"),
        ((16, -16), ValueError, "width must be positive, got -16; nearest: 16"),
        ((16.0, 16), TypeError, "height must be an integer, got 16.0"),
        ((16, True), TypeError, "width must be an integer, got True"),
        ((16, "16"), TypeError, "width must be an integer, got '16'"),
        ((None, 16), TypeError, "height must be an integer, got None"),
    ],
)
def test_check_says_what_is_wrong(size, error, message):
    with pytest.raises(error) as caught:
        sizes.check(*size, 16)
    assert str(caught.value) == message


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 8, 16]))
def test_check_takes_every_multiple(rows, columns, multiple):
    sizes.check(rows * multiple, np.int64(columns * multiple), multiple)


@pytest.mark.parametrize("row", GOLDEN["resize"], ids=lambda row: f"{row['shape']}-{row['size']}")
def test_resize_and_crop_is_torch(row):
    out = sizes.resize_and_crop(make_sizes.picture(row["shape"]), *row["size"])
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.ravel(), row["out"], rtol=0, atol=1e-6)


@given(shapes(24, 24), shapes(24, 24))
def test_resize_and_crop_gives_the_size_and_stays_in_range(shape, size):
    images = make_sizes.picture((1, *shape, 3))
    out = sizes.resize_and_crop(images, *size)
    assert out.shape == (1, *size, 3)
    # a·(1 − w) + b·w rounds by one unit in the last place
    assert images.min() - 1e-6 <= out.min() <= out.max() <= images.max() + 1e-6


@given(shapes(24, 24), shapes(24, 24))
def test_resize_and_crop_of_a_mirrored_picture_is_mirrored(shape, size):
    ratio = max(size[0] / shape[0], size[1] / shape[1])
    # of an odd number of pixels too many the crop takes one more from one side
    assume(not any((int(n * ratio) - kept) % 2 for n, kept in zip(shape, size, strict=True)))
    images = make_sizes.picture((1, *shape, 1))
    out = sizes.resize_and_crop(images, *size)[:, ::-1, ::-1]
    np.testing.assert_allclose(sizes.resize_and_crop(images[:, ::-1, ::-1], *size), out, atol=1e-5)


def test_resize_and_crop_keeps_the_pixel_that_rounding_loses():
    assert int(79 * (107 / 79)) == 106  # so diffusers crops 107 rows out of 106, and returns one
    images = make_sizes.picture((1, 79, 79, 1))
    out = sizes.resize_and_crop(images, 107, 107)
    assert out.shape == (1, 107, 107, 1)
    np.testing.assert_allclose(sizes.resize_and_crop(images[:, ::-1, ::-1], 107, 107), out[:, ::-1, ::-1], atol=1e-5)


def test_resize_and_crop_refuses_a_single_picture():
    with pytest.raises(ValueError, match=r"images must have the shape \(B, H, W, C\), got \(4, 4, 3\)"):
        sizes.resize_and_crop(np.zeros((4, 4, 3)), 2, 2)


@pytest.mark.reference
def test_bins_live():
    pytest.importorskip("diffusers")
    for base, table in make_sizes.tables().items():
        assert [[str(round(h / w, 2)), [h, w]] for h, w in sizes.BINS[base]] == [list(row) for row in table.items()]
        for height, width in np.random.default_rng(base).integers(1, 3000, (1000, 2)).tolist():
            ours = sizes.nearest_bin(height, width, sizes.BINS[base])
            assert ours == make_sizes.nearest(height, width, table), (height, width)


@pytest.mark.reference
@given(shapes(60, 60), shapes(90, 90))
def test_resize_and_crop_live(shape, size):
    pytest.importorskip("diffusers")
    images = make_sizes.picture((2, *shape, 3))
    theirs = make_sizes.resize_and_crop(images, *size)
    if theirs.shape[1:3] == size:  # else rounding lost a pixel there
        np.testing.assert_allclose(sizes.resize_and_crop(images, *size), theirs, rtol=0, atol=1e-6)


@pytest.mark.reference
def test_resize_and_crop_of_a_large_picture_live():
    pytest.importorskip("diffusers")
    images = make_sizes.picture((1, 1088, 960, 1))
    theirs = make_sizes.resize_and_crop(images, 1333, 1000)
    np.testing.assert_allclose(sizes.resize_and_crop(images, 1333, 1000), theirs, rtol=0, atol=1e-6)
