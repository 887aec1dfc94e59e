"""The choice of the files that a pipeline is read from, by their names alone, before anything is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..process.notes import warn
from . import hub
from .hub import Folder, Place
from .layout import TOKENIZER, choose

SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")
USER = 5
"""How many calls the caller of `load` is above the functions that `plan` calls; a warning names that line."""

File: TypeAlias = tuple[Place, str]
Source: TypeAlias = str | os.PathLike[str]


class Part(NamedTuple):
    """The folder of a place that holds one model; "" where the place is the model's own repository."""

    place: Place
    folder: str

    def file(self, name: str) -> File:
        return self.place, f"{self.folder}/{name}" if self.folder else name


def _embedded() -> Path:
    package = Path(__file__).parents[1]
    for folder in (package / "_weights" / "emoji", package.parent / "weights" / "emoji"):  # installed; a source tree
        if (folder / "model_index.json").is_file():
            return folder
    raise FileNotFoundError("this installation lacks its embedded checkpoint: reinstall, or name a folder or a hub id")


def find_pipeline(source: Source | None, revision: str | None) -> Place:
    """Return the place of a pipeline, which has a model_index.json."""
    home = Folder(_embedded()) if source is None else hub.find(source, revision)
    if home.has("model_index.json"):
        return home
    if home.has("config.json"):
        hint = "; a model's own folder goes to transformer=, text_encoder= or vae="
    elif home.has("transformer/config.json") and not home.has("vae/config.json"):
        hint = f"; give a pipeline as source and this one as transformer={str(source)!r}"
    else:
        hint = "; give a pipeline in diffusers layout, which holds model_index.json, transformer/, text_encoder/, vae/"
    raise home.lacks("model_index.json", hint)


def _part(home: Place, name: str, where: Source | bool | None) -> Part | None:
    """Return where a model's config.json is, or None for a model that is left out and not in `home` either."""
    if where is None or where is True:
        if home.has(f"{name}/config.json"):
            return Part(home, name)
        if where is None:
            return None
        out = f"{name}=None leaves it out, and " if name != "transformer" else ""
        raise home.lacks(f"{name}/config.json", f"; {out}{name}='folder or hub id' takes it from there")
    assert not isinstance(where, bool)
    place = hub.find(where, argument=name)
    if place.has(f"{name}/config.json"):
        return Part(place, name)
    if not place.has("config.json"):
        raise place.lacks("config.json", f"; {name}= takes a model's own folder or one that holds {name}/")
    if isinstance(place, Folder) and place.cache_of is None:  # a scheduler or tokenizer lies beside it
        path = Path(os.path.abspath(place.path))
        return Part(Folder(path.parent), path.name)
    return Part(place, "")


def _scheduler_file(home: Place, transformer: Place, scheduler: Any) -> File | dict[str, Any]:
    """Return where the scheduler_config.json is, or its content."""
    if isinstance(scheduler, Mapping):
        return dict(scheduler)
    places = (transformer, home) if scheduler is True else (hub.find(scheduler, argument="scheduler"),)
    for place in places:
        for name in SCHEDULERS:
            if place.has(name):
                return place, name
        if place != home and isinstance(place, Folder) and place.cache_of and scheduler is True:
            warn(f"{place} holds no scheduler; the one of {home} is used", stacklevel=USER)
    raise places[-1].lacks(SCHEDULERS[0])


def _tokenizer_files(home: Place, encoder: Part) -> list[File]:
    """Return the files of the tokenizer beside its text encoder, or else the pipeline's; the vocabulary comes first."""
    spiece, *_, rust = TOKENIZER
    for part in (encoder, Part(encoder.place, "tokenizer"), Part(home, "tokenizer")):
        vocabulary = next((name for name in (spiece, rust) if part.place.has(part.file(name)[1])), None)
        if vocabulary is not None:
            others = [name for name in TOKENIZER if name != vocabulary and part.place.has(part.file(name)[1])]
            return [part.file(name) for name in (vocabulary, *others)]
    hint = "; it, or a tokenizer.json in its place, is in the pipeline that the weights came from"
    raise encoder.place.lacks("tokenizer/spiece.model", hint)


def _weights(part: Part, name: str, variant: str | None) -> File:
    file, found = choose(part.place, part.folder, name, variant)
    if found and variant is None and isinstance(part.place, Folder) and part.place.cache_of:
        warn(f"{part.place} holds only the variant {found!r} of {name}, which is used", stacklevel=USER)
    return part.file(file)


class Plan(NamedTuple):
    """The files to read."""

    pipeline: File
    configs: dict[str, File]
    weights: dict[str, File]
    scheduler: File | dict[str, Any]
    tokenizer: list[File]


def plan(home: Place, wanted: Mapping[str, Any], scheduler: Any, variants: Mapping[str, str]) -> Plan:
    """Choose the files of a pipeline.

    Args:
        home: the place of the pipeline.
        wanted: for each model True, a source, or None to leave it out.
        scheduler: True, a source, or the content of a scheduler_config.json.
        variants: the variant of each model for which one was given.
    Returns:
        The Plan.
    Raises:
        OSError, ValueError: a file is missing, or isn't in a format that is read.
    """
    found = {name: _part(home, name, where) for name, where in wanted.items()}
    parts = {name: part for name, part in found.items() if part is not None}
    loaded = {name: part for name, part in parts.items() if wanted[name] is not None}
    weights = {}
    for name, part in loaded.items():
        weights[name] = _weights(part, name, variants.get(name))
    return Plan(
        pipeline=(home, "model_index.json"),
        configs={name: part.file("config.json") for name, part in parts.items()},
        weights=weights,
        scheduler=_scheduler_file(home, parts["transformer"].place, scheduler),
        tokenizer=_tokenizer_files(home, loaded["text_encoder"]) if "text_encoder" in loaded else [],
    )


def fetch(files: Iterable[File]) -> dict[File, Path]:
    """Download what isn't on this machine yet, all files of a place together, and return each file's path."""
    names: dict[Place, list[str]] = {}
    for place, name in files:
        names.setdefault(place, []).append(name)
    roots = {place: place.fetch(each) for place, each in names.items()}
    return {(place, name): roots[place] / name for place, each in names.items() for name in each}
