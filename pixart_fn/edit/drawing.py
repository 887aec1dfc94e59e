"""What image-to-image, inpainting and panoramas share: checks before any work, then text → latents → pictures.

B pictures, C latent channels, h/w latent and H/W pixel size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from PIL import Image

from .. import pipeline
from ..backend import autodiff
from ..estimate import check_decoding, check_results, slices
from ..guidance import Guidance
from ..params import Params
from ..pipeline import Part
from ..process.lock import exclusive
from ..request import Picture, Request, Sampling, everywhere, latent_shape, request
from ..schedule import truncate
from ..solvers.config import Wrap
from ..stages import decode, run
from ..types import Grid, Text


class Drawing(NamedTuple):
    """A checked call.

    `plan` is for all pictures, `sampled` says whether there is anything to sample, and `resized` is the size in pixels
    that what is decoded is resized to, or None.
    """

    params: Params
    plan: Request
    prompts: list[str]
    negatives: list[str]
    options: dict[str, Any]
    at_once: int
    sampled: bool
    resized: tuple[int, int] | None


class Change(NamedTuple):
    """What an edit changes: the encoded prompts; and for some rows how the denoiser is wrapped, latents, and pixels."""

    text: Callable[[Text], Text] = lambda text: text
    wrap: Callable[[slice, Wrap], Wrap] = lambda rows, clip: clip
    latents: Callable[[slice, Tensor], Tensor] = lambda rows, z: z
    pixels: Callable[[slice, NDArray[np.float32]], NDArray[np.float32]] = lambda rows, pixels: pixels


def drawing(
    params: Params,
    prompts: list[str],
    key: NDArray[np.uint64],
    size: tuple[int, int],
    canvas: tuple[int, int],
    options: dict[str, Any],
    strength: float = 1.0,
    results: int | None = None,
    wanted: tuple[int, int] | None = None,
) -> Drawing:
    """Check a call.

    Args:
        params: from `load`, already checked.
        prompts: at least one, already checked.
        key: one key (2,), or (B, 2) with one key per picture.
        size: (height, width) in pixels that the model draws at once, already checked.
        canvas: (height, width) in pixels of the pictures, already checked.
        options: every option, from `filled`.
        strength: how much of the grid is sampled, within [0, 1].
        results: B, where it isn't images_per_prompt for each prompt.
        wanted: (height, width) in pixels that what is decoded is resized to; None leaves it as it is.
    Returns:
        The Drawing.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its range.
        MemoryError: one picture doesn't fit into memory.
    """
    autodiff.refuse_recording("px.edit", "differentiate encode_prompt, sample_latents and decode_latents instead")
    o = options
    n, tile, memory = o["images_per_prompt"], o["tile"], o["memory"]
    pipeline.check_output(params, o["output"], tile, clean=o["clean"])
    prompts, negatives = pipeline.as_prompts(prompts, o["negative_prompt"], n)
    total = len(prompts) * n if results is None else results
    # a checkpoint's interval is for drawings from pure noise; an edit may begin below it
    how = o["steps"], everywhere(params, o["guidance"]), o["solver"], o["grid"], None
    given = Sampling(*how, o["check"], o["on_step"], o["progress"], o.get("controls"))
    plan = request(params, total, key, size, given)
    check_direction(plan.grid)
    if 0 < strength < 1:
        plan = request(params, total, key, size, given._replace(steps=None, grid=truncate(plan.grid, strength)))
    if size != canvas:
        check_momentum(plan.guidance, "goes from one step to the next, and in several windows from window to window")
    plan = plan._replace(shape=latent_shape(params, total, canvas))
    kept = check_results(params, total, wanted or canvas, o["output"], memory)
    if o["output"] != "latents":
        check_decoding(params, canvas, 1, tile, memory)
    negatives = negatives if plan.guidance.compares else []
    at_once = pipeline.at_once(params, plan, [*prompts, *negatives], o["tokens"], tile, kept, memory)
    return Drawing(params, plan, prompts, negatives, o, at_once, strength > 0, None if wanted == canvas else wanted)


def check_direction(grid: Grid) -> None:
    """Raise a ValueError where a grid goes from clean to noisy, as `schedule.reverse` makes it."""
    if grid.alpha[0] > grid.alpha[-1]:
        raise ValueError(f"grid must go from noisy to clean, got one from t = {grid.t[0]:g} to {grid.t[-1]:g}")


def check_momentum(guidance: Guidance, reason: str) -> None:
    """Raise a ValueError where guidance has a momentum, which can't be had for a reason."""
    if getattr(guidance.method, "momentum", 0):
        raise ValueError(f"guidance has {guidance.method!r}, whose momentum {reason}; leave the momentum out")


def draw(drawing: Drawing, start: NDArray[np.float32] | None, change: Change, alone: bool) -> Picture | Part:
    """Draw what was checked.

    Args:
        drawing: the call.
        start: where the sampling starts, (B, C, h, w), or None for the keys' noise.
        change: what the edit changes.
        alone: whether a picture of PIL isn't to be in a list where it is the only one.
    Returns:
        What the user asked for with output.
    """
    params, plan, prompts, negatives, o, at_once, sampled, _ = drawing
    plan = plan if start is None else plan._replace(latents=Tensor.from_numpy(start))
    parts = []
    if sampled:
        how = o["clean"], o["tokens"], o["check"], o["memory"]
        text, negative = pipeline.encode_both(params, prompts, negatives, *how)
        text = change.text(text)
    for rows in slices(len(plan.keys), at_once):
        part = plan.part(rows)
        z = part.start()
        if sampled:
            part = part._replace(wrap=change.wrap(rows, part.wrap))
            z = run(params, part, *pipeline.texts_of(rows, o["images_per_prompt"], text, negative))
        parts.append(_finished(drawing, change, rows, z))
    return pipeline.together(parts, alone and len(plan.keys) == 1)


@exclusive
def _finished(drawing: Drawing, change: Change, rows: slice, z: Tensor) -> Part:
    """Return what the user asked for of some latents."""
    o = drawing.options
    z = change.latents(rows, z)
    if o["output"] == "latents":
        return z
    pixels = change.pixels(rows, decode(drawing.params, z, o["tile"], drawing.resized, o["check"]).asnumpy())
    if o["output"] == "numpy":
        return pixels
    return [Image.fromarray((255 * picture).round().astype(np.uint8)) for picture in pixels]
