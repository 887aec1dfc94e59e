"""The times at which a loss is computed: uniform, logit-normal, or more often where the loss is large.

Each sampler consists of a few pure functions. What it remembers is a value in the training state. The time of an
example depends only on the example's own key and on this value. B examples, T training times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from .. import rng
from ..backend.arrays import as_numpy
from ..checks import check_function, check_number, check_type, check_whole, kind, shown
from ..public import public
from ..schedule.noise import MOST
from ..types import Array, Key, NumPyArray, summary

__all__ = ["History", "Times", "importance", "logit_normal", "uniform"]

State: TypeAlias = Any
"""What a sampler remembers between steps: None, or a NamedTuple of NumPy arrays such as History."""

LONGEST = 1000
"""Losses at most that are kept of each time."""


class History(NamedTuple):
    """The last losses at each time.

    Args:
        losses: float64 (T, n), the oldest first; 0 where there is none yet.
        counts: int64 (T,), how many there are of each time, at most n.
    """

    losses: NDArray[np.float64]
    counts: NDArray[np.int64]

    def __repr__(self) -> str:
        """Show arrays by dtype and shape."""
        return summary(self)


def _nothing() -> State:
    return None


def _unchanged(state: State, t: Array, losses: Array) -> State:
    return state


@dataclass(frozen=True)
class Times:
    """A distribution of training times, as pure functions.

    Args:
        steps: T, the number of training times, which must be the schedule's.
        draw: (keys (B, 2), state) → (t, int64 (B,) within [0, T - 1]; weight, float64 (B,)), where the weight
            multiplies the example's loss, and row i depends on keys[i] and the state alone.
        init: () → the state before the first step; None where nothing is remembered.
        update: (state, t (B,), losses (B,)) → the state after a step, from the metrics "t" and "losses" of all
            examples of the step, those of other workers included.
    Raises:
        TypeError: steps is no whole number, or one of the others no such function.
        ValueError: steps is out of its range.
    """

    steps: int
    draw: Callable[[Key, State], tuple[NDArray[np.int64], NDArray[np.float64]]]
    init: Callable[[], State] = _nothing
    update: Callable[[State, Array, Array], State] = _unchanged

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, MOST)
        check_function("draw", self.draw, "keys, state")
        if not callable(self.init):
            raise TypeError(f"init must be a function without arguments, got {kind(self.init)}")
        check_function("update", self.update, "state, t, losses")


@public
def uniform(steps: int = 1000, low: int = 0, high: int | None = None) -> Times:
    """Draw every time between two equally often (DDPM, arXiv:2006.11239, algorithm 1).

    Args:
        steps: T, the number of training times, at least 1.
        low: the least time that is drawn, within [0, T - 1].
        high: the greatest time that is drawn, within [low, T - 1]; None is T - 1.
    Returns:
        The sampler, which remembers nothing and weighs all examples alike.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_whole("steps", steps, 1, MOST)
    check_whole("low", low, 0, steps - 1)
    if high is not None:
        check_whole("high", high, low, steps - 1)
    count = (steps - 1 if high is None else high) - low + 1

    def draw(keys: Key, state: State) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        u = _unit(keys)
        return low + np.floor(u * count).astype(np.int64), np.ones(len(u))

    return Times(steps, draw)


@public
def logit_normal(mean: float = 0.0, std: float = 1.0, steps: int = 1000) -> Times:
    """Draw t = ⌊T u⌋ with logit(u) normal, so that the middle comes most often (arXiv:2403.03206, eq. 19).

    The loss isn't weighted back: as in the paper, other times count for more than with `uniform`.

    Args:
        mean: of logit(u); above 0 there is more noise.
        std: the standard deviation of logit(u), above 0.
        steps: T, the number of training times, at least 1.
    Returns:
        The sampler, which remembers nothing and weighs all examples alike.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("mean", mean)
    check_number("std", std, 0, above=True)
    check_whole("steps", steps, 1, MOST)

    def draw(keys: Key, state: State) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        z = rng.normal(_rows(keys), (len(keys), 1))[:, 0].astype(np.float64)
        u = 0.5 * (1 + np.tanh(0.5 * (mean + std * z)))  # the logistic function, which can't overflow as tanh
        return np.minimum(np.floor(u * steps), steps - 1).astype(np.int64), np.ones(len(u))

    return Times(steps, draw)


@public
def importance(history: int = 10, uniform_prob: float = 0.001, steps: int = 1000) -> Times:
    """Draw a time as often as the root of the mean square of its last losses says (IDDPM, arXiv:2102.09672, eq. 18).

    p(t) ∝ √E[L_t²], mixed with the uniform distribution; until every time has a full history, p is uniform. The weight
    1 / (T p(t)) makes the expected loss that of `uniform`, with less variance.

    Args:
        history: n, how many losses of each time count, 1 … 1000.
        uniform_prob: the share of examples that are drawn uniformly, within [0, 1], so that no time is forgotten.
        steps: T, the number of training times, at least 1.
    Returns:
        The sampler, whose state is a History.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_whole("history", history, 1, LONGEST)
    check_number("uniform_prob", uniform_prob, 0, 1)
    check_whole("steps", steps, 1, MOST)

    def init() -> History:
        return History(np.zeros((steps, history)), np.zeros(steps, np.int64))

    def draw(keys: Key, state: State) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        p = _probabilities(_checked(state, steps, history), uniform_prob)
        total = np.cumsum(p)
        t = np.searchsorted(total, _unit(keys) * total[-1], side="right").astype(np.int64)
        t = np.minimum(t, steps - 1)  # where the product was rounded up
        return t, 1 / (steps * p[t])

    def update(state: State, t: Array, losses: Array) -> History:
        old = _checked(state, steps, history)
        seen, counts = old.losses.copy(), old.counts.copy()
        for time, loss in zip(*_observed(t, losses, steps), strict=True):
            if counts[time] == history:
                seen[time, :-1] = seen[time, 1:]
            counts[time] = min(counts[time] + 1, history)
            seen[time, counts[time] - 1] = loss
        return History(seen, counts)

    return Times(steps, draw, init, update)


def _probabilities(state: History, uniform_prob: float) -> NDArray[np.float64]:
    """How often each time is drawn, float64 (T,)."""
    losses, counts = state
    root = np.sqrt(np.mean(losses**2, axis=1))
    if (counts < losses.shape[1]).any() or not root.sum() > 0:
        return np.full(len(counts), 1 / len(counts))
    p: NDArray[np.float64] = (1 - uniform_prob) * root / root.sum() + uniform_prob / len(root)
    return p


def _checked(state: State, steps: int, history: int) -> History:
    check_type("state", state, History, "a History, as times.init() and times.update(…) give it")
    if state.losses.shape != (steps, history) or state.counts.shape != (steps,):
        raise ValueError(
            f"state must hold {history} losses of each of {steps} times, got {state.losses.shape} and "
            f"{state.counts.shape}"
        )
    return History(state.losses, state.counts)


def _observed(t: Array, losses: Array, steps: int) -> tuple[NumPyArray, NumPyArray]:
    """The times as whole numbers, and their losses."""
    for name, each in (("t", t), ("losses", losses)):
        check_type(name, each, (np.ndarray, Tensor), "an array or a Tensor")
    at, values = as_numpy(t), as_numpy(losses)
    if at.ndim != 1 or values.shape != at.shape or {at.dtype.kind, values.dtype.kind} - set("fiu"):
        got = f"{at.dtype} {at.shape} and {values.dtype} {values.shape}"
        raise ValueError(f"t and losses must be numbers of one shape (B,), got {got}")
    if not np.isin(at, np.arange(steps)).all():
        raise ValueError(f"t must be whole numbers within [0, {steps - 1}], got {shown(at.tolist())}")
    if not np.isfinite(values).all():
        raise ValueError(f"losses must be finite numbers, got {shown(values.tolist())}")
    return at.astype(np.int64), values


def _rows(keys: Key) -> Key:
    if rng.check_key(keys).ndim != 2:
        raise ValueError(f"keys must have the shape (B, 2), one key for each example, got {keys.shape}")
    return keys


def _unit(keys: Key) -> NDArray[np.float64]:
    """One number for each key, uniform within [0, 1): a folded key is random bits, of which a float64 holds 53."""
    bits = rng.fold_in(_rows(keys), 0)[:, 0] >> np.uint64(11)
    unit: NDArray[np.float64] = bits.astype(np.float64) * 2.0**-53
    return unit
