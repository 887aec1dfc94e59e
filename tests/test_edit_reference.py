"""Image-to-image and inpainting against a loop over diffusers' own models and schedulers."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny
from helpers.tolerances import assert_close

import pixart_fn as px
from pixart_fn import edit, rng

pytestmark = pytest.mark.reference
SCHEDULER = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000}
CLASSES = {
    "DPMSolverMultistepScheduler": {"algorithm_type": "dpmsolver++", "solver_order": 2},
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1},
}
STEPS, GUIDANCE, PROMPT, KEY = 8, 4.5, "a cute cat", px.key(3)
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
MASK = np.zeros((16, 16), bool)
MASK[4:, :8] = True


@pytest.fixture(scope="module", params=sorted(CLASSES))
def saved(request, tmp_path_factory):
    """A pipeline of random weights with a scheduler, here and in diffusers."""
    diffusers = pytest.importorskip("diffusers")
    from dataclasses import replace

    scheduler = {"_class_name": request.param, **SCHEDULER, **CLASSES[request.param], "prediction_type": "epsilon"}
    params = tiny.params()
    params = params.replace(config=replace(params.config, scheduler=scheduler))
    folder = tmp_path_factory.mktemp("edit") / "pipeline"
    px.save(params, folder)
    models = diffusers.PixArtTransformer2DModel, diffusers.AutoencoderKL
    parts = [model.from_pretrained(folder / name) for model, name in zip(models, ("transformer", "vae"), strict=True)]
    return params, *parts, getattr(diffusers, request.param).from_config(scheduler)


def of_diffusers(saved, strength, mask=None):
    """What StableDiffusionInpaintPipeline does with the latents, but blended before the first step too."""
    import torch

    params, transformer, vae, scheduler = saved
    text, negative = (px.encode_prompt(params, prompt, pad_to=8) for prompt in (PROMPT, ""))
    states, real = (
        torch.from_numpy(np.concatenate([n.asnumpy(), t.asnumpy()])) for n, t in zip(negative, text, strict=True)
    )
    noise = torch.from_numpy(rng.normal(KEY, (1, 4, 8, 8)))
    photo = torch.from_numpy(PHOTO.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    more = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}, "return_dict": False}
    with torch.no_grad():
        z = vae.encode(photo).latent_dist.mean * vae.config.scaling_factor
        scheduler.set_timesteps(STEPS)
        times = scheduler.timesteps[STEPS - int(STEPS * strength) :]
        blends = [scheduler.add_noise(z, noise, t[None]) for t in times] + [z]  # which a begin index would change
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(STEPS - len(times))
        x = noise if strength == 1 else blends[0]
        for i, t in enumerate(times):
            x = x if mask is None else mask * x + (1 - mask) * blends[i]
            out = transformer(torch.cat([x, x]), states, t.expand(2), encoder_attention_mask=real, **more)[0]
            out = out[:, :4]  # the rest is a variance
            out = out[:1] + GUIDANCE * (out[1:] - out[:1])
            x = scheduler.step(out, t, x, return_dict=False)[0]
        return (x if mask is None else mask * x + (1 - mask) * z).numpy()


@pytest.mark.parametrize("strength", [0.5, 1])
def test_image_to_image_agrees_with_diffusers(saved, strength):
    options = {"steps": STEPS, "guidance": GUIDANCE, "output": "latents", "progress": False}
    drawn = edit.image_to_image(saved[0], PHOTO, PROMPT, KEY, strength=strength, **options).asnumpy()
    assert_close(drawn, of_diffusers(saved, strength), 1e-4)


@pytest.mark.parametrize("strength", [0.5, 1])
def test_inpainting_agrees_with_diffusers(saved, strength):
    import torch

    options = {"steps": STEPS, "guidance": GUIDANCE, "output": "latents", "progress": False}
    drawn = edit.inpaint(saved[0], PHOTO, MASK, PROMPT, KEY, strength=strength, **options).asnumpy()
    pixels = torch.from_numpy(MASK.astype(np.float32))[None, None]
    small = torch.nn.functional.interpolate(pixels, size=(8, 8))  # as diffusers scales a mask down
    assert np.array_equal(small.numpy(), edit.latent_mask(saved[0], MASK))
    expected = of_diffusers(saved, strength, small)
    assert_close(drawn, expected, 1e-4)
    outside = np.broadcast_to(small.numpy() == 0, drawn.shape)
    assert np.abs(drawn - expected)[outside].max() < 1e-6
