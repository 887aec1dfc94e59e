"""Teaching a trained model something new: a word, or the one thing of DreamBooth (arXiv:2208.12242).

`add_token` and the functions on tokens are for textual inversion, which learns only the embeddings of a new token.
DreamBooth trains on a few pictures of one thing, mixed with pictures of its class that the model drew before. `px.lora`
is a third way, and can be combined with both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .. import rng
from ..checkpoint.sources import written
from ..checks import check_number, check_type, check_whole, shown
from ..files import atomic
from ..params import Params
from ..picture import prepare, read_settings, save_picture
from ..pipeline import Options, generate
from ..public import public
from ..request import binned_size, check_params, check_switches
from ..types import Key
from .inversion import add_token, load_embedding, save_embedding, token_rows, with_token_rows, write_prompt

__all__ = [
    "add_token", "class_pictures", "load_embedding", "save_embedding", "token_rows", "with_token_rows", "write_prompt"
]  # fmt: skip

AT_ONCE = 8
"""Pictures that are drawn together, which is as many as are lost when it is stopped."""


@public
def class_pictures(
    params: Params,
    prompt: str,
    n: int,
    key: Key,
    out: str | os.PathLike[str],
    *,
    steps: int = 20,
    guidance: float = 4.5,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    clean: bool = True,
    progress: bool = True,
) -> list[Path]:
    """Draw the pictures of a class that DreamBooth's prior preservation trains on, beside those of the one thing.

    They are trained on with a `Batch.weight` of their own, so that "a cat" stays what it was while "a sks cat" is
    learned; the authors' learning rate is 5e-6. Picture i is drawn from `split(key, n)[i]` and written as 00000.png …
    with its caption beside it, 00000.txt. Those that are there already are kept, so a call that was stopped goes on
    where it was, and a larger n adds to them.

    Args:
        params: from `load`.
        prompt: what the pictures show, such as "a cat".
        n: how many there are in the end, 1 … 100000.
        key: uint64 (2,), from `px.key`.
        out: the folder, which is made where it isn't there.
        steps: as in `generate`.
        guidance: its scale, as in `generate`.
        negative_prompt: as in `generate`.
        height: as in `generate`.
        width: as in `generate`.
        clean: as in `generate`.
        progress: whether to show bars.
    Returns:
        The n files.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as `generate` takes it, or the folder holds a picture that was drawn otherwise.
        OSError: a file can't be read or written.
    """
    check_params(params)
    _check_arguments({"prompt": prompt, "negative_prompt": negative_prompt}, n, key, steps, guidance)
    check_switches(clean=clean, progress=progress)
    binned_size(params, height, width)
    folder = Path(os.path.expanduser(written(out, "out", "a folder")))
    options: Options = {"steps": steps, "guidance": guidance, "height": height, "width": width, "clean": clean}
    said = _settings(prompt, key, {**options, "negative": negative_prompt})
    options |= {"negative_prompt": negative_prompt, "progress": progress}
    files = [folder / f"{i:05d}.png" for i in range(n)]
    prepare(folder / "new.png", said)
    missing = [i for i, file in enumerate(files) if not _is_drawn(file, {**said, "index": i})]
    folder.mkdir(parents=True, exist_ok=True)
    keys = rng.split(key, n)
    for start in range(0, len(missing), AT_ONCE):
        part = missing[start : start + AT_ONCE]
        pictures = generate(params, [prompt], keys[part], images_per_prompt=len(part), **options)
        for i, picture in zip(part, pictures, strict=True):
            atomic.write(files[i].with_suffix(".txt"), partial(Path.write_text, data=prompt + "\n", encoding="utf-8"))
            save_picture(picture, files[i], **said, index=i, n=max(n, 2))  # the command splits a key for two or more
    return files


def _check_arguments(texts: Mapping[str, str], n: int, key: Key, steps: int, guidance: float) -> None:
    for name, text in texts.items():
        check_type(name, text, str, "a string")
    check_whole("n", n, 1, 100_000)
    check_whole("steps", steps, 1)
    check_number("guidance", guidance)
    if rng.check_key(key).ndim != 1:
        raise ValueError(f"key must be one key of shape (2,), got shape {key.shape}")


def _settings(prompt: str, key: Key, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a picture's file says of how it was drawn, by the names of the command where it has them."""
    words = [int(word) for word in key]
    source: dict[str, Any] = {"key": words} if words[1] else {"seed": words[0]}
    return {"prompt": prompt, **source, **{name: value for name, value in options.items() if value is not None}}


def _is_drawn(file: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a picture is there already; raise a ValueError where it was drawn otherwise."""
    if not file.exists():
        return False
    found = {**read_settings(file), "n": None}
    for name in {**found, **settings}:
        if name != "n" and found.get(name) != settings.get(name):
            raise ValueError(
                f"out holds {file.name}, which was drawn with {name} = {shown(found.get(name))}, and now it is"
                f" {shown(settings.get(name))}; give another folder"
            )
    return True
