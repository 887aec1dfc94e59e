"""From a wish to pictures: one call of the library in a thread, whose steps can be seen and stopped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import edit, rng
from ..checkpoint import lora
from ..control import Net
from ..edges import canny
from ..encoding import control
from ..params import Params
from ..pipeline import generate
from ..process.notes import collected
from ..types import StepInfo
from .preview import Preview
from .styles import styled
from .wish import Wish


class Cancelled(Exception):
    """The visitor has cancelled the drawing."""


class Model(NamedTuple):
    """What the page draws with.

    Args:
        params: from `load`.
        preview: how steps are shown.
        controlnet: the ControlNet's tree and configuration, or None.
    """

    params: Params
    preview: Preview
    controlnet: Net | None = None


class Step(NamedTuple):
    """A step that is done: its number from 1, and what all pictures look like, (K, H, W, 3) in [0, 1]."""

    number: int
    pixels: NDArray[np.float64]


class Done(NamedTuple):
    """The pictures, and what the library warned of."""

    pictures: list[Image.Image]
    notes: list[str]


def steps(model: Model, wish: Wish, stop: threading.Event) -> Iterator[Step | Done]:
    """Draw what a wish says, and give each step as soon as it is done.

    Args:
        model: what to draw with.
        wish: what to draw, already checked.
        stop: ends the drawing after the present step once it is set. It is set where nobody takes steps any more.
    Returns:
        An iterator of Steps that ends with Done.
    Raises:
        Cancelled: `stop` is set.
        Exception: whatever the library raises.
    """
    seen: queue.SimpleQueue[Step | Done | BaseException] = queue.SimpleQueue()
    count = iter(range(1, 10**9))

    def on_step(info: StepInfo) -> None:
        if stop.is_set():
            raise Cancelled
        seen.put(Step(next(count), model.preview.pixels(info.x0)))

    def work() -> None:
        try:
            if stop.is_set():
                raise Cancelled
            with collected() as notes:
                pictures = _drawn(model, wish, on_step)
            if stop.is_set():
                raise Cancelled
            seen.put(Done(pictures, notes))
        except BaseException as error:
            seen.put(error)

    threading.Thread(target=work, daemon=True, name="pixart_fn.app").start()
    try:
        while True:
            found = seen.get()
            if isinstance(found, BaseException):
                raise found
            yield found
            if isinstance(found, Done):
                return
    finally:
        stop.set()  # and nothing waits here, since gradio closes what nobody takes where it answers all visitors


def _drawn(model: Model, wish: Wish, on_step: Any) -> list[Image.Image]:
    """Call the function of the library that the wish is for."""
    params = model.params
    if wish.lora is not None:
        params = lora.merge(params, lora.load(wish.lora), wish.weight)
    prompt, negative = styled(wish.style, wish.prompt, wish.negative)
    given: dict[str, Any] = {"negative_prompt": negative, "steps": wish.steps, "guidance": wish.guidance}
    given |= {"solver": wish.solver or None, "images_per_prompt": wish.n, "on_step": on_step, "progress": False}
    if wish.control is not None and model.controlnet is not None:
        given["controls"] = control(params, model.controlnet, canny(wish.control), scale=wish.control_scale)
    key = rng.key(wish.seed)
    if wish.source is None:
        height, width = wish.size
        binning = wish.control is None
        drawn = generate(params, [prompt], key, height=height, width=width, binning=binning, **given)
    elif wish.mask is None:
        drawn = edit.image_to_image(params, wish.source, [prompt], key, strength=wish.strength, **given)
    else:
        drawn = edit.inpaint(params, wish.source, wish.mask, [prompt], key, strength=wish.strength, **given)
    return list(drawn)
