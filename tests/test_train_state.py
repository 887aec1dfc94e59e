"""A state comes back from its file bit by bit, and what a resumed run doesn't need isn't kept."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
from helpers.trees import assert_same, normal, tensors

from pixart_fn import rng
from pixart_fn.train import loop, optim, state, step

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

START = {"weight": normal(0, 3, 4), "bias": normal(1, 4)}
OPTIMISER = optim.adamw(1e-2)


class Memory(NamedTuple):
    """What a sampler of times of one's own may remember."""

    means: np.ndarray
    counts: np.ndarray
    seen: np.ndarray
    rate: float


def begin():
    return state.init(tensors(START), OPTIMISER, rng.key(7))


def test_numbers_of_any_type_come_back_bit_by_bit(tmp_path):
    means, counts = np.array([[1 / 3, 1e300], [np.inf, 5e-324]]), np.array([2**24 + 1, -(2**62)])
    now = begin().replace(times=Memory(means, counts, np.array(True), np.float64(0.1)), step=3)
    empty = Memory(np.zeros((2, 2)), np.zeros(2, np.int64), np.array(False), np.float64(0))
    state.save(tmp_path / "state.safetensors", now)
    back = state.restore(tmp_path / "state.safetensors", begin().replace(times=empty))
    assert_same(back.params, now.params)
    assert back.times.rate == 0.1 and back.step == 3
    for ours, given in zip(back.times[:3], now.times[:3], strict=True):
        assert ours.dtype == given.dtype and ours.shape == given.shape and ours.tobytes() == given.tobytes()


def test_a_resumed_run_lets_go_of_the_state_that_it_was_given(tmp_path):
    """It would take a third of the memory of the whole run."""

    def loss(p, x, key):
        return ((x.matmul(p["weight"]) + p["bias"]) ** 2).mean(), {}

    def run(start, steps):
        return loop.run(one, start, lambda i: Tensor(normal(i, 2, 3)), tmp_path, steps=steps, progress=False)

    one, start = step.make(loss, OPTIMISER), begin()
    run(begin(), 1)
    run(start, 2)
    for field in dataclasses.fields(start):
        with pytest.raises(RuntimeError, match="this TrainState was donated"):
            getattr(start, field.name)
