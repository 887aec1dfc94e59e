"""Twenty steps of training beside a plain loop of PyTorch's, from the same weights, with the same noise and times."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import train_tiny
from helpers.tolerances import relative_error
from helpers.trees import numbers

from pixart_fn import rng, transformer
from pixart_fn.train import noising

pytestmark = pytest.mark.reference

STEPS = 20
TOLERANCE = 1e-4
"""Twenty steps of Adam, which divides gradients by their size; losses are within 1e-6, weights within 2e-5."""
ROUNDING = "to_k.bias"
"""Softmax cancels a key's bias, so its gradient is rounding alone, which Adam makes as large as any other."""


def examples(train_torch):
    """What the steps see, with the times and the noise that their keys draw."""
    _, start, batches = train_tiny.begin()
    for step in range(STEPS):
        x0, (states, mask), *_ = batches(step)
        keys = rng.split(rng.fold_in(start.key, step), len(x0))
        t, _ = noising.draw(train_tiny.LOSS.times, keys, None)
        yield train_torch.Example(x0, states, mask, t, rng.normal(rng.fold_in(keys, noising.NOISE), x0.shape))


def far(ours, theirs):
    """Relative errors of the leaves, without those that are rounding."""
    return {
        name: relative_error(leaf, theirs[name].detach().numpy())
        for name, leaf in numbers(ours).items()
        if ROUNDING not in name
    }


def test_pytorch_follows_for_twenty_steps():
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from helpers import train_torch

    one, now, batches = train_tiny.begin()
    start = {name: leaf.copy() for name, leaf in numbers(now.params).items()}
    config = transformer.to_json(train_tiny.CONFIG)
    theirs = train_torch.train(start, config, list(examples(train_torch)), lr=2e-3, decay=0.03, clip=0.5)
    worst = dict.fromkeys(("loss", "norm", "weights", "average"), 0.0)
    norms = []
    for step, (loss, norm, weights, average) in enumerate(theirs):
        now, metrics = one(now, batches(step), donate=True)
        norms.append(metrics["norm"])
        found = {
            "loss": abs(metrics["loss"] / loss - 1),
            "norm": abs(metrics["norm"] / norm - 1),
            "weights": max(far(now.params, weights).values()),
            "average": max(far(now.average, average).values()),
        }
        worst = {name: max(error, found[name]) for name, error in worst.items()}
    print(worst)
    assert max(worst.values()) < TOLERANCE, worst
    assert max(norms) > 0.5  # some of the gradients were clipped
    moved = {name: relative_error(leaf, start[name]) for name, leaf in numbers(now.params).items()}
    assert np.median(list(moved.values())) > 0.01  # by much more than the tolerance
