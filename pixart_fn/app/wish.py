"""What a visitor asks for, checked, and the settings that are kept with what is drawn."""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..checks import check_number, check_option, check_whole
from ..settings import SCALE, adapters, digest, listed
from ..solvers import SOLVERS
from .limits import Limits
from .styles import styled

SEEDS = 2**32
"""Seeds that are chosen at random are below this; a browser holds whole numbers below 2**53."""


class Wish(NamedTuple):
    """What a visitor asks for.

    Args:
        prompt: what to draw, before its style.
        negative: what to steer away from, before the style.
        style: a key of `styles.STYLES`.
        size: (height, width) in pixels.
        solver: a name in `px.solvers`, or "" for the checkpoint's own.
        steps: number of steps.
        guidance: scale of guidance.
        seed: of the noise.
        n: how many pictures to draw.
        lora: the file of an adapter, or None.
        weight: how much of the adapter is added.
        source: an RGB picture of `size` to draw from, or None.
        mask: a grey picture of `size`, white where `source` is drawn anew, or None.
        strength: 0 keeps `source`, 1 keeps nothing.
        control: an RGB picture of `size` whose edges the ControlNet follows, or None.
        control_scale: what the ControlNet's effect is multiplied by.
    """

    prompt: str
    negative: str
    style: str
    size: tuple[int, int]
    solver: str
    steps: int
    guidance: float
    seed: int
    n: int
    lora: str | None = None
    weight: float = 1.0
    source: Image.Image | None = None
    mask: Image.Image | None = None
    strength: float = 0.6
    control: Image.Image | None = None
    control_scale: float = 1.0


def check_wish(wish: Wish, limits: Limits) -> None:
    """Raise a TypeError or ValueError, in words for a visitor of the page, where a wish isn't within the limits."""
    if not wish.prompt.strip():
        raise ValueError("the prompt is empty; write what to draw")
    for name, text in (("prompt", wish.prompt), ("negative prompt", wish.negative)):
        if len(text) > limits.prompt:
            raise ValueError(f"the {name} must have at most {limits.prompt} characters, got {len(text)}")
    height, width = wish.size
    if height * width > limits.pixels:
        raise ValueError(
            f"a picture must have at most {limits.pixels} pixels, got {width} x {height}, which are {height * width}"
        )
    if wish.solver:
        check_option("the solver", wish.solver, list(SOLVERS))
    check_whole("the number of steps", wish.steps, 1, limits.steps)
    check_whole("the number of pictures", wish.n, 1, limits.pictures)
    check_whole("the seed", wish.seed, 0, 2**64 - 1)
    check_number("guidance", wish.guidance, -SCALE, SCALE)
    check_number("the strength", wish.strength, 0, 1)
    check_number("the LoRA's weight", wish.weight, -SCALE, SCALE)
    check_number("the scale of the edges", wish.control_scale, -SCALE, SCALE)


def random_seed() -> int:
    """Return a seed that nobody chose."""
    return random.SystemRandom().randrange(SEEDS)


def painted(layers: list[Image.Image], size: tuple[int, int]) -> Image.Image | None:
    """Return where something was painted over a picture, fitted as the picture is; None where nothing was."""
    alphas: list[NDArray[np.uint8]] = [np.asarray(each.convert("RGBA"))[..., 3] for each in layers]
    if not any(each.any() for each in alphas):
        return None
    white = Image.fromarray(np.where(np.max(alphas, 0) > 0, np.uint8(255), np.uint8(0)))
    mask = ImageOps.fit(white, (size[1], size[0]), Image.Resampling.NEAREST)
    if not np.asarray(mask).any():
        raise ValueError(
            "what you painted lies outside of the part of the picture that is drawn; paint nearer its middle"
        )
    return mask


class Attached(NamedTuple):
    """A file that a picture was drawn from, which its settings name: the name and the PNG."""

    name: str
    content: bytes


def attached(wish: Wish) -> dict[str, Attached]:
    """Return the pictures that a wish draws from, by their settings' names; equal ones have equal names."""
    found = {"init": wish.source, "mask": wish.mask, "control": wish.control}
    return {name: _attached(name, picture) for name, picture in found.items() if picture is not None}


def settings_of(wish: Wish, files: Mapping[str, Attached], loaded: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return what is written into the picture.

    Args:
        wish: what was asked for.
        files: from `attached`.
        loaded: the settings of what is loaded: model, variant, revision, dtype, controlnet and adapters.
        index: which of the pictures it is.
    Returns:
        Settings as the command stores them.
    """
    prompt, negative = styled(wish.style, wish.prompt, wish.negative)
    found = {name: value for name, value in loaded.items() if name != "controlnet" or wish.control is not None}
    found |= {"prompt": prompt, "negative": negative, "seed": wish.seed, "steps": wish.steps}
    found |= {"guidance": wish.guidance, "height": wish.size[0], "width": wish.size[1]}
    if wish.solver:
        found["solver"] = wish.solver
    if wish.n > 1:
        found |= {"n": wish.n, "index": index}
    for name, (file, content) in files.items():
        found |= {name: file, f"{name}_sha256": hashlib.sha256(content).hexdigest()}
    if wish.source is not None:
        found["strength"] = wish.strength
    if wish.control is not None:
        # edges are those of the size that is drawn
        found |= {"control_scale": wish.control_scale, "binning": wish.source is not None}
    if wish.lora is not None:
        own = os.path.basename(wish.lora), digest(wish.lora), wish.weight
        found |= adapters([*listed(loaded), own])
    return found


def _attached(name: str, picture: Image.Image) -> Attached:
    content = io.BytesIO()
    picture.save(content, "PNG")
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    return Attached(f"{name}-{digest[:8]}.png", content.getvalue())
