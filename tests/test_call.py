"""What a call takes where it doesn't say otherwise: from the checkpoint, the manifest, or its scheduler."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from helpers import tiny
from helpers.pipelines import SCHEDULER

import pixart_fn as px
from pixart_fn import schedule, solvers
from pixart_fn.checkpoint import call, manifest
from pixart_fn.params import Call

LISTS = {"times": [400.0], "interval": [300.0, 900.0]}
LCM = {**SCHEDULER, "_class_name": "LCMScheduler", "original_inference_steps": 50}


def with_call(params, **fields):
    return params.replace(config=dataclasses.replace(params.config, call=Call(**fields)))


def seen(params, **options):
    """The times that a call visits, and how many rows it evaluates for a picture."""
    steps = []
    px.generate(params, "a cat", px.key(0), output="latents", progress=False, on_step=steps.append, **options)
    return [step.t for step in steps]


def test_a_call_takes_the_steps_the_checkpoint_wants():
    params = tiny.params()
    assert len(seen(with_call(params, steps=3))) == 3
    assert len(seen(with_call(params, steps=3), steps=2)) == 2


def test_a_call_takes_the_guidance_the_checkpoint_wants():
    params, how = tiny.params(), {"steps": 2, "output": "numpy", "progress": False}
    drawn = {w: px.generate(params, "a cat", px.key(0), guidance=w, **how) for w in (1, 4.5)}
    for w, expected in drawn.items():
        np.testing.assert_array_equal(px.generate(with_call(params, guidance=w), "a cat", px.key(0), **how), expected)
    assert not np.array_equal(*drawn.values())


def test_a_scale_alone_guides_at_the_times_the_checkpoint_wants():
    params, how = tiny.params(), {"steps": 4, "output": "numpy", "progress": False}
    own = with_call(params, guidance=3.0, interval=(400, 1000))
    everywhere, inside = px.Guidance(3.0), px.Guidance(3.0, interval=(400, 1000))
    wanted = {g: px.generate(params, "a cat", px.key(0), guidance=g, **how) for g in (everywhere, inside)}
    assert not np.array_equal(*wanted.values())
    for given, expected in ((None, inside), (3.0, inside), ([3.0], inside), (everywhere, everywhere)):
        drawn = px.generate(own, "a cat", px.key(0), guidance=given, **how)
        np.testing.assert_array_equal(drawn, wanted[expected])
    text, negative, x = px.encode_prompt(own, "a cat"), px.encode_prompt(own, ""), px.noise(own, px.key(0))
    for guidance in (3.0, None):
        denoise = px.text_denoiser(own, text, negative, guidance)
        for t, expected in ((500.0, everywhere), (300.0, 1.0)):
            alone = px.text_denoiser(params, text, negative, expected)
            np.testing.assert_array_equal(denoise(x, t).asnumpy(), alone(x, t).asnumpy())
    unguided = [px.generate(p, "a cat", px.key(0), guidance=1, **how) for p in (own, params)]
    np.testing.assert_array_equal(*unguided)


def test_an_edit_guides_everywhere_since_it_may_begin_below_the_interval():
    params = tiny.params()
    picture = px.generate(params, "a cat", px.key(0), steps=1, progress=False)
    drawn = [
        px.edit.image_to_image(p, picture, "a dog", px.key(1), strength=0.5, steps=4, progress=False, output="numpy")
        for p in (params, with_call(params, interval=(600, 1000)))
    ]
    np.testing.assert_array_equal(*drawn)


def test_fixed_times_are_visited_in_as_many_steps():
    """As the one step of distribution matching distillation, from noise that counts as x at t = 400 to x0."""
    params = with_call(tiny.params(), steps=1, guidance=1.0, times=(400.0,))
    assert seen(params) == seen(params, steps=1) == [400.0]
    assert len(seen(params, steps=2)) == 2
    x = px.noise(params, px.key(0))
    model = solvers.from_config(params.config.scheduler).schedule
    denoise = px.text_denoiser(params, px.encode_prompt(params, "a cat"))
    z = px.generate(params, "a cat", px.key(0), output="latents", progress=False)
    np.testing.assert_allclose(z.asnumpy(), denoise(x, 400.0).asnumpy(), rtol=1e-5, atol=1e-5)
    assert schedule.grid(model, [400.0]).sigma[-1] == 0


def test_a_prompt_has_as_many_tokens_as_the_checkpoint_wants():
    params, long = tiny.params(), "a cute cat sits on the mat " * 3
    for most in (20, 33):
        with pytest.warns(UserWarning, match=f"{most}"):
            text = px.encode_prompt(with_call(params, tokens=most), long)
        with pytest.warns(UserWarning, match=f"{most}"):
            same = px.encode_prompt(params, long, tokens=most)
        assert text.mask.shape == same.mask.shape == (1, most)
    assert px.encode_prompt(params, long).mask.shape[1] < 120
    sigma = params.replace(config=dataclasses.replace(params.config, pipeline="PixArtSigmaPipeline"))
    assert (params.config.tokens, sigma.config.tokens) == (120, 300)


def test_it_is_saved_and_loaded(tmp_path):
    wanted = {"steps": 1, "guidance": 1.0, "tokens": 77, "times": (400.0,), "interval": (300.0, 900.0)}
    px.save(with_call(tiny.params(), **wanted), tmp_path / "p")
    assert json.loads((tmp_path / "p/model_index.json").read_text())["_pixart_fn"] == {**wanted, **LISTS}
    assert px.load(tmp_path / "p").config.call == Call(**wanted)
    px.save(tiny.params(), tmp_path / "q")
    assert "_pixart_fn" not in json.loads((tmp_path / "q/model_index.json").read_text())
    assert px.load(tmp_path / "q").config.call == Call()


def test_the_scheduler_of_latent_consistency_models_means_four_steps_without_guidance(tmp_path):
    px.save(tiny.params(), tmp_path / "p")
    assert px.load(tmp_path / "p", scheduler=LCM).config.call == Call(4, 1.0)
    assert call.find({}, LCM, "PixArt-alpha/PixArt-XL-2-1024-MS", "") == Call(4, 1.0, 120)
    guided = {"_pixart_fn": {"guidance": 3.0, "interval": [400, 900]}}
    assert call.find(guided, LCM, None, "") == Call(4, 1.0)
    own = {"_pixart_fn": {"steps": 8, "guidance": 1.0}}
    assert call.find(own, LCM, None, "") == Call(8, 1.0)


@pytest.mark.parametrize("entry", manifest.entries(), ids=lambda entry: entry.name)
def test_what_the_manifest_says_of_an_id_is_taken(entry):
    if entry.kind in ("pipeline", "transformer"):
        assert call.find({}, SCHEDULER, entry.id, "") == Call(entry.steps, entry.guidance, entry.tokens, entry.times)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "must be an object of steps, guidance, tokens, times, interval"),
        ({"step": 1}, "must be an object of steps"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"guidance": "a"}, "guidance must be a number"),
        ({"tokens": 1.5}, "tokens must be a whole number"),
        ({"times": [400, "a"]}, "times must be a list of numbers"),
        ({"times": [400]}, "times must be as many numbers as steps, 20,"),
        ({"steps": 2, "times": [100, 400]}, "and fall to no less than 0, got [100.0, 400.0]"),
        ({"interval": [500]}, "interval must be two numbers (low, high)"),
        ({"interval": [900, 500]}, "interval must be (low, high) with low at most high, got [900, 500]"),
        ({"steps": 1, "times": [-1]}, "and fall to no less than 0, got [-1.0]"),
    ],
)
def test_what_is_wrong_is_said(content, words):
    with pytest.raises(ValueError, match=r"model_index\.json: _pixart_fn") as caught:
        call.find({"_pixart_fn": content}, SCHEDULER, None, "model_index.json")
    assert words in str(caught.value)
