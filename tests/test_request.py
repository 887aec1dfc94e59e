"""Mistakes as people make them: one sentence that names the right call, before any model runs."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import KEY, STEPS, counted, draw, evaluations

import pixart_fn as px
from pixart_fn import t5, transformer, vae
from pixart_fn.models import t5_numpy

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

SCHEDULE = px.schedule.from_betas(px.schedule.linear())


@pytest.fixture(scope="module")
def params():
    return tiny.params()


@pytest.fixture(scope="module")
def text(params):
    return px.encode_prompt(params, ["a cute cat", "the big dog"])


MISTAKES = {
    "no steps": ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    "too many steps": ({"steps": 5000}, ValueError, "steps of linspace spacing must be 1 … 999, got 5000"),
    "a key": ({"key": 3}, TypeError, r"a key is a uint64 array of shape \(2,\) or \(B, 2\), got 3; make one with key"),
    "keys": ({"key": px.split(KEY, 3)}, ValueError, "key must be one key or one for each picture \\(1\\), got 3"),
    "dtype": ({"latents": np.zeros((1, 4, 8, 8))}, ValueError, "latents must be float32 of shape"),
    "a scale": ({"guidance": "4.5"}, TypeError, "the scale of guidance must be a number, .*, got '4.5'"),
    "a flag": ({"guidance": True}, TypeError, "the scale of guidance must be a number, .*, got True"),
    "PAG's layers": (
        {"guidance": px.Guidance(pag_scale=1.0, pag_layers=[2])},
        ValueError,
        r"pag_layers must be a list of blocks within 0 … 1, got \(2,\)",
    ),
    "PAG's scales": (
        {"guidance": px.Guidance(pag_scale=[1.0, 2.0])},
        ValueError,
        r"pag_scale must be a number or one for each picture \(1\), got an array of shape \(2,\)",
    ),
    "solver": ({"solver": "eular"}, ValueError, "solver must be one of ddim, .*; got 'eular', the nearest is 'euler'"),
    "uncalled": ({"solver": px.solvers.heun}, TypeError, r"call it: px.solvers.heun\(\)"),
    "no solver": ({"solver": 3}, TypeError, "solver must be a Solver, .* or its name, got an int"),
    "grid": ({"grid": [999, 500]}, TypeError, "grid must be a Grid, as schedule.grid.* makes; got a list"),
    "a grid and steps": (
        {"grid": px.schedule.grid(SCHEDULE, [999, 500]), "steps": 2},
        ValueError,
        "steps and grid both say where to evaluate the model",
    ),
    "a maker of grids": ({"grid": lambda n: n}, TypeError, "grid must be a Grid, .*; got a function"),
    "tile": ({"tile": 3}, ValueError, "tile must be a positive multiple of 8 pixels, got 3; nearest: 8"),
    "a tile": ({"tile": "8"}, TypeError, "tile must be a whole number, got '8'"),
    "on_step": ({"on_step": 1}, TypeError, r"on_step must be a function of \(StepInfo\), got an int"),
    "a huge size": ({"height": 10**6}, ValueError, "height must be at most 16384 pixels, got 1000000"),
    "seed=": ({"seed": 3}, TypeError, r"generate has no argument 'seed'; the argument is 'key', such as px.key\(0\)"),
    "steps": ({"num_inference_steps": 3}, TypeError, "no argument 'num_inference_steps'; the argument is 'steps'"),
    "generator=": ({"generator": None}, TypeError, "no argument 'generator'; the argument is 'key'"),
    "output_type=": ({"output_type": "np"}, TypeError, "no argument 'output_type'; the argument is 'output'"),
    "callback=": ({"callback": print}, TypeError, "no argument 'callback'; the argument is 'on_step'"),
    "negative=": ({"negative": ""}, TypeError, "no argument 'negative'; the argument is 'negative_prompt'"),
    "a typo": ({"guidence_scale": 3}, TypeError, "'guidence_scale'; the argument is 'guidance'"),
    "its old name": (
        {"guidance_scale": 3},
        TypeError,
        "^generate has no argument 'guidance_scale'; guidance_scale=3 is now guidance=3$",
    ),
    "an old name": ({"rescale": 0.7}, TypeError, r"; rescale=0.7 is now guidance=px.Guidance\(rescale=0.7\)$"),
    "old names": (
        {"interval": (200, 800), "guidance_scale": np.ones(1)},
        TypeError,
        r"; interval=\(200, 800\), guidance_scale=… is now guidance=px.Guidance\(scale=…, interval=\(200, 800\)\)$",
    ),
    "an old name and a new one": (
        {"pag_scale": 2.0, "guidance": 3.0},
        TypeError,
        r"; pag_scale=2.0 is now guidance=px.Guidance\(scale=3.0, pag_scale=2.0\)$",
    ),
    "PAG of old": ({"pag_layers": (1,), "compat": "original"}, TypeError, "has no argument 'pag_layers'"),
    "a Guidance and an old name": (
        {"guidance": px.Guidance(3.0, pag_scale=2.0), "rescale": 0.5},
        TypeError,
        r"; rescale=0.5 is now guidance=dataclasses.replace\(guidance, rescale=0.5\)$",
    ),
    "one thing by two names": (
        {"guidance_scale": 3, "guidance": 4},
        TypeError,
        "^generate has no argument .guidance_scale.; guidance_scale=3 and guidance=4 each give the scale, so give one",
    ),
    "two spellings": (
        {"guidance_rescale": 0.5, "rescale": 0.7, "pag_scale": 2},
        TypeError,
        r"; guidance_rescale=0.5 and rescale=0.7 each give the rescale, so give one of them; pag_scale=2 is now "
        r"guidance=px.Guidance\(rescale=…, pag_scale=2\)$",
    ),
    "two spellings of one value": (
        {"cfg": 3, "guidance_scale": 3},
        TypeError,
        "cfg=3, guidance_scale=3 is now guidance=3$",
    ),
    "None": ({"interval": None}, TypeError, r"interval=None is now guidance=px.Guidance\(interval=None\)$"),
    "all at once": (
        {"guidance_scale": 3, "num_inference_steps": 4, "seed": 0, "learned_variance": True},
        TypeError,
        "^generate has no argument .guidance_scale.; guidance_scale=3 is now guidance=3; and no argument "
        ".num_inference_steps.; the argument is .steps.; and no argument .seed.; the argument is .key., such as "
        r"px.key\(0\); and no argument .learned_variance.; solver=px.solvers.ddpm\(.learned_range.\) reads it$",
    ),
    "two unknown names": (
        {"xyzzy": 3, "plugh": 4},
        TypeError,
        "no argument .xyzzy. or .plugh.; its arguments are params",
    ),
    "scale=": ({"scale": 3}, TypeError, "has no argument .scale.; scale=3 is now guidance=3$"),
    "w=": ({"w": 3}, TypeError, "has no argument .w.; w=3 is now guidance=3$"),
    "nonsense": ({"xyzzy": 3}, TypeError, "has no argument 'xyzzy'; its arguments are params, prompt, key, "),
    "params": ({"params": {"transformer": 0}}, TypeError, r"params must be what px.load\(\) returns, got dict"),
    "a path": ({"params": "weights/emoji"}, TypeError, r"params must be what px.load\(\) returns, got str"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence_before_any_work(params, case, monkeypatch):
    options, error, sentence = MISTAKES[case]
    calls = [counted(monkeypatch, each, "encode") for each in (t5, t5_numpy)]
    evaluated = evaluations(monkeypatch)
    with pytest.raises(error, match=sentence) as raised:
        draw(**{"params": params, **options})
    assert "\n" not in str(raised.value) and not any((*calls, *evaluated))


def test_missing_and_superfluous_arguments_are_named(params):
    with pytest.raises(TypeError, match=r"generate needs 'key', such as px.key\(0\)"):
        px.generate(params, "a cat")
    with pytest.raises(TypeError, match=r"generate takes params, prompt, key by position and all else by name, got 4"):
        px.generate(params, "a cat", KEY, "ugly")
    with pytest.raises(
        TypeError, match=r"sample_latents has no argument 'negative_prompt'; the argument is 'negative'"
    ):
        px.sample_latents(params, None, KEY, negative_prompt="ugly")
    with pytest.raises(TypeError, match=r"encode_prompt has no argument 'prompts'; the argument is 'prompt'"):
        px.encode_prompt(params, prompts="a cat")
    with pytest.raises(TypeError, match=r"guidance_scale=1 is now guidance=1"):
        px.sample_latents(params, None, KEY, guidance_scale=1)
    with pytest.raises(TypeError, match=r"learned_variance'; px.text_variance_denoiser .* give \(x0, variance\)"):
        px.text_denoiser(params, None, learned_variance=True)
    with pytest.raises(
        TypeError, match=r"text_denoiser has no .*guidance=dataclasses.replace\(guidance, rescale=0.5\)"
    ):
        px.text_denoiser(params, None, None, px.Guidance(), rescale=0.5)
    with pytest.raises(TypeError, match=r"encode_prompt has no argument 'rescale'; its arguments are params, prompt"):
        px.encode_prompt(params, "a cat", rescale=0.7)


# --- text by hand ----------------------------------------------------------------------------------------------------


def by_hand(text, states, mask):
    return px.Text(states(text.states.asnumpy()), mask(text.mask.asnumpy()))


@pytest.mark.parametrize("states", [np.asarray, ms.Tensor, np.float64], ids=["array", "tensor", "float64"])
@pytest.mark.parametrize("mask", [np.bool_, np.float32, np.int64, ms.Tensor, lambda m: ms.Tensor(m == 1)])
def test_text_by_hand_is_the_same_text(params, text, states, mask):
    options = {"steps": 1, "guidance": 1}
    expected = px.sample_latents(params, text, KEY, **options)
    assert np.array_equal(px.sample_latents(params, by_hand(text, states, mask), KEY, **options), expected)
    made = tuple(by_hand(text, states, mask))
    x, t = px.noise(params, KEY, 2), np.float32([999, 500])
    config = params.config.transformer
    assert np.array_equal(transformer.apply(params.transformer, config, x, t, *made),
                          transformer.apply(params.transformer, config, x, ms.Tensor(t), *text))  # fmt: skip


def test_half_precision_states_are_read_as_they_are(params, text):
    half = text.states.asnumpy().astype(np.float16)
    options = {"steps": 1, "guidance": 1}
    wide = px.sample_latents(params, px.Text(half.astype(np.float32), text.mask), KEY, **options)
    assert np.array_equal(px.sample_latents(params, px.Text(half, text.mask), KEY, **options), wide)
    assert np.array_equal(px.sample_latents(params, px.Text(ms.Tensor(half), text.mask), KEY, **options), wide)


TEXTS = {
    "a string": ("a cat", TypeError, r"text must be a Text of states and mask, got str; px.encode_prompt\(params, 'a"),
    "states alone": (
        np.zeros((1, 4, 32), np.float32),
        TypeError,
        "text must be a Text of states and mask, got ndarray",
    ),
    "width": ((np.zeros((1, 4, 16), np.float32), np.ones((1, 4))), ValueError, r"shape \(B, L, 32\), got \(1, 4, 16\)"),
    "length": (
        (np.zeros((1, 4, 32), np.float32), np.ones((1, 5))),
        ValueError,
        r"the shape \(1, 4\) of its .*\(1, 5\)",
    ),
    "whole": ((np.zeros((1, 4, 32), int), np.ones((1, 4))), TypeError, "text.states must hold floating-point numbers"),
    "empty": ((np.zeros((1, 4, 32), np.float32), np.zeros((1, 4))), ValueError, "text.mask must be 1 where a token is"),
    "soft": ((np.zeros((1, 4, 32), np.float32), np.full((1, 4), 0.5)), ValueError, "text.mask must be 1 where a token"),
    "a list": (([[[0.0] * 32]], [[1]]), TypeError, "text.states must be a Tensor or an array, got a list"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_is_no_text_is_one_sentence(params, case):
    given, error, sentence = TEXTS[case]
    for call in (lambda: px.sample_latents(params, given, KEY), lambda: px.text_denoiser(params, given)):
        with pytest.raises(error, match=sentence):
            call()


# --- arrays of another kind or shape ---------------------------------------------------------------------------------


def test_numpy_goes_through_the_stages_and_denoisers(params, text):
    z = px.sample_latents(params, text, KEY, steps=1)
    pixels = px.decode_latents(params, z)
    assert np.array_equal(px.decode_latents(params, z.asnumpy()), pixels)
    assert np.array_equal(px.decode_latents(params, z.asnumpy().astype(np.float64)), pixels)
    denoise = px.text_denoiser(params, text, guidance=1)
    x = px.noise(params, KEY, 2)
    x0 = denoise(x.asnumpy(), 500.0)
    assert isinstance(x0, np.ndarray) and np.array_equal(x0, denoise(x, 500.0))
    grid = px.schedule.grid(SCHEDULE, [999, 500])
    drawn = px.sample(KEY, denoise, px.solvers.ddim(), grid, x.asnumpy())
    np.testing.assert_allclose(drawn, px.sample(KEY, denoise, px.solvers.ddim(), grid, x).asnumpy(), atol=1e-5)


SHAPES = {
    "rows": (lambda p, d: d(px.noise(p, KEY, 3), 5.0), r"x_t has 3 rows and the text has 2; they must be equal"),
    "channels": (lambda p, d: d(np.zeros((2, 3, 8, 8), np.float32), 5.0), r"\(B, 4, h, w\) .* got \(2, 3, 8, 8\)"),
    "patches": (lambda p, d: d(np.zeros((2, 4, 7, 8), np.float32), 5.0), r"h and w multiples of 2, got \(2, 4, 7, 8\)"),
    "a time": (lambda p, d: d(px.noise(p, KEY, 2), 1000.0), r"t must be within \[0, 999\], got 1000"),
    "one latent": (lambda p, d: px.decode_latents(p, np.zeros((4, 8, 8), np.float32)), r"\(B, 4, h, w\), got \(4, 8"),
    "latents": (lambda p, d: px.decode_latents(p, np.zeros((1, 3, 8, 8), np.float32)), r"B, 4, h, w\), got \(1, 3, 8"),
    "NHWC": (
        lambda p, d: vae.encode(p.vae, p.config.vae, np.zeros((1, 16, 16, 3), np.float32)),
        r"x must have the shape \(B, 3, H, W\), got \(1, 16, 16, 3\); x.transpose\(0, 3, 1, 2\) turns channels last",
    ),
    "ids": (
        lambda p, d: t5.encode(p.text_encoder, p.config.text_encoder, np.full((1, 4), 10**6), np.ones((1, 4))),
        r"ids must be within 0 … \d+, got 1000000",
    ),
    "negative ids": (
        lambda p, d: t5.encode(p.text_encoder, p.config.text_encoder, np.full((1, 4), -1), np.ones((1, 4))),
        r"ids must be within 0 … \d+, got -1",
    ),
    "times": (
        lambda p, d: transformer.apply(
            p.transformer, p.config.transformer, np.zeros((1, 4, 8, 8), np.float32), np.float32([1, 2]),
            np.zeros((1, 4, 32), np.float32), np.ones((1, 4)),
        ),
        r"t must have the shape \(1,\), one time for each row of x, got \(2,\)",
    ),
    "rows of text": (
        lambda p, d: transformer.apply(
            p.transformer, p.config.transformer, np.zeros((2, 4, 8, 8), np.float32), np.float32([1, 2]),
            np.zeros((1, 4, 32), np.float32), np.ones((1, 4)),
        ),
        r"x has 2 rows and the text has 1; they must be equal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_another_shape_is_one_sentence(params, text, case):
    call, sentence = SHAPES[case]
    with pytest.raises(ValueError, match=sentence) as raised:
        call(params, px.text_denoiser(params, text, guidance=1))
    assert "\n" not in str(raised.value)


# --- pictures, noise, steps ------------------------------------------------------------------------------------------


def test_encode_image_is_the_scaled_mean_of_the_posterior(params):
    picture = draw(params)
    x = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    moments = vae.encode(params.vae, params.config.vae, ms.Tensor(x * 2 - 1))
    expected = moments.mean.asnumpy() * 0.5
    given = {"PIL": picture, "uint8": np.asarray(picture), "floats": x[0].transpose(1, 2, 0), "list": [picture]}
    for kind, pictures in given.items():
        assert np.array_equal(px.encode_image(params, pictures), expected), kind
    tensor = ms.Tensor(np.repeat(x.transpose(0, 2, 3, 1), 2, 0))
    assert px.encode_image(params, tensor).shape == (2, 4, 8, 8)
    keys = px.split(KEY, 2)
    drawn = px.encode_image(params, [picture, picture], key=keys).asnumpy() / 0.5
    noise = np.stack([px.rng.normal(key, (4, 8, 8)) for key in keys])
    np.testing.assert_allclose(drawn, moments.mean.asnumpy() + np.exp(moments.logvar.asnumpy() / 2) * noise, atol=1e-5)


PICTURES = {
    "size": (np.zeros((15, 16, 3), np.uint8), ValueError, "height must be divisible by 2, got 15; nearest: 14, 16"),
    "range": (np.full((16, 16, 3), 2.0), ValueError, r"pictures must be within \[0, 1\], or uint8, got 2 … 2"),
    "NaN": (np.full((16, 16, 3), np.nan), ValueError, r"pictures must be within \[0, 1\], or uint8, got nan … nan"),
    "channels first": (np.zeros((3, 16, 16)), ValueError, r"\(H, W, 3\) or \(B, H, W, 3\), got \(1, 3, 16, 16\)"),
    "no picture": ([], ValueError, "pictures must be one or more of the same size"),
    "sizes": (
        [np.zeros((16, 16, 3)), np.zeros((8, 8, 3))],
        ValueError,
        "pictures must be one or more of the same size",
    ),
    "a path": ("cat.png", TypeError, "pictures must be PIL pictures, arrays or a Tensor, got"),
    "whole numbers": (
        np.zeros((16, 16, 3), int),
        TypeError,
        "pictures must be uint8 or floating-point numbers, got i",
    ),
}


@pytest.mark.parametrize("case", PICTURES)
def test_what_is_no_picture_is_one_sentence(params, case):
    given, error, sentence = PICTURES[case]
    with pytest.raises(error, match=sentence):
        px.encode_image(params, given)


def test_noise_is_what_generate_starts_from(params):
    keys = px.split(KEY, 2)
    noise = px.noise(params, KEY, 2)
    assert np.array_equal(noise, np.stack([px.rng.normal(key, (4, 8, 8)) for key in keys]))
    prompts = ["a cute cat", "the big dog"]
    options = {"output": "latents", "solver": "ddim"}
    assert np.array_equal(draw(params, prompts, latents=noise, **options), draw(params, prompts, **options))
    assert px.noise(params, KEY, height=8, width=24).shape == (1, 4, 4, 12)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        px.noise(params, KEY, 0)


def test_on_step_sees_each_step_and_changes_nothing(params, text):
    seen = []
    z = px.sample_latents(params, text, KEY, steps=STEPS, on_step=seen.append)
    assert [info.t for info in seen] == [999, 666, 333] and np.array_equal(seen[-1].x, z)
    assert np.array_equal(px.sample_latents(params, text, KEY, steps=STEPS), z)
    seen.clear()
    draw(params, on_step=lambda info: seen.append(px.decode_latents(params, info.x0).shape))
    assert seen == [(1, 16, 16, 3)] * STEPS


def test_a_solver_can_be_asked_for_by_name(params):
    by_name = draw(params, solver="heun", output="latents")
    assert np.array_equal(by_name, draw(params, solver=px.solvers.heun(), output="latents"))
