"""What a preparation is asked for, checked, and as the options that say whether two preparations are the same."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import tree
from ...backend.precision import precision
from ...checks import check_option, check_switch, check_type, check_whole
from ...estimate import check_encoding
from ...files.folder import check
from ...files.safetensors import array
from ...models import sizes
from ...params import Params
from ...request import check_params, factor, vae_config
from .entries import Entry
from .sources import Source

CHUNK = 64
"""Examples of the source in a file, which is what a run that is killed loses at most."""
EDGES = ("canny", "sobel")
"""What `px.edges` draws."""
FORMAT = 1
"""Counted up where the same options come to mean other bytes."""
SMALL = 2**16
"""Numbers of a weight at most that is read to know a model again: norms and biases differ between any two."""


class Job(NamedTuple):
    """The checked arguments of a run."""

    source: Source
    params: Params
    folder: Path
    options: dict[str, Any]
    table: sizes.Table

    @property
    def chunks(self) -> list[tuple[Entry, ...]]:
        """The source's entries, CHUNK by CHUNK."""
        n = self.options["chunk"]
        return [self.source.entries[i : i + n] for i in range(0, len(self.source), n)]

    def file(self, i: int) -> Path:
        """Where the i-th chunk is written."""
        return self.folder / f"{i:06d}.safetensors"


def make(source: Source, params: Params, out: str, given: tuple[int | str | None, str, bool, int, str | None]) -> Job:
    """Check the arguments that decide what is written.

    Args:
        source: of `prepare.run`, as are the others.
        params: with a text encoder and a VAE.
        out: the folder.
        given: size, dtype, clean, batch and edges.
    Returns:
        The Job.
    Raises:
        TypeError, ValueError, MemoryError: as `prepare.run` says.
    """
    size, dtype, clean, batch, edges = given
    check_type("source", source, Source, "what sources.open returns")
    check_params(params)
    if params.text_encoder is None:
        raise ValueError("params have no text encoder; load them with text_encoder=True")
    check_option("dtype", dtype, ("float16", "float32"))
    check_switch("clean", clean)
    check_whole("batch", batch, 1, 2**16)
    if edges is not None:
        check_option("edges", edges, EDGES)
    table = _table(params, size)
    options = {
        "format": FORMAT,
        "size": f"multi-{_base(params, size)}" if isinstance(size, str) else table[0][0],
        "dtype": dtype,
        "clean": bool(clean),
        "batch": int(batch),
        "chunk": CHUNK,
        "precision": precision(),
        "pipeline": params.config.pipeline,
        "scaling_factor": vae_config(params).scaling_factor,
        "models": _models(params),
        "source": _contents(source),
        "examples": len(source),
    }
    options |= {} if edges is None else {"edges": edges}  # other folders are those of before there were edges
    options["digest"] = _digest(json.dumps(options, sort_keys=True))
    for each in {*table}:
        check_encoding(params, each, 1, None)
    return Job(source, params, check(Path(os.path.expanduser(out))), options, table)


def _table(params: Params, size: int | str | None) -> sizes.Table:
    """Return the sizes that pictures are brought to."""
    if isinstance(size, str):
        return sizes.BINS[_base(params, size)]
    square = params.config.transformer.sample_size * factor(params) if size is None else size
    sizes.check(square, square, factor(params) * params.config.transformer.patch_size)
    return ((int(square), int(square)),)


def _base(params: Params, size: str) -> int:
    """The side in pixels by which a table of sizes is named."""
    check_option("size, where it isn't a number of pixels,", size, ("multi", *(f"multi-{base}" for base in sizes.BINS)))
    if size != "multi":
        return int(size.removeprefix("multi-"))
    side = params.config.transformer.sample_size * factor(params)
    if side not in sizes.BINS:
        raise ValueError(f"size='multi' needs a model of 256, 512, 1024 or 2048 pixels, got {side}; or say 'multi-512'")
    return side


def _models(params: Params) -> str:
    """Return what tells the text encoder and the VAE from others: their configuration and their small weights."""
    config = params.config
    digest = hashlib.sha256(repr((config.text_encoder, config.vae, params.tokenizer)).encode())
    digest.update(b"" if params.tokenizer is None else params.tokenizer.model)
    for name, leaf in sorted((*tree.items(params.text_encoder), *tree.items(params.vae)), key=lambda item: item[0]):
        digest.update(f"{name} {tuple(leaf.shape)}".encode())
        if np.prod(leaf.shape) <= SMALL:
            digest.update(array(leaf).tobytes())
    return digest.hexdigest()[:16]


def _contents(source: Source) -> str:
    """Return what tells a list of examples from another: names, captions and bytes."""
    digest = hashlib.sha256()
    for entry in source.entries:
        digest.update(json.dumps([entry.name, entry.caption, entry.size]).encode())
    return digest.hexdigest()[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
