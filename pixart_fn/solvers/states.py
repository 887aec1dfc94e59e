"""What solvers remember between two nodes: NamedTuples whose field x is the sample.

A method of the predicted ε has states of its own, so that it isn't led on from a state that remembers x0, or back.
"""

from __future__ import annotations

from typing import NamedTuple

from ..types import Array, summary


class OneStepState(NamedTuple):
    """What a method carries that remembers nothing: the sample."""

    x: Array

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)


class MultistepState(NamedTuple):
    """The sample, and x0 at the nodes before, the newest first."""

    x: Array
    past: tuple[Array, ...] = ()

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)


class SinglestepState(NamedTuple):
    """The sample, x at the first node of the group of steps, and x0 at its nodes so far, the newest first."""

    x: Array
    start: Array | None = None
    past: tuple[Array, ...] = ()

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)


class CorrectorState(NamedTuple):
    """The sample as predicted, x at the node before as corrected, and x0 at the nodes before, the newest first."""

    x: Array
    corrected: Array | None = None
    past: tuple[Array, ...] = ()

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)


class EpsilonMultistepState(NamedTuple):
    """The sample, and ε at the nodes before, the newest first."""

    x: Array
    past: tuple[Array, ...] = ()

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)


class EpsilonSinglestepState(NamedTuple):
    """The sample, x at the first node of the group of steps, and ε at its nodes so far, the newest first."""

    x: Array
    start: Array | None = None
    past: tuple[Array, ...] = ()

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)


class EpsilonCorrectorState(NamedTuple):
    """The sample as predicted, x at the node before as corrected, and ε at the nodes before, the newest first."""

    x: Array
    corrected: Array | None = None
    past: tuple[Array, ...] = ()

    def __repr__(self) -> str:
        """Arrays as dtype and shape."""
        return summary(self)
