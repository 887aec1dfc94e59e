"""AutoencoderTiny against diffusers: outputs, gradients, strips and tiles, and what its configuration may say."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import compare
from helpers.initial import assert_different, assert_normal
from helpers.tolerances import assert_close
from reference.case import load

import pixart_fn as px
from pixart_fn import rng, tree, vae
from pixart_fn.backend import autodiff
from pixart_fn.models import vae_layers, vae_tiny

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

TINY = vae.TinyConfig((6, 6), (8, 8), (1, 2), (2, 1))
TAESD = {
    **{"_class_name": "AutoencoderTiny", "_diffusers_version": "0.20.0.dev0", "act_fn": "relu", "force_upcast": False},
    **{"decoder_block_out_channels": [64] * 4, "encoder_block_out_channels": [64] * 4, "in_channels": 3},
    **{"latent_channels": 4, "latent_magnitude": 3, "latent_shift": 0.5, "num_decoder_blocks": [3, 3, 3, 1]},
    **{"num_encoder_blocks": [1, 3, 3, 3], "out_channels": 3, "scaling_factor": 1.0, "upsampling_scaling_factor": 2},
}


def golden():
    """diffusers' weights, in the order of `shapes`: in another, the same graphs would be compiled once more."""
    weights = load("vae_tiny").weights
    return compare.tensors({name: weights[name] for name in vae.shapes(TINY)})


def output(p, scenario, x):
    return vae.encode(p, TINY, x).mean if scenario == "encode" else vae.decode(p, TINY, x)


@pytest.mark.parametrize("strip", [10**6, pytest.param(200, marks=pytest.mark.slow)])
def test_agrees_with_diffusers_in_one_piece_and_in_strips(strip, monkeypatch, eagerly):
    monkeypatch.setattr(vae_layers, "STRIP", strip)
    case = load("vae_tiny")
    p = golden()
    assert vae.read_config(case.config) == TINY
    for scenario, name in (("encode", "x"), ("decode", "z")):
        values = case.values[scenario]
        assert_close(output(p, scenario, ms.Tensor(values[name])).asnumpy(), values["out"], compare.MODULE)


@pytest.mark.slow
def test_every_leaf_s_gradient_agrees_with_torch():
    case = load("vae_tiny")
    for scenario, name in (("encode", "x"), ("decode", "z")):
        values = case.values[scenario]
        w, given = ms.Tensor(values["w"]), {"params": compare.tensors(case.weights), name: ms.Tensor(values[name])}

        def f(p, scenario=scenario, name=name, w=w):
            return (output(p["params"], scenario, p[name]) * w).sum()

        value, gradients = autodiff.value_and_grad(f)(given)
        theirs = {key.removeprefix("grad/"): value for key, value in values.items() if key.startswith("grad/")}
        ours = {key: leaf for key, leaf in tree.items(gradients) if key in theirs or leaf.asnumpy().any()}
        assert compare.rel(value, values["value"]) < compare.GRADIENT
        assert not compare.too_far(compare.leaf_errors(ours, theirs), compare.GRADIENT)


def test_a_sample_is_the_mean():
    moments = vae.encode(golden(), TINY, ms.Tensor(np.tanh(rng.normal(rng.key(1), (2, 3, 8, 12)))))
    assert (moments.logvar.asnumpy() == -np.inf).all()
    assert moments.mean.asnumpy().any()
    np.testing.assert_array_equal(vae.sample(px.key(2), moments).asnumpy(), moments.mean.asnumpy())


def test_tiles_are_those_of_the_other_vae_and_have_no_variance(monkeypatch):
    """Of pixel by pixel functions, whose tiles are the whole; blending a variance of zero would give NaN."""
    monkeypatch.setattr(vae_tiny, "encode", lambda p, config, x: ms.ops.cat([x, x[:, :1]], 1)[:, :, ::2, ::2])
    p, x = vae.init(px.key(0), TINY), ms.Tensor(np.tanh(rng.normal(rng.key(4), (1, 3, 16, 14))))
    moments, whole = vae.encode_tiled(p, TINY, x, 8), vae.encode(p, TINY, x)
    assert_close(moments.mean.asnumpy(), whole.mean.asnumpy())
    assert (moments.logvar.asnumpy() == -np.inf).all() and moments.logvar.shape == moments.mean.shape
    monkeypatch.setattr(vae_tiny, "decode", lambda p, config, z: ms.Tensor(doubled(z[:, :3].asnumpy())))
    z = ms.Tensor(rng.normal(rng.key(3), (1, 4, 9, 6)))
    assert_close(vae.decode_tiled(p, TINY, z, 8).asnumpy(), doubled(z.asnumpy()[:, :3]))


def doubled(x):
    return np.ascontiguousarray(x.repeat(2, 2).repeat(2, 3))


def test_initial_weights_are_what_the_docstring_says():
    leaves = {name: leaf.asnumpy() for name, leaf in tree.items(vae.init(rng.key(0), vae.TinyConfig()))}
    assert {name: leaf.shape for name, leaf in leaves.items()} == vae.shapes(vae.TinyConfig())
    for name, leaf in leaves.items():
        if leaf.ndim == 1 or ".conv.4." in name:
            assert not leaf.any(), name
        else:
            assert_normal(name, leaf, leaf[0].size ** -0.5)
    assert_different(leaves)


# --- the configuration ------------------------------------------------------------------------------------------------


def test_the_released_configuration():
    config = vae.read_config(TAESD)
    assert config == vae.TinyConfig()
    assert vae.factor(config) == 8 and config.block_out_channels == (64,) * 4
    assert sum(np.prod(shape) for shape in vae.shapes(config).values()) == 2_445_063  # 2.4 M, as its card says
    assert vae.read_config(vae.to_json(config)) == config
    assert {name: vae.to_json(config)[name] for name in TAESD if name[0] != "_"} == {
        name: value for name, value in TAESD.items() if name[0] != "_"
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"act_fn": "silu"}, r"act_fn = 'silu' isn't supported \(supported: 'relu'\)"),
        ({"upsample_fn": "bilinear"}, "upsample_fn = 'bilinear' isn't supported"),
        ({"upsampling_scaling_factor": 4}, "upsampling_scaling_factor = 4 isn't supported"),
        ({"shift_factor": 0.1}, "shift_factor = 0.1 isn't supported"),
        ({"num_encoder_blocks": [1, 3, 3]}, "must have the same number of entries, 1 … 12, got .*num_encoder_blocks"),
        ({"encoder_block_out_channels": [64, 64, 64, 32]}, "must be the same number at every level"),
        ({"num_decoder_blocks": [3, 3, 3, -1]}, "num_decoder_blocks must be a list, each entry a whole number within"),
        ({"block_groups": 3}, "unknown field 'block_groups'"),
    ],
)
def test_other_options_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        vae.read_config({**TAESD, **change})


def test_weights_and_inputs_are_checked_as_ever():
    p = golden()
    with pytest.raises(ValueError, match="height and width must be multiples of 2"):
        vae.encode(p, TINY, ms.ops.zeros((1, 3, 7, 8)))
    with pytest.raises(ValueError, match=r"decoder.layers.0.bias"):
        vae.decode({"encoder": p["encoder"]}, TINY, ms.ops.zeros((1, 4, 4, 4)))
    assert vae.decode({"decoder": p["decoder"]}, TINY, ms.ops.zeros((2, 4, 4, 6))).shape == (2, 3, 8, 12)


# --- live -------------------------------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize("width", [8, 64])
def test_agrees_with_diffusers_live(width):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from reference.make_models import config_of, normal, weights_of
    from reference.make_vae_tiny import vae_tiny

    fields = {f"{half}_block_out_channels": (width,) * 4 for half in ("encoder", "decoder")}
    model = vae_tiny(7, **fields, num_encoder_blocks=(1, 3, 3, 3), num_decoder_blocks=(3, 3, 3, 1))
    config, weights = vae.read_config(config_of(model)), weights_of(model)
    assert {name: value.shape for name, value in weights.items()} == vae.shapes(config)
    p, x, z = compare.tensors(weights), normal(1, 1, 3, 64, 96).tanh(), normal(2, 1, 4, 8, 12)
    with torch.no_grad():
        latents, picture = model.encode(x).latents.numpy(), model.decode(z).sample.numpy()
    assert_close(vae.encode(p, config, ms.Tensor(x.numpy())).mean.asnumpy(), latents, compare.MODULE)
    assert_close(vae.decode(p, config, ms.Tensor(z.numpy())).asnumpy(), picture, compare.MODULE)
    again = type(model).from_config(dict(vae.to_json(config)))
    assert {name: value.shape for name, value in weights_of(again).items()} == vae.shapes(config)
