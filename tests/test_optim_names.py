"""Leaves pair by name, names choose rates, and a state is a file."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.optimisers import (
    GRADIENTS,
    OPTIMISERS,
    START,
    Pair,
    array,
)
from helpers.trees import assert_same, numbers
from safetensors.numpy import load_file, save_file

from pixart_fn import tree
from pixart_fn.train import optim
from pixart_fn.train.optim import leaves


@pytest.fixture(params=OPTIMISERS.values(), ids=OPTIMISERS)
def optimiser(request):
    return request.param()


@pytest.fixture(params=[4, 1 << 15], ids=["in pieces", "whole leaves"])
def piece(request, monkeypatch):
    monkeypatch.setattr(leaves, "PIECE", request.param)


# --- names ------------------------------------------------------------------------------------------------------------


def test_leaves_pair_by_name():
    optimiser, average = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(0.1)), optim.ema(0.5)
    start = {"a": array(0, 3, 3), "b": array(1, 3, 3)}
    gradient = {"a": array(2, 3, 3), "b": array(3, 3, 3)}

    def turned(t):
        return {"b": t["b"], "a": t["a"]}

    params, state, ema_state = start, optimiser.init(turned(start)), average.init(turned(start))
    expected = optim.step(optimiser, params, gradient, optimiser.init(start), average, average.init(start))
    found = optim.step(optimiser, params, turned(gradient), state, average, ema_state)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


class Bag:
    """A node of a class of its own, as an adapter is."""

    TREES = ("weights", "rest")

    def __init__(self, weights, rest):
        self.weights, self.rest = weights, rest

    def replace(self, **changes):
        return Bag(**changes)


def test_trees_of_other_nodes_move_too():
    optimiser, average = optim.adamw(0.1), optim.ema(0.5)
    plain = {"weights": {"a": array(0, 2, 2)}, "rest": (array(1, 2), None)}
    expected, _, _ = optim.step(optimiser, plain, plain, optimiser.init(plain))
    bag = Bag(**plain)
    found, state, ema_state = optim.step(optimiser, bag, bag, optimiser.init(bag), average, average.init(bag))
    assert isinstance(found, Bag) and isinstance(ema_state.leaves, Bag)
    assert_same(found, expected)
    assert "0.leaves.weights.a.m" in tree.paths(state)
    one, state, _ = optim.step(optimiser, array(0, 2, 2), array(0, 2, 2), optimiser.init(array(0, 2, 2)))
    assert_same(one, expected["weights"]["a"])
    assert tree.paths(state)[1] == "0.leaves.m"


def test_a_mask_chooses_by_name_and_shape(piece):
    start = {"in": Pair(np.ones((8, 3), np.float32), np.ones(8, np.float32)), "out": np.ones((2, 2), np.float32)}
    still = tree.map(np.zeros_like, start)
    chosen = {
        "default": (optim.matrices, {"in.weight", "out"}),
        "names": (lambda name, shape: name.startswith("in."), {"in.weight", "in.bias"}),
        "shapes": (lambda name, shape: shape == (8, 3), {"in.weight"}),
    }
    for mask, expected in chosen.values():
        for optimiser in (optim.adamw(0.5, weight_decay=0.1, mask=mask), optim.sgd(0.5, weight_decay=0.1, mask=mask)):
            params, _, _ = optim.step(optimiser, start, still, optimiser.init(start))
            moved = {name for name, p in tree.items(params) if not (p == 1).all()}
            assert moved == expected
            assert {float(x) for name in expected for x in numbers(params)[name].flat} == {np.float32(0.95)}


def test_the_first_part_of_a_name_gives_the_rate():
    start = tree.map(np.zeros_like, {"a": {"weight": array(0, 2)}, "b": {"weight": array(0, 2)}, "c": array(0, 2)})
    optimiser = optim.chain(optim.sgd(0.01), optim.scale_by_name((("b.w", 0.5), ("weight", 3.0))))
    params, _, _ = optim.step(optimiser, start, tree.map(np.ones_like, start), optimiser.init(start))
    assert [leaf[0] for leaf in tree.leaves(params)] == pytest.approx([-0.03, -0.005, -0.01])


def test_a_state_is_a_file(optimiser, tmp_path):
    average = optim.ema(0.9)
    state, ema_state = optimiser.init(START), average.init(START)
    params, state, ema_state = optim.step(optimiser, START, GRADIENTS[0], state, average, ema_state)
    whole = {"optimiser": state, "ema": ema_state, "params": params}
    names = tree.paths(whole)
    assert len(set(names)) == len(names)
    save_file({name: np.ascontiguousarray(leaf) for name, leaf in tree.items(whole)}, tmp_path / "s.safetensors")
    stored = load_file(tmp_path / "s.safetensors")
    for values in stored.values():
        values.flags.writeable = False
    again = tree.unflatten(whole, [stored[name].reshape(np.shape(leaf)) for name, leaf in tree.items(whole)])
    expected = optim.step(optimiser, params, GRADIENTS[1], state, average, ema_state)
    for donate in (False, True):
        found = optim.step(
            optimiser, again["params"], GRADIENTS[1], again["optimiser"], average, again["ema"], donate=donate
        )
        for ours, theirs in zip(found, expected, strict=True):
            assert_same(ours, theirs)
