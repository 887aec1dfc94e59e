"""Many workers: what each one's part is, what they exchange, and how a job of two runs and ends."""

from __future__ import annotations

import numpy as np
import pytest

from pixart_fn.backend import workers as workers_
from pixart_fn.backend.workers import Workers, agree, assigned, barrier, broadcast_tree, gather_rows, packed, share

from pixart_fn.backend.workers import is_scheduler, start, sum_trees  # isort: skip

MSRUN = ("MS_ROLE", "RANK_ID", "MS_WORKER_NUM")


@pytest.fixture
def msrun(monkeypatch):
    """Set what msrun sets."""

    def set_environment(*values):
        for name, value in zip(MSRUN, values, strict=True):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    set_environment(None, None, None)
    return set_environment


def test_without_msrun_there_is_one_worker_and_nothing_is_exchanged(msrun):
    alone = start()
    assert alone == assigned() == Workers(0, 1) and not is_scheduler()
    tree = object()  # nobody looks into it
    assert sum_trees(alone, tree) is tree and broadcast_tree(alone, tree) is tree and gather_rows(alone, tree) is tree
    assert agree(alone, True) is True and agree(alone, False) is False and barrier(alone) is None


def test_msrun_says_who_a_process_is(msrun):
    msrun("MS_WORKER", "3", "8")
    assert assigned() == Workers(3, 8) and not is_scheduler()
    msrun("MS_SCHED", "0", "8")
    assert is_scheduler()
    msrun("MS_WORKER", None, "8")
    with pytest.raises(ValueError, match=r"must set 'RANK_ID' for each worker, which it does on .* with --node_rank"):
        assigned()


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_is_below_the_size(rank, size):
    with pytest.raises(ValueError, match=r"(rank|size) must be"):
        Workers(rank, size)


@pytest.mark.parametrize("count", [0, 1, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_shares_have_no_overlap_and_leave_nothing_out(size, count):
    parts = [share(Workers(rank, size), count) for rank in range(size)]
    assert sorted(i for part in parts for i in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], []),
        ([3], [(0, 1)]),
        ([3, 4, 3, 1], [(0, 3), (3, 4)]),
        ([10, 20, 10], [(0, 1), (1, 2), (2, 3)]),  # a leaf alone may be larger
        ([0, 10, 0, 1], [(0, 3), (3, 4)]),
        ([1] * 25, [(0, 10), (10, 20), (20, 25)]),
    ],
)
def test_leaves_are_packed_in_their_order(sizes, parts):
    assert list(packed(sizes, 10)) == parts


@pytest.mark.parametrize("dtype", ["float64", "int8", "uint64", "bool", "float16"])
@pytest.mark.parametrize("shape", [(), (0, 2), (3,), (2, 3)])
def test_bytes_travel_as_whole_numbers(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    words = workers_._words(array)
    assert words.dtype == np.int32
    received = workers_._unpacked(words, array)
    assert received.dtype == array.dtype and received.shape == shape and np.array_equal(received, array)


def test_objects_do_not_travel():
    with pytest.raises(TypeError, match="must hold numbers, got objects"):
        workers_._words(np.array([None]))
