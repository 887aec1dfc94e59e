"""AdamW and the exponential moving average, as pure functions over trees."""

from __future__ import annotations

from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from .. import jit, tree
from ..types import Tree


class AdamW(NamedTuple):
    """Hyper-parameters of AdamW (arXiv:1711.05101); `clip` bounds the gradient's global norm."""

    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0


class State(NamedTuple):
    """Steps taken; first and second moments and the weights' moving average, each a tree like the parameters."""

    step: int
    m: Tree
    v: Tree
    ema: Tree


def init(params: Tree) -> State:
    """The state before the first step: zero moments, the average equal to the parameters."""

    def zeros(p):
        return Tensor.from_numpy(np.zeros(p.shape, np.float32))

    return State(0, tree.map(zeros, params), tree.map(zeros, params), params)


def update(hyper: AdamW, params: Tree, gradients: Tree, state: State, lr: float, decay: float) -> tuple[Tree, State, float]:
    """One step of AdamW with bias correction; weights of fewer than two axes aren't decayed.

    Args:
        lr: learning rate. decay: of the moving average, ema ← decay · ema + (1 − decay) · params.
    Returns: the new parameters, the new state, the gradient's global norm before clipping.
    """
    norm = float(np.sqrt(sum(float(_square_sum(g)[0].asnumpy()) for g in tree.leaves(gradients))))
    step = state.step + 1
    scale = min(1.0, hyper.clip / (norm + 1e-12))

    def scalar(value: float) -> Tensor:
        return Tensor(value, ms.float32)

    shared = [scalar(v) for v in (scale, hyper.b1, hyper.b2, hyper.eps, 1 - hyper.b1**step, 1 - hyper.b2**step, lr, decay)]
    decays = scalar(lr * hyper.weight_decay), scalar(0.0)
    columns = [tree.leaves(t) for t in (params, gradients, state.m, state.v, state.ema)]
    rows = [_leaf(*row, decays[row[0].ndim < 2], *shared) for row in zip(*columns, strict=True)]
    params, m, v, ema = (tree.unflatten(params, column) for column in zip(*rows, strict=True))
    return params, State(step, m, v, ema), norm


@jit.function
def _square_sum(g):
    return ((g * g).sum(),)


@jit.function
def _leaf(p, g, m, v, ema, wd, scale, b1, b2, eps, c1, c2, lr, decay):
    g = g * scale
    m = b1 * m + (1.0 - b1) * g
    v = b2 * v + (1.0 - b2) * (g * g)
    p = p - wd * p - lr * (m / c1) / (ops.sqrt(v / c2) + eps)
    return p, m, v, decay * ema + (1.0 - decay) * p
