"""Sizes of pictures: bins, resizing, and what a model is told of the size."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import KEY, STEPS, counted, draw
from helpers.tolerances import assert_close

import pixart_fn as px
from pixart_fn import transformer
from pixart_fn.models import sizes


def test_a_released_size_is_drawn_at_the_nearest_bin_then_resized_and_cropped():
    params = tiny.params(tiny.RELEASED_SIZE, tiny.RELEASED_FACTOR)
    options = {"guidance": 1, "steps": 1}
    z = draw(params, height=144, width=416, binning=False, output="latents", **options)
    assert z.shape == (1, 4, 18, 52)
    for size in ((160, 464), (161, 463)):  # whether the patches divide it or not: the bin is what is drawn
        picture = draw(params, height=size[0], width=size[1], output="numpy", **options)
        assert picture.shape == (1, *size, 3)
        assert np.array_equal(picture, px.decode_latents(params, z, size=size))
    options |= {"output": "latents", "binning": False}
    assert draw(params, height=160, width=464, **options).shape == (1, 4, 20, 58)
    with pytest.raises(ValueError, match="height must be divisible by 16, got 500; nearest: 496, 512"):
        draw(params, height=500, **options)


def test_what_lies_beyond_the_range_is_averaged_before_it_is_clamped():
    """As diffusers does: resize_and_crop_tensor on what the VAE gives, then denormalize."""
    params = tiny.params(tiny.RELEASED_SIZE, tiny.RELEASED_FACTOR)
    z = px.noise(params, KEY, 2, 144, 416) * 40.0
    raw = px.vae.decode(params.vae, params.config.vae, z / params.config.vae.scaling_factor)
    raw = raw.asnumpy().transpose(0, 2, 3, 1)
    assert np.abs(raw).max() > 1.5
    expected = np.clip(sizes.resize_and_crop(raw, 161, 463) * 0.5 + 0.5, 0, 1)
    assert_close(px.decode_latents(params, z, size=(161, 463)).asnumpy(), expected)
    clamped_first = sizes.resize_and_crop(np.clip(raw * 0.5 + 0.5, 0, 1), 161, 463)
    assert not np.allclose(clamped_first, expected, atol=1e-2)


def test_micro_conditions_say_the_size_in_pixels(monkeypatch):
    calls = counted(monkeypatch, transformer, "evaluate")
    picture = draw(tiny.params(tiny.MICRO), height=16, width=24)
    assert picture.size == (24, 16)
    for _, conditions in calls:
        assert np.array_equal(conditions["resolution"].asnumpy(), [[16, 24]] * 2)
        assert_close(conditions["aspect_ratio"].asnumpy(), np.float32([[16 / 24]] * 2))
    assert len(calls) == STEPS
