"""float16: as near to diffusers and transformers as its rounding lets it be, float32 where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import compare, tiny
from helpers.tolerances import RELATIVE
from reference.case import load
from test_parity import SCENARIOS

import pixart_fn as px
from pixart_fn import t5, tree

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

pytestmark = pytest.mark.slow

GRADIENT = {"gradients_t5": 3e-2, "gradients_transformer": 5e-3, "gradients_vae": 1e-2}
"""Of a leaf, from the reference's in float32: a sum with cancellation of terms that are rounded to float16."""


@pytest.fixture
def half(monkeypatch):
    monkeypatch.setattr(compare, "tensors", compare.halves)


@pytest.mark.parametrize(("name", "scenario"), SCENARIOS)
def test_module_agrees_with_the_reference(name, scenario, half, eagerly):
    errors = compare.forward_errors(name, load(name), scenario)
    assert not compare.too_far(errors, RELATIVE["float16"])
    assert min(errors.values()) > 1e-5  # or these were no halves


def test_guided_steps_follow_the_reference(half):
    errors = compare.forward_errors("transformer", load("transformer"), "sampling")
    assert not compare.too_far(errors, RELATIVE["float16"])


@pytest.mark.parametrize("name", GRADIENT)
def test_gradients_agree_with_torch(name, half, eagerly):
    case = load(name)
    for scenario in case.values:
        if scenario != "three_steps":
            assert not compare.too_far(compare.gradient_errors(name, case, scenario), GRADIENT[name]), scenario


@pytest.fixture
def saved(tmp_path):
    px.save(tiny.params(), tmp_path / "saved")
    return tmp_path / "saved"


def test_load_gives_halves_but_for_the_outputs_of_feed_forward(saved, eagerly):
    params = px.load(saved, dtype="float16")
    for tree_ in (params.text_encoder, params.transformer, params.vae):
        for name, leaf in tree.items(tree_):
            assert leaf.dtype == (ms.float32 if name.endswith(".wo.weight") else ms.float16), name
    assert px.encode_prompt(params, "a cute cat").states.dtype == ms.float32
    assert px.generate(params, "a cute cat", px.key(0), steps=2, output="latents").dtype == ms.float32


def test_a_picture_in_halves_is_the_picture(eagerly):
    pictures = [
        px.generate(px.load(dtype=dtype), "a cute cat", px.key(0), steps=5, output="numpy")
        for dtype in ("float32", "float16")
    ]
    noise = np.mean((pictures[1] - pictures[0]) ** 2)
    assert 0 < noise < 10 ** (-50 / 10)  # a PSNR of 50 dB, which nobody sees


@pytest.mark.parametrize(("part", "factor"), [(".wo.", 3e4), (".wi_", 300)])
def test_states_of_t5_may_be_larger_than_float16_holds(part, factor):
    """As T5-XXL's are, which turns pictures of a blanket float16 into noise; so may what its gate multiplies."""
    case = load("t5")
    weights = {name: value * factor if part in name else value for name, value in case.weights.items()}
    config = t5.read_config(case.config)
    inputs = {name: ms.Tensor(case.values["short"][name]) for name in ("ids", "mask")}
    with compare.recorded(t5) as blocks:
        half = t5.encode(compare.halves(weights), config, **inputs)
    full = t5.encode(compare.tensors(weights), config, **inputs)
    assert max(float(block.abs().max()) for block in blocks.values()) > np.finfo(np.float16).max
    assert compare.rel(half, full) < RELATIVE["float16"]


def test_a_vae_that_asks_for_it_stays_float32(saved):
    config = saved / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": True}))
    params = px.load(saved, dtype="float16")
    assert {leaf.dtype for leaf in tree.leaves(params.vae)} == {ms.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "half"}, r"dtype must be one of 'float32', 'float16', 'bfloat16', got 'half'"),
        ({"dtype": "bfloat16"}, r"no products in bfloat16 on a CPU; 'float32' is the fastest"),
        ({"dtype": "float16", "stream": True}, r"a streamed text encoder computes in float32"),
    ],
)
def test_what_is_not_there_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        px.load(**options)


def test_a_weight_beyond_float16_is_refused(tmp_path):
    params = tiny.params()
    flat = dict(tree.items(params.transformer))
    flat["proj_out.bias"] = flat["proj_out.bias"] + 1e5
    px.save(params.replace(transformer=tree.nest(flat)), tmp_path / "large")
    with pytest.raises(ValueError, match=r"proj_out.bias has values beyond float16's 65504"):
        px.load(tmp_path / "large", dtype="float16")


def test_halves_are_saved_and_loaded_again(saved, tmp_path):
    params = px.load(saved, dtype="float16")
    px.save(params, tmp_path / "again", dtype="float16")
    again = px.load(tmp_path / "again", dtype="float16")
    for name in ("text_encoder", "transformer", "vae"):
        for a, b in zip(tree.leaves(getattr(params, name)), tree.leaves(getattr(again, name)), strict=True):
            np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


# --- other devices' branches, on the CPU ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "dtype", "names", "used", "tolerance"),
    [
        ("Ascend", "float32", ("vae", "transformer", "t5"), ["convolution"], compare.MODULE),
        ("Ascend", "float16", ("transformer", "transformer_micro", "t5"), ["flash"], RELATIVE["float16"]),
        ("GPU", "float16", ("transformer_micro",), ["GELU", "layer norm"], RELATIVE["float16"]),
        pytest.param(
            *("GPU", "float32", ("vae", "transformer"), ["GELU", "convolution", "layer norm"], compare.MODULE),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("GPU", "float32", ("gradients_transformer", "gradients_vae"), [], compare.GRADIENT),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_branches_for_another_device_agree_with_the_reference(device, dtype, names, used, tolerance):
    """Ascend's flash attention takes no float32, and the convolution of the CPU no halves."""
    script = Path(__file__).with_name("on_device.py")
    env = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    command = [sys.executable, script, device, dtype, *names]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads(run.stdout.splitlines()[-1])
    twice = {f"{name} as Python" for name in names if not name.startswith("gradients_")}
    assert set(result["errors"]) == {*names, *twice}
    for name, errors in result["errors"].items():
        assert not compare.too_far(errors, tolerance), name
    assert (result["used"], result["device"]) == (used, device)
