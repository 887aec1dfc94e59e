"""Optimisers with moments of each number: AdamW, Lion, and SGD with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...checks import check_number, check_switch
from ...public import public
from .common import (
    Mask,
    Numbers,
    add_decayed_weights,
    check_beta,
    matrices,
    scale_by_learning_rate,
    scale_by_name,
)
from .leaves import Leaf
from .schedules import Schedule
from .transform import Transformation, chain, leafwise

__all__ = ["adamw", "scale_by_adam"]


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
        return Moments(np.zeros(leaf.shape, np.float32), np.zeros(leaf.shape, np.float32))

    def update(leaf: Leaf, g: Numbers, state: Moments, p: Numbers, step: int, shared: None) -> tuple[Numbers, Moments]:
        m, v = state
        root = (1 - b2 ** (step + 1)) ** 0.5 if bias_correction else 1.0
        first = 1 - b1 ** (step + 1) if bias_correction else 1.0
        each = np.subtract(g, m, out=np.empty_like(g))
        np.multiply(each, np.float32(1 - b1), out=each)
        np.add(m, each, out=m)
        np.multiply(g, g, out=g)
        np.subtract(g, v, out=g)
        np.multiply(g, np.float32(1 - b2), out=g)
        np.add(v, g, out=v)
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
    rates: Sequence[tuple[str, float]] = (),
) -> Transformation:
    """Make AdamW, -lr (m̂ / (√v̂ + ε) + weight_decay · p) (arXiv:1711.05101, algorithm 2).

    Args:
        lr: the learning rate, at least 0, or a function of the step, from 0.
        b1: β_1, of the first moment, within [0, 1).
        b2: β_2, of the second moment, within [0, 1).
        eps: ε, above 0; PixArt was trained with 1e-10.
        weight_decay: at least 0; PixArt was trained with 0.03.
        mask: (name, shape) → whether the leaf is decayed; by default weights with two axes or more.
        rates: (part, factor) pairs that multiply the learning rate of parts, as in `scale_by_name`.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("weight_decay", weight_decay, 0)
    return chain(
        scale_by_adam(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_name(rates),
        scale_by_learning_rate(lr),
    )
