"""ControlNets in use: what they add up to, when they act, and for which pictures."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from helpers import tiny

import pixart_fn as px
from pixart_fn import transformer
from pixart_fn.checkpoint import controlnet

CONFIG = controlnet.Config(1, 2, 16)
PICTURE = np.random.default_rng(0).random((16, 16, 3), np.float32)
OTHER = np.ascontiguousarray(PICTURE[::-1])
KEY = px.key(5)


@functools.cache
def net(zero: bool = False):
    """A ControlNet that does nothing yet, or one whose projections do much."""
    params = tiny.params()
    made = controlnet.init(params.transformer, params.config.transformer, CONFIG)
    return (made if zero else tiny.without_zeros(made)), CONFIG


def control(**options):
    return controlnet.control(tiny.params(), net(), PICTURE, **options)


def draw(prompt="a cute cat sits", key=KEY, guidance=3.0, **options):
    given = {"steps": 3, "output": "latents", "progress": False, **options}
    return px.generate(tiny.params(), prompt, key, guidance=guidance, **given).asnumpy()


def test_a_zero_initialised_one_changes_nothing_bit_for_bit():
    new = controlnet.control(tiny.params(), net(zero=True), PICTURE)
    np.testing.assert_array_equal(draw(controls=new), draw())
    assert np.abs(draw(controls=control()) - draw()).max() > 0.01


def test_two_at_half_scale_equal_one_at_full():
    whole, half = control(), control(scale=0.5)
    np.testing.assert_array_equal(draw(controls=[half, half]), draw(controls=whole))
    np.testing.assert_array_equal(draw(controls=(whole,)), draw(controls=whole))
    opposed = [whole, control(scale=-1.0)]
    np.testing.assert_allclose(draw(controls=opposed), draw(), atol=1e-6)


def test_scale_0_an_empty_list_and_an_interval_beyond_all_times_equal_none():
    for controls in (control(scale=0.0), control(scale=0), [], control(interval=(1000, 2000))):
        np.testing.assert_array_equal(draw(controls=controls), draw())


def test_outside_its_interval_a_control_is_not_evaluated():
    params, x = tiny.params(), px.noise(tiny.params(), KEY)
    text = px.encode_prompt(params, "a cute cat")
    half = control(interval=(300, 600.0))
    plain, always, sometimes = (
        px.text_denoiser(params, text, guidance=1, controls=each) for each in (None, control(), half)
    )
    for t, like in ((299, plain), (300, always), (600, always), (601, plain)):
        np.testing.assert_array_equal(sometimes(x, t).asnumpy(), like(x, t).asnumpy())
    assert np.abs(plain(x, 300).asnumpy() - always(x, 300).asnumpy()).max() > 0.01


def test_the_denoiser_is_the_model_s_apply():
    """Without guidance, x0 = (x - σ ε) / α of `controlnet.apply`."""
    params, x, t = tiny.params(), px.noise(tiny.params(), KEY, 2), 400
    text = px.encode_prompt(params, ["a cute cat", "the big dog"])
    latents = px.encode_image(params, [PICTURE, OTHER])
    given = controlnet.Control(net(), latents)
    x0 = px.text_denoiser(params, text, guidance=1, controls=given)(x, t).asnumpy()
    times = np.full(2, t, np.float32)
    base = params.transformer, params.config.transformer
    raw = controlnet.apply(*net(), *base, x, times, *text, latents).asnumpy()[:, :4]
    schedule = px.solvers.from_config(params.config.scheduler).schedule
    expected = raw if schedule.prediction == "x0" else (x.asnumpy() - schedule.sigma(t) * raw) / schedule.alpha(t)
    np.testing.assert_allclose(x0, expected, rtol=2e-5, atol=2e-5)


def test_both_branches_of_guidance_see_it():
    params, x, t, w = tiny.params(), px.noise(tiny.params(), KEY), 500, 4.0
    text, empty = (px.encode_prompt(params, each) for each in ("a cute cat", ""))
    given = control()

    def alone(text):
        return px.text_denoiser(params, text, guidance=1, controls=given)(x, t).asnumpy()

    both = px.text_denoiser(params, text, empty, w, controls=given)(x, t).asnumpy()
    np.testing.assert_allclose(both, alone(empty) + w * (alone(text) - alone(empty)), rtol=1e-4, atol=1e-4)


def test_a_picture_is_the_same_whatever_the_batch(monkeypatch):
    params, keys, prompts = tiny.params(), px.split(KEY, 2), ["a cute cat sits", "the big dog runs"]
    for_all = control(scale=0.5)
    together = draw(prompts, keys, 1, controls=[controlnet.control(params, net(), [PICTURE, OTHER]), for_all])
    each = [controlnet.control(params, net(), picture) for picture in (PICTURE, OTHER)]
    alone = [draw(prompts[i], keys[i], 1, controls=[each[i], for_all]) for i in range(2)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("pixart_fn.pipeline.pictures_at_once", lambda *_, **__: 1)
    parts = draw(prompts, keys, 1, controls=[controlnet.control(params, net(), [PICTURE, OTHER]), for_all])
    np.testing.assert_allclose(parts, together, rtol=1e-5, atol=1e-5)


def test_controls_of_several_lengths_are_added_up_whichever_comes_first():
    config = dataclasses.replace(tiny.TRANSFORMER, num_layers=3)
    params = tiny.params(config)
    latents = px.encode_image(params, PICTURE)
    nets = []
    for n in (1, 2):
        own = controlnet.Config(n, 2, 16)
        nets.append((tiny.without_zeros(controlnet.init(params.transformer, config, own)), own))
    text, x = px.encode_prompt(params, "a cute cat"), px.noise(params, KEY)

    def x0(*given):
        controls = [controlnet.Control(each, latents) for each in given]
        return px.text_denoiser(params, text, guidance=1, controls=controls)(x, 500.0).asnumpy()

    shallow, deep = nets
    np.testing.assert_allclose(x0(shallow, deep), x0(deep, shallow), atol=1e-6)
    for one, other in ((shallow, deep), (deep, shallow)):
        silent = px.tree.map(lambda leaf: leaf * 0, other[0]), other[1]
        np.testing.assert_allclose(x0(silent, one), x0(one), atol=1e-6)
        assert np.abs(x0(shallow, deep) - x0(one)).max() > 0.01


def test_nothing_compiles_anew_for_another_scale(monkeypatch):
    from pixart_fn.backend import jit

    draw(controls=control(scale=0.7))
    compiled = []
    monkeypatch.setattr(jit.ms, "jit", lambda f: compiled.append(f))
    known = set(jit.compile_cache)
    draw(controls=control(scale=0.3))
    draw(controls=[control(scale=2.5), control(scale=1e-3)])
    assert not compiled and set(jit.compile_cache) == known


def test_what_does_not_fit_is_refused():
    params = tiny.params()
    latents = px.encode_image(params, [PICTURE] * 2)
    for given, error, sentence in (
        ({"controls": "edges"}, TypeError, "controls must be a Control or a list of them, as px.controlnet.control"),
        ({"controls": [PICTURE]}, TypeError, "controls must be a Control or a list of them"),
        ({"controls": controlnet.Control(net(), latents)}, ValueError, "one picture, or one for each of 1, .* has 2"),
        ({"controls": control(), "height": 24}, ValueError, r"of \(4, 12, 8\), as what is drawn has, got \(4, 8, 8"),
    ):  # fmt: skip
        with pytest.raises(error, match=sentence):
            draw(**given)
    deep = controlnet.Config(2, 2, 16)
    base = transformer.init(px.key(0), dataclasses.replace(tiny.TRANSFORMER, num_layers=3))
    tree = controlnet.init(base, dataclasses.replace(tiny.TRANSFORMER, num_layers=3), deep)
    with pytest.raises(ValueError, match="needs a transformer of at least 3"):
        draw(controls=controlnet.Control((tree, deep), latents[:1]))
    denoise = px.text_denoiser(params, px.encode_prompt(params, "a cat"), guidance=1, controls=control())
    with pytest.raises(ValueError, match="controls must have latents of"):
        denoise(np.zeros((1, 4, 12, 8), np.float32), 500)


def test_a_control_shows_its_sizes():
    shown = repr(control(scale=0.5, interval=[100, 900]))
    assert shown == f"Control({CONFIG!r}, latents=(1, 4, 8, 8), scale=0.5, interval=(100, 900))"
