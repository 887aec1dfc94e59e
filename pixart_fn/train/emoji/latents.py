"""Encode training pictures once: python -m pixart_fn.train.emoji.latents --data DIR --autoencoder DIR --out DIR

Every chunk is a function of (seed, index), so the set can grow while a model trains on what is there.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...backend.runtime import settle_on_cpu
from ...checks import shown
from ...files import npy, reading
from ...models import vae
from ...types import Tree
from . import autoencoder, chunks, data
from .command import run

LARGEST = 2**30
"""Bytes of a chunk at most; one of 512 pictures has 1 MiB."""
CHUNK = 512
CAPTIONS = 8
# As the embedded checkpoint's training, `tests/reference/twin/scenes.py`.
OPTIONS = {
    "mix": {"white": 0.37, "colour": 0.23, "line": 0.10, "two": 0.14, "shapes": 0.16},
    "primary": 0.18,
    "flips": 0.2,
}


class Encoded(NamedTuple):
    """Unscaled latents, float32 (N, C, h, w), and CAPTIONS captions of each."""

    latents: NDArray[np.float32]
    captions: list[list[str]]


def load(folder: str | Path) -> Encoded:
    """Read all chunks of a folder.

    Args:
        folder: what --out named.
    Returns:
        The latents and their captions.
    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: a file isn't one that the command wrote, or they don't fit together.
    """
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no latents; python -m pixart_fn.train.emoji.latents --out {folder} makes them"
        )
    chunks = [_chunk(file) for file in files]
    for file, chunk in zip(files, chunks, strict=True):
        if chunk.latents.shape[1:] != chunks[0].latents.shape[1:]:
            shapes = f"{chunk.latents.shape[1:]} and {chunks[0].latents.shape[1:]}"
            raise ValueError(f"{file} holds latents of another shape than {files[0].name}: {shapes}")
    captions = [row for chunk in chunks for row in chunk.captions]
    return Encoded(np.concatenate([chunk.latents for chunk in chunks]), captions)


def _chunk(file: Path) -> Encoded:
    content = reading.content(file, LARGEST)
    try:
        arrays = npy.arrays(content, ("latents", "captions"), most=LARGEST)
        captions = reading.parse(str(arrays["captions"]).encode())
    except ValueError as error:
        raise ValueError(
            f"{file} isn't what latents wrote ({shown(str(error))}); delete it and write it again"
        ) from error
    latents = arrays["latents"]
    listed = isinstance(captions, list) and all(
        isinstance(row, list) and row and all(isinstance(text, str) for text in row) for row in captions
    )
    if (
        latents.dtype.kind != "f"
        or latents.ndim != 4
        or not latents.size
        or not listed
        or len(captions) != len(latents)
    ):
        raise ValueError(f"{file} must hold latents (N, C, h, w) and N lists of captions; delete it and write it again")
    if not np.isfinite(latents).all():
        raise ValueError(f"the latents in {file} must be finite; delete it and write it again")
    return Encoded(latents.astype(np.float32), captions)


def encode(vae_tree: Tree, glyphs: data.Glyphs, size: int, start: int) -> dict[str, Any]:
    """Draw and encode examples start … start + CHUNK - 1.

    Args:
        vae_tree: the autoencoder's weights.
        glyphs: of which examples are drawn.
        size: side in pixels.
        start: at least 0.
    Returns:
        What a file holds: "latents", float16 (CHUNK, C, h, w), and "captions", as JSON.
    """
    pictures, captions = data.batch(0, start, CHUNK, glyphs, size, CAPTIONS, **OPTIONS)
    latents = [
        vae.encode(vae_tree, autoencoder.CONFIG, autoencoder.to_tensor(pictures[i : i + 16])).mean.asnumpy()
        for i in range(0, CHUNK, 16)
    ]
    return {"latents": np.concatenate(latents).astype(np.float16), "captions": json.dumps(captions)}


def main() -> None:
    """The command: encode the chunks that --out doesn't hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="what pixart_fn.train.emoji.render wrote")
    parser.add_argument(
        "--autoencoder", required=True, help="what pixart_fn.train.emoji.autoencoder --save wrote, or a pipeline"
    )
    parser.add_argument("--out", required=True)
    parser.add_argument("--n", type=int, default=8192, help="examples, in files of 512")
    parser.add_argument("--size", type=int, default=128, help="side in pixels")
    arguments = parser.parse_args()
    settle_on_cpu()
    glyphs, weights, size = data.load(arguments.data), autoencoder.read(arguments.autoencoder), arguments.size
    made_of = {"size": size, "autoencoder": chunks.of_weights(weights), "data": chunks.of_glyphs(glyphs)}
    chunks.write(Path(arguments.out), arguments.n, CHUNK, made_of, partial(encode, weights, glyphs, size))


if __name__ == "__main__":
    run(main)
