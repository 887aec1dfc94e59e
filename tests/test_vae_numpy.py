"""A VAE in NumPy gives the latents and pictures that MindSpore gives, and is used where it may be."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import mindspore as ms
import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import counted, without_numpy
from mindspore import Tensor

import pixart_fn as px
from pixart_fn import vae
from pixart_fn.backend import numpy_conv, numpy_nn
from pixart_fn.models import vae_numpy

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture(scope="module")
def params():
    return px.load()


def normal(*shape):
    return Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def assert_same(p, config, z, monkeypatch):
    """Of latents z, and of pictures of their size."""
    side = vae.factor(config)
    x = normal(len(z), config.in_channels, z.shape[2] * side, z.shape[3] * side)

    def both():
        moments = vae.encode(p, config, x)
        return [y.asnumpy() for y in (moments.mean, moments.logvar, vae.decode(p, config, z))]

    found = both()
    without_numpy(monkeypatch)
    for ours, expected in zip(found, both(), strict=True):
        assert ours.shape == expected.shape and np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("strip", [2**12, numpy_conv.STRIP])
@pytest.mark.parametrize("shape", [(2, 16, 4, 4), (1, 16, 3, 5), (1, 16, 1, 1)])
def test_it_gives_what_mindspore_gives(params, monkeypatch, strip, shape):
    monkeypatch.setattr(numpy_conv, "STRIP", strip)  # strips of two rows, and of several
    monkeypatch.setattr(vae_numpy, "SCORES", 4 * strip)
    assert_same(params.vae, params.config.vae, normal(*shape), monkeypatch)


@pytest.mark.parametrize(
    "config",
    [
        tiny.VAE,
        vae.Config(block_out_channels=(8, 16), norm_num_groups=4, mid_block_add_attention=False, latent_channels=3),
        vae.Config(block_out_channels=(8,), norm_num_groups=2, use_quant_conv=False, use_post_quant_conv=False),
    ],
)
def test_other_configurations(config, monkeypatch):
    p = tiny.without_zeros(vae.init(px.key(0), config))
    assert_same(p, config, normal(1, config.latent_channels, 6, 4), monkeypatch)


def test_a_picture_does_not_depend_on_its_batch(params):
    p, config, z = params.vae, params.config.vae, normal(3, 16, 8, 8)
    whole = vae.decode(p, config, z).asnumpy()
    for i in range(3):
        np.testing.assert_array_equal(vae.decode(p, config, z[i : i + 1]).asnumpy(), whole[i : i + 1])


SCRIPT = """
import hashlib, os, sys
if sys.argv[1] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
import pixart_fn as px
from mindspore import Tensor
params = px.load(text_encoder=None)
z = Tensor(np.random.default_rng(0).standard_normal((1, 16, 16, 16)).astype(np.float32))
print(hashlib.sha256(px.decode_latents(params, z).asnumpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system doesn't let a process choose its CPUs")
def test_a_picture_does_not_depend_on_the_number_of_cpus():
    run = [subprocess.run([sys.executable, "-c", SCRIPT, n], capture_output=True, check=True) for n in ("all", "one")]
    assert run[0].stdout == run[1].stdout


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_it_is_for_float32_on_a_cpu_without_a_gradient(params, monkeypatch, half):
    p = params.vae
    assert vae_numpy.fits(p, half)
    assert not vae_numpy.fits(px.tree.map(lambda leaf: leaf.astype(ms.float16), p), half)
    seen = []
    px.grad(lambda z: (seen.append(vae_numpy.fits(p, half)), z.sum())[1])(normal(1))
    assert seen == [False]
    monkeypatch.setattr(numpy_nn, "precision", lambda: "bf16-math")
    assert not vae_numpy.fits(p, half)
    monkeypatch.undo()
    monkeypatch.setattr(numpy_nn.device, "is_cpu", lambda: False)
    assert not vae_numpy.fits(p, half)


def test_decode_latents_uses_it_and_says_what_is_not_finite(params, monkeypatch):
    calls, z = counted(monkeypatch, vae_numpy, "decode"), normal(2, 16, 8, 8)
    px.decode_latents(params, z)
    assert len(calls) == 2  # one picture at a time
    values = z.asnumpy().copy()
    values[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"), warnings.catch_warnings():
        warnings.simplefilter("error")
        px.decode_latents(params, Tensor(values))
    for far in (np.inf, -np.inf, 3e38):
        with pytest.raises(ValueError, match="must be finite"), warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            px.decode_latents(params, Tensor(np.full(z.shape, far, np.float32)))
    calls.clear()
    px.decode_latents(params, z, tile=32)
    assert len(calls) == 2 * 9
