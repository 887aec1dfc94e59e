"""Encode a source once, so that training reads latents and text states in place of pictures and captions.

The same call goes on where it was stopped, and several machines can divide the work among them. The files depend only
on the source, the models and the options: a chunk of examples is always encoded to the same bytes.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from tqdm import tqdm

from ... import edges as edges_
from ...backend.arrays import check_finite
from ...checkpoint.sources import written
from ...checkpoint.text import save_text
from ...checks import check_switch, check_whole, shown
from ...files import atomic
from ...files.safetensors import DTYPES, write_file
from ...models import sizes, vae
from ...params import Params
from ...process.lock import exclusive
from ...public import public
from ...request import vae_config
from ...stages import encode_prompt
from ...types import Text
from . import pictures
from .ahead import ahead
from .entries import Entry, Skipped
from .examples import hosted, real
from .job import Job, make
from .prepared import BEGUN, INDEX, NULL, SKIPPED, read_chunk, read_json
from .sources import Source

__all__ = ["run"]


class Report(NamedTuple):
    """What `run` has done: the examples that are ready and what was skipped, of this shard; whether all shards are."""

    examples: int
    skipped: tuple[Skipped, ...]
    complete: bool


class _Picture(NamedTuple):
    """A picture of a bin's size, and (height, width) of the whole one."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


class _Done(NamedTuple):
    """What a chunk's file holds: (h, w) of each example's latents, its tokens, and what was skipped."""

    sizes: list[list[int]]
    tokens: list[int]
    skipped: tuple[Skipped, ...]


@public
def run(
    source: Source,
    params: Params,
    out: str | os.PathLike[str],
    *,
    size: int | str | None = None,
    dtype: str = "float16",
    clean: bool = True,
    batch: int = 16,
    edges: str | None = None,
    workers: int = 2,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> Report:
    """Encode the pictures and captions of a source into a folder, which `prepared.open` reads.

    A picture is turned as its EXIF orientation says, laid over white, resized and cropped in the middle. One that can't
    be read is skipped and listed, in the result and in skipped.jsonl. Called again with the same arguments after it was
    stopped, it goes on; the files are then the same, byte for byte, as if it had never been stopped.

    Args:
        source: from `sources.open`.
        params: from `load`, with a text encoder and a VAE.
        out: the folder, which is made where it isn't there.
        size: the side of squares in pixels; "multi" takes for each picture the nearest size that the released models of
            this sample size were trained at, and "multi-256", "multi-512", "multi-1024" and "multi-2048" those of
            another one; None takes the model's own square.
        dtype: "float16" or "float32", in which latents and states are stored.
        clean: whether to clean captions, as in `encode_prompt`.
        batch: captions that are encoded together, at least 1.
        edges: "canny" or "sobel" encodes the pictures' edges in place of the pictures, for a ControlNet to follow.
        workers: threads that read and resize pictures while others are encoded, at least 1. Pillow runs outside of
            Python's lock, so threads do what processes would.
        shard: (i, n) encodes the i-th of n parts, from 0; n machines that write one folder share the work, or several
            folders whose files are then put together. Called once more with all files there, it completes the folder.
        progress: whether to show a bar.
    Returns:
        The Report.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, the folder was begun with other options or another source, or no
            picture at all could be read.
        OSError: a file can't be written.
        MemoryError: a picture or the captions don't fit into memory.
    """
    job = make(source, params, written(out, "out", "a folder"), (size, dtype, clean, batch, edges))
    check_whole("workers", workers, 1, 256)
    check_switch("progress", progress)
    part, parts = _shard(shard)
    _begin(job)
    every = job.chunks
    mine = range(part, len(every), parts)
    chunks = {i: _done(job, i) for i in mine if job.file(i).exists()}
    todo = [i for i in mine if i not in chunks]
    done = sum(len(every[i]) for i in chunks)
    entries = (entry for i in todo for entry in every[i])
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=sum(len(every[i]) for i in mine), initial=done, unit="picture", disable=not progress) as bar,
    ):
        loaded = ahead(pool, partial(_load, job.table, edges), entries, 2 * workers)
        for i in todo:
            _write(job, i, zip(every[i], itertools.islice(loaded, len(every[i])), strict=True), bar)
            chunks[i] = _done(job, i)
    return _finish(job, chunks)


def _shard(shard: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise TypeError(f"shard must be (i, n), the i-th of n parts, got {shown(shard)}")
    check_whole("n of shard=(i, n)", shard[1], 1)
    check_whole("i of shard=(i, n)", shard[0], 0, int(shard[1]) - 1)
    return int(shard[0]), int(shard[1])


# --- the folder -------------------------------------------------------------------------------------------------------


def _begin(job: Job) -> None:
    """Make the folder, or make sure that it was begun with the same options."""
    begun = job.folder / BEGUN
    if begun.exists():
        old = read_json(begun)
        differ = [name for name in job.options if old.get(name) != job.options[name] and name != "digest"]
        if differ:
            each = ", ".join(_difference(name, old.get(name), job.options[name]) for name in differ)
            raise ValueError(f"{str(job.folder)!r} was begun with {each}; give the same, or another folder")
        if job.options != old:
            raise ValueError(f"{begun} isn't what a preparation writes; name another folder")
    elif any(job.folder.glob("*.safetensors")):
        raise ValueError(f"{str(job.folder)!r} holds .safetensors files but no {BEGUN}; name another folder")
    job.folder.mkdir(parents=True, exist_ok=True)
    if not begun.exists():
        _write_text(begun, json.dumps(job.options, indent=1) + "\n")
    if not (job.folder / NULL).exists():
        null = hosted("null", encode_prompt(job.params, "", clean=job.options["clean"]))
        states = real(null, 0)[None]
        save_text(Text(states, np.ones(states.shape[:2], np.int32)), job.folder / NULL)


def _difference(name: str, old: object, new: object) -> str:
    if name in ("models", "source"):
        return f"another {'text encoder or VAE' if name == 'models' else 'source'}"
    return f"{name} = {shown(old)} (now {shown(new)})"


def _done(job: Job, i: int) -> _Done:
    """Read what a chunk's file says, without keeping it open."""
    chunk = read_chunk(job.file(i), job.options["digest"])
    return _Done([list(each[3]) for each in chunk.examples], [each[4] for each in chunk.examples], chunk.skipped)


def _finish(job: Job, chunks: dict[int, _Done]) -> Report:
    """Write the index where every chunk is there, whoever has written it."""
    skipped = tuple(each for i in sorted(chunks) for each in chunks[i].skipped)
    report = Report(sum(len(chunk.tokens) for chunk in chunks.values()), job.source.skipped + skipped, False)
    count = len(job.chunks)
    for i in range(count):
        if i not in chunks and job.file(i).exists():
            chunks[i] = _done(job, i)
    if len(chunks) < count:
        return report
    every = [chunks[i] for i in range(count)]
    skipped = job.source.skipped + tuple(each for chunk in every for each in chunk.skipped)
    _write_text(
        job.folder / SKIPPED, "".join(json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in skipped)
    )
    if not any(chunk.tokens for chunk in every):
        first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise ValueError(f"none of the {len(job.source)} pictures could be read ({first})")
    files = [{"file": job.file(i).name, "sizes": chunk.sizes, "tokens": chunk.tokens} for i, chunk in enumerate(every)]
    _write_text(job.folder / INDEX, json.dumps({"options": job.options, "files": files}) + "\n")
    return report._replace(complete=True)


def _write_text(path: Path, content: str) -> None:
    atomic.write(path, lambda temporary: temporary.write_text(content, "utf-8"))


# --- one chunk --------------------------------------------------------------------------------------------------------


def _load(table: sizes.Table, edges: str | None, entry: Entry) -> _Picture | Skipped:
    """Read a picture, bring it to the nearest size of the table, and find its edges where they are asked for."""
    try:
        picture = pictures.decode(entry.read())
    except ValueError as error:
        return Skipped(entry.name, str(error))
    except OSError as error:  # whose own sentence names a path, which differs between machines
        return Skipped(entry.name, f"its file can't be read ({error.strerror or error})")
    height, width = picture.height, picture.width
    pixels = pictures.fit(picture, *sizes.nearest_bin(height, width, table))
    if edges is not None:
        draw = edges_.canny if edges == "canny" else edges_.sobel
        pixels = np.asarray(draw(pixels).convert("RGB"))
    return _Picture(pixels, (height, width))


def _write(job: Job, i: int, loaded: Iterator[tuple[Entry, _Picture | Skipped]], bar: Any) -> None:
    """Encode a chunk and write its file."""
    examples: list[list[Any]] = []
    skipped: list[Skipped] = []
    latents: dict[tuple[int, int], list[NDArray[np.float32]]] = {}
    for entry, picture in loaded:
        if isinstance(picture, Skipped):
            skipped.append(picture)
        else:
            moments = _moments(job.params, picture.pixels, entry.name)
            h, w = moments.shape[2:]
            latents.setdefault((h, w), []).append(moments.reshape(-1))
            examples.append([entry.name, entry.caption, *picture.size, h, w])
        bar.update()
    states = _states(job, [each[1] for each in examples])
    tensors = {f"latents_{h}x{w}": np.stack(rows) for (h, w), rows in sorted(latents.items())}
    tensors |= {"states": np.concatenate(states)} if states else {}
    said = [[*each, len(own)] for each, own in zip(examples, states, strict=True)]
    metadata = {"digest": job.options["digest"], "examples": json.dumps(said), "skipped": json.dumps(skipped)}
    dtypes = dict.fromkeys(tensors, DTYPES[job.options["dtype"]])
    atomic.write(job.file(i), lambda temporary: write_file(temporary, tensors, dtypes, metadata))


@exclusive
def _moments(params: Params, pixels: NDArray[np.uint8], name: str) -> NDArray[np.float32]:
    """Return mean and standard deviation of a picture's latents, (2, C, h, w)."""
    x = pixels.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - np.float32(1)
    found = vae.encode(params.vae, vae_config(params), Tensor.from_numpy(x))
    mean, logvar = (part.asnumpy()[0] for part in found)
    moments: NDArray[np.float32] = np.stack([mean, np.exp(logvar / 2)])
    check_finite(moments, f"the latents of {name}")
    return moments


@exclusive
def _states(job: Job, captions: list[str]) -> list[NDArray[np.float32]]:
    """Return the states of each caption's real tokens, (L, D)."""
    states: list[NDArray[np.float32]] = []
    for start in range(0, len(captions), job.options["batch"]):
        own = captions[start : start + job.options["batch"]]
        text = hosted("the captions", encode_prompt(job.params, own, clean=job.options["clean"]))
        states += [real(text, i) for i in range(len(own))]
    return states
