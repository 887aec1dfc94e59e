"""The vocabulary: what flows between the functions of this package.

A dict is weights, a frozen dataclass is static configuration, a NamedTuple is runtime state.
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
"""Nested dicts and lists of arrays: weights. Its keys are the checkpoint's names split on "."."""

Json: TypeAlias = Mapping[str, Any]
"""A parsed JSON object: the content of a config.json."""

Key: TypeAlias = NDArray[np.uint64]
"""A uint64 array of shape (2,), or (B, 2) with one key for each picture; see `rng`."""

Denoiser: TypeAlias = Callable[[Array, float], Array]
"""(x_t, t) → x0, always of the shape of x_t; t in training-time units."""

VarianceDenoiser: TypeAlias = Callable[[Array, float], tuple[Array, Array]]
"""(x_t, t) → (x0, variance), both of the shape of x_t, from a model that learned a variance.

The variance is what the model predicts, nominally within [-1, 1]: where between the posterior's variance and β the
variance of a step lies (IDDPM, arXiv:2102.09672, eq. 15). `solvers.ddpm("learned_range")` takes such a denoiser.
"""


class Grid(NamedTuple):
    """Where a solver looks: float64 arrays of S + 1 nodes from noisy to clean, α² + σ² = 1.

    The last node is (1, 0), unless the schedule's final σ is asked to be σ_min. `schedule` is for the solvers that look
    between the nodes. `skipped` counts the steps of the whole grid that lie before the first
    node (`schedule.truncate`): what a solver decides by the number of steps it decides by that of the whole grid.
    """

    t: NDArray[np.float64]
    alpha: NDArray[np.float64]
    sigma: NDArray[np.float64]
    schedule: Schedule | None = None
    skipped: int = 0

    def __repr__(self) -> str:
        """How many steps, and the first and the last node."""
        with np.errstate(divide="ignore"):
            t, rho = (np.asarray(nodes, float)[[0, -1]] for nodes in (self.t, np.divide(self.sigma, self.alpha)))
        steps, whole = len(self.t) - 1, len(self.t) - 1 + self.skipped
        count = (f"{steps} of " if self.skipped else "") + f"{whole} step{'s' * (whole != 1)}"
        return f"Grid({count}, t {t[0]:g} → {t[1]:g}, σ/α {rho[0]:.4g} → {rho[1]:.4g})"


@runtime_checkable
class SolverState(Protocol):
    """What a solver carries from node i to i + 1: a NamedTuple of its method's own, whose field `x` is the sample."""

    @property
    def x(self) -> Array:
        """The sample at node i."""


class StepInfo(NamedTuple):
    """What one step saw: x at the new node, the x0 it predicted at (t, α, σ) of the old node, evaluations it took.

    `state` is what `iterate` goes on from, and what it can start from.
    """

    x: Array
    x0: Array
    t: float
    alpha: float
    sigma: float
    evaluations: int
    state: SolverState | None = None

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)


class Solver(NamedTuple):
    """How to go from one node of a grid to the next, as two pure functions.

    `name` is the call that made it, which is how it shows itself.
    """

    init: Callable[[Array], SolverState]
    step: Callable[[Key, Denoiser, Grid, int, Any], tuple[SolverState, StepInfo]]  # Any is the state of its own init
    name: str = ""

    def __repr__(self) -> str:
        """The call that made it."""
        return self.name or f"{type(self).__name__}(init={self.init!r}, step={self.step!r})"


class VarianceSolver(Solver):
    """A solver whose step takes a VarianceDenoiser in place of a Denoiser."""

    __slots__ = ()


def summary(values: NamedTuple) -> str:
    """A NamedTuple's repr in which arrays are their dtype and shape."""
    named = values._asdict().items()
    return f"{type(values).__name__}({', '.join(f'{name}={_brief(value)}' for name, value in named)})"


def _brief(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {tuple(value.shape)}".lower()
    if type(value) is tuple:
        return f"({', '.join(map(_brief, value))})"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


class Text(NamedTuple):
    """Encoded prompts: states (B, L, C) float32 and mask (B, L) int32, 1 where a token is real and 0 on padding.

    `encode_prompt` makes them so. Made by hand, states may be of any floating-point dtype and the mask of any dtype
    with the values 0 and 1, each a Tensor or a NumPy array: the functions that take a Text turn them into the above.
    """

    states: Array
    mask: Array

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)


class Moments(NamedTuple):
    """The VAE's posterior: mean and log-variance, each (B, C, h, w), of unscaled latents."""

    mean: Tensor
    logvar: Tensor

    def __repr__(self) -> str:
        """Tensors as dtype and shape."""
        return summary(self)
