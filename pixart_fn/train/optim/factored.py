"""Optimisers whose second moments are products of a row's and a column's: Adafactor, and CAME, which trained PixArt-Σ.

For a leaf of two axes or more, the squares of its last two axes are averaged over rows and over columns. The squares of
a leaf of fewer axes are kept one by one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...checks import check_function, check_number, check_switch, kind
from ...public import public
from .common import (
    Mask,
    Numbers,
    add_decayed_weights,
    as_schedule,
    average,
    check_beta,
    matrices,
    scale_by_learning_rate,
)
from .leaves import Leaf, sum_of_squares
from .schedules import Schedule
from .transform import Transformation, chain, leafwise

__all__ = ["adafactor", "came", "scale_by_came"]


class Factors(NamedTuple):
    """The moving averages of squares of a leaf (…, O, I): over its rows (…, O), and over its columns (…, I)."""

    rows: Numbers
    columns: Numbers


class AdafactorMoments(NamedTuple):
    """The average of a leaf's updates, where there is one, and that of the gradients' squares."""

    m: Numbers | None
    v: Factors | Numbers


class CAMEMoments(NamedTuple):
    """The averages of a leaf's updates, of the gradients' squares, and of the squared instability of a matrix."""

    m: Numbers
    v: Factors | Numbers
    instability: Factors | None


@public
def adafactor(
    lr: float | Schedule | None = None,
    b1: float | None = None,
    decay: float = 0.8,
    eps: tuple[float, float] = (1e-30, 1e-3),
    clip_threshold: float = 1.0,
    weight_decay: float = 0.0,
    scale_parameter: bool = True,
    warmup_init: bool = False,
    mask: Mask = matrices,
) -> Transformation:
    """Make Adafactor (arXiv:1804.04235, algorithms 4 and 5), with the numbers of transformers' one.

    With u = g / √v̂ and its root mean square bounded to `clip_threshold`, the update is -ρ (u + weight_decay · p).

    Args:
        lr: ρ, at least 0, or a function of the step, from 0; None for the relative step min(0.01, 1/√t), t from 1.
        b1: β_1, of a moving average of ρ u, within [0, 1); None for no average and no memory for it.
        decay: of β_2 = 1 - t^-decay, within (0, 1].
        eps: ε_1, added to squares of gradients, and ε_2, the least root mean square of the parameters, above 0.
        clip_threshold: d, above 0.
        weight_decay: at least 0.
        scale_parameter: whether ρ is multiplied by the root mean square of the leaf's parameters.
        warmup_init: whether the relative step is min(1e-6 t, 1/√t); lr must be None.
        mask: (name, shape) → whether the leaf is decayed; by default weights with two axes or more.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    _check_adafactor(b1, decay, eps, clip_threshold)
    check_number("weight_decay", weight_decay, 0)
    check_switch("scale_parameter", scale_parameter)
    check_switch("warmup_init", warmup_init)
    check_function("mask", mask, "name, shape")
    if warmup_init and lr is not None:
        raise ValueError("warmup_init must be False where lr is given, got True")
    rate = _relative_step(warmup_init) if lr is None else as_schedule("lr", lr)

    def init(leaf: Leaf, p: Numbers) -> AdafactorMoments:
        return AdafactorMoments(None if b1 is None else np.zeros(leaf.shape, np.float32), _zeros(leaf))

    def update(
        leaf: Leaf, g: Numbers, state: AdafactorMoments, p: Numbers, step: int, shared: None
    ) -> tuple[Numbers, AdafactorMoments]:
        m, v = state
        rho = rate(step) * (max(eps[1], _root_mean_square(p)) if scale_parameter else 1.0)
        u = _normalised(g, v, 1 - (step + 1) ** -decay, eps[0], clip_threshold)
        np.multiply(u, np.float32(-rho), out=u)
        if m is not None and b1 is not None:
            average(m, u, b1)
            np.copyto(u, m)
        if weight_decay and mask(*leaf):
            np.subtract(u, p * np.float32(rho * weight_decay), out=u)
        return u, state

    return leafwise(init, update)


@public
def scale_by_came(
    b1: float = 0.9,
    b2: float = 0.999,
    b3: float = 0.9999,
    eps: tuple[float, float] = (1e-30, 1e-16),
    clip_threshold: float = 1.0,
) -> Transformation:
    """Make CAME's transformation m / √s (arXiv:2307.02047, algorithm 2), with the numbers of the authors' code.

    With u = g / √v̂, bounded as in Adafactor, and m its moving average, s is the average of (u - m)², which makes steps
    small where they are unsure. It is kept for leaves of two axes or more; others move by m.

    Args:
        b1: β_1, of m, within [0, 1).
        b2: β_2, of the gradients' squares, within [0, 1).
        b3: β_3, of the instability s, within [0, 1).
        eps: ε_1, which is added to squares of gradients, and ε_2, which is added to (u - m)², above 0.
        clip_threshold: the root mean square of u at most, above 0.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    for name, value in (("b1", b1), ("b2", b2), ("b3", b3)):
        check_beta(name, value)
    _check_pair(eps)
    check_number("clip_threshold", clip_threshold, 0, above=True)

    def init(leaf: Leaf, p: Numbers) -> CAMEMoments:
        v, unsure = _zeros(leaf), _zeros(leaf)
        return CAMEMoments(np.zeros(leaf.shape, np.float32), v, unsure if isinstance(unsure, Factors) else None)

    def update(
        leaf: Leaf, g: Numbers, state: CAMEMoments, p: Numbers, step: int, shared: None
    ) -> tuple[Numbers, CAMEMoments]:
        m, v, instability = state
        u = _normalised(g, v, b2, eps[0], clip_threshold)
        average(m, u, b1)
        if instability is None:
            np.copyto(u, m)
            return u, state
        np.subtract(u, m, out=u)
        _average_squares(instability, u, b3, eps[1])
        return _over_root(m, instability, out=u), state

    return leafwise(init, update)


@public
def came(
    lr: float | Schedule,
    b1: float = 0.9,
    b2: float = 0.999,
    b3: float = 0.9999,
    eps: tuple[float, float] = (1e-30, 1e-16),
    clip_threshold: float = 1.0,
    weight_decay: float = 0.0,
    mask: Mask = matrices,
) -> Transformation:
    """Make CAME, -lr (m / √s + weight_decay · p) (arXiv:2307.02047, algorithm 2); the defaults trained PixArt-Σ.

    Args:
        lr: the learning rate, at least 0, or a function of the step, from 0; PixArt-Σ was trained with 2e-5.
        b1: β_1, of the updates, within [0, 1).
        b2: β_2, of the gradients' squares, within [0, 1).
        b3: β_3, of the instability, within [0, 1).
        eps: ε_1, which is added to squares of gradients, and ε_2, which is added to the instability, above 0.
        clip_threshold: the root mean square of g / √v̂ at most, above 0.
        weight_decay: at least 0.
        mask: (name, shape) → whether the leaf is decayed; by default weights with two axes or more.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("weight_decay", weight_decay, 0)
    scale = scale_by_came(b1, b2, b3, eps, clip_threshold)
    return chain(scale, add_decayed_weights(weight_decay, mask), scale_by_learning_rate(lr))


def _check_adafactor(b1: float | None, decay: float, eps: tuple[float, float], clip_threshold: float) -> None:
    if b1 is not None:
        check_beta("b1", b1)
    check_number("decay", decay, 0, 1, above=True)
    _check_pair(eps)
    check_number("clip_threshold", clip_threshold, 0, above=True)


def _check_pair(eps: tuple[float, float]) -> None:
    if not isinstance(eps, (tuple, list)) or len(eps) != 2:
        raise TypeError(f"eps must be two numbers, got {kind(eps)}")
    for i, each in enumerate(eps):
        check_number(f"eps[{i}]", each, 0, above=True)


def _relative_step(warmup_init: bool) -> Schedule:
    return lambda step: min(1e-6 * (step + 1) if warmup_init else 1e-2, 1 / math.sqrt(step + 1))


def _zeros(leaf: Leaf) -> Factors | Numbers:
    if len(leaf.shape) < 2:
        return np.zeros(leaf.shape, np.float32)
    rows, columns = leaf.shape[:-1], (*leaf.shape[:-2], leaf.shape[-1])
    return Factors(np.zeros(rows, np.float32), np.zeros(columns, np.float32))


def _root_mean_square(a: Numbers) -> float:
    return math.sqrt(sum_of_squares(a) / max(1, a.size))


def _average_squares(v: Factors | Numbers, a: Numbers, beta: float, eps: float) -> None:
    """Average a² + ε into v, in place."""
    squares = np.multiply(a, a, out=np.empty_like(a))
    np.add(squares, np.float32(eps), out=squares)
    if isinstance(v, Factors):
        average(v.rows, squares.mean(axis=-1), beta)
        average(v.columns, squares.mean(axis=-2), beta)
    else:
        average(v, squares, beta)


def _over_root(a: Numbers, v: Factors | Numbers, out: Numbers) -> Numbers:
    """a / √v, where v of a matrix is rows · columns / mean(rows)."""
    if isinstance(v, Factors):
        rows = 1 / np.sqrt(v.rows / v.rows.mean(axis=-1, keepdims=True))
        np.multiply(a, rows[..., None], out=out)
        return np.multiply(out, (1 / np.sqrt(v.columns))[..., None, :], out=out)
    return np.divide(a, np.sqrt(v), out=out)


def _normalised(g: Numbers, v: Factors | Numbers, beta: float, eps: float, threshold: float) -> Numbers:
    """Average g² into v, and return g / √v with a root mean square of at most the threshold, in place of g."""
    _average_squares(v, g, beta, eps)
    u = _over_root(g, v, out=g)
    size = _root_mean_square(u)
    return u if size <= threshold else np.multiply(u, np.float32(threshold / size), out=u)
