"""Trees pair by name: another order of keys is the same tree, another name is an error that says where."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import tiny
from hypothesis import given
from hypothesis import strategies as st

import pixart_fn as px
from pixart_fn import tree
from pixart_fn.train import optim

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

NAMES = st.text("abcdefgh", min_size=1, max_size=3)
TREES = st.recursive(
    st.integers(0, 9),
    lambda child: st.dictionaries(NAMES, child, max_size=4) | st.lists(child, min_size=1, max_size=3),
    max_leaves=12,
)


class Pair(NamedTuple):
    left: Any
    right: Any


def shuffled(node: Any, seed: int) -> Any:
    """The same tree with the keys of every dict in another order."""
    if isinstance(node, list):
        return [shuffled(child, seed) for child in node]
    if not isinstance(node, dict):
        return node
    return {name: shuffled(node[name], seed) for name in random.Random(seed).sample(sorted(node), len(node))}


@given(TREES, st.integers(0, 99))
def test_the_order_of_keys_says_nothing(one, seed):
    other = shuffled(one, seed)
    assert tree.map(lambda a, b: 10 * a + b, one, other) == tree.map(lambda a: 11 * a, one)
    assert tree.paths(tree.map(lambda a, b: a, one, other)) == tree.paths(one)
    assert dict(tree.items(one)) == dict(tree.items(other))


@given(TREES)
def test_map_with_path_paths_and_reduce_see_what_items_lists(one):
    flat = list(tree.items(one))
    named = tree.map_with_path(lambda path, leaf: f"{path}={leaf}", one)
    assert list(tree.items(named)) == [(name, f"{name}={leaf}") for name, leaf in flat]
    assert tree.paths(one) == [name for name, _ in flat] and tree.leaves(one) == [leaf for _, leaf in flat]
    assert tree.reduce(lambda seen, leaf: [*seen, leaf], one, []) == tree.leaves(one)
    assert tree.unflatten(one, tree.leaves(one)) == one


DIFFERENT = {
    "another name": ({"a": {"b": 1}}, {"a": {"c": 1}}, "the trees differ: 'a.b' is in the first tree alone"),
    "one more": ({"a": 1}, {"a": 1, "z": 2}, "the trees differ: 'z' is in the other tree alone"),
    "shorter": ({"a": [1, 2]}, {"a": [1]}, "the trees differ: 'a.1' is in the first tree alone"),
    "a leaf": ({"a": {"b": [1]}}, {"a": {"b": 1}}, "the trees differ at a.b: a list and a leaf"),
    "a node": ({"a": 1}, {"a": {}}, "the trees differ at a: a leaf and a dict"),
    "None": ({"a": 1}, {"a": None}, "the trees differ at a: a leaf and None"),
    "a list": ({"0": 1}, [1], "the trees differ at the root: a dict and a list"),
    "a NamedTuple": (Pair(1, 2), (1, 2), "the trees differ at the root: a Pair and a list"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_difference_names_its_place(case):
    one, other, sentence = DIFFERENT[case]
    with pytest.raises(ValueError) as raised:
        tree.map(lambda a, b: a, one, other)
    assert str(raised.value) == sentence


def test_named_tuples_and_none_are_nodes():
    pair = Pair({"b": 1, "a": 2}, None)
    assert tree.map(lambda a, b: a - b, pair, Pair({"a": 1, "b": 1}, None)) == Pair({"b": 0, "a": 1}, None)
    assert tree.paths(pair) == ["left.b", "left.a"]
    text = px.types.Text(np.ones((1, 4, 8)), np.ones((1, 4)))
    assert isinstance(tree.map(np.sum, text), px.types.Text) and tree.size(text) == 36


def test_params_are_a_tree_of_their_models():
    params = tiny.params()
    trees = {name: getattr(params, name) for name in ("text_encoder", "transformer", "vae")}
    assert tree.size(params) == sum(tree.size(t) for t in trees.values())
    assert tree.paths(params)[0] == "text_encoder.shared.weight"
    half = tree.map(lambda a, b: a.asnumpy() / 2 + b.asnumpy(), params, params)
    assert isinstance(half, px.Params) and half.config is params.config and half.tokenizer is params.tokenizer
    name = "transformer.proj_out.weight"
    assert np.array_equal(dict(tree.items(half))[name], 1.5 * params.transformer["proj_out"]["weight"].asnumpy())
    bare = params.replace(vae=None)
    assert tree.map(lambda a: a, bare).vae is None
    with pytest.raises(ValueError, match="the trees differ at vae: None and a dict"):
        tree.map(lambda a, b: a, bare, params)


@pytest.mark.parametrize("bad", [{1: 0, "1": 0}, {"a": {"b.c": 0}}], ids=repr)
def test_names_that_are_not_names_are_refused(bad):
    with pytest.raises(ValueError, match="must be different names without a dot, got"):
        tree.paths(bad)


@pytest.mark.parametrize("names", [("a", "a.b"), ("a.b", "a")], ids=repr)
def test_a_name_within_a_leaf_is_refused(names):
    with pytest.raises(ValueError, match="begin"):
        tree.nest(dict.fromkeys(names, 0))


@pytest.mark.parametrize("count", [1, 3])
def test_unflatten_wants_as_many_leaves_as_there_are(count):
    with pytest.raises(ValueError, match=f"the tree has 2 leaves, got {count}"):
        tree.unflatten({"a": 0, "b": [0]}, range(count))


def test_an_optimisers_step_moves_the_weight_of_the_gradients_name():
    start = {"a": Tensor(np.float32([1, 1])), "b": Tensor(np.float32([1, 1]))}
    gradients = {"b": Tensor(np.zeros(2, np.float32)), "a": Tensor(np.float32([1, -1]))}
    adam = optim.adamw(0.1, weight_decay=0.0)
    state = tuple(part._replace(leaves=shuffled(part.leaves, 1)) if part.leaves else part for part in adam.init(start))
    params, state, _ = optim.step(adam, start, gradients, state)
    np.testing.assert_allclose(params["a"].asnumpy(), [0.9, 1.1], atol=1e-6)
    assert np.array_equal(params["b"].asnumpy(), [1, 1])
    moments = state[0].leaves
    assert np.abs(moments["a"].m).min() > 0 and not moments["b"].m.any()
    with pytest.raises(ValueError, match="'b' is in the first tree alone"):
        optim.step(adam, start, {"a": gradients["a"]}, state)


def test_a_weight_without_axes_is_trained_too():
    start = {"a": Tensor(np.float32(1.0))}
    adam, gradients = optim.adamw(0.1), {"a": Tensor(np.float32(2.0))}
    params, state, _ = optim.step(adam, start, gradients, adam.init(start))
    again, _, _ = optim.step(adam, params, gradients, state)
    np.testing.assert_allclose([params["a"].asnumpy(), again["a"].asnumpy()], [0.9, 0.8], atol=1e-6)


def test_a_tree_of_weights_is_shown_in_a_few_lines():
    params = tiny.params()
    for node in (params.transformer, params.transformer["transformer_blocks"], params.vae):
        assert len(repr(node)) < 800 and "\n" not in repr(node)
    assert repr(tree.nest({"a.b": np.zeros((2, 3), np.float32), "c.0": np.zeros(4), "c.1": np.zeros(4)})) == (
        "Weights(14 numbers; a: {b}, c: 2 layers)"
    )
    assert repr(px.encode_prompt(params, "a cat")) == "Text(states=float32 (1, 16, 32), mask=int32 (1, 16))"
    assert repr(tree.nest({"b": np.zeros((2, 3), np.float32)})) == "Weights(6 numbers; b: float32 (2, 3))"
