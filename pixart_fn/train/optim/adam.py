"""Optimisers with moments of each number: AdamW, Lion, and SGD with momentum."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...checks import check_number, check_switch
from ...public import public
from .common import (
    Mask,
    Numbers,
    add_decayed_weights,
    average,
    check_beta,
    matrices,
    scale_by_learning_rate,
)
from .leaves import Leaf
from .schedules import Schedule
from .transform import Transformation, chain, leafwise

__all__ = ["adamw", "lion", "scale_by_adam", "scale_by_lion", "sgd", "trace"]


class Moments(NamedTuple):
    """The moving averages of a leaf's gradients and of their squares."""

    m: Numbers
    v: Numbers


@public
def scale_by_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, bias_correction: bool = True
) -> Transformation:
    """Make Adam's transformation m̂ / (√v̂ + ε), of the moving averages of g and g² (arXiv:1412.6980, algorithm 1).

    Args:
        b1: β_1, of the first moment, within [0, 1).
        b2: β_2, of the second moment, within [0, 1).
        eps: ε, above 0.
        bias_correction: whether m̂ = m / (1 - β_1^t) and v̂ = v / (1 - β_2^t), or m and v themselves.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_beta("b1", b1)
    check_beta("b2", b2)
    check_number("eps", eps, 0, above=True)
    check_switch("bias_correction", bias_correction)

    def init(leaf: Leaf, p: Numbers) -> Moments:
        return Moments(_zeros(leaf, p), _zeros(leaf, p))

    def update(leaf: Leaf, g: Numbers, state: Moments, p: Numbers, step: int, shared: None) -> tuple[Numbers, Moments]:
        m, v = state
        root = (1 - b2 ** (step + 1)) ** 0.5 if bias_correction else 1.0
        first = 1 - b1 ** (step + 1) if bias_correction else 1.0
        average(m, g, b1)
        average(v, np.multiply(g, g, out=g), b2)
        np.sqrt(v, out=g)
        np.add(g, np.float32(eps * root), out=g)
        np.divide(m, g, out=g)
        np.multiply(g, np.float32(root / first), out=g)
        return g, state

    return leafwise(init, update, elementwise=True)


@public
def adamw(
    lr: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    mask: Mask = matrices,
) -> Transformation:
    """Make AdamW, -lr (m̂ / (√v̂ + ε) + weight_decay · p) (arXiv:1711.05101, algorithm 2).

    Args:
        lr: the learning rate, at least 0, or a function of the step, from 0.
        b1: β_1, of the first moment, within [0, 1).
        b2: β_2, of the second moment, within [0, 1).
        eps: ε, above 0; PixArt was trained with 1e-10.
        weight_decay: at least 0; PixArt was trained with 0.03.
        mask: (name, shape) → whether the leaf is decayed; by default weights with two axes or more.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("weight_decay", weight_decay, 0)
    return chain(scale_by_adam(b1, b2, eps), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(lr))


@public
def scale_by_lion(b1: float = 0.9, b2: float = 0.99) -> Transformation:
    """Make Lion's transformation sign(β_1 m + (1 - β_1) g), m ← β_2 m + (1 - β_2) g (arXiv:2302.06675, algorithm 2).

    Args:
        b1: β_1, of the average whose sign is taken, within [0, 1).
        b2: β_2, of the average that is kept, within [0, 1).
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_beta("b1", b1)
    check_beta("b2", b2)

    def update(leaf: Leaf, g: Numbers, m: Numbers, p: Numbers, step: int, shared: None) -> tuple[Numbers, Numbers]:
        u = np.multiply(m, np.float32(b1), out=np.empty_like(m))
        np.add(u, g * np.float32(1 - b1), out=u)
        average(m, g, b2)
        return np.sign(u, out=g), m

    return leafwise(_zeros, update, elementwise=True)


@public
def lion(
    lr: float | Schedule, b1: float = 0.9, b2: float = 0.99, weight_decay: float = 0.0, mask: Mask = matrices
) -> Transformation:
    """Make Lion, -lr (sign(β_1 m + (1 - β_1) g) + weight_decay · p) (arXiv:2302.06675, algorithm 2).

    Args:
        lr: the learning rate, at least 0, or a function of the step, from 0; a third to a tenth of AdamW's.
        b1: β_1, of the average whose sign is taken, within [0, 1).
        b2: β_2, of the average that is kept, within [0, 1).
        weight_decay: at least 0; three to ten times AdamW's.
        mask: (name, shape) → whether the leaf is decayed; by default weights with two axes or more.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("weight_decay", weight_decay, 0)
    return chain(scale_by_lion(b1, b2), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(lr))


@public
def trace(momentum: float, nesterov: bool = False) -> Transformation:
    """Make the transformation m, of m ← momentum · m + g, as torch's SGD has it.

    Args:
        momentum: within [0, 1).
        nesterov: whether it gives g + momentum · m instead.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_beta("momentum", momentum)
    check_switch("nesterov", nesterov)

    def update(leaf: Leaf, g: Numbers, m: Numbers, p: Numbers, step: int, shared: None) -> tuple[Numbers, Numbers]:
        np.multiply(m, np.float32(momentum), out=m)
        np.add(m, g, out=m)
        if nesterov:
            np.add(g, m * np.float32(momentum), out=g)
        else:
            np.copyto(g, m)
        return g, m

    return leafwise(_zeros, update, elementwise=True)


@public
def sgd(
    lr: float | Schedule,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    mask: Mask = matrices,
) -> Transformation:
    """Make stochastic gradient descent -lr · m of m ← momentum · m + g + weight_decay · p, as torch has it.

    Args:
        lr: the learning rate, at least 0, or a function of the step, from 0.
        momentum: within [0, 1).
        nesterov: whether to take g + weight_decay · p + momentum · m instead of m; it needs a momentum.
        weight_decay: an L2 penalty's, at least 0.
        mask: (name, shape) → whether the leaf is decayed; by default weights with two axes or more.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("weight_decay", weight_decay, 0)
    average = trace(momentum, nesterov)
    if nesterov and not momentum:
        raise ValueError("momentum must be above 0 where nesterov is True, got 0")
    decay, rate = add_decayed_weights(weight_decay, mask), scale_by_learning_rate(lr)
    return chain(decay, average, rate) if momentum else chain(decay, rate)


def _zeros(leaf: Leaf, p: Numbers) -> Numbers:
    return np.zeros(leaf.shape, np.float32)
