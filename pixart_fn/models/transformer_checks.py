"""Checks of what `transformer.apply` and `transformer.evaluate` are given.

B batch, C latent channels, h/w latent size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

import numpy as np
from mindspore import Tensor

from ..backend.arrays import as_float
from ..checks import check_number, kind, shown
from ..types import Array
from .transformer_blocks import USUAL, Ways
from .transformer_config import Config, check_config


def check_latents(config: Config, x: Array) -> None:
    """Raise where x isn't noisy latents that the patches divide.

    Args:
        config: the transformer's configuration.
        x: (B, C, h, w), an array or a Tensor.
    Raises:
        TypeError: x is neither an array nor a Tensor.
        ValueError: x hasn't such a shape, or h or w isn't a multiple of the patch size.
    """
    check_config(config)
    shape, patch = tuple(getattr(x, "shape", ())), config.patch_size
    if not isinstance(x, (Tensor, np.ndarray)):
        raise TypeError(f"x must be a Tensor or an array, got {kind(x)}")
    if len(shape) != 4 or shape[1] != config.in_channels or 0 in shape or shape[2] % patch or shape[3] % patch:
        raise ValueError(
            f"x must have the shape (B, {config.in_channels}, h, w) with h and w multiples of {patch}, got {shape}"
        )


def check_times(t: Tensor, B: int) -> None:
    """Raise a ValueError where t isn't one finite time for each of B rows."""
    check_shape_of_times(t, B)
    if not np.isfinite(t.asnumpy()).all():
        raise ValueError("t must be finite, got NaN or infinity")


def check_shape_of_times(t: Tensor, B: int) -> None:
    """Raise a ValueError where t isn't one time for each of B rows; its numbers aren't read from the device."""
    if tuple(t.shape) != (B,):
        raise ValueError(f"t must have the shape ({B},), one time for each row of x, got {tuple(t.shape)}")


def check_ways(config: Config, ways: Ways, x: Array) -> Ways:
    """Return how blocks are evaluated, with residuals as Tensors.

    Args:
        config: the transformer's configuration.
        ways: arguments of `transformer.apply`.
        x: (B, C, h, w), the latents.
    Returns:
        The Ways.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no such block or name, a block is named for two changes, or a residual has another shape.
    """
    if ways is USUAL:
        return ways
    for name in ("perturbed", "skipped", "blurred"):
        check_blocks(config, name, getattr(ways, name))
    changed = [*ways.perturbed, *ways.skipped, *ways.blurred]
    if len(set(changed)) < len(changed):
        raise ValueError(f"perturbed, skipped and blurred must name different blocks, got {shown(sorted(changed))}")
    check_number("blur_sigma", ways.blur_sigma, 0, math.inf, above=True)
    if ways.blur_sigma != math.inf and not len(ways.blurred):
        raise ValueError(f"blur_sigma={ways.blur_sigma} blurs the blocks that blurred names, and it names none")
    _check_names(config, ways)
    p, B = config.patch_size, x.shape[0]
    shape = B, (x.shape[2] // p) * (x.shape[3] // p), config.width
    if not isinstance(ways.residuals, Sequence):
        raise TypeError(f"residuals must be a list of Tensors, got {kind(ways.residuals)}")
    if len(ways.residuals) >= config.num_layers:
        raise ValueError(f"residuals must be at most {config.num_layers - 1}, got {len(ways.residuals)}")
    residuals = tuple(as_float(each, "a residual") for each in ways.residuals)
    for each in residuals:
        if tuple(each.shape) != shape:
            raise ValueError(f"each of residuals must have the shape {shape}, got {tuple(each.shape)}")
    return ways._replace(residuals=residuals)


def check_blocks(config: Config, name: str, blocks: Collection[int]) -> None:
    """Raise where these aren't blocks of the transformer."""
    if not isinstance(blocks, Collection) or not all(type(i) is int or isinstance(i, np.integer) for i in blocks):
        raise TypeError(f"{name} must be a list of blocks, counted from 0, got {shown(blocks)}")
    if not all(0 <= i < config.num_layers for i in blocks):
        raise ValueError(f"{name} must name blocks within 0 … {config.num_layers - 1}, got {shown(blocks)}")


def _check_names(config: Config, ways: Ways) -> None:
    """Raise where something that isn't there is to be collected."""
    if isinstance(ways.collect, str) or not isinstance(ways.collect, Collection):
        raise TypeError(f"collect must be a list of names such as 'block3/cross', got {shown(ways.collect)}")
    for name in ways.collect:
        found = re.fullmatch(r"block(0|[1-9]\d{0,3})(/self|/cross)?", name) if isinstance(name, str) else None
        if found is None or int(found[1]) >= config.num_layers:
            raise ValueError(
                f"collect must hold 'block0' … 'block{config.num_layers - 1}', each alone or with '/self' or '/cross',"
                f" got {shown(name)}"
            )
        if found[2] and int(found[1]) in (*ways.perturbed, *ways.skipped):
            raise ValueError(f"{name} can't be collected where that block is perturbed or skipped")


def check_conditions(
    config: Config, B: int, resolution: Tensor | None, aspect_ratio: Tensor | None
) -> tuple[Tensor, ...]:
    """Return resolution (B, 2) and aspect ratio (B, 1), or () for a model without them; raise where they don't fit."""
    given = resolution is not None, aspect_ratio is not None
    if given != (config.conditions,) * 2:
        needs = "needs resolution and aspect_ratio" if config.conditions else "takes no resolution or aspect_ratio"
        raise ValueError(f"this transformer {needs} (use_additional_conditions = {config.conditions})")
    if resolution is None or aspect_ratio is None:
        return ()
    resolution, aspect_ratio = as_float(resolution, "resolution"), as_float(aspect_ratio, "aspect_ratio")
    if (tuple(resolution.shape), tuple(aspect_ratio.shape)) != ((B, 2), (B, 1)):
        got = f"{tuple(resolution.shape)} and {tuple(aspect_ratio.shape)}"
        raise ValueError(f"resolution must be ({B}, 2) and aspect_ratio ({B}, 1), got {got}")
    return resolution, aspect_ratio
