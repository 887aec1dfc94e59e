"""How `generate` draws: loading, the size of what is drawn, and the library's function for the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from .. import edges, rng, sheets
from .. import picture as picture_
from .importing import importing

if TYPE_CHECKING:
    from ..control import Control
    from ..params import Params

CONTROLNET = "A folder, a hub id or a .pth file of a ControlNet."


class Read(NamedTuple):
    """The pictures that are drawn from, fitted to what is drawn, and what steers."""

    init: Image.Image | None
    mask: Image.Image | None
    controls: Control | None


def own_size(params: Params) -> tuple[int, int]:
    """Return the height and the width that a model draws at by itself."""
    from ..models import vae

    if params.config.vae is None:
        raise ValueError("this model has no VAE, which is needed for a picture")
    side = params.config.transformer.sample_size * vae.factor(params.config.vae)
    return side, side


def size_for(params: Params, file: str) -> tuple[int, int]:
    """Return the size to fit a picture to: the model's own, or the nearest that a released model was trained at."""
    from ..models import sizes

    own = own_size(params)
    table = sizes.BINS.get(own[0])
    if table is None:
        return own
    width, height = picture_.read_picture(file).size
    return sizes.nearest_bin(height, width, table)


def filled_in(params: Params, settings: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return what the model says of the settings that weren't given."""
    call = params.config.call
    found = {name: getattr(call, name) for name in ("steps", "guidance") if settings.get(name, 0) is None}
    source = options["init"] or options["control"]
    if source is not None and options["size"] is None:
        found |= zip(("height", "width"), size_for(params, source), strict=True)
    return found


def read(params: Params, settings: dict[str, Any], options: dict[str, Any]) -> Read:
    """Read the pictures that are drawn from or followed, once for all that is drawn."""
    size = settings["height"], settings["width"]

    def one(name: str) -> Image.Image | None:
        if options[name] is None:
            return None
        how = {"sha256": settings[f"{name}_sha256"], "mask": name == "mask"}
        return picture_.read_picture(options[name], *size, **how)

    followed = one("control")
    if followed is None:
        return Read(one("init"), one("mask"), None)
    with importing():
        from ..checkpoint import controlnet

    net = controlnet.load(settings.get("controlnet"))
    controls = controlnet.control(params, net, edges.canny(followed), scale=settings["control_scale"])
    return Read(one("init"), one("mask"), controls)


def function(params: Params, settings: dict[str, Any], pictures: Read, options: dict[str, Any]) -> Callable[..., Any]:
    """Return the function of a prompt and keys that draws what the settings say."""
    with importing():
        from .. import edit
        from ..pipeline import generate

    memory = options["memory"] and options["memory"] * 2**30
    how = {name: settings[name] for name in ("steps", "guidance", "solver", "clean", "tokens", "tile")}
    how |= {"negative_prompt": settings["negative"], "memory": memory, "progress": options["shown"]}
    how |= {} if pictures.controls is None else {"controls": pictures.controls}
    init, mask = pictures.init, pictures.mask
    if init is None:
        return partial(generate, params, **how, **{name: settings[name] for name in ("height", "width", "binning")})
    how |= {"strength": settings["strength"]}
    if mask is None:
        return lambda prompt, key, **more: edit.image_to_image(params, init, prompt, key, **how, **more)
    return lambda prompt, key, **more: edit.inpaint(params, init, mask, prompt, key, **how, **more)


def batches(
    draw: Callable[..., Any], prompts: list[str], settings: dict[str, Any], batches: list[range]
) -> Iterator[Image.Image]:
    """Draw each batch with its prompt; picture i has the key that `generate` of all prompts gives it."""
    key, total = rng.key(settings["seed"]), settings["n"]
    keys = key[np.newaxis] if total == 1 else rng.split(key, total)
    for prompt, batch in zip(prompts, batches, strict=True):
        drawn = draw(prompt, keys[batch.start : batch.stop], images_per_prompt=len(batch))
        yield from drawn if isinstance(drawn, list) else [drawn]


def varied(params: Params, settings: dict[str, Any], pictures: Read, options: dict[str, Any]) -> Image.Image:
    """Draw the sheet of pictures whose settings vary, each alone, as the call that draws it again does."""
    drawn: list[Image.Image] = []
    for cell in sheets.cells(settings):
        draw = function(params, cell, pictures, options)
        drawn += batches(draw, [cell["prompt"]], cell, [range(1)])
    return sheets.labelled(drawn, settings["axes"])
