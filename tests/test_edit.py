"""px.edit with a tiny pipeline: each function against its formula over the public ones, and alone as in a batch."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny
from helpers.strategies import latents
from helpers.tolerances import assert_close
from PIL import Image

import pixart_fn as px
from pixart_fn import edit, pipeline, rng, solvers

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

PARAMS = tiny.params()
RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (16, 16, 3), np.uint8)
OTHER = RANDOM.integers(0, 256, (16, 16, 3), np.uint8)
MASK = np.zeros((16, 16), np.uint8)
MASK[:, :8] = 255
KEY, PROMPT = px.key(3), "a cute cat"
SHORT = {"steps": 4, "progress": False}
LATENTS = {**SHORT, "output": "latents"}
ALONE = {**LATENTS, "guidance": 1.0}  # one row for each picture, and so graphs of sizes that other tests have compiled
CLOSE = 1e-5  # a batch sums in another order, and steps from pure noise multiply that by σ/α


def encoded(photo=PHOTO):
    return px.encode_image(PARAMS, photo).asnumpy()


def array(drawn):
    return drawn.asnumpy()


def ddim_of_diffusers(strength, mask=None):
    """The loop of diffusers' image-to-image and inpainting pipelines, in NumPy: DDIM, and blending after each step."""
    sampler = solvers.from_config(PARAMS.config.scheduler)
    grid = sampler.make_grid(SHORT["steps"])
    text, negative = (px.encode_prompt(PARAMS, prompt) for prompt in (PROMPT, ""))
    denoise = px.text_denoiser(PARAMS, text, negative)
    z, noise = encoded(), rng.normal(KEY, (1, 4, 8, 8))
    first = SHORT["steps"] - int(SHORT["steps"] * strength)

    def blended(x, i):
        return x if mask is None else mask * x + (1 - mask) * (grid.alpha[i] * z + grid.sigma[i] * noise)

    x = noise if strength == 1 else grid.alpha[first] * z + grid.sigma[first] * noise
    x = blended(x, first)
    for i in range(first, SHORT["steps"]):
        x0 = denoise(x.astype(np.float32), float(grid.t[i]))
        epsilon = (x - grid.alpha[i] * x0) / grid.sigma[i]
        x = blended(grid.alpha[i + 1] * x0 + grid.sigma[i + 1] * epsilon, i + 1)
    return x


# --- image to image ---------------------------------------------------------------------------------------------------


def test_strength_0_is_the_round_trip_of_the_vae():
    drawn = edit.image_to_image(PARAMS, PHOTO, PROMPT, KEY, strength=0, output="numpy", **SHORT)
    assert np.array_equal(drawn, array(px.decode_latents(PARAMS, px.encode_image(PARAMS, PHOTO))))


def test_strength_1_is_generate_with_the_key():
    drawn = edit.image_to_image(PARAMS, PHOTO, PROMPT, KEY, strength=1, **LATENTS)
    assert np.array_equal(array(drawn), array(px.generate(PARAMS, PROMPT, KEY, **LATENTS)))


@pytest.mark.parametrize("strength", [0.25, 0.5])
def test_image_to_image_is_the_loop_of_diffusers(strength):
    drawn = edit.image_to_image(PARAMS, PHOTO, PROMPT, KEY, strength=strength, solver="ddim", **LATENTS)
    assert_close(array(drawn), ddim_of_diffusers(strength), CLOSE)


def test_pictures_and_prompts_are_paired_and_each_is_the_same_alone():
    keys = rng.split(KEY, 4)
    prompts = [PROMPT, "the big dog"]
    together = edit.image_to_image(PARAMS, [PHOTO, OTHER], prompts, KEY, images_per_prompt=2, **ALONE)
    for i, one in enumerate(array(together)):
        alone = edit.image_to_image(PARAMS, (PHOTO, OTHER)[i // 2], prompts[i // 2], keys[i], **ALONE)
        assert_close(one, array(alone)[0], CLOSE)
    shared = edit.image_to_image(PARAMS, [PHOTO, OTHER], PROMPT, keys[[0, 2]], **ALONE)
    assert_close(array(shared)[0], array(together)[0], CLOSE)


def test_one_picture_and_one_prompt_give_a_picture_and_all_else_lists():
    options = {**SHORT, "strength": 0.25, "guidance": 1.0}
    photo = Image.fromarray(PHOTO)
    assert isinstance(edit.image_to_image(PARAMS, photo, PROMPT, KEY, **options), Image.Image)
    assert [each.size for each in edit.image_to_image(PARAMS, [photo], PROMPT, KEY, **options)] == [(16, 16)]
    assert len(edit.image_to_image(PARAMS, photo, [PROMPT], KEY, **options)) == 1
    assert len(edit.image_to_image(PARAMS, photo, PROMPT, KEY, images_per_prompt=2, **options)) == 2


def test_the_options_are_those_of_generate():
    own = inspect.signature(px.generate).parameters
    options = inspect.signature(edit.image_to_image).parameters
    shared = [name for name in own if name in options and name not in ("params", "prompt", "key")]
    assert len(shared) == 15 and all(options[name].default == own[name].default for name in shared)
    assert {*own} - {*options} == {"height", "width", "latents", "binning"}
    with pytest.raises(
        TypeError, match=r"image_to_image has no argument 'seed'; the argument is 'key', such as px.key"
    ):
        edit.image_to_image(PARAMS, PHOTO, PROMPT, seed=3)


# --- inpainting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.5, 1])
def test_inpainting_is_the_loop_of_diffusers(strength):
    drawn = edit.inpaint(PARAMS, PHOTO, MASK, PROMPT, KEY, strength=strength, solver="ddim", **LATENTS)
    mask = edit.latent_mask(PARAMS, MASK)
    assert mask[..., :4].all() and not mask[..., 4:].any()
    assert_close(array(drawn), ddim_of_diffusers(strength, mask), CLOSE)


@pytest.mark.filterwarnings("ignore:pndm may draw noise on this grid:UserWarning")
@pytest.mark.parametrize("solver", [None, "heun", "sde_dpmpp_2m", "pndm"])
def test_outside_the_mask_the_latents_are_the_source_s(solver):
    drawn = array(edit.inpaint(PARAMS, PHOTO, MASK, PROMPT, KEY, solver=solver, **LATENTS))
    assert np.array_equal(drawn[..., 4:], encoded()[..., 4:])
    assert np.abs(drawn[..., :4] - encoded()[..., :4]).max() > 0.1


def test_pasting_keeps_the_pixels_outside_and_not_pasting_keeps_those_of_the_vae():
    options = {**SHORT, "output": "numpy", "guidance": 1.0, "strength": 0}
    source = PHOTO.astype(np.float32) / np.float32(255)
    pasted, drawn = (
        edit.inpaint(PARAMS, PHOTO, MASK, PROMPT, KEY, paste=paste, **options)[0] for paste in (True, False)
    )
    assert np.array_equal(pasted[:, 8:], source[:, 8:]) and np.array_equal(pasted[:, :8], drawn[:, :8])
    assert np.array_equal(drawn, array(px.decode_latents(PARAMS, px.encode_image(PARAMS, PHOTO)))[0])


def test_each_inpainted_picture_is_the_same_alone():
    masks, keys = np.stack([MASK, MASK.T]), rng.split(KEY, 2)
    together = array(edit.inpaint(PARAMS, [PHOTO, OTHER], masks, PROMPT, KEY, **LATENTS))
    for i in range(2):
        alone = edit.inpaint(PARAMS, (PHOTO, OTHER)[i], masks[i], PROMPT, keys[i], **LATENTS)
        assert_close(together[i], array(alone)[0], CLOSE)


def test_what_is_drawn_in_parts_for_its_memory_is_the_same(monkeypatch):
    masks = np.stack([MASK, MASK.T])
    together = array(edit.inpaint(PARAMS, [PHOTO, OTHER], masks, PROMPT, KEY, **LATENTS))
    monkeypatch.setattr(pipeline, "at_once", lambda *_: 1)
    assert_close(array(edit.inpaint(PARAMS, [PHOTO, OTHER], masks, PROMPT, KEY, **LATENTS)), together, CLOSE)
    frames = array(edit.interpolate(PARAMS, [PROMPT, "the big dog"], px.split(KEY), 2, **LATENTS))
    assert_close(frames[1:], array(px.generate(PARAMS, "the big dog", px.split(KEY)[1], **LATENTS)), CLOSE)


def test_a_mask_may_be_a_picture_bytes_floats_or_truth_values():
    expected = edit.latent_mask(PARAMS, MASK)
    for mask in (Image.fromarray(MASK), MASK / 255, MASK > 0, [Image.fromarray(MASK)], np.float32(MASK[None] > 0) / 2):
        assert np.array_equal(edit.latent_mask(PARAMS, mask), expected)


def test_a_mask_is_scaled_down_as_it_is_told():
    thin = np.zeros((16, 16), bool)
    thin[3, :6] = True
    with pytest.raises(ValueError, match=r"mask must be white .* downscale='any' keeps what is smaller than a latent"):
        edit.latent_mask(PARAMS, thin)
    found = edit.latent_mask(PARAMS, thin, "any")
    assert found.shape == (1, 1, 8, 8) and found[0, 0, 1, :3].all() and found.sum() == 3
    thin[2] = thin[3]
    assert np.array_equal(edit.latent_mask(PARAMS, thin), found)


# --- larger pictures --------------------------------------------------------------------------------------------------


def test_a_panorama_of_one_window_is_generate():
    drawn = edit.panorama(PARAMS, PROMPT, KEY, 16, 16, **LATENTS)
    assert np.array_equal(array(drawn), array(px.generate(PARAMS, PROMPT, KEY, **LATENTS)))


def test_a_panorama_is_sampled_with_windows():
    drawn = array(edit.panorama(PARAMS, PROMPT, px.split(KEY), 16, 24, images_per_prompt=2, stride=4, **LATENTS))
    text, negative = (px.encode_prompt(PARAMS, prompt) for prompt in (PROMPT, ""))
    sampler = solvers.from_config(PARAMS.config.scheduler)
    denoise = edit.windows(px.text_denoiser(PARAMS, text, negative), 8, 2)
    for i, key in enumerate(px.split(KEY)):
        noise = rng.normal(key, (1, 4, 8, 12))
        alone = px.sample(key, denoise, sampler.solver, sampler.make_grid(SHORT["steps"]), noise)
        assert_close(drawn[i], alone[0], CLOSE)


def test_outpainting_is_inpainting_on_a_larger_canvas():
    options = {**SHORT, "output": "numpy", "guidance": 1.0}
    drawn = edit.outpaint(PARAMS, PHOTO, PROMPT, KEY, left=8, stride=8, **options)
    source = PHOTO.astype(np.float32) / np.float32(255)
    canvas = np.concatenate([np.repeat(source[:, :1], 8, 1), source], 1)
    mask = np.arange(24) < np.full((16, 1), 8)
    assert np.array_equal(drawn, edit.inpaint(PARAMS, canvas, mask, PROMPT, KEY, window=16, stride=8, **options))
    assert np.array_equal(drawn[0, :, 8:], source) and drawn[0, :, :8].std() > 0


# --- noise and prompts ------------------------------------------------------------------------------------------------


def test_slerp_goes_along_the_circle():
    a, b = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 4), np.float32)
    a[:, 0, 0], b[:, 1, 2] = 2, 2
    for w in (0.25, [0.1, 0.9]):
        angle = np.broadcast_to(np.pi / 2 * np.array(w), 2)
        made = edit.slerp(a, b, w)
        assert_close(made[:, 0, 0], 2 * np.cos(angle))
        assert_close(made[:, 1, 2], 2 * np.sin(angle))
    a, b = latents(0, (2, 3, 4), np.float32), latents(1, (2, 3, 4), np.float32)
    assert np.array_equal(edit.slerp(a, b, 0), a) and np.array_equal(edit.slerp(a, b, 1.0), b)
    assert np.array_equal(edit.slerp(a, b, 0.3)[1:], edit.slerp(a[1:], b[1:], 0.3))
    assert np.array_equal(array(edit.slerp(Tensor(a), Tensor(b), 0.3)), edit.slerp(a, b, 0.3))


def test_slerp_of_one_line_is_straight():
    a = latents(0, (1, 3, 4), np.float32)
    for b in (2 * a, -a, 0 * a):
        assert_close(edit.slerp(a, b, 0.25), 0.75 * a + 0.25 * b)


def test_variations_lie_between_the_key_s_picture_and_others():
    drawn = array(edit.variations(PARAMS, PROMPT, KEY, 2, 0, solver="sde_dpmpp_2m", **LATENTS))
    own = array(px.generate(PARAMS, PROMPT, KEY, solver="sde_dpmpp_2m", **LATENTS))
    assert_close(drawn, np.concatenate([own, own]), CLOSE)
    others = array(px.generate(PARAMS, PROMPT, KEY, images_per_prompt=2, **LATENTS))
    assert_close(array(edit.variations(PARAMS, PROMPT, KEY, 2, 1, **LATENTS)), others, CLOSE)
    between = array(edit.variations(PARAMS, PROMPT, KEY, 2, 0.3, **LATENTS))
    alone = array(edit.variations(PARAMS, PROMPT, KEY, 1, 0.3, **LATENTS))
    assert_close(alone[0], between[0], CLOSE)
    assert np.abs(between[0] - between[1]).max() > 0.01


def test_interpolation_begins_and_ends_with_generate():
    prompts, keys = [PROMPT, "the big dog runs over a green field"], px.split(KEY)
    frames = array(edit.interpolate(PARAMS, prompts, keys, 4, **ALONE))
    ends = [array(px.generate(PARAMS, prompt, key, **ALONE))[0] for prompt, key in zip(prompts, keys, strict=True)]
    assert_close(frames[0], ends[0], CLOSE)
    assert_close(frames[3], ends[1], CLOSE)
    assert min(np.abs(frames[1] - end).max() for end in ends) > 0.01
    of_keys = array(edit.interpolate(PARAMS, PROMPT, keys, 4, **ALONE))
    noise = edit.slerp(*(rng.normal(key, (1, 4, 8, 8)) for key in keys), 1 / 3)
    assert_close(of_keys[1], array(px.generate(PARAMS, PROMPT, KEY, latents=noise, **ALONE))[0], CLOSE)


def test_between_two_prompts_the_shorter_goes_on_with_its_last_token():
    states = latents(0, (2, 5, 3), np.float32)
    mask = np.int32([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    mixed, real = edit.noises._between(states, mask, 0.25)
    longer = states[0, [0, 1, 1, 1, 1]]
    assert real.tolist() == [1, 1, 1, 1, 0]
    assert_close(mixed[:4], 0.75 * longer[:4] + 0.25 * states[1, :4])
    for end in (0, 1):
        assert np.array_equal(edit.noises._between(states, mask, float(end))[1], mask[end])


# --- inversion --------------------------------------------------------------------------------------------------------


def test_the_inversion_of_a_model_that_sees_no_noise_only_scales():
    """Where ε is 0, x/α stays the same (DDIM, arXiv:2010.02502, eq. 13)."""
    blind = px.transformer.init(rng.key(2), tiny.TRANSFORMER)  # its last layer is 0
    scheduler = {**PARAMS.config.scheduler, "prediction_type": "epsilon"}
    blind = PARAMS.replace(transformer=blind, config=replace(PARAMS.config, scheduler=scheduler))
    text, z = px.encode_prompt(PARAMS, PROMPT), latents(0, (2, 4, 8, 8), np.float32)
    grid = solvers.from_config(scheduler).make_grid(4)
    noise = array(edit.invert(blind, z, text, steps=4, progress=False))
    assert_close(noise, grid.alpha[0] / grid.schedule.alpha(0.0) * z, CLOSE)
    two = px.Text(*(np.repeat(part.asnumpy(), 2, 0) for part in text))
    again = px.sample_latents(blind, two, KEY, latents=noise, guidance=1, steps=4, solver="ddim", progress=False)
    assert_close(array(again), z / grid.schedule.alpha(0.0), CLOSE)
    with pytest.raises(ValueError, match=r"from noisy to clean|adds noise"):
        edit.invert(PARAMS, z, two, steps=4, solver="sde_dpmpp_2m", progress=False)


def test_momentum_would_go_from_window_to_window_and_against_the_time():
    """One denoiser sees all windows in turn, and an inversion's times rise; neither is what momentum is defined on."""
    how = px.Guidance(3.0, method=px.guidance.Projected(momentum=-0.5))
    for several in (
        lambda: edit.panorama(PARAMS, PROMPT, KEY, 16, 24, guidance=how, **LATENTS),
        lambda: edit.inpaint(PARAMS, PHOTO, MASK, PROMPT, KEY, window=8, guidance=how, **LATENTS),
        lambda: edit.outpaint(PARAMS, PHOTO, PROMPT, KEY, left=8, guidance=how, **LATENTS),
    ):
        with pytest.raises(ValueError, match=r"guidance has .* whose momentum .* window to window; leave"):
            several()
    text = px.encode_prompt(PARAMS, PROMPT)
    with pytest.raises(ValueError, match=r"whose momentum .* from noisy to clean; leave"):
        edit.invert(PARAMS, encoded(), text, guidance=how, steps=2, progress=False)
    assert edit.panorama(PARAMS, PROMPT, KEY, 16, 16, guidance=how, **LATENTS).shape == (1, 4, 8, 8)  # one window


def test_a_grid_goes_from_noisy_to_clean():
    """`invert` turns it round itself."""
    back = px.schedule.reverse(solvers.from_config(PARAMS.config.scheduler).make_grid(4))
    text, given = px.encode_prompt(PARAMS, PROMPT), {"grid": back, "progress": False}
    for wrong in (
        lambda: edit.image_to_image(PARAMS, PHOTO, PROMPT, KEY, **given),
        lambda: edit.interpolate(PARAMS, [PROMPT, "a dog"], KEY, 2, **given),
        lambda: edit.invert(PARAMS, encoded(), text, **given),
    ):
        with pytest.raises(ValueError, match="grid must go from noisy to clean, got one from t = 0 to 999"):
            wrong()
