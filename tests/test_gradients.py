"""Gradients against torch autograd's (goldens of reference/make.py) and against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import compare
from reference.case import load

from pixart_fn import t5, transformer, tree, vae
from pixart_fn.backend import autodiff

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

SCENARIOS = [
    ("gradients_t5", "encode"),
    *(("gradients_transformer", "apply"), ("gradients_transformer", "three_steps")),
    *(("gradients_transformer_micro", "apply"), ("gradients_transformer_conv", "apply")),
    *(("gradients_vae", "decode"), ("gradients_vae", "encode")),
]


@pytest.mark.parametrize(("name", "scenario"), SCENARIOS)
def test_every_leaf_agrees_with_torch(name, scenario):
    errors = compare.gradient_errors(name, load(name), scenario)
    assert not compare.too_far(errors, compare.GRADIENT)


def test_eager_mindspore_grad_with_respect_to_an_input():
    case = load("gradients_transformer")
    values, config = case.values["apply"], transformer.read_config(case.config)
    params, w = compare.tensors(case.weights), ms.Tensor(values["w"])
    f = compare.output("gradients_transformer", config, "apply", values)
    text = ms.Tensor(values["text"])
    gradient = ms.grad(lambda x: (f({"params": params, "x": x, "text": text}) * w).sum())(ms.Tensor(values["x"]))
    assert compare.rel(gradient, values["grad/x"]) <= compare.GRADIENT


def picture_from_ids():
    """The mean of picture² from ids → T5 → transformer → VAE, as a function of one tree, and a point of it.

    The shapes are the goldens', cut to fit, so that the compiled blocks serve both.
    """
    cases = {name: load(f"gradients_{name}") for name in ("t5", "transformer", "vae")}
    configs = {name: compare.MODULES[name].read_config(case.config) for name, case in cases.items()}
    ids, mask = (ms.Tensor(cases["t5"].values["encode"][name]) for name in ("ids", "mask"))
    t = ms.Tensor(np.array([900, 10], np.float32))

    def f(p):
        text = t5.encode(p["t5"], configs["t5"], ids, mask)[:2, :7, :24]
        out = transformer.apply(p["transformer"], configs["transformer"], p["x"], t, text, mask[:2, :7])
        z = (p["x"] - 0.5 * out[:, :4])[:1].transpose(0, 1, 3, 2)
        picture = vae.decode(p["vae"], configs["vae"], z)
        return (picture * picture).mean()

    x = ms.Tensor(cases["transformer"].values["apply"]["x"])
    return f, {**{name: compare.tensors(case.weights) for name, case in cases.items()}, "x": x}


def test_a_composition_agrees_with_finite_differences():
    f, point = picture_from_ids()
    value, gradients = autodiff.value_and_grad(f)(point)
    assert compare.rel(value, f(point)) < 1e-6
    h, random = 3e-3, np.random.default_rng(1)
    for part in point:
        flat = {name: compare.array(x) for name, x in tree.items(point[part])}
        direction = {name: abs(x).mean() * random.standard_normal(x.shape).astype("f") for name, x in flat.items()}

        def at(step, part=part, flat=flat, direction=direction):
            moved = [ms.Tensor(flat[name] + np.float32(step) * direction[name]) for name in flat]
            return float(f({**point, part: tree.unflatten(point[part], moved)}))

        ours = sum(float((compare.array(g) * direction[name]).sum()) for name, g in tree.items(gradients[part]))
        # Float32 values 2h apart: rounding gives 1e-4 of the slope, and curvature about as much.
        assert (at(h) - at(-h)) / (2 * h) == pytest.approx(ours, rel=1e-2), part


@pytest.mark.parametrize("name", ["gradients_transformer", "gradients_transformer_micro"])
def test_a_block_that_keeps_what_it_computed_has_the_same_gradient(name):
    """Bit for bit, since it is the same arithmetic."""
    case = load(name)
    values, config = case.values["apply"], transformer.read_config(case.config)
    inputs = {
        key: ms.Tensor(values[key]) for key in ("x", "t", "text", "mask", "resolution", "aspect_ratio") if key in values
    }
    point = {"params": compare.tensors(case.weights), "x": inputs.pop("x"), "text": inputs.pop("text")}

    def f(point, recompute):
        out = transformer.apply(
            point["params"], config, x=point["x"], text=point["text"], recompute=recompute, **inputs
        )
        return (out * ms.Tensor(values["w"])).sum()

    once, twice = (autodiff.value_and_grad(f)(point, recompute) for recompute in (False, True))
    assert float(once[0]) == float(twice[0])
    for path, kept, again in tree.rows(once[1], twice[1]):
        np.testing.assert_array_equal(kept.asnumpy(), again.asnumpy(), err_msg=path)
