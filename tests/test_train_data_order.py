"""The order of examples: every restart, every number of workers and every epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixart_fn import rng
from pixart_fn.train.data import arrays, order
from pixart_fn.train.data.examples import Example
from pixart_fn.types import Text

NULL = Text(np.full((1, 1, 3), -1, np.float32), np.ones((1, 1), np.int32))


class Numbered:
    """Examples of several sizes that say which they are: mean i, std 0.5, states i of i % 20 + 1 tokens."""

    scale, null = 2.0, NULL

    def __init__(self, *counts: int):
        self.sizes = np.array([(1, 1 + bucket) for bucket, n in enumerate(counts) for _ in range(n)], np.int32)
        self.lengths = np.arange(len(self.sizes)) % 20 + 1

    def example(self, i: int, choice: float) -> Example:
        shape = (2, *self.sizes[i].tolist())
        states = np.full((i % 20 + 1, 3), i, np.float32)
        mean, std = np.full(shape, i, np.float32), np.full(shape, 0.5, np.float32)
        return Example(mean, std, states, str(i), (100 + i, 200))


def batches(dataset, size, **options):
    return order.Batches(dataset, size, **{"seed": 3, "dropout": 0.0, "sample": False, **options})


def numbers(batch) -> list[int]:
    return [int(name) for name in batch.names]


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=4), share=st.integers(1, 4), workers=st.integers(1, 3),
    step=st.integers(0, 50),
)  # fmt: skip
def test_workers_see_together_what_one_sees_and_a_restart_what_was_next(counts, share, workers, step):
    dataset, size = Numbered(*counts), share * workers
    options = {"dropout": 0.5, "sample": True}
    whole = batches(dataset, size, **options)(step)
    parts = [batches(dataset, size, rank=r, workers=workers, **options)(step) for r in range(workers)]
    np.testing.assert_array_equal(np.concatenate([part.x0 for part in parts]), whole.x0)
    for k in range(2):
        np.testing.assert_array_equal(np.concatenate([part.text[k] for part in parts]), whole.text[k])
    assert sum((part.names for part in parts), ()) == whole.names


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=4), size=st.integers(1, 12))
def test_every_example_is_seen_equally_often_and_batches_have_one_size(counts, size):
    dataset = Numbered(*counts)
    each = batches(dataset, size)
    steps = 3 * len(dataset.sizes)
    seen = [each.rows(step) for step in range(steps)]
    for rows in seen:
        assert len(np.unique(dataset.sizes[rows.numbers], axis=0)) == 1 and len(rows.numbers) == size
    drawn = Counter((int(i), int(e)) for rows in seen for i, e in zip(*rows, strict=True))
    assert set(drawn.values()) == {1}, "an example has no key twice"
    for bucket in np.unique(dataset.sizes, axis=0):
        members = np.flatnonzero((dataset.sizes == bucket).all(1))
        counted = [sum(drawn[i, e] for e in range(10**3)) for i in members.tolist()]
        assert max(counted) - min(counted) <= 1
    epochs = [each._epoch(step) for step in range(steps)]
    assert epochs == sorted(epochs) and max(each.epoch(step) - epochs[step] for step in range(steps)) < len(counts) + 1


def test_an_epoch_holds_each_example_once_where_batches_divide_it():
    each = batches(Numbered(8, 4), 2)
    for epoch in range(3):
        seen = [numbers(each(step)) for step in range(6 * epoch, 6 * epoch + 6)]
        assert sorted(n for row in seen for n in row) == list(range(12))
    orders = [[numbers(each(step)) for step in range(6 * epoch, 6 * epoch + 6)] for epoch in range(3)]
    together = [{frozenset(row) for row in one} for one in orders]
    assert together[0] != together[1] != together[2], "each epoch shuffles anew"
    sizes = [[max(row) >= 8 for row in one] for one in orders]
    assert sizes[0] != sorted(sizes[0]) or sizes[1] != sorted(sizes[1]), "sizes are mixed"


def test_the_seed_decides_the_order():
    first, same, other = (
        [numbers(batches(Numbered(16), 4, seed=seed)(step)) for step in range(4)] for seed in (1, 1, 2)
    )
    assert first == same != other
    assert [n for row in first for n in row] != list(range(16))


def test_one_example_of_its_size_is_drawn_as_often_as_the_others():
    """Batches of 4 hold it four times, every fourth epoch: it isn't lost, and isn't drawn more than its share."""
    each = batches(Numbered(16, 1), 4)
    steps = 17
    seen = Counter(n for step in range(steps) for n in numbers(each(step)))
    assert set(seen.values()) == {4} and len(seen) == 17


def test_latents_are_scaled_samples_of_the_examples_own_key():
    dataset = Numbered(6)
    each = batches(dataset, 4, sample=True)
    rows, batch = each.rows(2), each(2)
    for i, epoch, x0 in zip(*rows, batch.x0, strict=True):
        key = rng.key(3)
        for n in (2, int(epoch), int(i), 0):
            key = rng.fold_in(key, n)
        np.testing.assert_allclose(x0, 2 * (i + 0.5 * rng.normal(key, x0.shape)), rtol=1e-6)
    means = batches(dataset, 4)(2).x0
    np.testing.assert_array_equal(means, np.broadcast_to(2 * rows.numbers[:, None, None, None], means.shape))
    assert len({batches(dataset, 1, sample=True)(step).x0.tobytes() for step in range(12)}) == 12, "noise is drawn anew"


def test_captions_are_dropped_as_often_as_asked_by_the_examples_own_key():
    dataset = Numbered(50)
    dropped = {}
    for size in (1, 25):
        each = batches(dataset, size, dropout=0.3)
        found = dropped[size] = {}
        for step in range(500 // size):
            batch, rows = each(step), each.rows(step)
            for states, mask, i, e in zip(*batch.text, *rows, strict=True):
                empty = states[0, 0] == -1
                assert mask.sum() == (1 if empty else i % 20 + 1)
                assert (states[mask == 1] == (-1 if empty else i)).all() and not states[mask == 0].any()
                found[int(i), int(e)] = bool(empty)
    assert dropped[1] == dropped[25], "the size of the batch changes nothing"
    assert abs(np.mean([*dropped[1].values()]) - 0.3) < 0.06
    assert all(batches(dataset, 5, dropout=1.0)(0).text.states[:, 0, 0] == -1)


def test_captions_are_padded_to_few_lengths():
    assert [order.padded_length(n) for n in (1, 16, 17, 33, 65, 121, 257, 301)] == [
        *(16, 16, 32, 64, 120, 256, 300, 512)
    ]
    dataset = Numbered(20)
    for step in range(10):
        batch = batches(dataset, 4)(step)
        longest = max(n % 20 + 1 for n in numbers(batch))
        assert batch.text.mask.shape == (4, 16 if longest <= 16 else 32)


def test_conditions_are_the_pictures_own_size_and_the_latents_shape():
    batch = batches(Numbered(2, 3), 2, conditions=True)(1)
    i = np.array(numbers(batch))
    np.testing.assert_array_equal(batch.resolution, np.stack([100 + i, np.full(2, 200)], 1).astype(np.float32))
    np.testing.assert_allclose(batch.aspect_ratio, np.full((2, 1), batch.x0.shape[2] / batch.x0.shape[3]))
    assert batch.resolution.dtype == batch.aspect_ratio.dtype == np.float32
    plain = batches(Numbered(2), 2)(0)
    assert plain.resolution is None and plain.aspect_ratio is None and plain.weight is None


def test_an_example_chooses_among_its_captions_by_its_own_key():
    class Choosing(Numbered):
        def example(self, i, choice):
            choices.append(choice)
            return super().example(i, choice)

    choices: list[float] = []
    each = batches(Choosing(10), 10)
    for step in range(20):
        each(step)
    assert len(set(choices)) == 200 and 0 <= min(choices) < 0.1 and 0.9 < max(choices) < 1
    assert abs(np.mean(choices) - 0.5) < 0.08


def test_arrays_are_a_dataset():
    latents = np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2)
    mask = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    states = np.arange(18, dtype=np.float32).reshape(3, 3, 2)
    dataset = arrays(latents, Text(states, mask), null=Text(np.zeros((1, 1, 2), np.float32), np.ones((1, 1))))
    batch = order.Batches(dataset, 3, 0, dropout=0.0, conditions=True)(0)
    for x0, own, name in zip(batch.x0, zip(*batch.text, strict=True), batch.names, strict=True):
        np.testing.assert_array_equal(x0, latents[int(name)])
        np.testing.assert_array_equal(own[0][own[1] == 1], states[int(name)][: int(name) + 1])
    assert (batch.resolution == 16).all() and list(dataset.lengths) == [1, 2, 3]


@pytest.mark.parametrize("ahead", [1, 3])
def test_prefetching_changes_nothing(ahead):
    each = batches(Numbered(7), 3)
    found = order.prefetch(each, 5, ahead)
    for step in range(5, 10):
        assert next(found).names == each(step).names
    found.close()


def test_what_fails_while_prefetching_is_raised_in_its_place():
    def failing(step):
        if step == 2:
            raise ValueError("a file is damaged")
        return step

    found = order.prefetch(failing, 0, 3)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="a file is damaged"):
        next(found)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mixture_takes_turns_and_weighs(workers):
    class Prior(Numbered):
        def example(self, i, choice):
            found = super().example(i, choice)
            return found._replace(name=str(1000 + i), states=np.full((30, 3), i, np.float32))

    prior = Prior(9)
    prior.lengths = np.full(9, 30)
    parts = [
        order.mixed(*(batches(each, 4, rank=r, workers=workers) for each in (Numbered(5), prior)), 0.5)(1)
        for r in range(workers)
    ]
    names = [n for part in parts for n in numbers(part)]
    assert [n >= 1000 for n in names] == [False, True] * 4
    assert names[::2] == numbers(batches(Numbered(5), 4)(1)) and names[1::2] == numbers(batches(prior, 4)(1))
    for part in parts:
        np.testing.assert_array_equal(part.weight, [1, 0.5] * (4 // workers))
        np.testing.assert_array_equal(part.x0[:, 0, 0, 0], [2 * (n % 1000) for n in numbers(part)])
        assert part.text.states.shape == (8 // workers, 32, 3) and part.text.mask.sum(1)[1::2].tolist() == [30] * (
            4 // workers
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dataset": [1]}, r"dataset must be what prepared\.open, authors\.open or arrays gives, got a list"),
        ({"dataset": Numbered()}, "dataset must hold at least one example, got none"),
        ({"batch_size": 3, "workers": 2}, "batch_size must be a multiple of workers = 2, got 3"),
        ({"rank": 2, "workers": 2, "batch_size": 2}, "rank must be 0 or 1, got 2; the nearest is 1"),
        ({"dropout": 1.5}, r"dropout must be within \[0, 1\], got 1.5"),
        ({"seed": -1}, "seed must be an integer with 0 ≤ seed"),
        ({"sample": 1}, "sample must be True or False, got an int"),
    ],
)
def test_wrong_arguments(change, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        order.Batches(**{"dataset": Numbered(4), "batch_size": 4, "seed": 0, **change})


@pytest.mark.parametrize("step", [-1, 1.0, True])
def test_a_step_is_a_whole_number(step):
    with pytest.raises((TypeError, ValueError), match="step must be"):
        batches(Numbered(4), 2)(step)


def test_dropout_needs_an_empty_prompt():
    dataset = Numbered(4)
    dataset.null = None
    with pytest.raises(ValueError, match="dropout needs null=, the encoded empty prompt"):
        order.Batches(dataset, 2, 0)
    order.Batches(dataset, 2, 0, dropout=0.0)
    order.Batches(dataset, 2, 0, null=NULL)


def test_an_empty_prompt_of_another_encoder():
    other = Text(np.zeros((1, 1, 4), np.float32), np.ones((1, 1), np.int32))
    with pytest.raises(ValueError, match="its states have a width of 4, the captions of 3"):
        batches(Numbered(4), 2, null=other)(0)


def test_mixtures_that_do_not_fit():
    one = batches(Numbered(4), 2)
    with pytest.raises(ValueError, match="the same batch_size, got 2 and 4"):
        order.mixed(one, batches(Numbered(4), 4))
    with pytest.raises(ValueError, match=r"latents of one size, got \[\[1, 1\], \[1, 2\]\]; prepare both"):
        order.mixed(one, batches(Numbered(4, 4), 2))
