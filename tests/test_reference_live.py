"""The same comparisons with models that the reference libraries build now, from another seed than the goldens'."""

from __future__ import annotations

import pytest
from helpers import compare
from reference.case import load

pytestmark = pytest.mark.reference

FORWARD = ("t5", "t5_narrow", "transformer", "transformer_micro", "transformer_plain", "vae", "vae_deep")
GRADIENTS = (
    *("gradients_t5", "gradients_transformer", "gradients_transformer_micro", "gradients_transformer_conv"),
    "gradients_vae",
)
SEED = 77


@pytest.fixture
def make():
    for library in ("torch", "diffusers", "transformers"):
        pytest.importorskip(library)
    from reference import make

    return make


@pytest.mark.parametrize("name", FORWARD)
def test_forward(make, name):
    case = make.CASES[name](SEED)
    for scenario in case.values:
        tolerance = compare.SAMPLING if scenario == "sampling" else compare.MODULE
        assert not compare.too_far(compare.forward_errors(name, case, scenario), tolerance), scenario


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(make, name):
    case = make.CASES[name](SEED)
    for scenario in case.values:
        assert not compare.too_far(compare.gradient_errors(name, case, scenario), compare.GRADIENT), scenario


@pytest.mark.parametrize("sampling", ["ave", "uniform", "uniform_every"])
def test_compressed_keys(make, sampling):
    from reference.make_compressed import make as compressed

    errors = compare.gradient_errors("gradients_transformer", compressed(SEED, sampling), "apply")
    assert not compare.too_far(errors, compare.GRADIENT)


def test_perturbed_attention(make):
    """diffusers' processor perturbs the second half of its batch."""
    import torch
    from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0
    from reference.make_models import normal, transformer, weights_of

    model = transformer(SEED, interpolation_scale=1)
    x, t, text = normal(1, 2, 4, 8, 6), torch.tensor([700, 20]), normal(2, 2, 5, 48)
    model.transformer_blocks[1].attn1.processor = PAGIdentitySelfAttnProcessor2_0()
    twice = [torch.cat([part, part]) for part in (x, text, t)]
    with torch.no_grad():
        theirs = model(twice[0], twice[1], timestep=twice[2], added_cond_kwargs={}, return_dict=False)[0][2:]
    inputs = [compare.ms.Tensor(part.numpy()) for part in (x, t.float(), text)]
    mask = compare.ms.Tensor(torch.ones(2, 5).numpy())
    config = compare.transformer.read_config(dict(model.config))
    ours = compare.transformer.apply(compare.tensors(weights_of(model)), config, *inputs, mask, perturbed=(1,))
    assert compare.rel(ours, theirs.numpy()) < compare.MODULE


def test_tiles(make):
    import torch
    from reference.make_models import config_of, normal, vae, weights_of

    model = vae(SEED, sample_size=16)
    model.enable_tiling()
    z, x = normal(1, 1, 4, 13, 18), normal(2, 1, 3, 26, 36)
    with torch.no_grad():
        decoded, posterior = model.decode(z).sample, model.encode(x).latent_dist
    config, p = compare.vae.read_config(config_of(model)), compare.tensors(weights_of(model))
    ours = compare.vae.decode_tiled(p, config, compare.ms.Tensor(z.numpy()), 16)
    assert compare.rel(ours, decoded.numpy()) < compare.MODULE
    moments = compare.vae.encode_tiled(p, config, compare.ms.Tensor(x.numpy()), 16)
    assert compare.rel(moments.mean, posterior.mean.numpy()) < compare.MODULE
    assert compare.rel(moments.logvar, posterior.logvar.numpy()) < compare.MODULE


def without_versions(config):
    """A configuration without the note of which release of the library wrote it."""
    return {name: value for name, value in config.items() if not name.endswith("_version")}


@pytest.mark.parametrize("name", FORWARD + GRADIENTS)
def test_goldens_are_what_the_script_makes(make, name):
    stored, made = load(name), make.golden(name)
    assert without_versions(stored.config) == without_versions(made.config)
    assert set(stored.values) == set(made.values)
    assert {key: x.tobytes() for key, x in stored.weights.items()} == {
        key: x.tobytes() for key, x in made.weights.items()
    }
    for scenario, values in made.values.items():
        total = sum(abs(x).max() for key, x in values.items() if key.startswith("grad/"))
        for key, x in values.items():
            # "value" sums products that cancel: another CPU's order of summation moves it more than its terms
            relative = 3e-5 if key == "value" else 1e-5
            noise = 1e-6 * total if key.startswith("grad/") else relative * abs(x).max()
            assert abs(stored.values[scenario][key] - x).max() <= noise, (scenario, key)
