"""generate and its three stages on a tiny random pipeline, saved and loaded back."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import ALONE, KEY, STEPS, counted, draw, evaluations, latents
from helpers.tolerances import assert_close
from PIL import Image

import pixart_fn as px
from pixart_fn import t5, tree
from pixart_fn.backend import autodiff
from pixart_fn.models import t5_numpy, tokenizer

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

LONG = "an old guitar stands by the window of a small house"  # over 16 tokens: another bucket than the others
PROMPTS = ["a cute cat", LONG, "the big dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "pipeline"
    px.save(tiny.params(), path)
    return path


@pytest.fixture(scope="module")
def params(folder):
    return px.load(folder)


# --- what comes back -------------------------------------------------------------------------------------------------


def test_types_of_the_result(params):
    one = draw(params)
    assert isinstance(one, Image.Image) and one.size == (16, 16) and one.mode == "RGB"
    (listed,) = draw(params, ["a cute cat"])
    assert listed.tobytes() == one.tobytes()
    pixels = draw(params, output="numpy")
    assert isinstance(pixels, np.ndarray) and pixels.shape == (1, 16, 16, 3) and pixels.dtype == np.float32
    assert pixels.min() >= 0 and pixels.max() <= 1 and pixels.std() > 0.01
    assert np.array_equal(np.asarray(one), np.round(255 * pixels[0]))
    z = draw(params, output="latents")
    assert isinstance(z, ms.Tensor) and z.shape == (1, 4, 8, 8) and z.dtype == ms.float32


def test_generate_is_encode_then_sample_then_decode(params):
    text = px.encode_prompt(params, "A cute   CAT")
    negative = px.encode_prompt(params, "the dog")
    z = px.sample_latents(params, text, KEY, negative=negative, steps=STEPS, guidance=3.0)
    pixels = px.decode_latents(params, z).asnumpy()
    options = {"negative_prompt": "the dog", "guidance": 3.0}
    assert np.array_equal(latents(params, "A cute   CAT", **options), z.asnumpy())
    assert np.array_equal(draw(params, "A cute   CAT", output="numpy", **options), pixels)


def test_captions_are_cleaned_unless_told_otherwise(params, monkeypatch):
    calls = counted(monkeypatch, tokenizer, "encode")
    draw(params, "a CAT <b>on</b> http://x.com", guidance=1, output="latents")
    draw(params, " a <b>CAT</b> ", guidance=1, output="latents", clean=False)
    px.encode_prompt(params, "a CAT <b>on</b> http://x.com")
    px.encode_prompt(params, " a <b>CAT</b> ", clean=False)
    assert [args[1] for args, _ in calls] == [["a cat on"], ["a <b>cat</b>"]] * 2


def test_every_input_changes_the_picture(params):
    reference = latents(params)
    changes = [{"prompt": "two birds"}, {"key": px.key(8)}, {"negative_prompt": "mat"}, {"guidance": 3.0}]
    changes += [{"steps": 1}, {"solver": px.solvers.ddim()}]
    for change in changes:
        assert np.abs(latents(params, **change) - reference).max() > 1e-3, change


def test_an_oblong_picture_is_as_high_and_wide_as_asked(params):
    picture = draw(params, height=8, width=24)
    assert picture.size == (24, 8)
    assert np.asarray(picture).std() > 1


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch(params):
    return latents(params, PROMPTS)


@pytest.mark.parametrize("i", range(3))
def test_a_picture_of_a_batch_equals_the_same_alone(params, batch, i):
    key = px.split(KEY, 3)[i]
    assert_close(latents(params, PROMPTS[i], key)[0], batch[i], ALONE)
    alone, picture = draw(params, PROMPTS[i], key), draw(params, PROMPTS)[i]
    assert np.abs(np.asarray(alone, int) - np.asarray(picture, int)).max() <= 1


def test_one_key_stands_for_its_split(params, batch):
    assert np.array_equal(latents(params, PROMPTS, px.split(KEY, 3)), batch)


def test_the_same_twice_is_the_same_bits(params):
    assert draw(params).tobytes() == draw(params).tobytes()


@pytest.mark.slow
def test_another_process_draws_the_same_bits(params, folder):
    source = (
        "import hashlib, sys; import pixart_fn as px;"
        f"picture = px.generate(px.load(sys.argv[1]), 'a cute cat', px.key(7), steps={STEPS}, progress=False);"
        "print(hashlib.sha256(picture.tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(px.__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, "-c", source, str(folder)], capture_output=True, text=True, env=environment, check=True
    )
    assert process.stdout.strip() == hashlib.sha256(draw(params).tobytes()).hexdigest()


def test_pictures_of_one_prompt_stand_in_a_row(params):
    options = {"guidance": 1, "steps": 1}
    several = latents(params, PROMPTS, images_per_prompt=2, **options)
    assert np.array_equal(several, latents(params, [p for p in PROMPTS for _ in range(2)], **options))
    assert not np.allclose(several[0], several[1], atol=1e-2)
    pictures = draw(params, "a cute cat", images_per_prompt=3)
    assert len(pictures) == 3 and all(isinstance(picture, Image.Image) for picture in pictures)


@pytest.mark.parametrize("make", [np.asarray, ms.Tensor], ids=["array", "tensor"])
def test_injected_latents_stand_for_the_keys_noise(params, batch, make):
    noise = px.rng.normal(px.split(KEY, 3), (3, 4, 8, 8))
    assert np.array_equal(latents(params, PROMPTS, px.key(0), latents=make(noise)), batch)


def test_injected_latents_leave_the_solvers_noise_to_the_key(params):
    noise = px.rng.normal(KEY, (1, 4, 8, 8))
    first, second = (latents(params, key=px.key(i), latents=noise, solver=px.solvers.ddpm()) for i in (0, 1))
    assert np.abs(first - second).max() > 1e-3


# --- guidance --------------------------------------------------------------------------------------------------------


def test_both_branches_are_one_evaluation_and_guidance_1_skips_the_negative(params, monkeypatch):
    models, texts = evaluations(monkeypatch), counted(monkeypatch, t5_numpy, "encode")
    latents(params)
    assert [pictures for pictures, _ in models] == [2] * STEPS
    assert [args[2].shape[0] for args, _ in texts] == [2]  # the encoder, which may be streamed, is gone through once
    models.clear(), texts.clear()
    latents(params, guidance=1, negative_prompt="unused")
    assert [pictures for pictures, _ in models] == [1] * STEPS and len(texts) == 1


def test_guidance_a_picture(params):
    scales = [1.0, 4.5, 2.0]
    together = latents(params, PROMPTS, guidance=scales)
    for i, scale in enumerate(scales):
        alone = latents(params, PROMPTS[i], px.split(KEY, 3)[i], guidance=scale)
        assert_close(alone[0], together[i], ALONE)


def test_negative_prompts_are_one_for_all_or_one_a_prompt(params):
    one = latents(params, PROMPTS, negative_prompt="a field")
    assert np.array_equal(one, latents(params, PROMPTS, negative_prompt=["a field"] * 3))
    negatives = ["a field", "at night", LONG]
    each = latents(params, PROMPTS, negative_prompt=negatives)
    for i, negative in enumerate(negatives):
        alone = latents(params, PROMPTS[i], px.split(KEY, 3)[i], negative_prompt=negative)
        assert_close(alone[0], each[i], ALONE)


def test_sampling_without_a_negative_takes_the_empty_prompt(params):
    text = px.encode_prompt(params, "a cute cat")
    z = px.sample_latents(params, text, KEY, steps=STEPS)
    assert np.array_equal(z.asnumpy(), latents(params))


# --- text ------------------------------------------------------------------------------------------------------------


def test_padding_to_the_full_length_changes_nothing(params):
    ids, mask = map(ms.Tensor, tokenizer.encode(params.tokenizer, ["a cute cat"], 120))
    padded = px.types.Text(t5.encode(params.text_encoder, params.config.text_encoder, ids, mask), mask)
    trimmed = px.encode_prompt(params, "a cute cat")
    assert trimmed.mask.shape == (1, 16) and padded.mask.shape == (1, 120)
    full, short = (px.sample_latents(params, t, KEY, steps=STEPS, guidance=1) for t in (padded, trimmed))
    assert_close(full.asnumpy(), short.asnumpy(), ALONE)


def test_an_empty_prompt_is_one_token(params):
    assert px.encode_prompt(params, "").mask.asnumpy().sum() == 1
    assert draw(params, "").size == (16, 16)


def test_a_prompt_that_is_too_long_warns_and_names_what_was_cut(params):
    prompt = " ".join([tiny.SENTENCES[0]] * 12 + ["guitar at night"])
    with pytest.warns(UserWarning, match=r"tokens, 120 fit: '.*guitar at night' was cut"):
        text = px.encode_prompt(params, prompt)
    assert text.mask.shape == (1, 120) and text.mask.asnumpy().all()


# --- what is refused -------------------------------------------------------------------------------------------------

ZEROS = np.zeros((1, 4, 8, 8), np.float32)
REFUSED = {
    "height": ({"height": 18}, ValueError, r"height must be divisible by 4, got 18; nearest: 16, 20"),
    "width": ({"width": 1}, ValueError, r"width must be divisible by 4, got 1; nearest: 4"),
    "width of a float": ({"width": 16.0}, TypeError, r"width must be an integer, got 16.0"),
    "no steps": ({"steps": 0}, ValueError, r"steps must be at least 1, got 0"),
    "half a step": ({"steps": 1.5}, TypeError, r"steps must be a whole number, got a float"),
    "no pictures": ({"images_per_prompt": 0}, ValueError, r"images_per_prompt must be at least 1, got 0"),
    "output": ({"output": "jpeg"}, ValueError, r"output must be one of 'pil', 'numpy', 'latents', got 'jpeg'"),
    "no prompt": ({"prompt": []}, TypeError, r"prompt must be a string or a list of at least one string, got \[\]"),
    "number": ({"prompt": 3}, TypeError, r"prompt must be a string or a list .*, got 3"),
    "negatives": (
        {"negative_prompt": ["a", "b"]},
        ValueError,
        r"negative_prompt must be one string, or one for each prompt \(1\)",
    ),
    "NaN guidance": ({"guidance": float("nan")}, ValueError, r"the scale of guidance must be finite, got nan"),
    "guidances": (
        {"guidance": [2.0, 3.0]},
        ValueError,
        r"guidance must be a number or one for each picture \(1\)",
    ),
    "seed as key": ({"key": 7}, TypeError, r"a key is a uint64 array .*make one with key\(seed\)"),
    "keys": ({"key": px.split(KEY, 2)}, ValueError, r"key must be one key or one for each picture \(1\), got 2"),
    "float64": ({"latents": ZEROS.astype(float)}, ValueError, r"latents must be float32 .*, got float64 of shape"),
    "float16": ({"latents": ms.Tensor(ZEROS).half()}, ValueError, r"latents must be float32 .*, got float16 of shape"),
    "shape": ({"latents": ZEROS[:, :3]}, ValueError, r"latents must be float32 of shape \(1, 4, 8, 8\), got .*3, 8, 8"),
    "NaN": ({"latents": ZEROS * np.nan}, ValueError, r"latents must be finite, got NaN"),
    "infinity": ({"latents": ms.Tensor(ZEROS + np.inf)}, ValueError, r"latents must be finite, got NaN or infinity"),
    "list": ({"latents": ZEROS.tolist()}, TypeError, r"latents must be a Tensor or an array, got a list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_argument_is_one_clear_sentence(params, case):
    options, error, sentence = REFUSED[case]
    with pytest.raises(error, match=sentence) as raised:
        draw(params, **options)
    assert "\n" not in str(raised.value)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"seed must be an integer with 0 ≤ seed < 2\*\*64, got -1"):
        px.key(-1)


def test_without_a_vae_only_latents_come_out_and_nothing_is_drawn_in_vain(params, batch, monkeypatch):
    bare = params.replace(vae=None)
    assert np.array_equal(latents(bare, PROMPTS), batch)
    calls = evaluations(monkeypatch)
    with pytest.raises(ValueError, match=r"no VAE; load them with vae=True or a path, or ask for output='latents'"):
        draw(bare)
    assert not calls
    with pytest.raises(ValueError, match="no VAE"):
        px.decode_latents(bare, ms.Tensor(ZEROS))


def test_without_a_text_encoder_a_text_is_needed(params):
    bare = params.replace(text_encoder=None, tokenizer=None)
    with pytest.raises(ValueError, match=r"no text encoder; load them with text_encoder=True, or give an encoded Text"):
        draw(bare)
    text, negative = px.encode_prompt(params, "a cute cat"), px.encode_prompt(params, "")
    z = px.sample_latents(bare, text, KEY, negative=negative, steps=STEPS)
    assert np.array_equal(z.asnumpy(), latents(params))
    with pytest.raises(ValueError, match="without a text encoder, give negative="):
        px.sample_latents(bare, text, KEY, steps=STEPS)


def test_negative_texts_must_be_as_many_as_the_texts(params):
    text = px.encode_prompt(params, "a cute cat")
    two = px.types.Text(*(ms.ops.cat((part, part)) for part in text))
    with pytest.raises(ValueError, match="negative must have one row, or 1 as text has, got 2"):
        px.sample_latents(params, text, KEY, negative=two)
    with pytest.raises(ValueError, match=r"Guidance\(scale=4.5\) needs a negative text; encode_prompt\(params, ''\)"):
        px.text_denoiser(params, text)


# --- gradients -------------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_tree_with_one_leaf_has_the_leafs_shape():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    value, gradients = px.value_and_grad(lambda p: (p["x"] * p["x"]).sum())({"x": ms.Tensor(x)})
    assert float(value) == 55
    assert np.array_equal(gradients["x"].asnumpy(), 2 * x)


def test_generate_refuses_to_be_differentiated_and_recording_ends(params):
    def f(p):
        return ms.Tensor(draw(params.replace(transformer=p), output="numpy")).mean()

    with pytest.raises(RuntimeError, match="generate can't be differentiated; differentiate encode_prompt"):
        px.value_and_grad(f)(params.transformer)
    assert not autodiff.recording()
    assert draw(params).size == (16, 16)


def test_a_gradient_of_the_users_own_that_failed_hinders_nothing(params):
    def fails(x):
        assert autodiff.recording()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ms.grad(fails)(ms.Tensor([1.0]))
    assert draw(params).size == (16, 16)
    assert not autodiff.executor.grad_flag()
    cell = ms.nn.Dense(2, 1)
    cell.set_grad()
    cell(ms.Tensor([[1.0, 2.0]]))
    assert draw(params).size == (16, 16)


@pytest.mark.slow
def test_the_gradient_of_a_picture_agrees_with_a_finite_difference(params):
    text, negative = px.encode_prompt(params, "a cute cat"), px.encode_prompt(params, "")

    def f(p):
        model = params.replace(transformer=p)
        z = px.sample_latents(model, text, KEY, negative=negative, steps=2)
        return (px.decode_latents(model, z * 0.03) ** 2).mean()  # few pixels near the kinks of the clamp

    value, gradients = px.value_and_grad(f)(params.transformer)
    flat = {name: g.asnumpy() for name, g in tree.items(gradients)}
    assert all(np.isfinite(g).all() for g in flat.values())
    # a key's bias moves all scores alike, which softmax cancels: its gradient is rounding
    assert all(np.any(g) for name, g in flat.items() if not name.endswith("to_k.bias"))
    assert float(value) == pytest.approx(float(f(params.transformer)), rel=1e-6)

    name, h = "transformer_blocks.1.attn2.to_out.0.weight", 5e-3
    weight = dict(tree.items(params.transformer))[name].asnumpy()
    direction = np.sign(flat[name]) * np.abs(weight).mean()

    def at(step):
        moved = dict(tree.items(params.transformer))
        moved[name] = ms.Tensor(weight + np.float32(step) * direction)
        return float(f(tree.nest(moved)))

    # rounding of the values gives about 1e-3 of the slope, and the curvature at ± h as much
    assert (at(h) - at(-h)) / (2 * h) == pytest.approx(float((flat[name] * direction).sum()), rel=1e-2)
