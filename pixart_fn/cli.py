"""The command `pixart-fn`: generate draws a picture, show tells how one was drawn."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from . import solvers
from .checkpoint import load
from .pipeline import generate
from .rng import key

TEXT = "pixart_fn"  # the PNG's text chunk


def main(argv: list[str] | None = None) -> int:
    """Run the command; an error the user can mend is one sentence on stderr and status 2."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"pixart-fn: {message}", file=sys.stderr)
            arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"pixart-fn: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pixart-fn", description="PixArt-α text to image")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("generate", help="draw pictures of a prompt")
    one.add_argument("prompt")
    one.add_argument("--out", default="picture.png", help="a .png; with --n, -0, -1 … are put before the ending")
    one.add_argument("--model", help="a folder in diffusers layout or a hub id (default: the embedded checkpoint)")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--steps", type=int, default=20)
    one.add_argument("--guidance", type=float, default=4.5, help="scale of classifier-free guidance; 1 turns it off")
    one.add_argument("--size", help="HEIGHTxWIDTH in pixels, or one number for a square (default: the model's own)")
    one.add_argument("--negative", default="", help="what to steer away from")
    one.add_argument("--solver", help="instead of the checkpoint's own: ddim, ddpm, dpmpp_2m, …")
    one.add_argument("--n", type=int, default=1, help="how many pictures")
    one.add_argument("--grid", action="store_true", help="put the pictures side by side into one file")
    one.set_defaults(run=_generate)
    two = commands.add_parser("show", help="print the call that draws a picture again")
    two.add_argument("picture")
    two.set_defaults(run=_show)
    return parser


def _generate(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, which keeps the prompt beside the picture; got {arguments.out!r}")
    if out.is_dir():
        raise IsADirectoryError(f"--out {arguments.out!r} is a folder; name a file in it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {str(out.parent)!r} of --out doesn't exist")
    if arguments.n < 1:
        raise ValueError(f"--n must be at least 1, got {arguments.n}")
    height, width = _size(arguments.size)

    if arguments.solver is not None and arguments.solver not in solvers.SOLVERS:
        raise ValueError(f"--solver must be one of {', '.join(sorted(solvers.SOLVERS))}; got {arguments.solver!r}")
    seed = key(arguments.seed)  # before the load, which takes a while
    print(f"loading {arguments.model or 'the embedded checkpoint'}", file=sys.stderr)
    params = load(arguments.model)
    print(params, file=sys.stderr)
    drawn = generate(
        params, arguments.prompt, seed, negative_prompt=arguments.negative, steps=arguments.steps,
        guidance_scale=arguments.guidance, height=height, width=width, images_per_prompt=arguments.n,
        solver=solvers.SOLVERS[arguments.solver]() if arguments.solver else None,
    )  # fmt: skip
    pictures = drawn if isinstance(drawn, list) else [drawn]
    names = ("prompt", "model", "seed", "steps", "guidance", "negative", "solver", "n")
    settings = {**{name: getattr(arguments, name) for name in names}, "height": height, "width": width}
    if arguments.grid:
        _save(grid(pictures), out, {**settings, "index": None})
        return
    for i, picture in enumerate(pictures):
        file = out if arguments.n == 1 else out.with_stem(f"{out.stem}-{i}")
        _save(picture, file, {**settings, "index": i})


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"--size must be HEIGHTxWIDTH or one number, such as 512x768; got {text!r}")
    return int(parts[0]), int(parts[-1])


def grid(pictures: list[Image.Image], columns: int | None = None) -> Image.Image:
    """Put pictures of one size side by side, in rows."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    w, h = pictures[0].size
    sheet = Image.new("RGB", (columns * w, math.ceil(len(pictures) / columns) * h), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * w, i // columns * h))
    return sheet


def _save(picture: Image.Image, file: Path, settings: dict[str, Any]) -> None:
    """Write to a temporary name, then rename, with the settings in the PNG's text."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt(TEXT, json.dumps(settings, ensure_ascii=False))
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        picture.save(temporary, format="PNG", pnginfo=text)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"wrote {file}")


def _show(arguments: argparse.Namespace) -> None:
    with Image.open(arguments.picture) as picture:
        text = getattr(picture, "text", {}).get(TEXT)
    if text is None:
        raise ValueError(f"{arguments.picture} doesn't say how it was drawn; only pictures of pixart-fn generate do")
    print(call(json.loads(text)))


def call(settings: dict[str, Any]) -> str:
    """The Python that draws a picture again."""
    n, index = settings["n"], settings["index"]
    own_key = f"px.key({settings['seed']!r})"
    if n > 1 and index is not None:
        own_key = f"px.split({own_key}, {n!r})[{index!r}]"
    options = {
        "negative_prompt": settings["negative"],
        "steps": settings["steps"],
        "guidance_scale": settings["guidance"],
    }
    options |= {name: settings[name] for name in ("height", "width") if settings[name] is not None}
    if n > 1 and index is None:
        options["images_per_prompt"] = n
    text = [f"{name}={value!r}" for name, value in options.items()]
    if settings["solver"]:
        text.append(f"solver=px.solvers.{settings['solver']}()")
    source = "" if settings["model"] is None else repr(settings["model"])
    return f"px.generate(px.load({source}), {settings['prompt']!r}, {own_key}, {', '.join(text)})"
