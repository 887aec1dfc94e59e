"""Transformations of trees: purity, donation, chains, names, and the fused step, whatever the optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.optimisers import (
    GRADIENTS,
    OPTIMISERS,
    START,
    address,
    array,
    copied,
    followed,
    numbers_of,
    separate,
)
from helpers.tolerances import assert_close
from helpers.trees import assert_same, numbers, tensors

from pixart_fn import tree
from pixart_fn.train import optim
from pixart_fn.train.optim import leaves

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


@pytest.fixture(params=OPTIMISERS.values(), ids=OPTIMISERS)
def optimiser(request):
    return request.param()


@pytest.fixture(params=[4, 1 << 15], ids=["in pieces", "whole leaves"])
def piece(request, monkeypatch):
    monkeypatch.setattr(leaves, "PIECE", request.param)


# --- one step, many ways ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False], ids=["step", "update and apply"])
@pytest.mark.parametrize("donate", [True, False], ids=["donated", "pure"])
def test_every_way_gives_the_same_bits(optimiser, piece, donate, fused):
    plain = separate(optimiser)
    expected = followed(plain, separate(optim.ema(0.9)), fused=True)
    found = followed(optimiser, optim.ema(0.9), donate=donate, fused=fused)
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)
    assert not np.array_equal(found[0][0]["gain"], START["gain"])


def test_pieces_are_the_whole(optimiser, monkeypatch):
    whole = followed(optimiser, optim.ema(0.9))
    monkeypatch.setattr(leaves, "PIECE", 1)
    for ours, theirs in zip(followed(optimiser, optim.ema(0.9)), whole, strict=True):
        assert_same(ours, theirs)


def test_arrays_and_tensors_are_alike(optimiser):
    params, state = copied(START), optimiser.init(START)
    params, state, none = optim.step(optimiser, params, GRADIENTS[0], state)
    assert none is None and all(type(leaf) is np.ndarray for leaf in tree.leaves(params))
    theirs, their_state, _ = optim.step(
        optimiser, tensors(START), tensors(GRADIENTS[0]), optimiser.init(tensors(START))
    )
    assert all(isinstance(leaf, ms.Tensor) for leaf in tree.leaves(theirs))
    assert_same(params, theirs)
    assert_same(state, their_state)


def test_a_chain_is_its_parts_one_after_another():
    parts = [
        optim.clip(0.5),
        optim.scale_by_adam(),
        optim.clip_by_global_norm(0.1),
        optim.scale_by_came(),
        optim.clip(2),
    ]
    whole, states = optim.chain(*parts), [part.init(START) for part in parts]
    state = whole.init(START)
    for gradient in GRADIENTS:
        updates, state = whole.update(gradient, state, START)
        for i, part in enumerate(parts):
            gradient, states[i] = part.update(gradient, states[i], START)
        assert_same(updates, gradient)
        assert_same(state, tuple(states))


def test_the_order_of_a_chain_counts():
    """clip to ±1, then ×3 is up to 3; ×3 and then clip is up to 1."""
    g = {"a": np.array([0.5, -2.0], np.float32)}
    clip, triple = optim.clip(1.0), optim.scale_by_name([("a", 3.0)])
    for parts, expected in (((clip, triple), [1.5, -3.0]), ((triple, clip), [1.0, -1.0])):
        chain = optim.chain(*parts)
        found, _ = chain.update(g, chain.init(g), g)
        assert found["a"].tolist() == expected


def test_chains_of_chains_are_one_chain():
    a, b, c = optim.clip(1.0), optim.scale_by_adam(), optim.scale_by_learning_rate(0.1)
    assert optim.chain(optim.chain(a, b), c).parts == optim.chain(a, optim.chain(b, c)).parts == (a, b, c)


def test_the_second_norm_of_a_chain_is_that_of_its_updates():
    chain = optim.chain(optim.scale_by_name([("", 10.0)]), optim.clip_by_global_norm(1.0))
    found, _ = chain.update(GRADIENTS[0], chain.init(START), START)
    assert optim.global_norm(found) == pytest.approx(1, rel=1e-6)
    params, _, _ = optim.step(chain, START, GRADIENTS[0], chain.init(START), norm=optim.global_norm(GRADIENTS[0]))
    assert_same(params, optim.apply_updates(START, found))


def test_a_norm_that_is_known_is_taken():
    """Half the true one bounds half as much."""
    chain = optim.chain(optim.clip_by_global_norm(1e-3), optim.sgd(1.0))
    norm = optim.global_norm(GRADIENTS[0])
    for share in (1, 0.5):
        params, _, _ = optim.step(chain, START, GRADIENTS[0], chain.init(START), norm=share * norm)
        moved = tree.map(lambda a, b: np.asarray(a.astype(float) - b), START, params)
        assert optim.global_norm(moved) == pytest.approx(1e-3 / share, rel=1e-3)  # what float32 parameters keep of it


def test_only_the_first_rule_of_a_pass_knows_what_was_prepared():
    seen = []
    first = optim.leafwise(
        None, lambda leaf, g, s, p, step, shared: (seen.append(shared), (g, s))[1], lambda updates: 7
    )
    second = optim.leafwise(None, lambda leaf, g, s, p, step, shared: (seen.append(shared), (g, s))[1])
    chain = optim.chain(first, second)
    optim.step(chain, {"a": array(0, 2)}, {"a": array(1, 2)}, chain.init({"a": array(0, 2)}), norm=3.0)
    assert seen == [7, None]


def test_numbers_of_numpy_are_arrays_without_axes():
    optimiser = optim.sgd(0.5)
    for donate in (False, True):
        params, _, _ = optim.step(
            optimiser, {"a": np.float32(3)}, {"a": np.float32(2)}, optimiser.init({"a": np.float32(3)}), donate=donate
        )
        assert params["a"] == 2


def test_a_transformation_of_ones_own_takes_part():
    """The sum of all updates so far, as plain functions of trees."""

    def update(updates, state, params):
        state = tree.map(np.add, state, updates)
        return state, state

    own = optim.Transformation(lambda params: tree.map(np.zeros_like, numbers_of(params)), update)
    for parts in ((own, optim.sgd(1.0)), (optim.clip(100.0), own, optim.sgd(1.0)), (optim.sgd(1.0), own), (own,)):
        chain = optim.chain(*parts)
        params, state = START, chain.init(START)
        for gradient in GRADIENTS[:2]:
            params, state, _ = optim.step(chain, params, gradient, state, donate=False)
        sign = 1 if parts == (own,) else -1
        expected = tree.map(lambda p, a, b, sign=sign: p + sign * (2 * a + b), START, *GRADIENTS[:2])
        for name, p in numbers(params).items():
            assert_close(p, numbers(expected)[name])


def test_a_rule_of_ones_own_may_return_new_arrays(piece):
    """And it sees the whole leaf's name and shape, whatever piece it gets."""
    seen = set()

    def update(leaf, g, state, p, step, shared):
        seen.add(leaf)
        return g + state["sum"] + np.float32(shared), {"sum": state["sum"] + g}

    own = optim.leafwise(lambda leaf, p: {"sum": np.ones(leaf.shape, np.float32)}, update, lambda updates: 5.0, True)
    state = own.init(START)
    first, state = own.update(GRADIENTS[0], state, START)
    second, state = own.update(GRADIENTS[1], state, START)
    assert_same(first, tree.map(lambda g: g + np.float32(1) + np.float32(5), GRADIENTS[0]))
    assert_same(second, tree.map(lambda a, b: b + (np.float32(1) + a) + np.float32(5), *GRADIENTS[:2]))
    assert seen == {optim.Leaf(name, leaf.shape) for name, leaf in tree.items(START)}
    assert state.step == 2


def test_steps_are_counted_from_zero():
    seen = []
    optimiser = optim.sgd(lambda step: seen.append(step) or 0.0)
    params, state = {"a": array(0, 2)}, optimiser.init({"a": array(0, 2)})
    for _ in range(3):
        params, state, _ = optim.step(optimiser, params, {"a": array(1, 2)}, state)
    assert seen == [0, 1, 2]
    assert [part.step for part in state] == [3, 3]


# --- the parts --------------------------------------------------------------------------------------------------------


def test_the_norm_is_summed_in_float64():
    assert optim.global_norm({"a": np.float32([3, -4]).reshape(1, 2), "b": [np.float32([12])]}) == 13.0
    huge, tiny = np.float32([3e30, 4e30]), np.float32([3e-30, 4e-30])
    assert optim.global_norm([ms.Tensor(huge)]) == pytest.approx(5e30)
    assert optim.global_norm([tiny]) == pytest.approx(5e-30)
    many = np.full(300_001, 1e-4, np.float32)
    assert optim.global_norm([np.ones(1, np.float32), many]) == pytest.approx(
        np.sqrt(1 + 300_001 * float(np.float32(1e-4)) ** 2), rel=1e-12
    )
    assert optim.global_norm({}) == 0
    assert np.isnan(optim.global_norm([np.float32([1, np.nan])]))
    assert np.isinf(optim.global_norm([np.float32([1, np.inf])]))


@pytest.mark.parametrize(("largest", "factor"), [(1.0, 1 / 13), (6.5, 1 / 2), (13.5, 1), (100.0, 1)])
def test_gradients_are_clipped_to_their_global_norm(largest, factor):
    """3² + 4² + 12² = 13²."""
    gradient = {"weight": np.float32([[3, -4]]), "bias": np.float32([12])}
    clip = optim.clip_by_global_norm(largest)
    found, _ = clip.update(gradient, clip.init(gradient), gradient)
    for name, g in gradient.items():
        assert found[name] == pytest.approx(g * factor, rel=1e-6)


def test_clipping_keeps_what_isnt_a_number():
    gradient = {"a": np.float32([1, np.nan]), "b": np.float32([1])}
    clip = optim.clip_by_global_norm(1.0)
    found, _ = clip.update(gradient, clip.init(gradient), gradient)
    assert np.isnan(found["a"]).all() and np.isnan(found["b"]).all()


def test_a_gradient_of_zero_moves_nothing():
    start = {"a": array(0, 3, 2), "b": array(1, 3)}
    for name in ("adamw", "lion", "came", "adafactor", "sgd with momentum"):
        optimiser = optim.chain(optim.clip_by_global_norm(1.0), OPTIMISERS[name]())
        updates, _ = optimiser.update(
            tree.map(np.zeros_like, start), optimiser.init(start), tree.map(np.zeros_like, start)
        )
        assert not any(leaf.any() for leaf in tree.leaves(updates)), name


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_forgets_its_start_sooner_at_first(warmup):
    """d = (1 + t) / (10 + t) up to the decay: 1/10, 2/11, then 0.25 instead of 3/12 and more."""
    average = optim.ema(0.25, warmup)
    expected, path = 5.0, [2.0, -1.0, 4.0, 0.5, 7.0]
    state = average.init({"a": np.float32([expected])})
    for d, p in zip([1 / 10, 2 / 11, 0.25, 0.25, 0.25] if warmup else [0.25] * 5, path, strict=True):
        params = {"a": np.float32([p])}
        found, state = average.update(params, state, params)
        expected = d * expected + (1 - d) * p
        assert found["a"] == pytest.approx([expected], rel=1e-6)
        assert state.leaves["a"] == pytest.approx([expected], rel=1e-6)


def test_the_average_starts_with_the_parameters_own_numbers():
    start = tensors(START)
    state = optim.ema(0.9).init(start)
    assert_same(state.leaves, start)
    assert not {address(leaf) for leaf in tree.leaves(state.leaves)} & {address(leaf) for leaf in tree.leaves(start)}


def test_the_table_has_every_optimiser():
    assert sorted(optim.OPTIMISERS) == ["adafactor", "adamw", "came", "lion", "sgd"]
    for name, make in optim.OPTIMISERS.items():
        assert make.__name__ == name
        optimiser = make(lr=0.1)
        params, _, _ = optim.step(optimiser, START, GRADIENTS[0], optimiser.init(START))
        assert all((a != b).all() for a, b in zip(tree.leaves(params), tree.leaves(START), strict=True))


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_trees_that_differ_are_a_sentence_before_anything_moves():
    optimiser = optim.adamw(0.1)
    params = {"a": array(0, 2, 2), "b": array(1, 2)}
    state = optimiser.init(params)
    other = optimiser.init({"a": array(0, 2, 2), "c": array(1, 2)})
    wide = optimiser.init({"a": array(0, 2, 3), "b": array(1, 2)})
    mistakes = [
        ({"a": params["a"]}, state, "'b' is in the first tree alone"),
        ({**params, "b": array(0, 3)}, state, r"b has the shape \(2,\), and its gradient or update \(3,\)"),
        (params, other, "state has nothing for 'b', so it is of other parameters"),
        (params, wide, r"a has the shape \(2, 2\), and its state \(2, 3\)"),
        (params, optim.lion(0.1).init(params), "state of 'b' is another transformation's: the trees differ"),
        (params, optim.came(0.1).init(params), "state of 'b' is another transformation's: the trees differ"),
        (params, state[:2], "state must be a tuple of the states of the chain's 3 parts, got 2 states"),
        (params, None, "state must be a tuple of the states of the chain's 3 parts, got None"),
        (params, (1, 2, 3), "state must be what the transformation's init or step before gave, got an int"),
        ({**params, "b": np.array([1, 2])}, state, "gradients or updates at 'b' must be floating, got int64"),
        ({**params, "b": [1.0, 2.0]}, state, "the trees differ at b"),
        ({**params, "b": 1.0}, state, "gradients or updates at 'b' must be a Tensor or an array, got a float"),
    ]
    factored = optim.came(0.1)
    with pytest.raises(ValueError, match=r"state of 'a' has another shape at m"):
        factored.update({"a": params["a"]}, factored.init({"a": array(0, 2, 3)}), {"a": params["a"]})
    given = copied((params, state))
    for gradient, wrong, sentence in mistakes:
        for call in (
            lambda gradient=gradient, wrong=wrong: optim.step(optimiser, params, gradient, wrong, donate=True),
            lambda gradient=gradient, wrong=wrong: optimiser.update(gradient, wrong, params, donate=True),
        ):
            with pytest.raises((TypeError, ValueError), match=sentence):
                call()
    assert_same((params, state), given)
    with pytest.raises(TypeError, match="params at 'a' must be float32, got float64"):
        optimiser.init({"a": np.ones(2)})
    with pytest.raises(ValueError, match="transformations must be at least one"):
        optim.chain()
