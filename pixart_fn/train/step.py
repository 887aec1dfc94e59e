"""One step of training, as a pure function of a state and a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from mindspore import Tensor

from .. import rng, tree
from ..backend import workers as workers_
from ..backend.arrays import as_numpy
from ..backend.autodiff import value_and_grad
from ..backend.workers import ALONE, Workers
from ..checks import check_function, check_switch, check_type, check_whole
from ..process.lock import exclusive
from ..public import public
from ..types import Array, Key, NumPyArray, Tree
from . import optim
from .batch import Metrics, rows_of, size
from .optim import Transformation
from .state import LossScale, TrainState, donated
from .times import Times

GROW_AFTER = 2000
"""Steps without an infinity after which the loss's scale is doubled."""
LARGEST_SCALE = 2.0**24

Loss: TypeAlias = Callable[..., tuple[Tensor, Metrics]]
"""(params, batch, key) → (scalar, metrics); with times_state= where its sampler of times has a state."""


class Step(Protocol):
    """(state, batch, donate=False) → (state, metrics)."""

    def __call__(self, state: TrainState, batch: Any, donate: bool = False) -> tuple[TrainState, dict[str, float]]: ...


class NotFinite(ValueError):
    """A loss or a gradient is NaN or infinite; the state before the step is as it was."""


class _Sum(NamedTuple):
    """What the parts of a batch add up to: the loss, the gradients, and the metrics of each example and of all."""

    loss: float
    gradients: Tree
    metrics: dict[str, NumPyArray]


@public
def make(
    loss: Loss,
    optimiser: Transformation,
    *,
    ema: Transformation | None = None,
    accumulate: int = 1,
    times: Times | None = None,
    target: bool = False,
    workers: Workers = ALONE,
) -> Step:
    """Make a step of training: loss, gradient, optimiser, moving average.

    The examples of a batch are independent: example i of the whole batch has the key
    `rng.split(rng.fold_in(state.key, state.step), n)[i]`, whatever part or worker it is in. So parts and workers change
    the result by rounding alone.

    Args:
        loss: (params, batch, key) → (scalar, metrics), a mean over the batch's examples, where key is (B, 2), one key
            for each example; `objective` makes one.
        optimiser: the one that the state was made with.
        ema: the moving average that the state was made with, or None.
        accumulate: in how many parts, of equal size, a batch is differentiated one after the other, which divides the
            memory of what is kept for the gradient.
        times: the loss's sampler of times, where it has a state; the loss then takes `times_state=`.
        target: whether the loss takes the moving average's weights too, as `target=`, for distillation.
        workers: which part of the whole batch this process has; the gradients are summed over all workers.
    Returns:
        step(state, batch, donate=False) → (state, metrics), where metrics are numbers: "loss", "norm" (the gradient's),
        and the means of what the loss reports. With donate=True the step writes the new state into the memory of the
        old one, which can't be used any more. It raises NotFinite, a ValueError, where loss or gradient isn't finite,
        and leaves the state as it was; where the state has a loss scale, the step is instead left out, and the scale
        halved.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_function("loss", loss, "params, batch, key, target" if target is True else "params, batch, key")
    check_type("optimiser", optimiser, Transformation, "an optimiser, such as optim.adamw(1e-4)")
    check_type("ema", ema, (Transformation, type(None)), "None or a moving average, such as optim.ema(0.9999)")
    check_whole("accumulate", accumulate, 1)
    check_type("times", times, (Times, type(None)), "None or a sampler of times, such as times.importance()")
    check_switch("target", target)
    if target and ema is None:
        raise ValueError("target=True needs a moving average, such as ema=optim.ema(0.95)")
    check_type("workers", workers, Workers, "a Workers, as workers.start() gives")
    differentiate = value_and_grad(_scaled(loss), has_aux=True)
    return _Step(differentiate, optimiser, ema, accumulate, times, target, workers)


@dataclass(frozen=True)
class _Step:
    """What `make` makes."""

    differentiate: Callable[..., Any]
    optimiser: Transformation
    ema: Transformation | None
    accumulate: int
    times: Times | None
    target: bool
    workers: Workers

    @exclusive
    def __call__(self, state: TrainState, batch: Any, donate: bool = False) -> tuple[TrainState, dict[str, float]]:
        check_type("state", state, TrainState, "a TrainState, as train.init makes")
        check_switch("donate", donate)
        scale = 1.0 if state.scale is None else state.scale.value
        total = self._sum(state, batch, scale)
        value, gradients = _over_workers(self.workers, total, scale)
        metrics = total.metrics
        del total  # its gradients are freed as the step goes through them
        norm = optim.global_norm(gradients)
        if not math.isfinite(value) or not math.isfinite(norm):
            return _not_finite(state, batch, value, norm)
        # a number of all examples becomes a row for each worker, which has as many examples as the others
        each = {name: workers_.gather_rows(self.workers, np.atleast_1d(rows)) for name, rows in metrics.items()}
        times = state.times if self.times is None else self.times.update(state.times, each["t"], each["losses"])
        means = {k: float(np.mean(v, dtype=np.float64)) for k, v in each.items() if k not in ("t", "losses")}
        scales = {} if state.scale is None else {"scale": scale}
        key, count, steadier = state.key, state.step + 1, _steadier(state.scale)
        new = self._moved(state, gradients, norm, donate)
        return TrainState(*new, key, count, times, steadier), {**means, **scales, "loss": value, "norm": norm}

    def _moved(self, state: TrainState, gradients: Tree, norm: float, donate: bool) -> tuple[Tree, Any, Any]:
        """The parameters, the optimiser's state and the average after the step."""
        try:
            return optim.step(
                self.optimiser, state.params, gradients, state.optimiser, self.ema, state.ema, donate=donate, norm=norm
            )
        finally:
            if donate:  # after an error too, which may have left half of it in the memory of the old state
                donated(state)

    def _sum(self, state: TrainState, batch: Any, scale: float) -> _Sum:
        """Differentiate this worker's examples."""
        B = size(batch)
        if B % self.accumulate:
            raise ValueError(f"a batch of {B} examples can't be taken in {self.accumulate} equal parts")
        keys = rng.split(rng.fold_in(state.key, state.step), B * self.workers.size)
        keys = keys[self.workers.rank * B : (self.workers.rank + 1) * B]
        more = {} if self.times is None else {"times_state": state.times}
        if self.target:
            more["target"] = state.average
        total = _sum(self.differentiate, state.params, batch, keys, self.accumulate, scale, more)
        if self.times is not None and not {"t", "losses"} <= total.metrics.keys():
            raise ValueError('a loss whose times have a state must give the metrics "t" and "losses"')
        return total


def _scaled(loss: Loss) -> Callable[..., tuple[Tensor, tuple[Tensor, Metrics]]]:
    def scaled(params: Tree, batch: Any, key: Key, scale: float, more: dict[str, Any]) -> Any:
        value, metrics = loss(params, batch, key, **more)
        return (value if scale == 1 else value * scale), (value, metrics)

    return scaled


def _sum(
    differentiate: Callable[..., Any], params: Tree, batch: Any, keys: Key, parts: int, scale: float, more: Any
) -> _Sum:
    """Differentiate a batch in equal parts: means over all of it, but for the scale."""
    B = len(keys)
    total, loss, seen = None, 0.0, []
    for i in range(parts):
        rows = slice(i * B // parts, (i + 1) * B // parts)
        (_, (value, metrics)), gradients = differentiate(params, rows_of(batch, rows), keys[rows], scale, more)
        loss += float(value.asnumpy().item()) / parts
        seen.append({name: np.array(as_numpy(metric)) for name, metric in metrics.items()})
        if parts > 1:
            total = _added(total, gradients, parts)
    joined = {name: _joined([each[name] for each in seen]) for name in seen[0]}
    return _Sum(loss, gradients if total is None else total, joined)


def _added(total: Tree, gradients: Tree, parts: int) -> Tree:
    """total + gradients / parts, in total's own memory."""
    share = np.float32(1 / parts)
    if total is None:
        return tree.map(lambda g: _times(g, share), gradients)
    for own, g in zip(tree.leaves(total), tree.leaves(gradients), strict=True):
        np.add(own, as_numpy(g) * share, out=own)
    return total


def _times(g: Array, share: np.float32) -> NumPyArray:
    """g · share as an array, which NumPy gives for no number of shape ()."""
    return np.asarray(as_numpy(g) * share)


def _joined(values: list[NumPyArray]) -> NumPyArray:
    """One number for each example of all parts, or the parts' mean."""
    return np.concatenate(values) if values[0].ndim else np.asarray(np.mean(values, dtype=np.float64))


def _over_workers(workers: Workers, total: _Sum, scale: float) -> tuple[float, Tree]:
    """The mean loss and the mean gradients over all workers, without the loss's scale."""
    if workers.size == 1 and scale == 1:
        return total.loss, total.gradients
    share = np.float32(1 / (workers.size * scale))
    own = tree.map(lambda g: Tensor.from_numpy(_times(g, share)), total.gradients)
    losses = workers_.gather_rows(workers, np.array([total.loss]))
    return float(np.mean(losses)), workers_.sum_trees(workers, own)


def _not_finite(state: TrainState, batch: Any, loss: float, norm: float) -> tuple[TrainState, dict[str, float]]:
    """Leave the step out where a scale of the loss may have been too large, and otherwise raise."""
    if state.scale is not None and state.scale.value > 1:
        smaller = LossScale(state.scale.value / 2, 0)
        return state.replace(step=state.step + 1, scale=smaller), {"loss": loss, "norm": norm, "scale": smaller.value}
    names = getattr(batch, "names", ())
    where = f"; the batch is {', '.join(map(str, names))}" if names else ""
    raise NotFinite(f"step {state.step} gives the loss {loss} and a gradient of the norm {norm}{where}")


def _steadier(scale: LossScale | None) -> LossScale | None:
    if scale is None or scale.steady + 1 < GROW_AFTER:
        return scale and scale._replace(steady=scale.steady + 1)
    return LossScale(min(2 * scale.value, LARGEST_SCALE), 0)
