"""A pipeline whose VAE is an AutoencoderTiny, from its folder to its pictures and back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
from helpers import tiny

import pixart_fn as px
from pixart_fn import tree, vae

CONFIG = vae.TinyConfig((8, 8), (8, 8), (1, 1), (1, 1))


def pipeline():
    params = tiny.params()
    weights = tiny.without_zeros(vae.init(px.key(5), CONFIG))
    return params.replace(vae=weights, config=dataclasses.replace(params.config, vae=CONFIG))


def test_it_is_saved_as_what_it_is_and_loaded(tmp_path):
    params = pipeline()
    px.save(params, tmp_path / "p")
    assert json.loads((tmp_path / "p/model_index.json").read_text())["vae"] == ["diffusers", "AutoencoderTiny"]
    assert json.loads((tmp_path / "p/vae/config.json").read_text())["_class_name"] == "AutoencoderTiny"
    found = px.load(tmp_path / "p")
    assert found.config.vae == CONFIG
    for one, other in zip(tree.leaves(found.vae), tree.leaves(params.vae), strict=True):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())
    assert px.load(tmp_path / "p", vae=tmp_path / "p" / "vae").config.vae == CONFIG


def test_it_draws_and_encodes():
    params, how = pipeline(), {"steps": 2, "progress": False}
    z = px.generate(params, "a cat", px.key(0), output="latents", **how)
    picture = px.generate(params, "a cat", px.key(0), output="numpy", **how)
    decoded = vae.decode(params.vae, CONFIG, z / CONFIG.scaling_factor).asnumpy()
    np.testing.assert_allclose(picture, np.clip(decoded.transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1), rtol=0, atol=1e-6)
    latents = [px.encode_image(params, picture, key=key).asnumpy() for key in (None, px.key(1))]
    np.testing.assert_array_equal(*latents)
    assert px.memory(params).decode_latents > 0
