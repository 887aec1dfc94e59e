"""ControlNets in use: what they add up to, when they act, and for which pictures."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from helpers import tiny

import pixart_fn as px
from pixart_fn import control as control_
from pixart_fn import transformer
from pixart_fn.backend import jit
from pixart_fn.checkpoint import controlnet

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

CONFIG = controlnet.Config(1, 2, 16)
LATENTS = np.random.default_rng(0).standard_normal((2, 4, 8, 8), np.float32)
NOISE = np.random.default_rng(1).standard_normal((2, 4, 8, 8), np.float32)
TEXT = px.Text(np.random.default_rng(2).standard_normal((2, 16, 32), np.float32), np.ones((2, 16), np.int32))
KEY = px.key(5)


@functools.cache
def net(zero: bool = False):
    """A ControlNet that does nothing yet, or one whose projections do much."""
    params = tiny.params()
    made = controlnet.init(params.transformer, params.config.transformer, CONFIG)
    return (made if zero else tiny.without_zeros(made)), CONFIG


def control(rows=slice(1), **options):
    return controlnet.Control(net(), LATENTS[rows], **options)


def draw(prompt="a cute cat sits", key=KEY, guidance=3.0, **options):
    given = {"steps": 2, "output": "latents", "progress": False, **options}
    return px.generate(tiny.params(), prompt, key, guidance=guidance, **given).asnumpy()


def x0(controls, t=500, rows=slice(1), negative=None, guidance=1.0):
    """What a denoiser gives for hand-made text and noise."""
    text = px.Text(*(each[rows] for each in TEXT))
    return px.text_denoiser(tiny.params(), text, negative, guidance, controls=controls)(NOISE[rows], t)


def test_a_zero_initialised_one_changes_nothing_bit_for_bit():
    new = controlnet.Control(net(zero=True), LATENTS[:1])
    plain = draw()
    np.testing.assert_array_equal(draw(controls=new), plain)
    assert np.abs(draw(controls=control()) - plain).max() > 0.01


def test_two_at_half_scale_equal_one_at_full():
    whole, half = control(), control(scale=0.5)
    np.testing.assert_array_equal(draw(controls=[half, half]), draw(controls=(whole,)))
    np.testing.assert_allclose(x0([whole, control(scale=-1.0)]), x0(None), atol=1e-6)


def test_scale_0_no_control_and_an_interval_beyond_all_times_equal_none():
    plain = draw()
    for controls in (control(scale=0.0), [], control(interval=(1000, 2000))):
        np.testing.assert_array_equal(draw(controls=controls), plain)


def test_outside_its_interval_a_control_is_not_evaluated():
    half = control(interval=(300, 600.0))
    for t, like in ((299, None), (300, control()), (600, control()), (601, None)):
        np.testing.assert_array_equal(x0(half, t), x0(like, t))
    assert np.abs(x0(None, 300) - x0(control(), 300)).max() > 0.01


def test_the_denoiser_is_the_model_s_apply():
    """Without guidance, x0 = (x - σ ε) / α of `controlnet.apply`, each picture with its own control."""
    params, t = tiny.params(), 400
    base, times = (params.transformer, params.config.transformer), np.full(2, t, np.float32)
    raw = controlnet.apply(*net(), *base, NOISE, times, *TEXT, LATENTS).asnumpy()[:, :4]
    schedule = px.solvers.from_config(params.config.scheduler).schedule
    expected = raw if schedule.prediction == "x0" else (NOISE - schedule.sigma(t) * raw) / schedule.alpha(t)
    both = slice(2)
    np.testing.assert_allclose(x0(control(both), t, both), expected, rtol=2e-5, atol=2e-5)


def test_both_branches_of_guidance_see_it():
    empty, w, given = px.Text(*(each[1:] for each in TEXT)), 4.0, control()
    conditional = x0(given)
    unconditional = px.text_denoiser(tiny.params(), empty, guidance=1, controls=given)(NOISE[:1], 500)
    expected = unconditional + w * (conditional - unconditional)
    np.testing.assert_allclose(x0(given, negative=empty, guidance=w), expected, rtol=1e-4, atol=1e-4)


def test_a_picture_is_the_same_whatever_the_batch(monkeypatch):
    keys, prompts, for_all = px.split(KEY, 2), ["a cute cat sits", "the big dog runs"], control(scale=0.5)
    controls = [control(slice(2)), for_all]
    together = draw(prompts, keys, 1, controls=controls)
    alone = [draw(prompts[i], keys[i], 1, controls=[control(slice(i, i + 1)), for_all]) for i in range(2)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("pixart_fn.pipeline.pictures_at_once", lambda *_, **__: 1)
    np.testing.assert_allclose(draw(prompts, keys, 1, controls=controls), together, rtol=1e-5, atol=1e-5)


def test_controls_of_several_lengths_are_added_up_whichever_comes_first(monkeypatch):
    """Residuals of 1 and of 3 blocks, each times its scale."""
    parts = {1: [np.float32([1.0])], 3: [np.float32([n]) for n in (10.0, 20.0, 30.0)]}
    monkeypatch.setattr(control_.controlnet, "residuals", lambda n, *_: tuple(map(Tensor, parts[n])))
    first, second = control_.Steering(control(scale=2.0), 1), control_.Steering(control(scale=0.5), 3)
    off = control_.Steering(control(interval=(0, 10)), 3)
    for order in ((first, second, off), (second, off, first), (off, second, first)):
        total = control_.residuals(order, tiny.params(), Tensor(NOISE), 500.0, None)
        assert [each.asnumpy().item() for each in total] == [7.0, 10.0, 15.0]


def test_nothing_compiles_anew_for_another_scale():
    draw(controls=control(scale=0.7))
    before = jit.compilations()
    draw(controls=control(scale=0.3))
    draw(controls=[control(scale=2.5), control(scale=1e-3)])
    assert jit.compilations() == before


def test_what_does_not_fit_is_refused():
    for given, error, sentence in (
        ({"controls": "edges"}, TypeError, "controls must be a Control or a list of them, as px.controlnet.control"),
        ({"controls": [LATENTS]}, TypeError, "controls must be a Control or a list of them"),
        ({"controls": control(slice(2))}, ValueError, "one picture, or one for each picture \\(1\\), .* has 2"),
        ({"controls": control(), "height": 24}, ValueError, r"of \(4, 12, 8\), as what is drawn has, got \(4, 8, 8"),
    ):  # fmt: skip
        with pytest.raises(error, match=sentence):
            draw(**given)
    deep = controlnet.Config(2, 2, 16)
    base = transformer.init(px.key(0), dataclasses.replace(tiny.TRANSFORMER, num_layers=3))
    tree = controlnet.init(base, dataclasses.replace(tiny.TRANSFORMER, num_layers=3), deep)
    with pytest.raises(ValueError, match="needs a transformer of at least 3"):
        draw(controls=controlnet.Control((tree, deep), LATENTS[:1]))
    one = px.Text(*(each[:1] for each in TEXT))
    with pytest.raises(ValueError, match="controls must have latents of"):
        px.text_denoiser(tiny.params(), one, guidance=1, controls=control())(np.zeros((1, 4, 12, 8), np.float32), 500)


def test_a_control_shows_its_sizes():
    shown = repr(control(scale=0.5, interval=[100, 900]))
    assert shown == f"Control({CONFIG!r}, latents=(1, 4, 8, 8), scale=0.5, interval=(100, 900))"
