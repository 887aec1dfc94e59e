"""Kinds of guidance as values: how two branches are combined, and of which worse model a third one is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from ..checks import check_number
from ..public import public_class
from .value import Scale, always, as_interval, as_layers, call_of, check_scale, frozen


@public_class
@dataclass(frozen=True, repr=False)
class Projected:
    """Combine as `adaptive_projected` does (APG, arXiv:2410.02416), on x0.

    Args:
        eta: η within [0, 1], how much is kept of the difference along the conditional x0.
        threshold: the largest norm of a picture's difference over all its latents, above 0; infinite for any.
        momentum: β within [-1, 1], of the differences of earlier steps; each sampling begins without any.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or all of them together change nothing.
    """

    eta: float = 0.0
    threshold: float = math.inf
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_number("eta", self.eta, 0, 1)
        check_number("threshold", self.threshold, 0, math.inf, above=True)
        check_number("momentum", self.momentum, -1, 1)
        if self.eta == 1 and self.threshold == math.inf and self.momentum == 0:
            raise ValueError("eta=1 with no threshold and no momentum would change nothing; leave the method out")

    def __repr__(self) -> str:
        """The call that makes it, without what is usual."""
        return call_of(self)


@public_class
@dataclass(frozen=True, repr=False)
class ZeroStar:
    """Combine as `zero_star` does (CFG-Zero*, arXiv:2503.18886), on the velocity v.

    Args:
        zero_from: where there is guidance and t is at least this, in training-time units of at least 0, the velocity
            is zero and x0 is α x; the paper zeroes the first 4 % of the steps, which is 960 of 1000. None zeroes
            nowhere. diffusers' guider zeroes what the model predicts, and without ε x grows by α'/α with each step.
    Raises:
        TypeError: zero_from isn't a number.
        ValueError: it is below 0, NaN or infinite.
    """

    zero_from: float | None = None

    def __post_init__(self) -> None:
        if self.zero_from is not None:
            check_number("zero_from", self.zero_from, 0)

    def __repr__(self) -> str:
        """The call that makes it, without what is usual."""
        return call_of(self)


@public_class
@dataclass(frozen=True, repr=False)
class Weaker:
    """Move away from the denoiser of a weaker model, which `guided` is given (auto-guidance, arXiv:2406.02507).

    Args:
        scale: s of `away`, other than 0: a number, one number per picture (B,), or a function of t that gives either.
        interval: (low, high) in training-time units: evaluate the weaker model where low ≤ t ≤ high; None does so
            wherever there is guidance.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the scale is 0, which would change nothing.
    """

    scale: Scale
    _: KW_ONLY
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_scale("scale", self.scale)
        object.__setattr__(self, "scale", frozen(self.scale))
        if always(self.scale, 0):
            raise ValueError("scale must be other than 0, which would change nothing; leave the worse branch out")
        if self.interval is not None:
            object.__setattr__(self, "interval", as_interval(self.interval))

    def __repr__(self) -> str:
        """The call that makes it, without what is usual."""
        return call_of(self)

    def evaluated(self, t: float) -> bool:
        """Whether the worse model is evaluated at t."""
        return self.interval is None or self.interval[0] <= t <= self.interval[1]


@dataclass(frozen=True, repr=False)
class Changed(Weaker):
    """The model itself, with some of its blocks changed."""

    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is not None:
            object.__setattr__(self, "layers", as_layers("layers", self.layers))


@public_class
@dataclass(frozen=True, repr=False)
class Perturb(Changed):
    """Move away from the model whose self-attention is the identity in some blocks (PAG, arXiv:2403.17377).

    Args:
        scale: as of `Weaker`; pag_scale of a Guidance is short for this one.
        interval: as of `Weaker`.
        layers: the transformer's blocks that are changed, counted from 0; None takes the middle one.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the scale is 0, which would change nothing.
    """


@public_class
@dataclass(frozen=True, repr=False)
class Skip(Changed):
    """Move away from the model without some of its blocks (skip-layer guidance, as of Stable Diffusion 3.5).

    Args:
        scale: as of `Weaker`.
        interval: as of `Weaker`; the authors skip from 1 % to 20 % of the steps, which is (800, 990) of 1000.
        layers: the transformer's blocks that are left out, counted from 0; None takes the middle one.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the scale is 0, which would change nothing.
    """


@public_class
@dataclass(frozen=True, repr=False)
class Blur(Changed):
    """Move away from the model whose queries of self-attention are blurred (smoothed energy, arXiv:2408.00760).

    Args:
        scale: as of `Weaker`.
        interval: as of `Weaker`.
        layers: the transformer's blocks whose queries are blurred, counted from 0; None takes the middle one.
        sigma: the blur's deviation in patches, above 0; infinite for the mean of all patches.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the scale is 0, which would change nothing.
    """

    sigma: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sigma", self.sigma, 0, math.inf, above=True)
