"""How transformations go through the leaves of trees: by name, in threads, in pieces, and in place where they may."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor

from ... import tree
from ...backend import device
from ...checks import check_type
from ...types import NumPyArray, Tree

PIECE = 1 << 18
"""Numbers of a leaf that are worked on at once, of which the ten arrays of a step fit into the caches."""

SUMMED = 1 << 13
"""Numbers that are summed at once: the linear algebra library has threads of its own for more."""


class Leaf(NamedTuple):
    """Which leaf of the parameters a function works on.

    Args:
        name: such as "transformer_blocks.0.attn1.to_q.weight".
        shape: of the whole leaf.
    """

    name: str
    shape: tuple[int, ...]


class Rule(NamedTuple):
    """How a transformation treats one leaf; see `leafwise`."""

    init: Callable[..., Tree] | None
    update: Callable[..., tuple[NumPyArray, Tree]]
    prepare: Callable[[Tree], Any] | None
    elementwise: bool


class LeafwiseState(NamedTuple):
    """The state of a transformation that treats each leaf by itself.

    Args:
        step: steps taken.
        leaves: the parameters' tree with the state of a leaf in each leaf's place, or None without states.
    """

    step: int
    leaves: Tree = None


class Tail(NamedTuple):
    """What follows the updates in a step: the rule of the parameters' moving average and its state, or None."""

    rule: Rule | None = None
    state: Tree = None


class _Row(NamedTuple):
    """A leaf with its update, its parameter and the states of the rules, in `states` that of the average last."""

    leaf: Leaf
    g: NumPyArray
    p: NumPyArray
    states: list[Tree]


class _Pass(NamedTuple):
    """One pass over the leaves: the rules and the counts of their steps, and what the first of them knows."""

    rules: Sequence[Rule]
    counts: Sequence[int]
    shared: Any
    writeable: Callable[[NumPyArray], bool]
    average: Rule | None = None


def start(rule: Rule, params: Tree) -> LeafwiseState:
    """The state of a rule before the first step."""
    rows = [(name, numbers("params", name, p, np.float32)) for name, p in tree.items(params)]
    if rule.init is None:
        return LeafwiseState(0)
    return LeafwiseState(0, tree.unflatten(params, [rule.init(Leaf(name, p.shape), p) for name, p in rows]))


def transform(
    rules: Sequence[Rule],
    updates: Tree,
    states: Sequence[Tree],
    params: Tree,
    donate: bool,
    norm: float | None = None,
) -> tuple[Tree, list[Tree]]:
    """Apply rules in turn, and return the updates and the states of the rules."""
    rows = _rows(rules, updates, states, params)
    with _memory(donate, rows) as writeable:
        job = _Pass(rules, _counts(states), _shared(rules, updates, norm), writeable)
        out = [row.g if writeable(row.g) else np.empty(row.leaf.shape, np.float32) for row in rows]
        moved = _in_threads(lambda row, into: _transformed(job, row, into, False), rows, out)
    return tree.unflatten(params, out), _advanced(rules, states, params, moved)


def step(
    rules: Sequence[Rule],
    updates: Tree,
    states: Sequence[Tree],
    params: Tree,
    tail: Tail,
    donate: bool,
    norm: float | None = None,
) -> tuple[Tree, list[Tree], Tree]:
    """Apply rules in turn, add the updates to the parameters, and apply the tail's rule to these."""
    every = [*rules, *([tail.rule] if tail.rule else [])]
    known = [*states, *([tail.state] if tail.rule else [])]
    rows = _rows(every, updates, known, params)
    with _memory(donate, rows) as writeable:
        job = _Pass(rules, _counts(known), _shared(rules, updates, norm), writeable, tail.rule)
        out = [row.p if writeable(row.p) else np.empty(row.leaf.shape, np.float32) for row in rows]
        moved = _in_threads(lambda row, into: _transformed(job, row, into, True), rows, out)
    after = _advanced(every, known, params, moved)
    # Where it was written in place it is the same Tensor: a Tensor over its array would keep it for ever. On another
    # device than a CPU the array is a copy of the Tensor.
    host = device.is_cpu()
    as_given = [
        p if not isinstance(was, Tensor) else was if p is row.p and host else Tensor.from_numpy(p)
        for p, row, was in zip(out, rows, tree.leaves(params), strict=True)
    ]
    return tree.unflatten(params, as_given), after[: len(rules)], after[-1] if tail.rule else tail.state


def _transformed(job: _Pass, row: _Row, into: NumPyArray, add: bool) -> list[Tree]:
    """Transform one leaf, write its update or its new parameter `into` an array, and return its states."""
    states = [tree.map(lambda a: a if job.writeable(a) else np.array(a), state) for state in row.states]
    elementwise = all(rule.elementwise for rule in (*job.rules, *([job.average] if job.average else [])))
    for here in _pieces(row.leaf.shape) if elementwise else [...]:
        u = np.array(row.g[here], np.float32)
        for k, rule in enumerate(job.rules):
            shared = job.shared if k == 0 else None
            given = _at(states[k], here)
            u, new = rule.update(row.leaf, u, given, row.p[here], job.counts[k], shared)
            states[k] = _put(states[k], here, given, new)
        if not add:
            into[here] = u
            continue
        p = into[here]
        np.add(row.p[here], u, out=p)
        if job.average:
            given = _at(states[-1], here)
            _, new = job.average.update(row.leaf, np.array(p), given, p, job.counts[-1], None)
            states[-1] = _put(states[-1], here, given, new)
    return states


def _pieces(shape: tuple[int, ...]) -> list[Any]:
    """Cut a leaf along its first axis."""
    size = int(np.prod(shape, dtype=np.int64))
    if not shape or size <= PIECE:
        return [...]
    rows = max(1, PIECE * shape[0] // size)
    return [slice(i, i + rows) for i in range(0, shape[0], rows)]


def _at(state: Tree, here: Any) -> Tree:
    """The piece of a leaf's state: views of its arrays."""
    if here is ... or state is None:
        return state
    if isinstance(state, np.ndarray):
        return state[here]
    return tree.unflatten(state, [a[here] for a in tree.leaves(state)])


def _put(state: Tree, here: Any, given: Tree, new: Tree) -> Tree:
    """The leaf's state after a piece of it was `given` to a rule and has become `new`."""
    if here is ...:
        return new
    if new is not given:
        for _, whole, was, now in tree.rows(state, given, new):
            if now is not was:
                whole[here] = now
    return state


def _rows(rules: Sequence[Rule], updates: Tree, states: Sequence[Tree], params: Tree) -> list[_Row]:
    """Pair the leaves by name, checked."""
    for state in states:
        check_type("state", state, LeafwiseState, "what the transformation's init or step before gave")
    rows = []
    for name, p, g in tree.rows(params, updates):
        p, g = numbers("params", name, p, np.float32), numbers("gradients or updates", name, g)
        if g.shape != p.shape:
            raise ValueError(f"{name} has the shape {p.shape}, and its gradient or update {g.shape}")
        found = [
            None if rule.init is None else _found(state.leaves, name) for rule, state in zip(rules, states, strict=True)
        ]
        rows.append(_Row(Leaf(name, p.shape), g, p, found))
    if rows:
        _check_kinds(rules, min(rows, key=lambda row: row.p.size))
    for row in rows:
        for rule, state in zip(rules, row.states, strict=True):
            if rule.elementwise and (wrong := [a.shape for a in tree.leaves(state) if a.shape != row.p.shape]):
                raise ValueError(f"{row.leaf.name} has the shape {row.p.shape}, and its state {wrong[0]}")
    return rows


def _check_kinds(rules: Sequence[Rule], row: _Row) -> None:
    """Raise a ValueError where the states of a leaf are those of other transformations."""
    for rule, state in zip(rules, row.states, strict=True):
        expected = None if rule.init is None else rule.init(row.leaf, row.p)
        try:
            wrong = [name for name, a, found in tree.rows(expected, state) if np.shape(a) != np.shape(found)]
        except ValueError as error:
            raise ValueError(f"state of {row.leaf.name!r} is another transformation's: {error}") from None
        if wrong:
            raise ValueError(f"state of {row.leaf.name!r} has another shape at {wrong[0] or 'its root'}")


def numbers(argument: str, name: str, leaf: Tree, dtype: type | None = None) -> NumPyArray:
    """The numbers of a leaf, in its own memory; `argument` is what a sentence calls the tree."""
    where = f"{argument} at {name or 'the root'!r}"
    check_type(where, leaf, (Tensor, np.ndarray, np.floating), "a Tensor or an array")
    a: NumPyArray = leaf.asnumpy() if isinstance(leaf, Tensor) else np.asarray(leaf)
    if not np.issubdtype(a.dtype, np.floating) or (dtype is not None and a.dtype != dtype):
        raise TypeError(f"{where} must be {np.dtype(dtype).name if dtype else 'floating'}, got {a.dtype}")
    return a


def _found(leaves: Tree, name: str) -> Tree:
    """The state of the leaf of a name."""
    node = leaves
    for part in name.split(".") if name else ():
        try:
            node = _child(node, part)
        except (AttributeError, IndexError, KeyError, ValueError):
            raise ValueError(f"state has nothing for {name!r}, so it is of other parameters") from None
    return node


def _child(node: Tree, part: str) -> Tree:
    """The child that `px.tree` calls `part`."""
    if isinstance(node, dict):
        return {str(key): child for key, child in node.items()}[part]
    return node[int(part)] if isinstance(node, (list, tuple)) and not hasattr(node, "_fields") else getattr(node, part)


def _advanced(rules: Sequence[Rule], states: Sequence[Tree], params: Tree, moved: list[list[Tree]]) -> list[Tree]:
    """The states after a step, from those of each leaf."""
    columns = [tree.unflatten(params, list(column)) for column in zip(*moved, strict=True)] or [None] * len(rules)
    return [
        LeafwiseState(int(state.step) + 1, column if rule.init else None)
        for rule, state, column in zip(rules, states, columns, strict=True)
    ]


def _counts(states: Sequence[Tree]) -> list[int]:
    return [int(state.step) for state in states]


def _address(a: NumPyArray) -> int:
    return a.ctypes.data


def _shared(rules: Sequence[Rule], updates: Tree, norm: float | None) -> Any:
    if not rules or rules[0].prepare is None:
        return None
    return norm if norm is not None and rules[0].prepare is global_norm else rules[0].prepare(updates)


def _in_threads(f: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(f, *columns))


@contextmanager
def _memory(donate: bool, rows: Sequence[_Row]) -> Iterator[Callable[[NumPyArray], bool]]:
    """A function that says whether an array of `rows` was donated and can be written to.

    Memory that two arrays share, as those of tied weights do, is still read for one when the other is done. And NumPy
    doesn't know whether a Tensor's array is writeable: one over a file that was mapped for reading ends the process.
    So the kernel is asked to read a byte into it, which is the byte that is there.
    """
    if not donate or not hasattr(os, "readv"):
        yield lambda a: False
        return
    uses = Counter(_address(a) for row in rows for a in (row.g, row.p, *tree.leaves(row.states)))
    read, write = os.pipe()
    alone = threading.Lock()  # a thread must get its own byte back

    def writeable(a: NumPyArray) -> bool:
        if a.size == 0 or uses[_address(a)] > 1:
            return False
        if not (a.flags.writeable and a.flags.c_contiguous and a.dtype == np.float32):
            return False
        byte = a.reshape(-1)[:1].view(np.uint8)[:1].data
        with alone:
            os.write(write, byte)
            try:
                os.readv(read, [byte])
            except OSError:
                os.read(read, 1)
                return False
        return True

    try:
        yield writeable
    finally:
        os.close(read)
        os.close(write)


def global_norm(updates: Tree) -> float:
    """The root of the sum of all squares, √Σ g².

    Args:
        updates: a tree of Tensors or arrays of real numbers.
    Returns:
        The norm, summed in float64; NaN or infinite where a number is.
    Raises:
        TypeError: a leaf isn't a Tensor or array of such numbers.
    """
    rows = [numbers("updates", name, leaf) for name, leaf in tree.items(updates)]
    return float(np.sqrt(sum(_in_threads(sum_of_squares, rows))))


def sum_of_squares(a: NumPyArray) -> float:
    """Σ a² in float64."""
    flat = a.reshape(-1)
    pieces = (flat[i : i + SUMMED].astype(np.float64) for i in range(0, flat.size, SUMMED))
    return sum(float(np.dot(piece, piece)) for piece in pieces)
