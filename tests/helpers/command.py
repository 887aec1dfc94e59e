"""The command with a tiny model, and what it wrote."""

from __future__ import annotations

import hashlib

import numpy as np
from helpers import tiny
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, cli, edit, pipeline

PROMPT = 'a "cute" cat, Größe ✓'  # quotes and letters that a careless text in a picture or printed call would spoil


def save_model(tmp_path_factory):
    """The tiny pipeline in a folder of its own, whose name is returned."""
    path = tmp_path_factory.mktemp("tiny") / "pipeline"
    px.save(tiny.params(), path)
    return str(path)


def runner(model, tmp_path, monkeypatch, capsys):
    """generate with the tiny model in an empty folder → (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, prompt=PROMPT):
        status = cli.main(
            ["generate", *([] if prompt is None else [prompt]), "--model", model, "--steps", "2", *arguments]
        )
        return status, *capsys.readouterr()

    return run


def shown(capsys, file):
    """What the call draws that `show` prints."""
    capsys.readouterr()
    assert cli.main(["show", str(file)]) == 0
    out, err = capsys.readouterr()
    assert not err
    return eval(out, {"px": px})


def pixels(file):
    with Image.open(file) as opened:
        return np.asarray(opened, int)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def painted(monkeypatch):
    """Drawing in no time: pictures whose pixels depend on all that is asked of `generate` and `px.edit`, and on nothing
    else, so that two equal ones are of equal calls. What was asked is listed."""
    seen = []

    def one(function, prompt, key, pictures, options):
        options.pop("progress", None)
        given = {
            k: v for k, v in options.items() if v is not None and (k, v) not in (("binning", True), ("clean", True))
        }
        if (control := given.pop("controls", None)) is not None:
            given["controls"] = control.latents.asnumpy().tobytes(), control.scale, control.net[1]
        seen.append({"function": function, "prompt": prompt, "key": key.tolist(), **given})
        shape = pictures[0].size[::-1] if pictures else (given.get("height", 16), given.get("width", 16))
        asked = repr((function, prompt, key.tolist(), [each.tobytes() for each in pictures], sorted(given.items())))
        noise = np.random.default_rng([*hashlib.sha256(asked.encode()).digest()]).integers(
            0, 256, (*shape, 3), np.uint8
        )
        return Image.fromarray(noise)

    def painter(function, pictures):
        def draw(params, *rest, images_per_prompt=1, **options):
            *shown, prompt, key = rest
            assert len(shown) == pictures
            keys = key if key.ndim == 2 else px.split(key, images_per_prompt) if images_per_prompt > 1 else key[None]
            drawn = [one(function, prompt, each, shown, dict(options)) for each in keys]
            return drawn if images_per_prompt > 1 else drawn[0]

        return draw

    drawn, loaded = painter("generate", 0), lambda *_, **__: tiny.params()
    for module, name, own in ((px, "load", loaded), (checkpoint, "load", loaded), (px, "generate", drawn)):
        monkeypatch.setattr(module, name, own)  # px first, which remembers what it finds in the other
    monkeypatch.setattr(pipeline, "generate", drawn)
    for name, pictures in (("image_to_image", 1), ("inpaint", 2)):
        monkeypatch.setattr(edit, name, painter(name, pictures))
    return seen
