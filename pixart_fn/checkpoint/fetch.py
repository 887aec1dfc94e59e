"""Downloading a released checkpoint: what `load` would read of it, resumed where it was stopped, and checked."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from ..process.notes import ignored
from . import files, hub
from .files import File, Plan, find_pipeline, plan
from .hub import Folder, Place, Published, Repository
from .layout import COMPONENTS, read_json, shards
from .manifest import Entry

GIB = 2**30
DIFFUSERS = ("pipeline", "transformer")
"""The kinds of entries that `load` reads as they are."""


class Job(NamedTuple):
    """What the hub says of the files of each repository, and where they go."""

    facts: dict[Place, tuple[Repository, dict[str, Published]]]
    say: Callable[[str], object]


def fetch(entry: Entry, variant: str | None, to: Path | None, say: Callable[[str], object]) -> str:
    """Download what isn't on this machine yet of a released checkpoint, and check all of it.

    Args:
        entry: of the manifest.
        variant: the variant of the weights, such as "fp16"; None for those that `load` takes without one.
        to: a folder to download to, which is made where it isn't there; None for huggingface_hub's cache.
        say: is given one sentence for each stage.
    Returns:
        The Python call that loads it, or the path of a file that Python doesn't load.
    Raises:
        OSError: the hub can't give a file, a file isn't what the hub says, or the disk has too little space.
        ValueError: there is no such variant, or the folder holds something else.
    """
    _check_folder(to)
    if entry.kind in DIFFUSERS:
        with ignored():  # of what a cache lacks, where the hub isn't reached: that is an error here
            source = find_pipeline(entry.pipeline or entry.id, None if entry.pipeline else entry.revision)
            chosen = plan(source, _wanted(entry, entry.id), True, _variants(variant))
        job = _job([*_small(chosen), *chosen.weights.values()], to, say)
        paths = _download(job, _small(chosen))
        _download(job, [*_tokenizer(chosen, paths), *_weights(chosen, paths)])
        return _call(entry, variant, to)
    if variant is not None:
        raise ValueError(f"variant is for a pipeline or a transformer, and {entry.name} is neither; leave it out")
    place = hub.find(entry.id, entry.revision)
    named = [(place, name) for name in entry.files]
    paths = _download(_job(named, to, say), named)
    path = paths[named[0]]
    return f"px.lora.load({_quoted(path.parent)})" if entry.kind == "adapter" else str(path)


def cached(entry: Entry) -> Literal["yes", "part", "no"]:
    """Say whether huggingface_hub's cache holds what `load` would read of a released checkpoint."""
    own = hub.cached(entry.id, entry.revision)
    if own is None:
        return "no"
    if entry.kind not in DIFFUSERS:
        return "yes" if all(own.has(name) for name in entry.files) else "no"
    home = hub.cached(entry.pipeline) if entry.pipeline else own
    if home is None:
        return "part"
    try:
        with ignored():
            chosen = plan(home, _wanted(entry, str(own.path)), True, {})
        paths = files.fetch(_small(chosen))
        files.fetch([*_tokenizer(chosen, paths), *_weights(chosen, paths)])
    except (OSError, ValueError):
        return "part"
    return "yes"


@contextmanager
def silent() -> Iterator[None]:
    """Show none of huggingface_hub's progress bars meanwhile."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _wanted(entry: Entry, own: str) -> dict[str, str | bool]:
    """What `plan` takes for each model; `own` is where the entry itself is."""
    transformer = own if entry.kind == "transformer" else True
    return {"text_encoder": True, "transformer": transformer, "vae": True}


def _variants(variant: str | None) -> dict[str, str]:
    return {} if variant is None else dict.fromkeys(COMPONENTS, variant)


# --- which files ------------------------------------------------------------------------------------------------------


def _small(chosen: Plan) -> list[File]:
    """The files that say which others are needed, and those that come with them."""
    assert not isinstance(chosen.scheduler, dict)
    tokenizer = [file for file in chosen.tokenizer if not file[1].endswith("tokenizer.json")]
    indices = [file for file in chosen.weights.values() if file[1].endswith(".json")]
    return [chosen.pipeline, chosen.scheduler, *chosen.configs.values(), *tokenizer, *indices]


def _tokenizer(chosen: Plan, paths: Mapping[File, Path]) -> list[File]:
    """The large tokenizer.json, where `load` reads it: if tokenizer_config.json doesn't say which tokens were added."""
    configs = [path for (_, name), path in paths.items() if name.endswith("tokenizer_config.json")]
    if any("added_tokens_decoder" in read_json(config) for config in configs):
        return []
    return [file for file in chosen.tokenizer if file[1].endswith("tokenizer.json")]


def _weights(chosen: Plan, paths: Mapping[File, Path]) -> list[File]:
    """The files with tensors: those that `plan` chose, or that an index names."""
    found = []
    for model, (place, name) in chosen.weights.items():
        folder = name.rpartition("/")[0]
        inside = f"{folder}/" if folder else ""
        index = paths.get((place, name))
        found += [(place, f"{inside}{file}") for file in shards(index, COMPONENTS[model])] if index else [(place, name)]
    return found


# --- downloading ------------------------------------------------------------------------------------------------------


def _check_folder(to: Path | None) -> None:
    """Raise where a folder holds something that no download of ours has begun."""
    if to is None or not to.exists():
        return
    if not to.is_dir():
        raise ValueError(f"to must be a folder, and {to} isn't one; name another")
    if any(to.iterdir()) and not (to / ".cache").is_dir():
        raise ValueError(f"to must be a new or empty folder, or one where a download began; {to} holds something else")


def _job(named: list[File], to: Path | None, say: Callable[[str], object]) -> Job:
    """Ask the hub what it says of the files of all places."""
    facts: dict[Place, tuple[Repository, dict[str, Published]]] = {}
    for place in dict.fromkeys(place for place, _ in named):
        if isinstance(place, Folder) and place.cache_of is None:
            raise ValueError(f"the folder {place} lies here, and is what `load` would take; run this elsewhere")
        if not isinstance(place, Repository):
            raise OSError(f"the hub can't be reached, and {place} can't be checked without it; connect and try again")
        facts[place] = dataclasses.replace(place, to=to), hub.published(place)
    return Job(facts, say)


def _download(job: Job, named: list[File]) -> dict[File, Path]:
    """Download files and check them; each path is that of the file in the cache or in the folder."""
    todo: dict[File, tuple[Repository, Published]] = {}
    for place, name in named:
        moved, said = job.facts[place]
        if name not in said:
            raise place.lacks(name)
        todo[place, name] = moved, said[name]
    big = {file: each for file, each in todo.items() if each[1].sha256}
    _check_space({file: hub.large(place, file[1], said) for file, (place, said) in big.items()}, big, job.say)
    checked = {file for file, (place, said) in big.items() if hub.download(place, file[1], said)}
    with silent():  # what is left is small
        found = files.fetch((place, file[1]) for file, (place, _) in todo.items())
    paths = {file: found[place, file[1]] for file, (place, _) in todo.items()}
    if any(todo[file][1].size > GIB for file in todo.keys() - checked):
        job.say("checking the files that were here already")
    for file in todo.keys() - checked:
        if wrong := todo[file][1].mistake(paths[file]):
            path = paths[file].resolve()
            raise OSError(f"{file[1]} of {todo[file][0]} is damaged: {wrong}; remove {path} and run this again")
    return paths


def _check_space(
    places: Mapping[File, tuple[Path, Path]],
    big: Mapping[File, tuple[Repository, Published]],
    say: Callable[[str], object],
) -> None:
    """Say how much there is to download, and raise where the disk can't hold it."""
    missing = 0
    for file, (target, part) in places.items():
        if not target.exists():
            missing += big[file][1].size - (part.stat().st_size if part.exists() else 0)
    if missing > 0:
        folder = next(iter(places.values()))[0]
        folder = next(path for path in folder.absolute().parents if path.exists())
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise OSError(f"{_amount(missing)} are to be downloaded, and {folder} has {_amount(free)} free")
        say(f"downloading {_amount(missing)} of weights; after a stop, the same command goes on")


def _amount(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _call(entry: Entry, variant: str | None, to: Path | None) -> str:
    """The Python call that loads what was downloaded."""
    words = [_quoted(to or entry.pipeline or entry.id)]
    if not to and entry.kind == "transformer":
        words.append(f"transformer={_quoted(entry.id)}")
    if not to and entry.kind == "pipeline" and entry.revision:
        words.append(f"revision={_quoted(entry.revision)}")
    if variant:
        words.append(f"variant={_quoted(variant)}")
    return f"px.load({', '.join(words)})"


def _quoted(text: str | Path) -> str:
    """A text as Python reads it, in double quotes."""
    return json.dumps(str(text), ensure_ascii=False)
