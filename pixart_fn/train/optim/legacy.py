"""AdamW and the exponential moving average, as pure functions over trees.

They run on the host in NumPy, with one thread for each leaf. A leaf fits into the cache, where NumPy needs a third of
the time of MindSpore's CPU operations, and NumPy releases Python's lock.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor

from ... import tree
from ...checks import check_number, check_type, kind, shown
from ...types import Tree


class AdamW(NamedTuple):
    """Hyper-parameters of AdamW (arXiv:1711.05101, algorithm 2).

    Args:
        b1: β_1, of the first moment, within [0, 1).
        b2: β_2, of the second moment, within [0, 1).
        eps: ε, which is added to the root of the second moment, above 0.
        weight_decay: of weights with two axes or more, at least 0.
        clip: bounds the gradient's global norm, above 0.
        rates: (part, factor): the learning rate of the leaves whose name contains `part` is multiplied by `factor`.
    """

    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    rates: tuple[tuple[str, float], ...] = ()


class State(NamedTuple):
    """Steps taken; first and second moments and the weights' moving average, trees of float32 arrays."""

    step: int
    m: Tree
    v: Tree
    ema: Tree


def init(params: Tree) -> State:
    """The state before the first step: the moments are zero, and the average equals the parameters.

    Args:
        params: a tree of float32 Tensors.
    Returns:
        The state, of trees of arrays of the same structure.
    Raises:
        TypeError: a leaf isn't a Tensor.
    """
    check_leaves("params", params)
    zeros = tree.map(lambda p: np.zeros(p.shape, np.float32), params)
    return State(0, zeros, zeros, tree.map(lambda p: p.asnumpy(), params))


def update(
    hyper: AdamW, params: Tree, gradients: Tree, state: State, lr: float, decay: float
) -> tuple[Tree, State, float]:
    """Take one step of AdamW with bias correction (arXiv:1711.05101, algorithm 2).

    Weights of fewer than two axes aren't decayed.

    Args:
        hyper: the hyper-parameters.
        params: a tree of float32 Tensors.
        gradients: a tree of the same structure; the leaves of one name belong together.
        state: from `init` or the step before.
        lr: learning rate, at least 0.
        decay: of the moving average, ema ← decay · ema + (1 - decay) · params, within [0, 1].
    Returns:
        The new parameters, the new state, and the gradient's global norm before clipping.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: hyper, lr or decay is out of its range, the trees of parameters, gradients and state differ in names
            or shapes, or the gradient isn't finite.
    """
    check_hyper(hyper)
    check_number("lr", lr, 0)
    check_number("decay", decay, 0, 1)
    rows = _rows(params, gradients, state)
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for _, _, g, *_ in rows)))
    if not np.isfinite(norm):
        raise ValueError(
            f"the gradient's norm is {norm} at step {state.step}: the loss isn't finite, or lr is too large"
        )
    step = state.step + 1
    scale = min(1.0, hyper.clip / (norm + 1e-12))
    correction = np.sqrt(1 - hyper.b2**step) / (1 - hyper.b1**step)
    eps = hyper.eps * np.sqrt(1 - hyper.b2**step)

    def leaf(row: tuple[Any, ...]) -> tuple[Any, ...]:
        name, p, g, m, v, ema = row
        rate = lr * next((rate for part, rate in hyper.rates if part in name), 1.0)
        g = np.float32(scale) * g
        m = m + np.float32(1 - hyper.b1) * (g - m)
        v = v + np.float32(1 - hyper.b2) * (g * g - v)
        shrink = np.float32(1 - rate * hyper.weight_decay if p.ndim > 1 else 1)
        p = shrink * p - np.float32(rate * correction) * m / (np.sqrt(v) + np.float32(eps))
        ema = ema + np.float32(1 - decay) * (p - ema)
        p, m, v, ema = map(np.asarray, (p, m, v, ema))  # NumPy makes scalars of arrays without axes
        return Tensor.from_numpy(p), m, v, ema

    with ThreadPoolExecutor() as pool:
        moved = list(pool.map(leaf, rows))
    params, m, v, ema = (tree.unflatten(params, column) for column in zip(*moved, strict=True))
    return params, State(step, m, v, ema), norm


def check_hyper(hyper: AdamW) -> None:
    """Raise where these aren't hyper-parameters of AdamW.

    Args:
        hyper: what should be an AdamW, with each number in its range.
    Raises:
        TypeError: it isn't an AdamW, or a field has the wrong type.
        ValueError: a number is out of its range.
    """
    check_type("hyper", hyper, AdamW, "an optim.AdamW")
    for name in ("b1", "b2"):
        check_number(f"{name} of hyper", getattr(hyper, name), 0, 1)
        if getattr(hyper, name) == 1:
            raise ValueError(f"{name} of hyper must be below 1, got 1")
    check_number("eps of hyper", hyper.eps, 0, above=True)
    check_number("weight_decay of hyper", hyper.weight_decay, 0)
    check_number("clip of hyper", hyper.clip, 0, math.inf, above=True)
    if not isinstance(hyper.rates, (tuple, list)):
        raise TypeError(f"rates of hyper must be a list of (part, factor), got {kind(hyper.rates)}")
    for pair in hyper.rates:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(f"rates of hyper must be a list of (part, factor), got {shown(pair)} in it")
        check_number(f"the factor of {pair[0]!r} in rates of hyper", pair[1], 0)


def check_leaves(argument: str, leaves: Tree) -> None:
    """Raise a TypeError where a leaf isn't a Tensor; `argument` is what the sentence calls the tree."""
    for name, leaf in tree.items(leaves):
        check_type(f"{argument} at {name or 'the root'!r}", leaf, Tensor, "a Tensor")


def _rows(params: Tree, gradients: Tree, state: State) -> list[tuple[Any, ...]]:
    """Pair the leaves of all trees by name, checked: (name, parameter, gradient, moments, average)."""
    check_type("state", state, State, "an optim.State, as optim.init makes")
    check_leaves("params", params)
    check_leaves("gradients", gradients)
    columns = [tree.map(lambda leaf: leaf.asnumpy(), each) for each in (params, gradients)]
    rows = list(tree.rows(*columns, state.m, state.v, state.ema))
    for name, p, *others in rows:
        if any(np.shape(other) != p.shape for other in others):
            got = ", ".join(str(np.shape(other)) for other in others)
            raise ValueError(f"{name} has the shape {p.shape}, and its gradient, moments and average {got}")
    return rows
