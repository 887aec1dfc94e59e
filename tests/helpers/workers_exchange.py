"""Started by msrun: each worker checks every exchange, writes what it saw, and then rank 1 is killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from pixart_fn.backend import workers as workers_

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


def refused(f, *arguments):
    """The sentence of the ValueError that f raises."""
    try:
        f(*arguments)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{f.__name__} raised nothing")


def gradients(rank):
    """A tree of 200 small leaves, one that is larger than a buffer, and halves, different on each worker."""
    draw = np.random.default_rng(rank)
    leaves = {f"small{i}": draw.standard_normal((i % 7 + 1, 3)) for i in range(200)}
    leaves |= {"large": draw.standard_normal(workers_.BUFFER + 5), "number": draw.standard_normal()}
    tree = {name: ms.Tensor(np.asarray(leaf, np.float32)) for name, leaf in leaves.items()}
    return {**tree, "half": [tree["small3"].astype(ms.float16), tree["small4"].astype(ms.bfloat16)]}


def dtypes(tree):
    return [leaf.dtype for leaf in workers_.tree_.leaves(tree)]


def numbers(tree):
    return np.concatenate([leaf.float().asnumpy().ravel() for leaf in workers_.tree_.leaves(tree)])


def main(folder):
    own = workers_.start()
    assert own == workers_.assigned() == workers_.start() and own.size == 2
    assert not workers_.is_scheduler()

    mine = gradients(own.rank)
    summed = workers_.sum_trees(own, mine)
    assert dtypes(summed) == dtypes(mine)
    expected = workers_.tree_.map(lambda a, b: (a.float() + b.float()).astype(a.dtype), gradients(0), gradients(1))
    assert np.array_equal(numbers(summed), numbers(expected))  # one process's a + b, bit by bit

    rows = np.arange(6, dtype=np.int8).reshape(2, 3)[: own.rank + 1] + 10 * own.rank
    assert workers_.gather_rows(own, rows).tolist() == [[0, 1, 2], [10, 11, 12], [13, 14, 15]]
    assert workers_.gather_rows(own, np.zeros((0, 2))).shape == (0, 2)

    key = np.uint64([2**63 + own.rank, own.rank])
    halves = {"half": mine["half"][1], "key": key, "flag": ms.Tensor([own.rank == 0])}
    got = workers_.broadcast_tree(own, halves)
    assert got["key"].tolist() == [2**63, 0] and got["key"].dtype == np.uint64 and bool(got["flag"][0])
    assert got["half"].dtype == ms.bfloat16 and np.array_equal(numbers(got["half"]), numbers(gradients(0)["half"][1]))

    assert workers_.agree(own, own.rank == 1) and not workers_.agree(own, False)
    workers_.barrier(own)
    names = ({"a": mine["small0"], "b": mine["small1"]}, {"b": mine["small1"], "a": mine["small0"]})
    for f in (workers_.sum_trees, workers_.broadcast_tree):
        assert "but rank 1 has others than rank 0" in refused(f, own, names[own.rank])
    assert "rank 1 has" in refused(workers_.gather_rows, own, np.zeros((1, 2 + own.rank)))
    Path(folder, f"{own.rank}.txt").write_text(numbers(summed).tobytes().hex()[:4096])
    workers_.barrier(own)
    if own.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    workers_.barrier(own)
    Path(folder, "survived.txt").touch()


if __name__ == "__main__":
    main(sys.argv[1])
