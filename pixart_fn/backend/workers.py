"""Many workers, one process each, as `msrun` starts them: who they are, and what they exchange.

MindSpore sends by mccl between CPUs, by HCCL between Ascend NPUs and by NCCL between GPUs. Each function here is called
by all workers, with trees and arrays of the same structure, in the same order. Alone, each returns what it was given.

`msrun` runs the command once more, as the scheduler that the workers meet at, which computes nothing. A worker that
raises or is killed ends the job: `msrun --join=True` kills the others within seconds, and returns when the scheduler
has missed that worker's signs of life for SILENCE. Without --join nobody kills them, and they wait for PATIENCE.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import tree as tree_
from ..checks import check_type, check_whole, kind
from ..process.lock import lock
from ..process.signals import deferred
from ..types import NumPyArray, Tree
from . import numpy2

if TYPE_CHECKING:
    from mindspore import Tensor

BUFFER = 2**23
"""Numbers that are summed in one exchange, unless a leaf alone has more: 32 MiB, and twice that while they are sent."""
SILENCE = 10
"""Seconds without a sign of life after which a worker is dead, unless MS_NODE_TIMEOUT is set; a thread sends them."""
PATIENCE = 1800
"""Seconds that mccl waits for a worker in an exchange, unless MS_CPU_COMM_OP_TIMEOUT is set.

MindSpore's own is SILENCE, which a worker that saves a checkpoint or compiles may take too.
"""


@dataclass(frozen=True)
class Workers:
    """Which worker this process is.

    Args:
        rank: from 0, which writes the files and shows the progress.
        size: how many workers there are.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        check_whole("size", self.size, 1)
        check_whole("rank", self.rank, 0, self.size - 1)


ALONE = Workers()
"""One process that shares its work with no other."""

# --- who they are -----------------------------------------------------------------------------------------------------


def is_scheduler() -> bool:
    """Return whether this process is where the workers of `msrun` meet, which has no work of its own."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def are_alone() -> bool:
    """Return whether `msrun` didn't start this process."""
    return os.environ.get("MS_ROLE") is None


def assigned() -> Workers:
    """Return which worker `msrun` made this process, for work that needs no exchange; nothing is started.

    Returns:
        The rank and the number of workers; (0, 1) without msrun.
    Raises:
        ValueError: msrun leaves the ranks open, as it does on several machines without --node_rank.
    """
    if are_alone():
        return Workers()
    try:
        return Workers(int(os.environ["RANK_ID"]), int(os.environ["MS_WORKER_NUM"]))
    except KeyError as error:
        raise ValueError(
            f"msrun must set {error} for each worker, which it does on several machines with --node_rank"
        ) from None


def start() -> Workers:
    """Meet the other workers, so that the exchanges below can be called.

    It comes before the first Tensor, and after `settle_on_cpu` where that is called. The scheduler's process doesn't
    return: it ends with the workers.

    Returns:
        The rank and the number of workers; (0, 1) without msrun, where nothing is started.
    Raises:
        RuntimeError: MindSpore can't reach the others.
    """
    if are_alone():
        return Workers()
    return _met()


@functools.cache
def _met() -> Workers:
    os.environ.setdefault("MS_NODE_TIMEOUT", str(SILENCE))
    os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", str(PATIENCE))
    os.environ.setdefault("HCCL_DETERMINISTIC", "true")  # sums in a fixed order on Ascend; they are elsewhere
    with deferred():  # an interrupted import of MindSpore would abort
        from mindspore import communication
    numpy2.settle()  # the exchanges below may be the process's first operations
    communication.init()
    return Workers(int(communication.get_rank()), int(communication.get_group_size()))


def share(workers: Workers, count: int) -> range:
    """Return the indices of this worker's part of so many things: every size-th, beginning with its rank."""
    return range(workers.rank, count, workers.size)


# --- what they exchange -----------------------------------------------------------------------------------------------


def sum_trees(workers: Workers, tree: Tree) -> Tree:
    """Add up the workers' trees, leaf by leaf.

    The sums are float32, in an order that is fixed for a number of workers: every worker gets the same bits, in every
    run.

    Args:
        workers: who takes part.
        tree: of Tensors of float32, float16 or bfloat16, alike on all workers.
    Returns:
        A tree like it.
    Raises:
        TypeError: a leaf is no such Tensor.
        ValueError: the workers' trees differ in a name, a shape or a dtype, which all of them raise.
    """
    if workers.size == 1:
        return tree
    leaves = tree_.leaves(tree)
    _check_floats(tree)
    from mindspore import ops

    reduce = ops.AllReduce()
    sums: list[Tensor] = []
    with lock():
        _check_alike(workers, tree)
        for first, end in packed([math.prod(leaf.shape) for leaf in leaves], BUFFER):
            own = leaves[first:end]
            flat = [leaf.reshape(-1).float() for leaf in own]
            total = reduce(ops.concat(flat))
            parts = ops.split(total, [len(each) for each in flat])
            sums += [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, own, strict=True)]
    return tree_.unflatten(tree, sums)


def packed(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of consecutive leaves that go into one buffer.

    Args:
        sizes: how many numbers each leaf has.
        most: how many a buffer holds, unless a leaf alone has more.
    Yields:
        The index of a buffer's first leaf, and that after its last.
    """
    first = total = 0
    for i, size in enumerate(sizes):
        if i > first and total + size > most:
            yield first, i
            first, total = i, 0
        total += size
    if sizes:
        yield first, len(sizes)


def gather_rows(workers: Workers, array: NumPyArray) -> NumPyArray:
    """Put the workers' rows together, in the order of their ranks.

    Args:
        workers: who takes part.
        array: (R, …) of any dtype with a fixed size; R may differ between workers, also be 0, and nothing else may.
    Returns:
        (sum of R, …), the same on every worker.
    Raises:
        TypeError: array isn't one, or holds objects.
        ValueError: it has no rows, or the workers' arrays differ in their dtype or in the shape of a row, which all of
            them raise.
    """
    if workers.size == 1:
        return array
    check_type("array", array, np.ndarray, "a NumPy array")
    if array.ndim == 0:
        raise ValueError("array must have at least one dimension, got a single number")
    with lock():
        _check_alike(workers, np.empty((0, *array.shape[1:]), array.dtype))
        counts = _gathered(workers, np.array([len(array)], np.int32))[:, 0]
        rows = np.zeros((max(counts), *array.shape[1:]), array.dtype)
        rows[: len(array)] = array
        everyone = _gathered(workers, _words(rows))
    parts = [_unpacked(words, rows) for words in everyone]
    return np.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)])


def broadcast_tree(workers: Workers, tree: Tree) -> Tree:
    """Give every worker the tree of rank 0, bit by bit.

    Args:
        workers: who takes part.
        tree: of Tensors or NumPy arrays of any dtype with a fixed size, alike on all workers but in their values.
    Returns:
        The tree of rank 0.
    Raises:
        TypeError: a leaf is neither, or holds objects.
        ValueError: the workers' trees differ in a name, a shape or a dtype, which all of them raise.
    """
    if workers.size == 1:
        return tree
    from mindspore import Tensor, ops

    for path, leaf in tree_.items(tree):
        if not isinstance(leaf, (Tensor, np.ndarray)):
            raise TypeError(f"tree must hold Tensors or arrays, got {kind(leaf)} at {path or 'the root'}")
    send = ops.Broadcast(0)

    def sent(leaf: Any) -> Any:
        array = leaf if isinstance(leaf, np.ndarray) else _host(leaf)
        (words,) = send((Tensor.from_numpy(_words(array)),))
        received = _unpacked(words.asnumpy(), array)
        return received if isinstance(leaf, np.ndarray) else Tensor(received).astype(leaf.dtype)

    with lock():
        _check_alike(workers, tree)
        return tree_.map(sent, tree)


def agree(workers: Workers, wish: bool) -> bool:
    """Return whether any worker says True, such as one that was asked to stop.

    Args:
        workers: who takes part.
        wish: of this worker.
    Returns:
        The same on every worker.
    """
    if workers.size == 1:
        return wish
    with lock():
        return bool(_gathered(workers, np.array([wish], np.int32)).any())


def barrier(workers: Workers) -> None:
    """Wait until every worker is here; mccl has no barrier of its own."""
    agree(workers, False)


# --- as numbers that every backend sends ------------------------------------------------------------------------------


def _gathered(workers: Workers, words: NumPyArray) -> NumPyArray:
    """(N,) int32 of each worker → (size, N)."""
    from mindspore import Tensor, ops

    if not len(words):
        return np.zeros((workers.size, 0), np.int32)
    everyone: NumPyArray = ops.AllGather()(Tensor.from_numpy(words)).asnumpy()
    return everyone.reshape(workers.size, -1)


def _words(array: NumPyArray) -> NumPyArray:
    """The bytes of an array as int32, which is among the few dtypes that mccl, HCCL and NCCL all send."""
    if array.dtype.hasobject:
        raise TypeError("an array that is sent to other workers must hold numbers, got objects")
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return np.pad(data, (0, -len(data) % 4)).view(np.int32)


def _unpacked(words: NumPyArray, like: NumPyArray) -> NumPyArray:
    data = np.ascontiguousarray(words).view(np.uint8)[: like.nbytes]
    return data.view(like.dtype).reshape(like.shape)


def _host(leaf: Tensor) -> NumPyArray:
    from mindspore import bfloat16

    # NumPy has no bfloat16, and float32 holds each of its values
    array: NumPyArray = (leaf.float() if leaf.dtype == bfloat16 else leaf).asnumpy()
    return array


def _check_floats(tree: Tree) -> None:
    import mindspore as ms

    for path, leaf in tree_.items(tree):
        if not isinstance(leaf, ms.Tensor) or leaf.dtype not in (ms.float32, ms.float16, ms.bfloat16):
            got = str(leaf.dtype).lower() if isinstance(leaf, ms.Tensor) else kind(leaf)
            where = path or "the root"
            raise TypeError(f"tree must hold Tensors of float32, float16 or bfloat16, got {got} at {where}")


def _check_alike(workers: Workers, tree: Tree) -> None:
    """Raise on every worker where one has a tree of another structure: the exchange would hang, or mix leaves up."""
    listed = [(path, tuple(leaf.shape), str(leaf.dtype)) for path, leaf in tree_.items(tree)]
    own = np.frombuffer(hashlib.sha256(repr(listed).encode()).digest()[:8], np.int32)
    everyone = _gathered(workers, own)
    different = np.flatnonzero((everyone != everyone[0]).any(1))
    if len(different):
        raise ValueError(
            f"the trees of the workers must have the same names, shapes and dtypes, but rank {different[0]} has others "
            "than rank 0"
        )
