"""Edge maps: of what is known in closed form, under rotations, against SciPy's filters and a flood fill."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from helpers.compare import rel
from PIL import Image

from pixart_fn import edges

RANDOM = np.random.default_rng(0)
STEP = np.zeros((12, 16))
STEP[:, 8:] = 1
y, x = np.mgrid[:64, :64] - 31.5
DISC = np.clip(20.5 - np.hypot(y, x), 0, 1)


def on(picture, *args, **options):
    """Where the edges are."""
    made = edges.canny(picture, *args, **options)
    assert made.mode == "L" and set(np.unique(made)) <= {0, 255}
    return np.asarray(made) > 0


def smooth(shape=(40, 50)):
    """A picture of soft blots, whose gradients differ everywhere."""
    small = Image.fromarray((255 * np.random.default_rng(3).random((8, 10))).astype(np.uint8))
    return np.asarray(small.resize(shape[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("sigma", [0, 1.0, 2.5])
@pytest.mark.parametrize("turns", range(4))
def test_a_step_is_an_edge_of_one_pixel_on_its_bright_side(sigma, turns):
    expected = np.zeros(STEP.shape, bool)
    expected[:, 8] = True
    np.testing.assert_array_equal(on(np.rot90(STEP, turns), sigma=sigma), np.rot90(expected, turns))


def test_a_disc_has_the_circle_s_pixels():
    found = on(DISC)
    radius = np.hypot(y, x)[found]
    assert radius.min() > 19 and radius.max() < 21.5
    # a circle whose pixels touch at corners has 4·√2·r of them, one whose pixels touch at sides 8·r
    assert 0.95 * 4 * math.sqrt(2) * 20 < found.sum() < 8 * 20


@pytest.mark.parametrize("picture", [smooth(), DISC, RANDOM.random((30, 20, 3))], ids=["blots", "disc", "noise"])
def test_turning_and_mirroring_commute(picture):
    plain = on(picture)
    assert plain.any()
    for turns in range(4):
        turned = np.rot90(picture, turns)
        np.testing.assert_array_equal(on(turned), np.rot90(plain, turns))
        np.testing.assert_array_equal(on(turned[:, ::-1]), np.rot90(plain, turns)[:, ::-1])


def test_higher_thresholds_leave_a_part_of_the_edges():
    thresholds = (0, 0), (0.05, 0.05), (0.05, 0.12), (0.08, 0.12), (0.12, 0.12), (0.12, 0.2)
    found = [on(smooth(), low, high) for low, high in thresholds]
    assert not any((higher & ~lower).any() for lower, higher in pairwise(found))
    counts = [int(each.sum()) for each in found]
    assert counts[0] > counts[2] > counts[4] > 0 and not on(smooth(), 5, 5).any()
    assert not on(np.full((9, 9), 0.3), 0, 0).any()


def test_a_weak_edge_stays_where_a_strong_one_continues_it():
    """A step that fades along its length: without a strong part there is nothing, with one there is all of it."""
    fading = STEP[:1] * np.linspace(0.12, 0.5, 40)[:, None]
    assert on(fading, 0.1, 0.3, 0)[:, 8].all()
    np.testing.assert_array_equal(on(fading, 0.3, 0.3, 0)[:, 8], np.linspace(0.12, 0.5, 40) >= 0.3)
    assert not on(fading[:15], 0.1, 0.3, 0).any()


def test_what_is_connected_agrees_with_a_flood_fill():
    thin, strong = RANDOM.random((40, 40)) < 0.45, RANDOM.random((40, 40)) < 0.02
    kept, waiting = np.zeros_like(thin), [*zip(*np.nonzero(thin & strong), strict=True)]
    while waiting:
        i, j = waiting.pop()
        if 0 <= i < 40 and 0 <= j < 40 and thin[i, j] and not kept[i, j]:
            kept[i, j] = True
            waiting += [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    assert 0 < kept.sum() < thin.sum()
    np.testing.assert_array_equal(edges._connected(thin, strong), kept)


def test_sobel_draws_the_length_of_the_gradient():
    drawn = np.asarray(edges.sobel(STEP))
    assert (drawn[:, 7:9] == 255).all() and drawn.sum() == 255 * 2 * 12
    ramp = np.linspace(0, 1, 11)[:, None] * np.ones((1, 5))
    assert (np.asarray(edges.sobel(ramp))[1:-1] == round(0.2 * 255)).all()
    assert np.asarray(edges.sobel(ramp))[0, 0] == round(0.1 * 255)


def test_a_picture_may_be_grey_or_in_colour_whole_numbers_or_fractions():
    grey = smooth()
    colour = np.repeat(grey[..., None], 3, 2)
    for same in (Image.fromarray(grey), Image.fromarray(colour), colour, grey / 255, (colour / 255).astype(np.float64)):
        np.testing.assert_array_equal(on(same), on(grey))
    luma = np.zeros((3, 6, 3), np.uint8)
    luma[:, 3:] = 0, 255, 0
    assert (np.asarray(edges.sobel(luma))[:, 2:4] == round(0.587 * 255)).all()


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"picture": "a.png"}, TypeError, "picture must be a PIL picture or an array"),
        ({"picture": np.zeros((4, 4), int)}, TypeError, "picture must be a PIL picture or an array .*, got int64"),
        ({"picture": Image.new("RGBA", (4, 4))}, ValueError, r"must be RGB or grey \(L\), got RGBA"),
        ({"picture": np.zeros((4, 4, 4))}, ValueError, r"must have the shape \(H, W\) or \(H, W, 3\), got \(4, 4, 4\)"),
        ({"picture": np.full((4, 4), 1.5)}, ValueError, r"must be within \[0, 1\], or uint8, got 1.5 … 1.5"),
        ({"picture": np.full((4, 4), np.nan)}, ValueError, r"must be within \[0, 1\]"),
        ({"low": 0.3}, ValueError, "high must be"),
        ({"sigma": -1}, ValueError, "sigma must be"),
    ],
)
def test_what_is_no_picture_is_refused(change, error, sentence):
    with pytest.raises(error, match=sentence):
        edges.canny(**{"picture": STEP, **change})


@pytest.mark.reference
def test_filters_are_scipy_s():
    ndimage = pytest.importorskip("scipy.ndimage")
    picture = RANDOM.random((30, 41))
    for sigma in (0.3, 1.0, 3.7):
        assert rel(edges._blurred(picture, sigma), ndimage.gaussian_filter(picture, sigma, mode="nearest")) < 1e-12
    for axis, own in enumerate(edges._gradient(picture)):
        assert rel(own, ndimage.sobel(picture, axis, mode="nearest") / 4) < 1e-12
