"""What is given to an optimiser stays as it was, and what is donated is used again."""

from __future__ import annotations

import mmap
import tracemalloc

import numpy as np
import pytest
from helpers.optimisers import (
    GRADIENTS,
    OPTIMISERS,
    START,
    Pair,
    address,
    array,
    copied,
    numbers_of,
)
from helpers.trees import assert_same, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from pixart_fn import tree
from pixart_fn.train import optim
from pixart_fn.train.optim import leaves

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


# --- purity and donation ----------------------------------------------------------------------------------------------

SHAPES = st.sampled_from([(), (1,), (5,), (2, 3), (1, 1), (2, 3, 2), (0,), (3, 0)])
TREES = st.recursive(
    SHAPES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.tuples(inner, inner).map(lambda pair: Pair(*pair))
    ),
    max_leaves=5,
)


def filled(shapes, seed: int):
    """A tree of arrays of these shapes, which are the tuples of whole numbers in it."""
    if isinstance(shapes, Pair):
        return Pair(filled(shapes[0], seed), filled(shapes[1], seed + 1))
    if isinstance(shapes, tuple):
        return array(seed, *shapes)
    if isinstance(shapes, list):
        return [filled(each, seed + i) for i, each in enumerate(shapes)]
    return {name: filled(each, seed + i) for i, (name, each) in enumerate(shapes.items())}


@settings(derandomize=True, deadline=None, max_examples=12)
@given(TREES, st.sampled_from(list(OPTIMISERS)), st.booleans())
def test_what_is_given_stays_as_it_was(shapes, name, as_tensors):
    optimiser, average = OPTIMISERS[name](), optim.ema(0.9)
    empty = any(0 in leaf.shape for leaf in tree.leaves(filled(shapes, 0)))
    kind = tensors if as_tensors and not empty else copied
    params, gradient = kind(filled(shapes, 0)), kind(filled(shapes, 7))
    for _ in range(2):
        state, ema_state = optimiser.init(params), average.init(params)
        given = copied(numbers_of((params, gradient, state, ema_state)))
        optimiser.update(gradient, state, params)
        new, after, averaged = optim.step(optimiser, params, gradient, state, average, ema_state)
        average.update(params, ema_state, params)
        assert_same((params, gradient, state, ema_state), given)
        donated = optim.step(optimiser, *copied((numbers_of(params), numbers_of(gradient), state)), average, ema_state)
        assert_same((new, after, averaged), donated)
        params = new
    assert tree.paths(new) == tree.paths(params)


@pytest.mark.parametrize("kind", [tensors, copied])
def test_a_donated_step_stays_in_its_memory(kind):
    optimiser, average = OPTIMISERS["nothing that depends on the rest of a leaf"](), optim.ema(0.9)
    params = kind(START)
    state, ema_state = optimiser.init(params), average.init(params)
    old = [address(leaf) for leaf in tree.leaves((params, state, ema_state)) if not isinstance(leaf, int)]
    keep = (params, state, ema_state)
    new = optim.step(optimiser, params, kind(GRADIENTS[0]), state, average, ema_state, donate=True)
    assert [address(leaf) for leaf in tree.leaves(new) if not isinstance(leaf, int)] == old
    assert len(old) == 20 and keep is not None
    pure = optim.step(optimiser, *new[:1], kind(GRADIENTS[0]), new[1], average, new[2])
    new_addresses = {address(leaf) for leaf in tree.leaves(pure) if not isinstance(leaf, int)}
    assert not new_addresses & set(old)


def test_donated_updates_are_the_memory_of_the_gradients():
    optimiser, gradient = optim.adamw(0.1), copied(GRADIENTS[0])
    old = [address(leaf) for leaf in tree.leaves(gradient)]
    updates, _ = optimiser.update(gradient, optimiser.init(START), START, donate=True)
    assert [address(leaf) for leaf in tree.leaves(updates)] == old


def test_donated_weights_of_a_mapped_file_are_copied(tmp_path):
    """MindSpore calls their memory writeable, and writing to it would end the process."""
    file = tmp_path / "weights"
    file.write_bytes(b"\1" * 40960)
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        a = np.frombuffer(mapped, np.float32).reshape(-1, 64)
        params = {"a": ms.Tensor.from_numpy(a), "b": ms.Tensor(np.float32([3, 2]))}
        assert params["a"].asnumpy().flags.writeable and params["a"].asnumpy().ctypes.data == a.ctypes.data
        gradient, optimiser = {"a": ms.Tensor.from_numpy(a), "b": ms.Tensor(np.float32([0, 5]))}, optim.sgd(1.0)
        state = optimiser.init(params)
        new, state, _ = optim.step(optimiser, params, gradient, state, donate=True)
        updates, _ = optimiser.update(gradient, state, new, donate=True)
        assert_same(updates, {"a": -a, "b": np.float32([0, -5])})
        assert_same(new, {"a": 0 * a, "b": np.float32([3, -3])})
        del params, gradient, a
    assert file.read_bytes() == b"\1" * 40960


def test_donated_arrays_that_are_read_only_or_turned_are_copied():
    p, g = array(0, 6, 4), array(1, 6, 4)
    turned, fixed = np.asfortranarray(p), p.copy()
    fixed.flags.writeable = False
    optimiser = optim.adamw(0.1)
    expected, _, _ = optim.step(optimiser, {"a": p}, {"a": g}, optimiser.init({"a": p}))
    for each in (turned, fixed, p[::-1][::-1]):
        new, _, _ = optim.step(optimiser, {"a": each}, {"a": g}, optimiser.init({"a": each}), donate=True)
        assert_same(new, expected)


def test_donated_weights_of_two_names_move_as_pure_ones():
    p, g = array(0, 4, 4), array(1, 4, 4)
    optimiser = optim.adamw(0.1)
    given = {"first": p, "second": p}
    expected, _, _ = optim.step(optimiser, given, {"first": g, "second": -g}, optimiser.init(given))
    new, _, _ = optim.step(optimiser, given, {"first": g, "second": -g}, optimiser.init(given), donate=True)
    assert_same(new, expected)


def test_donated_memory_that_is_shared_gives_the_same_numbers():
    """The average is the parameters themselves, and they are their own gradient."""
    optimiser, average = OPTIMISERS["nothing that depends on the rest of a leaf"](), optim.ema(0.9, warmup=False)
    found = []
    for donate in (False, True):
        params = copied(START)
        state, ema_state = optimiser.init(params), average.init(params)._replace(leaves=params)
        found.append(optim.step(optimiser, params, params, state, average, ema_state, donate=donate))
    assert_same(*found)


def test_a_donated_step_takes_the_memory_of_pieces(monkeypatch):
    """Trees of 4 MiB: a step that isn't donated takes four more of them."""
    monkeypatch.setattr(leaves, "PIECE", 1 << 10)
    optimiser, average = OPTIMISERS["nothing that depends on the rest of a leaf"](), optim.ema(0.9)
    params, gradient = ({"a": array(0, 1024, 1024), "b": array(1, 4)} for _ in range(2))
    state, ema_state = optimiser.init(params), average.init(params)
    peaks = []
    for donate in (False, True):
        tracemalloc.start()
        optim.step(optimiser, params, gradient, state, average, ema_state, donate)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    assert 16 <= peaks[0] < 16.5
    assert peaks[1] < 0.5
