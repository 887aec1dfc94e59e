"""The gradient with respect to an adapter against finite differences, and an adapter that learns."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from helpers import trees
from helpers.adapters import CONFIGS, KEY, each, expected, filled, model, weights
from helpers.tolerances import assert_close

import pixart_fn as px
from pixart_fn import tree
from pixart_fn.backend import jit
from pixart_fn.backend.autodiff import value_and_grad
from pixart_fn.models import lora

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

TARGETS = {
    "attn1.to_q": trees.normal(7, 4, 3),
    "attn2.to_v": trees.normal(8, 2, 4),
    "proj": trees.normal(9, 4, 2, 2, 2),
}


def distance(leaves, scale, lengths):
    """Σ (W' − target)⁴ with the lengths of DoRA's rows held constant, in float64."""
    total = 0.0
    for name, target in TARGETS.items():
        A, B, m = (leaves.get(f"{name}.lora_{what}.weight") for what in ("A", "B", "magnitude_vector"))
        out = expected(weights()[f"{name}.weight"], A, B, None, scale).reshape(len(B), -1)
        if m is not None:
            out = out * (m.reshape(-1) / lengths[name])[:, None]
        total += ((out.reshape(target.shape) - target) ** 4).sum()
    return total


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_gradient_is_that_of_finite_differences(kind):
    """For DoRA with the rows' lengths constant, as the paper has it."""
    config, scale = CONFIGS[kind]
    adapter, p = filled(config), model()

    def f(adapter):
        changed = lora.apply(p, adapter)
        parts = {
            "attn1.to_q": changed["attn1"]["to_q"],
            "attn2.to_v": changed["attn2"]["to_v"],
            "proj": changed["proj"],
        }
        return sum(((part["weight"] - ms.Tensor(TARGETS[name])) ** 4).sum() for name, part in parts.items())

    value, gradients = value_and_grad(f)(adapter)
    assert type(gradients) is lora.Adapter
    leaves = {name: leaf.astype(np.float64) for name, leaf in trees.numbers(adapter.weights).items()}
    lengths = {}
    for name in TARGETS:
        A, B, _ = each(adapter, name)
        w = expected(weights()[f"{name}.weight"], A, B, None, scale)
        lengths[name] = np.linalg.norm(w.reshape(len(w), -1), axis=1)
    assert_close(np.float32(value.asnumpy()), distance(leaves, scale, lengths), 1e-5)
    for name, gradient in trees.numbers(gradients.weights).items():
        numeric = np.empty(gradient.shape)
        for at in np.ndindex(*gradient.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = copy.deepcopy(leaves)
                moved[name][at] += step
                ends.append(distance(moved, scale, lengths))
            numeric[at] = (ends[0] - ends[1]) / 2e-5
        assert np.abs(numeric).max() > 0.01
        assert_close(gradient, numeric, 1e-4)


@pytest.mark.slow
def test_an_adapter_of_the_embedded_checkpoint_learns():
    """Its gradient goes through compiled blocks: it is the loss's slope, and steps along it lower the loss."""
    p = px.load(vae=None)
    text = px.encode_prompt(p, ["a cat", "a dog"])
    config, tree_ = p.config.transformer, p.transformer
    x = ms.Tensor(trees.normal(1, 2, config.in_channels, config.sample_size, config.sample_size))
    target = trees.normal(2, *x.shape)
    t = ms.Tensor(np.float32([300, 700]))

    def loss(adapter):
        out = px.transformer.apply(lora.apply(tree_, adapter), config, x, t, text.states, text.mask)
        return ((out[:, : config.in_channels] - ms.Tensor(target)) ** 2).mean()

    adapter = lora.init(KEY, tree_, lora.Config(rank=4, alpha=4))
    adapter = tree.map_with_path(lambda n, a: a + 0.01 * ms.Tensor(trees.normal(len(n), *a.shape)), adapter)
    learn = value_and_grad(loss)
    first, gradients = learn(adapter)
    slope = sum(float((g * g).sum().asnumpy()) for g in tree.leaves(gradients))
    assert all(g.asnumpy().any() for g in tree.leaves(gradients))
    step = 0.02 / slope**0.5
    ends = [loss(tree.map(lambda a, g, s=s: a + s * step * g, adapter, gradients)) for s in (1, -1)]
    assert_close((ends[0] - ends[1]).asnumpy() / (2 * step), slope, 2e-3)  # float32's differences of a loss near 1
    graphs = jit.compilations()
    for _ in range(5):
        _, gradients = learn(adapter)
        adapter = tree.map(lambda a, g: a - 0.3 * g / slope**0.5, adapter, gradients)
    assert float(loss(adapter).asnumpy()) < 0.97 * float(first.asnumpy())
    assert jit.compilations() == graphs
