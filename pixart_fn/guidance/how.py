"""Guidance as a value that is checked when it is made. B pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..checks import check_number, check_option, check_type
from ..public import public_class
from .kinds import Changed, Perturb, Projected, Weaker, ZeroStar
from .value import Scale, always, as_interval, as_layers, call_of, check_lengths, check_scale, frozen, part_of

COMPATS = ("diffusers", "original")


@public_class
@dataclass(frozen=True, repr=False)
class Guidance:
    """How a denoiser is guided by text, as one immutable value that is checked when it is made.

    Args:
        scale: w of `combine`, within ±LARGEST: a number, one number per picture (B,), or a function of t that gives
            either. With 1 there is no guidance, and the negative text isn't evaluated.
        interval: (low, high) in training-time units: guide where low ≤ t ≤ high, and evaluate only the prompt
            elsewhere (arXiv:2404.07724); None guides everywhere.
        rescale: φ of `rescale`, within [0, 1], applied to what the model predicts; 0 doesn't rescale.
        pag_scale: a short form of worse=Perturb(pag_scale, layers=pag_layers), a number like `scale`; 0 turns it off.
        pag_layers: the transformer's blocks that are perturbed, counted from 0; None takes the middle one.
        compat: "diffusers", or "original" to guide three of the four channels and to read the negative text under the
            prompt's mask, as PixArt-α's own DDPM sampler does.
        method: how the text and the negative text are combined, a `Projected` or a `ZeroStar`; None is `combine`.
        worse: the worse model to move away from, which is evaluated as a third branch: a `Perturb`, `Skip` or `Blur`,
            or for `guided` a `Weaker`; None is none.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range; or pag_scale and worse are both given; or an argument would change
            nothing. These are pag_layers without a pag_scale; method with a scale of 1; interval, rescale or compat
            with a scale of 1 and no worse branch; and zero_from, or the interval of worse, outside of interval.
    Example:
        >>> px.Guidance(3.0, interval=(200, 800))
        Guidance(scale=3.0, interval=(200, 800))
    """

    scale: Scale = 4.5
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    pag_scale: Scale = 0.0
    pag_layers: Sequence[int] | None = None
    compat: str = "diffusers"
    method: Projected | ZeroStar | None = None
    worse: Weaker | None = None

    def __post_init__(self) -> None:
        check_scale("the scale of guidance", self.scale)
        check_scale("pag_scale", self.pag_scale)
        check_number("rescale", self.rescale, 0, 1)
        check_option("compat", self.compat, COMPATS)
        check_type("method", self.method, (Projected, ZeroStar, type(None)), "a Projected, a ZeroStar or None")
        check_type("worse", self.worse, (Weaker, type(None)), "a Perturb, a Skip, a Blur, a Weaker or None")
        for name in ("scale", "pag_scale"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
        if self.worse is not None and not (self.pag_layers is None and always(self.pag_scale, 0)):
            raise ValueError("pag_scale and pag_layers are short for worse=Perturb(…), so give them or worse")
        check_lengths(self.scales)
        if self.interval is not None:
            object.__setattr__(self, "interval", as_interval(self.interval))
        if self.pag_layers is not None:
            object.__setattr__(self, "pag_layers", as_layers("pag_layers", self.pag_layers))
            if self.branch is None:
                raise ValueError(f"pag_layers {self.pag_layers} need a pag_scale, which is 0")
        self._check_effect()

    @property
    def compares(self) -> bool:
        """Whether the negative text is evaluated, which a scale of 1 leaves out."""
        return not always(self.scale, 1)

    @property
    def branch(self) -> Weaker | None:
        """The worse branch that is evaluated, of `worse` or of pag_scale; None where there is none."""
        if self.worse is not None or always(self.pag_scale, 0):
            return self.worse
        return Perturb(self.pag_scale, layers=self.pag_layers)

    @property
    def scales(self) -> dict[str, Scale]:
        """Every scale, by what a sentence calls it."""
        worse = {"pag_scale": self.pag_scale} if self.worse is None else {"the scale of worse": self.worse.scale}
        return {"the scale of guidance": self.scale, **worse}

    def part(self, rows: slice) -> Guidance:
        """Return the guidance of a part of the pictures; scales that may differ between them become functions of t."""
        worse = None if self.worse is None else replace(self.worse, scale=part_of(self.worse.scale, rows))
        scale, pag_scale = (part_of(each, rows) for each in (self.scale, self.pag_scale))
        return replace(self, scale=scale, pag_scale=pag_scale, worse=worse)

    def check(self, rows: int, blocks: int) -> None:
        """Check what depends on the pictures and on the model.

        Args:
            rows: how many pictures there are.
            blocks: how many blocks the transformer has.
        Raises:
            ValueError: a scale has another number of pictures, the transformer has no such block, or the worse branch
                is of another model.
        """
        for name, scale in self.scales.items():
            check_scale(name, scale, rows)
        branch, name = self.branch, "pag_layers" if self.worse is None else "layers of worse"
        if not (branch is None or isinstance(branch, Changed)):
            raise ValueError(
                f"worse must be a Perturb, a Skip or a Blur, which change the model itself, got {branch!r};"
                " px.guidance.guided takes the denoiser of a weaker model"
            )
        layers = None if branch is None else branch.layers
        if layers is not None and max(layers) >= blocks:
            raise ValueError(f"{name} must be a list of blocks within 0 … {blocks - 1}, got {layers}")

    def __repr__(self) -> str:
        """The call that makes it, without what is usual."""
        return call_of(self)

    def _check_times(self) -> None:
        """Raise a ValueError where there is no guidance at any time at which the worse branch or zero_from acts."""
        if self.interval is None:
            return
        low, high = self.interval
        zero_from = getattr(self.method, "zero_from", None)
        if zero_from is not None and zero_from > high:
            raise ValueError(f"zero_from={zero_from:g} would change nothing, since interval={self.interval} ends below")
        own = None if self.worse is None else self.worse.interval
        if own is not None and (own[0] > high or own[1] < low):
            raise ValueError(f"worse={self.worse!r} would change nothing, since guidance has interval={self.interval}")

    def _check_effect(self) -> None:
        """Raise a ValueError where an option is given although it changes nothing."""
        self._check_times()
        if self.compares:
            return
        if self.method is not None:
            raise ValueError(f"method={self.method!r} would change nothing with a scale of 1")
        options = {"interval": self.interval, "rescale": self.rescale or None, "compat": self.compat}
        given = [f"{name}={value!r}" for name, value in options.items() if value not in (None, "diffusers")]
        if given and self.branch is None:
            raise ValueError(f"{', '.join(given)} would change nothing with a scale of 1 and a pag_scale of 0")


def as_guidance(guidance: Guidance | Scale) -> Guidance:
    """Return a Guidance as it is, and make one of a bare scale.

    Args:
        guidance: a Guidance, or its scale alone.
    Returns:
        A Guidance.
    Raises:
        TypeError: it is neither.
        ValueError: a number of the scale is NaN or infinite.
    """
    return guidance if isinstance(guidance, Guidance) else Guidance(guidance)
