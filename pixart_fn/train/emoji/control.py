"""Train a ControlNet for the embedded checkpoint on edge maps: python -m pixart_fn.train.emoji.control --help

Emoji and shapes are drawn with their captions, Canny's edges found, and both encoded once; then a ControlNet of the
transformer's first blocks is trained. Every tenth concept is held out, and `--measure` draws those: whether a picture
follows its edges is how well its own edges agree with the given ones, within two pixels.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from tqdm import tqdm

from ... import checkpoint, edges, rng, solvers
from ...backend.arrays import as_numpy
from ...backend.runtime import settle_on_cpu
from ...checkpoint import controlnet
from ...control import Net
from ...files import npy, reading
from ...files.folder import check
from ...params import Params
from ...picture import prepare, save_picture
from ...pipeline import generate
from ...stages import encode_image, encode_prompt
from ...types import Key, Text
from .. import loop, losses, objective, optim, state, step, times
from ..batch import Batch
from . import chunks, data, text_to_image
from .command import run

SIZE, CHUNK, CAPTIONS = 128, 128, 2
HELD_OUT = 10
"""One concept in so many isn't trained on."""
DROPOUT = 0.5
"""How often a caption is replaced by the empty prompt, as the authors' class_dropout_prob, so that edges are heard."""
OPTIONS: dict[str, Any] = {"mix": {"white": 0.55, "colour": 0.25, "line": 0.1, "shapes": 0.1}, "primary": 0.5}


class Encoded(NamedTuple):
    """Scaled latents of pictures and of their edges, float32 (N, C, h, w), and their captions' states.

    Row i · CAPTIONS + k of the text is the k-th caption of picture i; the last row is the empty prompt.
    """

    pictures: NDArray[np.float32]
    controls: NDArray[np.float32]
    states: NDArray[np.float32]
    mask: NDArray[np.int32]


def split(glyphs: data.Glyphs, held_out: bool) -> data.Glyphs:
    """Keep the glyphs of the concepts that are held out, or of the others.

    Args:
        glyphs: as `data.load` reads them.
        held_out: which of the two.
    Returns:
        The same glyphs, of which only those are drawn.
    """
    weights = np.array([glyphs.concepts[i]["weight"] for i in glyphs.concept], float)
    pools = {}
    for name, pool in glyphs.pools.items():
        rows = pool.rows[(glyphs.concept[pool.rows] % HELD_OUT == 0) == held_out]
        pools[name] = data.Pool(rows, np.cumsum(weights[rows] / weights[rows].sum()) if len(rows) else weights[:0])
    return glyphs._replace(pools=pools)


def edge_maps(pictures: NDArray[np.uint8]) -> list[Image.Image]:
    """Find the edges of pictures, uint8 (N, S, S, 3), as `px.edges.canny` does."""
    return [edges.canny(picture) for picture in pictures]


def encode(params: Params, glyphs: data.Glyphs, start: int) -> dict[str, Any]:
    """Draw and encode examples start … start + CHUNK - 1.

    Args:
        params: from `px.load()`.
        glyphs: of which examples are drawn.
        start: at least 0.
    Returns:
        What a file holds: "pictures" and "controls", float16 (CHUNK, C, h, w), and "captions", as JSON.
    """
    pictures, captions = data.batch(0, start, CHUNK, glyphs, SIZE, CAPTIONS, **OPTIONS)
    both = [encode_image(params, each) for each in (pictures, edge_maps(pictures))]
    latents = [each.asnumpy().astype(np.float16) for each in both]
    return {"pictures": latents[0], "controls": latents[1], "captions": json.dumps(captions)}


def load(params: Params, folder: Path) -> Encoded:
    """Read what `main` has encoded, and encode the captions.

    Args:
        params: from `px.load()`.
        folder: of the .npz files.
    Returns:
        The examples.
    Raises:
        ValueError: a file isn't one that `main` wrote.
    """
    chunks = [npy.load_archive(file, ("pictures", "controls", "captions")) for file in sorted(folder.glob("*.npz"))]
    if not chunks:
        raise ValueError(f"{folder} holds no examples")
    pictures, controls = (
        np.concatenate([each[name] for each in chunks]).astype(np.float32) for name in ("pictures", "controls")
    )
    said = [text for each in chunks for row in reading.parse(str(each["captions"]).encode()) for text in row]
    parts = [encode_prompt(params, said[i : i + 512], pad_to=32, tokens=32) for i in tqdm(range(0, len(said), 512))]
    texts = [*parts, encode_prompt(params, "", pad_to=32, tokens=32)]
    states, mask = (np.concatenate([as_numpy(each[k]) for each in texts]) for k in (0, 1))
    return Encoded(pictures, controls, states, mask)


def draw(key: Key, examples: Encoded, n: int) -> Batch:
    """Draw n examples: a function of the key alone.

    Args:
        key: uint64 (2,).
        examples: what `load` gives.
        n: at least 1.
    Returns:
        The batch.
    """
    generator = np.random.default_rng(key)
    rows = generator.integers(len(examples.pictures), size=n)
    said = rows * CAPTIONS + generator.integers(CAPTIONS, size=n)
    said[generator.random(n) < DROPOUT] = len(examples.mask) - 1
    text = Text(*(Tensor.from_numpy(each[said]) for each in (examples.states, examples.mask)))
    return Batch(examples.pictures[rows], text, control=examples.controls[rows])


def train(params: Params, examples: Encoded, out: Path, options: argparse.Namespace) -> Net:
    """Train, or go on where `out` stands.

    Args:
        params: from `px.load()`.
        examples: what `load` gives.
        out: of the run's state.
        options: `start`, `blocks`, `steps`, `minutes`, `batch` and `lr`.
    Returns:
        The ControlNet: its averaged tree and its configuration.
    """
    base, config = params.transformer, params.config.transformer
    own = controlnet.Config.like(config, options.blocks)
    first = controlnet.init(base, config, own)
    if options.start:
        first = {name: blocks[: options.blocks] for name, blocks in controlnet.load(options.start)[0].items()}
    schedule = solvers.from_config(params.config.scheduler).schedule
    loss = losses.diffusion(schedule, weighting=text_to_image.weighting, times=times.logit_normal(0.3, 1.0))
    rate = optim.warmup_stable_decay(options.lr, options.steps, 20, decay=0.4)
    optimiser = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(rate, b2=0.99))
    average = optim.ema(0.98, warmup=True)
    begin = state.init(first, optimiser, rng.key(0), ema=average)
    aim = objective.of_controlnet(base, config, own, loss, recompute=False)
    last = loop.run(
        step.make(aim, optimiser, ema=average), begin,
        lambda i: draw(rng.fold_in(rng.key(1), i), examples, options.batch), out,
        steps=options.steps, minutes=options.minutes,
        identity={name: getattr(options, name) for name in ("blocks", "steps", "batch", "lr")},
    )  # fmt: skip
    return last.average, own


def agreement(picture: NDArray[np.uint8], given: Image.Image, within: int = 2) -> float:
    """Measure how well the edges of a picture agree with given ones.

    Args:
        picture: uint8 (S, S, 3).
        given: an edge map, (S, S).
        within: how many pixels an edge may lie off, along rows and columns.
    Returns:
        F1 of the share of the picture's edges near a given one, and of the given ones near one of the picture's.
    """
    wide = ImageFilter.MaxFilter(2 * within + 1)
    found = edges.canny(picture)
    shares = [
        np.asarray(near.filter(wide))[np.asarray(edge) > 0].mean() / 255 if np.asarray(edge).any() else 0.0
        for near, edge in ((given, found), (found, given))
    ]
    return float(2 * shares[0] * shares[1] / max(sum(shares), 1e-9))


class Followed(NamedTuple):
    """Mean agreements: with the edges that were given, without a ControlNet, and with the edges of another picture.

    `other` and `missed` are of pictures that were given another one's edges: with those, and with their own.
    """

    given: float
    without: float
    other: float
    missed: float


def measure(params: Params, net: Net, glyphs: data.Glyphs, n: int, **options: Any) -> tuple[Followed, Image.Image]:
    """Draw n held-out glyphs from their captions: with their edges, without, and with the next one's edges.

    Args:
        params: from `px.load()`.
        net: the ControlNet.
        glyphs: as `split(…, held_out=True)` gives them.
        n: at least 2.
        **options: of `px.generate`.
    Returns:
        The agreements, and a sheet with a row for each: the glyph, its edges, and the three pictures.
    """
    choices = np.random.default_rng(1)
    examples = [data.emoji(choices, glyphs, SIZE, True, 0.5, 0.5, 0.05) for _ in range(n)]
    pictures, prompts = [picture for picture, _ in examples], [caption(choices) for _, caption in examples]
    maps = edge_maps(np.stack(pictures))
    turned = [*maps[1:], maps[0]]

    def with_edges(followed: list[Image.Image] | None) -> NDArray[np.uint8]:
        controls = None if followed is None else controlnet.control(params, net, followed)
        made = generate(params, prompts, rng.key(2), controls=controls, output="numpy", progress=False, **options)
        drawn: NDArray[np.uint8] = np.rint(255 * made).astype(np.uint8)
        return drawn

    own, none, other = with_edges(maps), with_edges(None), with_edges(turned)
    pairs = (own, maps), (none, maps), (other, turned), (other, maps)
    followed = Followed(*(_mean_agreement(drawn, given) for drawn, given in pairs))
    shown = [np.asarray(edge.convert("RGB")) for edge in maps]
    rows = zip(pictures, shown, own, none, other, strict=True)
    return followed, Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows]))


def _mean_agreement(drawn: NDArray[np.uint8], given: list[Image.Image]) -> float:
    return float(np.mean([agreement(*pair) for pair in zip(drawn, given, strict=True)]))


def main() -> None:
    """The command: encode what --out doesn't hold yet, train from where it stands, and write the ControlNet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="what pixart_fn.train.emoji.render wrote")
    parser.add_argument("--model", help="a pipeline's folder or hub id; none: the embedded checkpoint")
    parser.add_argument("--out", required=True, help="where the examples and the resumable state are kept")
    parser.add_argument("--save", help="write the ControlNet here at the end")
    parser.add_argument("--measure", type=int, default=0, help="draw so many held-out glyphs at the end, and compare")
    parser.add_argument("--sheet", help="where their pictures are written")
    parser.add_argument("--n", type=int, default=1280, help="examples, in files of 128")
    parser.add_argument("--start", help="the folder of a ControlNet to begin with, of which --blocks are kept")
    parser.add_argument("--blocks", type=int, default=3, help="of the transformer's that are copied")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=5e-4)
    arguments = parser.parse_args()
    if arguments.save:
        check(Path(arguments.save))
    if arguments.sheet:
        prepare(arguments.sheet, {})
    settle_on_cpu()
    params, every = checkpoint.load(arguments.model), data.load(arguments.data)
    glyphs, folder = split(every, held_out=False), Path(arguments.out) / "examples"
    made_of = {"model": chunks.of_weights(params.vae), "data": chunks.of_glyphs(every)}
    chunks.write(folder, arguments.n, CHUNK, made_of, partial(encode, params, glyphs))
    trained, own = train(params, load(params, folder), Path(arguments.out), arguments)
    if arguments.save:
        controlnet.save(trained, own, arguments.save)
    if arguments.measure:
        followed, sheet = measure(params, (trained, own), split(every, held_out=True), arguments.measure)
        print(followed)
        if arguments.sheet:
            save_picture(sheet, arguments.sheet)


if __name__ == "__main__":
    run(main)
