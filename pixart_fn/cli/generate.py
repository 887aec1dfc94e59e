"""`pixart-fn generate`: draw pictures and write them with their settings inside."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import click
from PIL import Image

from .. import picture as picture_
from .. import sheets, solvers
from ..backend import workers as workers_
from . import adapters, drawing, given, outputs, source
from .console import document, note, result
from .outputs import Output
from .verb import Computing, Several, file

OUT = "A .png, .jpg or .webp file (several are numbered: cat-0.png …), or a folder, where what is there is kept."


def _renamed(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        raise click.UsageError("--grid is called --sheet now")


@click.command(cls=Computing)
@click.argument("words", nargs=-1, metavar="[PROMPT]")
@click.option(
    "--prompts", metavar="FILE", shell_complete=file, help="Draw each line of a file instead of PROMPT; - reads stdin."
)
@click.option("--out", metavar="FILE|DIR", default="picture.png", shell_complete=file, help=OUT)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("--n", type=int, default=1, help="How many pictures to draw of each prompt.")
@click.option("--sheet", is_flag=True, help="Put all pictures into one file, with labels.")
@click.option("--seed", type=Several(click.INT), default=0, help="Seed of the noise.")
@click.option("--steps", type=Several(click.INT), show_default="the model's own", help="Number of steps of the solver.")
@click.option(
    "--guidance", type=Several(click.FLOAT), show_default="the model's own", help="Scale of guidance; 1 turns it off."
)
@click.option("--negative", default="", show_default="none", help="What to steer away from.")
@click.option("--size", metavar="HxW", show_default="the model's own", help="Height x width in pixels, or one number.")
@click.option(
    "--solver",
    type=Several(click.STRING, (*solvers.SOLVERS,)),
    show_default="the model's own",
    help=f"One of {', '.join(solvers.SOLVERS)}.",
)
@click.option(
    "--init", metavar="PICTURE", shell_complete=file, help="Draw from this picture, fitted to --size or to the model."
)
@click.option(
    "--strength",
    type=float,
    show_default="0.6, 1 with --mask",
    help="0 keeps --init but for the VAE's errors, 1 keeps nothing of it.",
)
@click.option(
    "--mask",
    metavar="PICTURE",
    shell_complete=file,
    help="Draw anew only where this picture, as large as --init, is white.",
)
@click.option("--control", metavar="PICTURE", shell_complete=file, help="Follow the edges of this picture (Canny).")
@click.option("--controlnet", metavar="SOURCE", show_default="the embedded one's", help=drawing.CONTROLNET)
@click.option("--control-scale", type=float, show_default="1", help="Strength of --control.")
@source.options
@adapters.options
@click.option("--dtype", type=click.Choice(picture_.DTYPES), default="float32", help="Type that weights compute in.")
@click.option("--tokens", type=int, show_default="the model's own", help="The most tokens of a prompt.")
@click.option("--tile", metavar="PIXELS", type=int, show_default="no tiles", help="Decode in squares, to save memory.")
@click.option("--memory", metavar="GIB", type=float, show_default="what is free", help="The most memory to use.")
@click.option("--no-clean", is_flag=True, help="Don't clean prompts as in the training of PixArt.")
@click.option("--no-binning", is_flag=True, help="Draw at --size itself, not at the nearest size of the training.")
@click.option("--json", "as_json", is_flag=True, help="Print files, settings and calls as JSON at the end.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
@click.option("--grid", is_flag=True, hidden=True, expose_value=False, is_eager=True, callback=_renamed)
def generate(words: tuple[str, ...], **options: Any) -> None:
    """Draw pictures of PROMPT and print the names of the files.

    With --sheet, one or two of --solver, --seed, --guidance and --steps may have several values with commas between
    them. If --out is a folder, the same command goes on where it was stopped: pictures that are there already, with the
    same settings, are kept.

    `msrun … python -m pixart_fn generate …` divides the pictures among several workers.
    """
    if workers_.is_scheduler():  # the workers here exchange nothing
        return
    workers = workers_.assigned()
    if workers.size > 1:
        given.check_workers(options)
    prompts = given.prompts(words, options["prompts"])
    given.check_memory(options["memory"])
    given.check_pictures(options)
    options["adapters"] = adapters.rows(options["lora"], options["lora_weight"])
    axes = given.axes(options, len(prompts))
    every = outputs.outputs(prompts, axes, options)
    batches = outputs.batches(len(prompts), options["n"], workers)
    own = every if options["sheet"] else [every[i] for batch in batches for i in batch]
    if outputs.is_folder(options):
        outputs.present(own, options["force"])
    else:
        outputs.check_absent(own, options["force"])
    given.check_other_files([each.file for each in every], options)
    if own:
        shown = workers.rank == 0 and not options["quiet"]
        _write(every, prompts, batches, options | {"shown": shown})


def _write(every: list[Output], prompts: list[str], batches: list[range], options: dict[str, Any]) -> None:
    """Draw the pictures of this worker and save each as soon as its batch is there."""
    quiet, sheet = options["quiet"], every[0]
    if options["sheet"] and options["size"]:
        outputs.check_sheet(sheet, sheet.settings["height"], sheet.settings["width"])
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: None if quiet else note(str(message))
        merge = adapters.merging(options["adapters"])
        params = merge(source.load(options, options["shown"], dtype=options["dtype"]))
        found = drawing.filled_in(params, sheet.settings, options)
        every = [Output(file, settings | found) for file, settings in every]
        if options["sheet"] and not options["size"]:
            size = (found["height"], found["width"]) if "height" in found else drawing.own_size(params)
            outputs.check_sheet(every[0], *size)
        own = every if options["sheet"] else [every[i] for batch in batches for i in batch]
        kept = outputs.present(own, options["force"]) if outputs.is_folder(options) else set()
        if kept and options["shown"]:
            note(f"pictures that are there already: {len(kept)} of {len(own)}")
        written = []
        for output, picture in _pictures(params, every, kept, prompts, batches, options):
            if outputs.is_there(output, options):  # another process has drawn it in the meantime
                kept.add(output.file)
                continue
            picture_.save_picture(picture, output.file, **output.settings)
            written.append(output)
            if not quiet and not options["as_json"]:
                result(str(output.file))
        if options["as_json"]:
            document(_listed(written, sorted(map(str, kept))))


def _pictures(
    params: Any, every: list[Output], kept: set[Any], prompts: list[str], batches: list[range], options: dict[str, Any]
) -> Iterator[tuple[Output, Image.Image]]:
    """Draw what isn't kept; a batch is drawn whole where one of its pictures is missing."""
    settings = every[0].settings
    batches = [b for b in batches if options["sheet"] or any(every[i].file not in kept for i in b)]
    if not batches:
        return
    pictures = drawing.read(params, settings, options)
    if settings.get("axes"):
        yield every[0], drawing.varied(params, settings, pictures, options)
        return
    draw = drawing.function(params, settings, pictures, options)
    drawn = drawing.batches(draw, [prompts[batch[0] // options["n"]] for batch in batches], settings, batches)
    if options["sheet"]:
        yield every[0], picture_.sheet(list(drawn))
        return
    for i, picture in zip((i for batch in batches for i in batch), drawn, strict=True):
        if every[i].file not in kept:
            yield every[i], picture


def _listed(written: list[Output], kept: list[str]) -> dict[str, Any]:
    """Return what was drawn, as JSON lists it."""
    drawn = [{"file": str(file), "settings": settings, "calls": sheets.calls(settings)} for file, settings in written]
    return {"pictures": drawn, "kept": kept}
