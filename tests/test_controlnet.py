"""A ControlNet against the authors' formula over diffusers' blocks, its gradients; a new one changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import compare, tiny
from reference.case import Case, load

from pixart_fn import rng, transformer, tree
from pixart_fn.backend import autodiff
from pixart_fn.models import controlnet

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

CONFIG = controlnet.Config(2, 2, 6)
INPUTS = ("x", "t", "text", "mask", "control", "resolution", "aspect_ratio")


def split(case: Case):
    """The ControlNet, the transformer and its configuration, and the inputs."""
    config, values = transformer.read_config(case.config), case.values["apply"]
    base = {name: case.weights[f"base.{name}"] for name in transformer.shapes(config)}
    own = {name: case.weights[name] for name in controlnet.shapes(CONFIG)}
    inputs = {name: ms.Tensor(values[name]) for name in INPUTS if name in values}
    return compare.tensors(own), compare.tensors(base), config, inputs


def errors(case: Case) -> dict[str, float]:
    """Distances of the output and of the gradients of Σ output·w."""
    p, base, config, inputs = split(case)
    values = case.values["apply"]
    out = controlnet.apply(p, CONFIG, base, config, **inputs)
    return {"out": compare.rel(out, values["out"])}


def gradient_errors(case: Case) -> dict[str, float]:
    p, base, config, inputs = split(case)
    values, control = case.values["apply"], inputs.pop("control")
    w = ms.Tensor(values["w"])
    given = {"params": p, "control": control}

    def f(given):
        return (controlnet.apply(given["params"], CONFIG, base, config, control=given["control"], **inputs) * w).sum()

    value, gradients = autodiff.value_and_grad(f)(given)
    theirs = {key.removeprefix("grad/"): each for key, each in values.items() if key.startswith("grad/")}
    return {"value": compare.rel(value, values["value"]), **compare.leaf_errors(dict(tree.items(gradients)), theirs)}


def test_agrees_with_the_authors_formula():
    assert not compare.too_far(errors(load("controlnet")), compare.MODULE)


@pytest.mark.slow
def test_every_leaf_s_gradient_agrees_with_torch():
    assert not compare.too_far(gradient_errors(load("controlnet")), compare.GRADIENT)


def test_a_new_one_changes_nothing_bit_for_bit_and_a_trained_one_does():
    p, base, config, inputs = split(load("controlnet"))
    plain = {name: value for name, value in inputs.items() if name != "control"}
    without = transformer.apply(base, config, **plain).asnumpy()
    new = controlnet.init(base, config, CONFIG)
    np.testing.assert_array_equal(controlnet.apply(new, CONFIG, base, config, **inputs).asnumpy(), without)
    assert compare.rel(controlnet.apply(p, CONFIG, base, config, **inputs), without) > 0.1


def test_initial_blocks_are_copies_and_projections_zero():
    p, base, config, _ = split(load("controlnet"))
    flat, own = dict(tree.items(base)), dict(tree.items(controlnet.init(base, config, CONFIG)))
    assert {name: leaf.shape for name, leaf in own.items()} == controlnet.shapes(CONFIG)
    assert list(own) == list(dict(tree.items(p)))
    for name, leaf in own.items():
        _, i, part, *rest = name.split(".")
        if part == "transformer_block":
            original = flat[f"transformer_blocks.{i}.{'.'.join(rest)}"]
            np.testing.assert_array_equal(leaf.asnumpy(), original.asnumpy())
            assert leaf is not original
        else:
            assert not leaf.asnumpy().any() and ("before_proj" not in name or i == "0")


def test_a_quantized_transformer_is_steered_too():
    p, base, config, inputs = split(load("controlnet"))
    exact = controlnet.apply(p, CONFIG, base, config, **inputs)
    small = controlnet.apply(p, CONFIG, transformer.quantize(base), config, **inputs)
    assert 1e-6 < compare.rel(small, exact) < 0.1


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"control": np.zeros((2, 4, 8, 8), np.float32)}, ValueError, r"must have the shape \(2, 4, 8, 6\) of x"),
        ({"control": None}, TypeError, "control must be a Tensor or an array, got None"),
        ({"config": controlnet.Config(4, 2, 6)}, ValueError, "needs a transformer of at least 5, since it acts from"),
        ({"config": controlnet.Config(2, 3, 4)}, ValueError, "3 heads of 4, and the transformer's have 2 of 6"),
        ({"config": tiny.TRANSFORMER}, TypeError, "config must be a controlnet.Config"),
        ({"base_config": CONFIG}, TypeError, "config must be a transformer.Config"),
        ({"p": {}}, ValueError, "controlnet_blocks.0.after_proj.bias"),
        ({"t": np.array([np.nan, 1.0])}, ValueError, "t must be finite"),
        ({"mask": np.ones((1, 7))}, ValueError, r"mask must have the shape \(2, L\), a row for each of x"),
        ({"aspect_ratio": np.ones((2, 1))}, ValueError, "takes no resolution or aspect_ratio"),
        ({"recompute": 1}, TypeError, "recompute must be True or False"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, error, sentence):
    p, base, config, inputs = split(load("controlnet"))
    given = {"p": p, "config": CONFIG, "base": base, "base_config": config, **inputs, **change}
    with pytest.raises(error, match=sentence):
        controlnet.apply(**given)


def test_blocks_that_compress_their_keys_are_not_copied():
    config = replace(tiny.TRANSFORMER, num_layers=3, kv_compression=transformer.Compression("uniform", 2, (1, 2)))
    base = transformer.init(rng.key(0), config)
    controlnet.init(base, config, controlnet.Config(1, 2, 16))
    with pytest.raises(ValueError, match="the first 2 blocks, which mustn't compress their keys as block 1 does"):
        controlnet.init(base, config, controlnet.Config(2, 2, 16))


@pytest.mark.reference
@pytest.mark.parametrize("micro", [False, True])
def test_agrees_live(micro):
    pytest.importorskip("diffusers")
    from reference.make_controlnet import make_controlnet

    case = make_controlnet(77, use_additional_conditions=micro)
    assert not compare.too_far(errors(case), compare.MODULE)
    assert not compare.too_far(gradient_errors(case), compare.GRADIENT)
