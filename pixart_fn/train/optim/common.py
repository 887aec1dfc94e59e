"""What every optimiser is put together from: bounds of gradients, decay, learning rates, and the moving average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...checks import check_function, check_number, check_switch, is_number, kind, shown
from ...public import public
from ...types import Tree
from .leaves import Leaf, global_norm
from .schedules import Schedule, constant
from .transform import Transformation, leafwise

__all__ = [
    "add_decayed_weights",
    "clip",
    "clip_by_global_norm",
    "ema",
    "matrices",
    "scale_by_learning_rate",
    "scale_by_name",
]

Numbers: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = Callable[[str, tuple[int, ...]], bool]


def matrices(name: str, shape: tuple[int, ...]) -> bool:
    """Say whether a leaf has two axes or more, as the weights of linear layers and convolutions have.

    Args:
        name: of the leaf, which doesn't matter.
        shape: of the leaf.
    Returns:
        Whether it has.
    """
    return len(shape) > 1


@public
def clip_by_global_norm(largest: float) -> Transformation:
    """Make the transformation that scales gradients down to a global norm, g · min(1, largest / √Σ g²).

    Args:
        largest: the norm of what it gives at most, above 0.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: `largest` isn't such a number.
    """
    check_number("largest", largest, 0, above=True)

    def update(leaf: Leaf, g: Numbers, state: Tree, p: Numbers, step: int, norm: float) -> tuple[Numbers, Tree]:
        if not norm <= largest:  # so that NaN spreads
            np.multiply(g, np.float32(largest / norm), out=g)
        return g, state

    return leafwise(None, update, global_norm, elementwise=True)


@public
def clip(largest: float) -> Transformation:
    """Make the transformation that bounds each number of a gradient to [-largest, largest].

    Args:
        largest: above 0.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: `largest` isn't such a number.
    """
    check_number("largest", largest, 0, above=True)

    def update(leaf: Leaf, g: Numbers, state: Tree, p: Numbers, step: int, shared: None) -> tuple[Numbers, Tree]:
        return np.clip(g, np.float32(-largest), np.float32(largest), out=g), state

    return leafwise(None, update, elementwise=True)


@public
def add_decayed_weights(rate: float, mask: Mask = matrices) -> Transformation:
    """Make the transformation that adds rate · p to the updates of some leaves.

    After the moments it is the decoupled weight decay of AdamW (arXiv:1711.05101), and before them an L2 penalty.

    Args:
        rate: at least 0.
        mask: (name, shape) → whether the leaf is decayed; by default weights with two axes or more.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("rate", rate, 0)
    check_function("mask", mask, "name, shape")

    def update(leaf: Leaf, g: Numbers, state: Tree, p: Numbers, step: int, shared: None) -> tuple[Numbers, Tree]:
        if rate and mask(*leaf):
            np.add(g, p * np.float32(rate), out=g)
        return g, state

    return leafwise(None, update, elementwise=True)


@public
def scale_by_learning_rate(lr: float | Schedule) -> Transformation:
    """Make the transformation that multiplies by -lr, which comes last in an optimiser.

    Args:
        lr: at least 0, or a function of the step, from 0.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: lr isn't such a number or function.
    """
    rate = as_schedule("lr", lr)

    def update(leaf: Leaf, g: Numbers, state: Tree, p: Numbers, step: int, shared: None) -> tuple[Numbers, Tree]:
        return np.multiply(g, np.float32(-rate(step)), out=g), state

    return leafwise(None, update, elementwise=True)


@public
def scale_by_name(rates: Sequence[tuple[str, float]]) -> Transformation:
    """Make the transformation that gives parts of the parameters another learning rate.

    Args:
        rates: (part, factor) pairs: the updates of a leaf are multiplied by the factor of the first part that its name
            contains, and by 1 where there is none.
    Returns:
        The transformation.
    Raises:
        TypeError: rates aren't such pairs.
        ValueError: a factor is below 0.
    """
    if not isinstance(rates, (tuple, list)):
        raise TypeError(f"rates must be a list of (part, factor), got {kind(rates)}")
    for each in rates:
        if not (isinstance(each, (tuple, list)) and len(each) == 2 and isinstance(each[0], str)):
            raise TypeError(f"rates must be a list of (part, factor), got {shown(each)} in it")
        check_number(f"the factor of {each[0]!r} in rates", each[1], 0)
    known = tuple((part, float(factor)) for part, factor in rates)

    def update(leaf: Leaf, g: Numbers, state: Tree, p: Numbers, step: int, shared: None) -> tuple[Numbers, Tree]:
        factor = next((factor for part, factor in known if part in leaf.name), 1.0)
        return np.multiply(g, np.float32(factor), out=g) if factor != 1 else g, state

    return leafwise(None, update, elementwise=True)


@public
def ema(decay: float, warmup: bool = True) -> Transformation:
    """Make the moving average of parameters, average ← d · average + (1 - d) · params.

    It transforms parameters, not gradients: `init(params)` starts with them, and `update(params, state, params)`, or
    `step` with `ema=`, follows. `state.leaves` is the average.

    Args:
        decay: d, within [0, 1].
        warmup: whether d at step t, from 0, is min(decay, (1 + t) / (10 + t)), which forgets the start sooner.
    Returns:
        The transformation.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("decay", decay, 0, 1)
    check_switch("warmup", warmup)

    def init(leaf: Leaf, p: Numbers) -> Numbers:
        return np.array(p)

    def update(
        leaf: Leaf, params: Numbers, average: Numbers, p: Numbers, step: int, shared: None
    ) -> tuple[Numbers, Numbers]:
        d = min(decay, (1 + step) / (10 + step)) if warmup else decay
        difference = np.subtract(params, average, out=params)
        np.multiply(difference, np.float32(1 - d), out=difference)
        np.add(average, difference, out=average)
        return average, average

    return leafwise(init, update, elementwise=True)


def as_schedule(name: str, value: float | Schedule) -> Schedule:
    """Return a number, or a function of the step, as the latter; `name` is what an error calls it."""
    if callable(value):
        check_function(name, value, "step")
        return value
    if not is_number(value):
        raise TypeError(f"{name} must be a number or a function of the step, got {kind(value)}")
    check_number(name, value, 0)
    return constant(value)


def check_beta(name: str, value: float) -> None:
    """Raise where this isn't the weight of a moving average, within [0, 1)."""
    check_number(name, value, 0, 1)
    if value == 1:
        raise ValueError(f"{name} must be below 1, got 1")


def average(mean: Numbers, a: Numbers, beta: float) -> None:
    """Move an average towards a, mean ← β · mean + (1 - β) · a, in place."""
    np.multiply(mean, np.float32(beta), out=mean)
    np.add(mean, a * np.float32(1 - beta), out=mean)
