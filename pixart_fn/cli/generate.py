"""`pixart-fn generate`: draw pictures and write them with their settings inside."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
from PIL import Image

from .. import picture as picture_
from .. import rng, solvers
from ..backend import workers as workers_
from ..backend.workers import Workers
from ..checks import check_number, check_whole
from ..files import reading
from ..process.signals import deferred
from .console import note, result

if TYPE_CHECKING:
    from ..params import Params

BATCH = 16
"""The most pictures of one prompt that are drawn together, since memory grows with their number."""


class Output(NamedTuple):
    """A file to write and the settings that go into it."""

    file: Path
    settings: dict[str, Any]


def _renamed(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        raise click.UsageError("--grid is called --sheet now")


@click.command()
@click.argument("words", nargs=-1, metavar="[PROMPT]")
@click.option("--prompts", metavar="FILE", help="Draw each line of a file instead of PROMPT; - reads stdin.")
@click.option("--out", default="picture.png", help="A .png, .jpg or .webp file; several are numbered: cat-0.png …")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("--n", type=int, default=1, help="How many pictures to draw of each prompt.")
@click.option("--sheet", is_flag=True, help="Put all pictures side by side into one file.")
@click.option("--seed", type=int, default=0, help="Seed of the noise.")
@click.option("--steps", type=int, show_default="the model's own", help="Number of steps of the solver.")
@click.option("--guidance", type=float, show_default="the model's own", help="Scale of guidance; 1 turns it off.")
@click.option("--negative", default="", show_default="none", help="What to steer away from.")
@click.option("--size", metavar="HxW", show_default="the model's own", help="Height x width in pixels, or one number.")
@click.option("--solver", show_default="the model's own", help=f"One of {', '.join(solvers.SOLVERS)}.")
@click.option("--init", metavar="PICTURE", help="Draw from this picture, fitted to --size or to the model.")
@click.option("--strength", type=float, show_default="0.6, 1 with --mask", help="0 keeps --init, 1 keeps nothing.")
@click.option("--mask", metavar="PICTURE", help="Draw anew only where this picture, as large as --init, is white.")
@click.option("--model", show_default="the embedded one", help="A folder in diffusers layout, or a hub id owner/name.")
@click.option("--variant", show_default="none", help="Variant of the weights' files, such as fp16.")
@click.option("--dtype", type=click.Choice(picture_.DTYPES), default="float32", help="Type that weights compute in.")
@click.option("--tokens", type=int, show_default="the model's own", help="The most tokens of a prompt.")
@click.option("--tile", metavar="PIXELS", type=int, show_default="no tiles", help="Decode in squares, to save memory.")
@click.option("--memory", metavar="GIB", type=float, show_default="what is free", help="The most memory to use.")
@click.option("--no-clean", is_flag=True, help="Don't clean prompts as the models' training did.")
@click.option("--no-binning", is_flag=True, help="Draw at the size itself, not at the nearest trained one.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
@click.option("--grid", is_flag=True, hidden=True, expose_value=False, is_eager=True, callback=_renamed)
def generate(words: tuple[str, ...], **options: Any) -> None:
    """Draw pictures of PROMPT and print the names of the files.

    `msrun … python -m pixart_fn generate …` shares the pictures out to several workers.
    """
    if workers_.is_scheduler():  # the workers here exchange nothing
        return
    workers = workers_.assigned()
    if workers.size > 1:
        _check_workers(options)
    prompts = _prompts(words, options["prompts"])
    if options["memory"] is not None:
        check_number("--memory", options["memory"], 0, above=True)
    _check_edit(options)
    outputs = _outputs(prompts, options)
    _check(outputs)
    batches = _batches(len(prompts), options["n"], workers)
    if not options["sheet"]:
        outputs = [outputs[i] for batch in batches for i in batch]
    _check_absent([output.file for output in outputs], options["force"])
    for name in ("init", "mask"):
        if options[name] and any(os.path.realpath(options[name]) == os.path.realpath(each.file) for each in outputs):
            raise ValueError(f"--out must be another file than --{name}, which `pixart-fn show` refers to")
    if outputs:
        _write(outputs, prompts, batches, options | {"shown": workers.rank == 0 and not options["quiet"]})


def _write(outputs: list[Output], prompts: list[str], batches: list[range], options: dict[str, Any]) -> None:
    """Draw the pictures of this worker and save each as soon as its batch is there."""
    settings, quiet = outputs[0].settings, options["quiet"]
    if options["sheet"] and options["size"]:
        _check_sheet(outputs[0], settings["height"], settings["width"])
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: None if quiet else note(str(message))
        params = _load(options)
        found = {name: getattr(params.config.call, name) for name in ("steps", "guidance") if settings[name] is None}
        if options["init"] is not None and options["size"] is None:
            found |= zip(("height", "width"), _size_for(params, options["init"]), strict=True)
        if options["sheet"] and not options["size"]:
            _check_sheet(outputs[0], *((found["height"], found["width"]) if "height" in found else _own_size(params)))
        draw = _function(params, settings | found, options)
        pictures = _draw(draw, [prompts[batch[0] // options["n"]] for batch in batches], settings, batches)
        if options["sheet"]:
            pictures = iter([picture_.sheet(list(pictures))])
        for (file, own), picture in zip(outputs, pictures, strict=True):
            picture_.save_picture(picture, file, **own | found)
            if not quiet:
                result(str(file))


def _batches(prompts: int, each: int, workers: Workers) -> list[range]:
    """The pictures of this worker, by their index over all, and by what is drawn together whoever draws it."""
    batches = [
        range(p * each + i, p * each + min(i + BATCH, each)) for p in range(prompts) for i in range(0, each, BATCH)
    ]
    return [batches[i] for i in workers_.share(workers, len(batches))]


# --- checks before any work -------------------------------------------------------------------------------------------


def _check_workers(options: dict[str, Any]) -> None:
    """Check that the work can be shared out."""
    if options["sheet"]:
        raise ValueError("--sheet needs one worker, since several can't draw into one file; leave out --sheet or msrun")
    if options["prompts"] == "-":
        raise ValueError("several workers can't share stdin; --prompts must name a file")


def _check_edit(options: dict[str, Any]) -> None:
    """Check --init, --strength and --mask, and that the files are pictures of one size."""
    if options["init"] is None:
        wrong = [f"--{name}" for name in ("strength", "mask") if options[name] is not None]
        if wrong:
            raise ValueError(f"{wrong[0]} needs --init, the picture to draw from")
        return
    if options["no_binning"]:
        raise ValueError("--no-binning is for pictures without --init; with it, --size is drawn itself")
    if options["strength"] is None:
        options["strength"] = 0.6 if options["mask"] is None else 1.0
    if options["mask"] is None:
        picture_.read_picture(options["init"])
        return
    sizes = [picture_.read_picture(options["init"]).size, picture_.read_picture(options["mask"], mask=True).size]
    if sizes[0] != sizes[1]:
        (w, h), (mask_w, mask_h) = sizes
        raise ValueError(f"--mask must have the size of --init, {h} x {w}, got {mask_h} x {mask_w}")


def _prompts(words: tuple[str, ...], file: str | None) -> list[str]:
    """Return the prompt, or the lines of a file."""
    if len(words) > 1:
        raise ValueError(f'put the prompt in quotes: "{" ".join(words)}"')
    if (not words) == (file is None):
        raise ValueError(f"give a PROMPT or --prompts FILE{', not both' if words else ''}")
    if file is None:
        return list(words)
    name = "stdin" if file == "-" else repr(file)
    content = sys.stdin.buffer.read(reading.MOST + 1) if file == "-" else reading.content(Path(file), pipe=True)
    if len(content) > reading.MOST:
        raise ValueError(f"the prompts in {name} take more than {reading.MOST >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"the prompts in {name} are not UTF-8: byte {content[error.start]:#x} in line {line}"
        ) from None
    prompts = [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    if not prompts:
        raise ValueError(f"there are no prompts in {name}")
    return prompts


def _outputs(prompts: list[str], options: dict[str, Any]) -> list[Output]:
    """Return what is to be written: a sheet, one picture, or numbered pictures."""
    out = Path(os.path.expanduser(options["out"]))
    check_whole("--n", options["n"], 1, picture_.PICTURES)
    total = len(prompts) * options["n"]
    check_whole("the number of pictures", total, 1, picture_.PICTURES)
    picture_.prepare(out, {})
    height, width = _size(options["size"])
    names = ("model", "variant", "dtype", "seed", "steps", "guidance", "negative", "solver", "tokens", "tile")
    settings = {name: options[name] for name in names}
    settings |= {"height": height, "width": width, "n": total} | _settings_of_edit(options)
    settings |= {"clean": not options["no_clean"], "binning": not options["no_binning"]}
    if options["sheet"]:
        return [Output(out, {"prompt": prompts if len(prompts) > 1 else prompts[0], **settings, "index": None})]
    several = total > 1 or options["prompts"] is not None
    files = [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(total)] if several else [out]
    each = [{"prompt": prompts[i // options["n"]], **settings, "index": i} for i in range(total)]
    return [Output(*pair) for pair in zip(files, each, strict=True)]


def _settings_of_edit(options: dict[str, Any]) -> dict[str, Any]:
    """Return what says which files were drawn from: their names without folders, and their sha256."""
    if options["init"] is None:
        return {}
    files = {name: Path(options[name]) for name in ("init", "mask") if options[name] is not None}
    hashes = {
        f"{name}_sha256": hashlib.sha256(reading.content(picture_.existing(file), picture_.LARGEST)).hexdigest()
        for name, file in files.items()
    }
    return {name: file.name for name, file in files.items()} | hashes | {"strength": options["strength"]}


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise ValueError(f"--size must be HEIGHTxWIDTH or one number, such as 512x768; got {text!r}")
    if not all(len(side) <= 6 and 1 <= int(side) <= picture_.SIDE for side in sides):
        raise ValueError(f"--size must be at least 1 and at most {picture_.SIDE} pixels along a side, got {text!r}")
    return int(sides[0]), int(sides[-1])


def _check(outputs: list[Output]) -> None:
    """Check everything that can be checked without the model."""
    for file, settings in outputs:
        try:
            picture_.check_settings(settings)
        except (ValueError, TypeError) as error:
            option = "" if str(error).startswith("prompt ") else "--"
            raise type(error)(f"{option}{error}") from error
        picture_.prepare(file, settings)


def _check_absent(files: list[Path], force: bool) -> None:
    """Raise where a file exists, of this worker's alone: another may have written its own by now."""
    existing = [file for file in files if os.path.lexists(file)]
    if existing and not force:
        first, more = repr(str(existing[0])), len(existing) - 1
        several = f"{first} and {more} more exist already; --force overwrites them"
        raise FileExistsError(several if more else f"{first} exists already; --force overwrites it")


def _check_sheet(sheet: Output, height: int, width: int) -> None:
    columns, rows = picture_.shape(sheet.settings["n"])
    try:
        picture_.check_size(columns * width, rows * height, sheet.file.suffix)
    except ValueError as error:
        raise ValueError(f"--sheet of {sheet.settings['n']} pictures is too large: {error}") from error


# --- the work ---------------------------------------------------------------------------------------------------------


def _load(options: dict[str, Any]) -> Params:
    with deferred():  # an interrupted import of MindSpore would abort
        from ..checkpoint import load

    if options["shown"]:
        note(f"loading {options['model'] or 'the embedded checkpoint'}")
    variant = {} if options["variant"] is None else {"variant": options["variant"]}
    params = load(options["model"], dtype=options["dtype"], **variant)
    if options["shown"]:
        note(repr(params))
    return params


def _own_size(params: Params) -> tuple[int, int]:
    from ..models import vae

    if params.config.vae is None:
        raise ValueError("this model has no VAE, which is needed for a picture")
    side = params.config.transformer.sample_size * vae.factor(params.config.vae)
    return side, side


def _size_for(params: Params, file: str) -> tuple[int, int]:
    """Return the size to fit a picture to: the model's own, or the nearest that a released model was trained at."""
    from ..models import sizes

    own = _own_size(params)
    table = sizes.BINS.get(own[0])
    if table is None:
        return own
    width, height = picture_.read_picture(file).size
    return sizes.nearest_bin(height, width, table)


def _function(params: Params, settings: dict[str, Any], options: dict[str, Any]) -> Callable[..., Any]:
    """Return the function of a prompt and keys that draws what the settings say."""
    with deferred():
        from .. import edit
        from ..pipeline import generate

    memory = options["memory"] and options["memory"] * 2**30
    given = {name: settings[name] for name in ("steps", "guidance", "solver", "clean", "tokens", "tile")}
    given |= {"negative_prompt": settings["negative"], "memory": memory, "progress": options["shown"]}
    if options["init"] is None:
        return partial(generate, params, **given, **{name: settings[name] for name in ("height", "width", "binning")})
    size, given = (settings["height"], settings["width"]), given | {"strength": settings["strength"]}
    init = picture_.read_picture(options["init"], *size, sha256=settings["init_sha256"])
    if options["mask"] is None:
        return lambda prompt, key, **more: edit.image_to_image(params, init, prompt, key, **given, **more)
    mask = picture_.read_picture(options["mask"], *size, mask=True, sha256=settings["mask_sha256"])
    return lambda prompt, key, **more: edit.inpaint(params, init, mask, prompt, key, **given, **more)


def _draw(
    draw: Callable[..., Any], prompts: list[str], settings: dict[str, Any], batches: list[range]
) -> Iterator[Image.Image]:
    """Draw each batch with its prompt; picture i has the key that `generate` of all prompts gives it."""
    key, total = rng.key(settings["seed"]), settings["n"]
    keys = key[np.newaxis] if total == 1 else rng.split(key, total)
    for prompt, batch in zip(prompts, batches, strict=True):
        drawn = draw(prompt, keys[batch.start : batch.stop], images_per_prompt=len(batch))
        yield from drawn if isinstance(drawn, list) else [drawn]
