"""The types of what the functions of this package take and return.

A dict is weights, a frozen dataclass is static configuration, and a NamedTuple is runtime state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

NumPyArray: TypeAlias = NDArray[Any]
"""A NumPy array of any dtype; where the dtype is known, an annotation names it in NDArray."""

if TYPE_CHECKING:
    from mindspore import Tensor

    from .schedule import Schedule

    Array: TypeAlias = Tensor | NumPyArray
else:
    Array: TypeAlias = Any

Tree: TypeAlias = Any
"""Weights as nested dicts and lists of arrays, whose keys are the checkpoint's names split on "."."""

Json: TypeAlias = Mapping[str, Any]
"""A parsed JSON object: the content of a config.json."""

Key: TypeAlias = NDArray[np.uint64]
"""A uint64 array of shape (2,), or (B, 2) with one key for each picture; see `rng`."""

Denoiser: TypeAlias = Callable[[Array, float], Array]
"""(x_t, t) → x0, always of the shape of x_t; t counts training steps, from 0 to T - 1, and may be fractional."""

VarianceDenoiser: TypeAlias = Callable[[Array, float], tuple[Array, Array]]
"""(x_t, t) → (x0, variance), both of the shape of x_t, from a model that learned a variance.

The variance is the model's raw prediction, nominally within [-1, 1], which says where between the posterior's variance
and β the variance of a step lies (IDDPM, arXiv:2102.09672, eq. 15). `solvers.ddpm("learned_range")` takes such a
denoiser.
"""


class Grid(NamedTuple):
    """The S + 1 nodes that a solver visits, from noisy to clean, with α² + σ² = 1.

    Args:
        t: the time of each node, float64 (S + 1,), in training steps.
        alpha: α at each node, float64 (S + 1,); 1 at the last, unless the grid ends at the schedule's smallest σ.
        sigma: σ at each node, float64 (S + 1,); 0 at the last, likewise.
        schedule: the noise schedule, for the solvers that evaluate between the nodes; two grids are equal where their
            nodes and schedules are.
        skipped: how many steps of the whole grid lie before the first node (`schedule.truncate`). A solver that
            decides by the number of steps uses that of the whole grid.
    """

    t: NDArray[np.float64]
    alpha: NDArray[np.float64]
    sigma: NDArray[np.float64]
    schedule: Schedule | None = None
    skipped: int = 0

    def __eq__(self, other: object) -> bool:
        """Compare the nodes, the schedules and what was skipped."""
        if not isinstance(other, Grid):
            return NotImplemented
        same = all(np.array_equal(a, b) for a, b in zip(self[:3], other[:3], strict=True))
        return same and self[3:] == other[3:]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((len(self.t), self.schedule, self.skipped))

    def __repr__(self) -> str:
        """Show the number of steps, and the first and the last node."""
        with np.errstate(divide="ignore"):
            t, rho = (np.asarray(nodes, float)[[0, -1]] for nodes in (self.t, np.divide(self.sigma, self.alpha)))
        steps, whole = len(self.t) - 1, len(self.t) - 1 + self.skipped
        count = (f"{steps} of " if self.skipped else "") + f"{whole} step{'s' * (whole != 1)}"
        return f"Grid({count}, t {t[0]:g} → {t[1]:g}, σ/α {rho[0]:.4g} → {rho[1]:.4g})"


@runtime_checkable
class SolverState(Protocol):
    """What a solver carries from node i to i + 1: a NamedTuple of its method, whose field `x` is the sample."""

    @property
    def x(self) -> Array:
        """The sample at node i."""


class StepInfo(NamedTuple):
    """What happened in one step, from the old node to the new one.

    Args:
        x: the sample at the new node.
        x0: what the denoiser gave at the step's first evaluation. That is at the old node, except in `heun(churn)`,
            which first steps back into more noise and evaluates there. Where the clipping of a checkpoint's DDIM is
            part of the solver (`ddim.beside_old_noise`), it is the clipped x0.
        t: the time of the old node, in training steps; `heun(churn)` gives the denoiser the time that it stepped back
            to.
        alpha: α at the old node.
        sigma: σ at the old node.
        evaluations: how often the step called the denoiser.
        state: the solver's state at the new node, from which `iterate` can go on.
    """

    x: Array
    x0: Array
    t: float
    alpha: float
    sigma: float
    evaluations: int
    state: SolverState | None = None

    def __repr__(self) -> str:
        """Show arrays by dtype and shape."""
        return summary(self)


class Solver(NamedTuple):
    """How to go from one node of a grid to the next, as two pure functions.

    Args:
        init: makes the state at the first node from x.
        step: (key, denoise, grid, i, state) → (state, StepInfo), from node i to node i + 1.
        name: the call that made the solver, which is its repr.
        checks: functions of (grid, x) that raise a ValueError where the method can't follow the grid or can't take x;
            they are called before any work.
    """

    init: Callable[[Array], SolverState]
    step: Callable[[Key, Denoiser, Grid, int, Any], tuple[SolverState, StepInfo]]  # Any is the state of its own init
    name: str = ""
    checks: tuple[Callable[[Grid, Array], None], ...] = ()

    def __eq__(self, other: object) -> bool:
        """Compare solvers as the calls that made them."""
        if not isinstance(other, Solver):
            return NotImplemented
        own, others = (getattr(each.step, "made", each[:2]) for each in (self, other))
        return type(self) is type(other) and own == others

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.init, self.name))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a solver as the call that made it, for processes that are spawned."""
        return (_called, self.step.made) if hasattr(self.step, "made") else (type(self), tuple(self))

    def __repr__(self) -> str:
        """Show the call that made the solver."""
        return self.name or f"{type(self).__name__}(init={self.init!r}, step={self.step!r})"


def _called(make: Callable[..., Solver], args: tuple[Any, ...], options: dict[str, Any]) -> Solver:
    return make(*args, **options)


class VarianceSolver(Solver):
    """A solver whose step takes a VarianceDenoiser in place of a Denoiser."""

    __slots__ = ()


def summary(values: NamedTuple) -> str:
    """Return the repr of a NamedTuple, in which arrays are shown by dtype and shape."""
    named = values._asdict().items()
    return f"{type(values).__name__}({', '.join(f'{name}={_brief(value)}' for name, value in named)})"


def _brief(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {tuple(value.shape)}".lower()
    if type(value) is tuple:
        return f"({', '.join(map(_brief, value))})"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


class Text(NamedTuple):
    """Encoded prompts, as `encode_prompt` makes them.

    In a Text made by hand, the states may have any floating-point dtype and the mask any dtype with the values 0 and 1.
    The functions that take a Text convert them.

    Args:
        states: float32 (B, L, C), a Tensor or a NumPy array.
        mask: int32 (B, L), 1 where a token is real and 0 on padding.
    """

    states: Array
    mask: Array

    def __repr__(self) -> str:
        """Show arrays by dtype and shape."""
        return summary(self)


class Moments(NamedTuple):
    """The VAE's posterior of unscaled latents: mean and log-variance, each (B, C, h, w)."""

    mean: Tensor
    logvar: Tensor

    def __repr__(self) -> str:
        """Show Tensors by dtype and shape."""
        return summary(self)
