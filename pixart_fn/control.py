"""What steers a sampling beside text: ControlNets with the pictures that they follow, and what they add up to.

B pictures, C latent channels, h/w latent size, N patches, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from mindspore import Tensor, ops

from .backend.arrays import as_float, check_weights
from .checks import check_number, check_type, kind
from .guidance.value import LARGEST, as_interval
from .models import controlnet, transformer
from .models.controlnet import Config
from .params import Params
from .process.lock import exclusive
from .public import public_class
from .types import Text, Tree

KIND = "a Control or a list of them, as px.controlnet.control makes"
Net: TypeAlias = tuple[Tree, Config]
"""What `px.controlnet.load` gives: the tree and its configuration."""


@public_class
@dataclass(frozen=True, eq=False, repr=False)
class Control:
    """A ControlNet with what it follows: a value of the argument `controls`; `control` makes one of a picture.

    Args:
        net: the ControlNet's tree and its configuration, as `load` and `init` make them.
        latents: float (1, C, h, w) for all pictures, or (B, C, h, w) with one for each: the latents of an edge map or
            of what else the ControlNet was trained on, scaled as `px.encode_image` gives them.
        scale: what its effect is multiplied by, within ±1e6; with 0 it isn't evaluated.
        interval: (low, high) in training-time units, outside of which it isn't evaluated; None is all times.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above.
    """

    net: Net
    latents: Tensor
    scale: float = 1.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_net(self.net)
        latents = exclusive(as_float)(self.latents, "latents")
        if latents.ndim != 4 or 0 in latents.shape:
            raise ValueError(f"latents must have the shape (B, C, h, w), got {tuple(latents.shape)}")
        if not np.isfinite(latents.asnumpy()).all():
            raise ValueError("latents must be finite, got NaN or infinity among them")
        check_number("scale", self.scale, -LARGEST, LARGEST)
        object.__setattr__(self, "latents", latents)
        if self.interval is not None:
            object.__setattr__(self, "interval", as_interval(self.interval))

    def __repr__(self) -> str:
        """Show the tree and the latents by their sizes."""
        shape = tuple(self.latents.shape)
        return f"Control({self.net[1]!r}, latents={shape}, scale={self.scale:g}, interval={self.interval})"

    def acts(self, t: float) -> bool:
        """Return whether it is evaluated at a time."""
        return self.scale != 0 and (self.interval is None or self.interval[0] <= t <= self.interval[1])


def check_net(net: Net) -> None:
    """Raise a TypeError or ValueError where it isn't a ControlNet's tree with its configuration."""
    if not (isinstance(net, tuple) and len(net) == 2 and isinstance(net[1], Config)):
        raise TypeError(
            f"net must be (tree, config) of a ControlNet, as px.controlnet.load() gives it, got {kind(net)}"
        )
    check_weights(net[0], controlnet.shapes(net[1]), "net")


def as_controls(
    config: transformer.Config, controls: Control | Sequence[Control] | None, shape: tuple[int, int, int, int]
) -> tuple[Control, ...]:
    """Return controls as a tuple, checked.

    Args:
        config: the transformer's configuration.
        controls: one, several or None.
        shape: of the latents of all pictures, (B, C, h, w).
    Returns:
        The controls.
    Raises:
        TypeError: something else is among them.
        ValueError: one is for another transformer, or its latents have another shape or number.
    """
    given = () if controls is None else (controls,) if isinstance(controls, Control) else controls
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"controls must be {KIND}, got {kind(given)}")
    for each in given:
        check_type("controls", each, Control, KIND)
        controlnet.check_base(each.net[1], config)
        check_shape(each, shape)
        if len(each.latents) not in (1, shape[0]):
            raise ValueError(
                f"controls must have one picture, or one for each picture ({shape[0]}), and one of them has "
                f"{len(each.latents)}"
            )
    return tuple(given)


def check_shape(control: Control, shape: Sequence[int]) -> None:
    """Raise a ValueError where a control has another size than what is drawn, (B, C, h, w)."""
    own = tuple(control.latents.shape[1:])
    if own != tuple(shape[1:]):
        raise ValueError(
            f"controls must have latents of {tuple(shape[1:])}, as what is drawn has, got {own}; a picture of the "
            "drawn height and width gives them"
        )


@exclusive
def rows_of(control: Control, rows: slice) -> Control:
    """Return the control of some of the pictures."""
    return control if len(control.latents) == 1 else replace(control, latents=control.latents[rows])


class Steering(NamedTuple):
    """A control, and what it sees of a text and of its latents at every step."""

    control: Control
    prepared: controlnet.Prepared


def prepare(params: Params, controls: Sequence[Control], text: Text) -> tuple[Steering, ...]:
    """Compute what is the same at every step.

    Args:
        params: from `load`.
        controls: as `as_controls` gives them.
        text: one row for each picture, or several times as many for the branches of guidance.
    Returns:
        What `residuals` takes.
    """
    base, config, n = params.transformer, params.config.transformer, len(text.mask)

    def seen(control: Control) -> controlnet.Prepared:
        latents = ops.tile(control.latents, (n // len(control.latents), 1, 1, 1))
        return controlnet.prepare(control.net[0], base, config, latents, *text)

    return tuple(Steering(each, seen(each)) for each in controls if each.scale != 0)


def residuals(
    steering: Sequence[Steering], params: Params, x: Tensor, t: float, context: transformer.Captions, *sizes: Tensor
) -> tuple[Tensor, ...]:
    """Add up what controls add to what enters the transformer's blocks, each times its scale.

    Args:
        steering: from `prepare`.
        params: from `load`.
        x: (B, C, h, w) float32.
        t: the time that the model is given.
        context: what the transformer sees of the text.
        *sizes: resolution and aspect ratio, where the model takes them.
    Returns:
        Tensors (B, N, D), as many as the longest ControlNet that acts at t has blocks.
    """
    total: list[Tensor] = []
    times = Tensor.from_numpy(np.full(len(x), t, np.float32))
    for control, prepared in steering:
        if not control.acts(t):
            continue
        added = controlnet.residuals(prepared, params.transformer, params.config.transformer, x, times, context, *sizes)
        scaled = [each * control.scale for each in added]
        total = [a + b for a, b in zip(total, scaled, strict=False)] + (total[len(scaled) :] or scaled[len(total) :])
    return tuple(total)
