"""What isn't finite is an error that names the stage and the step, never a black picture."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import draw

import pixart_fn as px

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


@pytest.fixture(scope="module")
def params():
    return tiny.params()


def spoiled(params, model, name):
    """The params with NaN in one tensor."""

    def spoil(path, leaf):
        return ms.Tensor(np.full(leaf.shape, np.nan, np.float32)) if path == name else leaf

    return params.replace(**{model: px.tree.map_with_path(spoil, getattr(params, model))})


@pytest.mark.parametrize("output", ["pil", "numpy", "latents"])
@pytest.mark.parametrize(
    ("model", "name", "sentence"),
    [
        (
            "text_encoder",
            "encoder.final_layer_norm.weight",
            "the text states of encode_prompt must be finite, .* in row",
        ),
        (
            "transformer",
            "proj_out.bias",
            r"x0 in step 1 of 3 \(t = 999\) of sample_latents must be finite, but NaN",
        ),
        ("vae", "decoder.conv_out.bias", "the picture of decode_latents must be finite, but NaN or infinity is among"),
    ],
)
def test_nan_is_never_a_black_picture(params, output, model, name, sentence):
    if (model, output) == ("vae", "latents"):
        return  # which goes through no VAE
    with pytest.raises(ValueError, match=sentence):
        draw(spoiled(params, model, name), output=output)


def test_the_check_can_be_turned_off(params):
    pixels = draw(spoiled(params, "vae", "decoder.conv_out.bias"), output="numpy", check=False)
    assert np.isnan(pixels).all()
    z = draw(spoiled(params, "transformer", "proj_out.bias"), output="latents", check=False)
    assert np.isnan(z.asnumpy()).all()


def test_the_step_at_which_it_happens_is_named(params):
    ddim = px.solvers.ddim()

    def step(key, denoise, grid, i, state):
        return ddim.step(key, denoise if i < 2 else lambda x, t: denoise(x, t) * np.nan, grid, i, state)

    with pytest.raises(ValueError, match=r"step 3 of 3 \(t = 333\) of sample_latents must be finite"):
        draw(params, solver=px.Solver(ddim.init, step))
