"""Train the small AutoencoderKL: python -m pixart_fn.train.emoji.autoencoder --data DIR --out DIR

Three steps in four see 64-px crops, which cost a quarter of a 128-px picture and hold as many edges; the fourth sees
whole pictures, so that the middle attention meets the size that it will work at. The size is that of the embedded
checkpoint's autoencoder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from ... import checkpoint, rng, tree
from ...backend.runtime import settle_on_cpu
from ...files import atomic
from ...files.safetensors import open_file, write_file
from ...models import vae
from ...types import Key, Tree
from .. import loop, optim, state, step
from ..batch import Metrics
from . import captions, chunks, data
from .command import run

CONFIG = vae.Config(
    block_out_channels=(32, 64, 128, 128),
    layers_per_block=1,
    norm_num_groups=8,
    latent_channels=16,
    sample_size=128,
    scaling_factor=1.0,
)
KL = 1e-3
CROP = 64
EDGES, SCALES = 0.35, 3
AVERAGED = 0.25
"""How many of a batch's latents are averaged too, and how much their pictures count."""


def halved(x: Tensor) -> Tensor:
    """Means of 2 × 2 neighbours: (B, C, H, W) → (B, C, H/2, W/2), for even H and W."""
    B, C, H, W = x.shape
    return x.reshape(B, C, H // 2, 2, W // 2, 2).mean(5).mean(3)


def reconstruction(error: Tensor) -> Tensor:
    """|e| + 2 e² + 0.35 |differences of e between neighbours| at three sizes, each a mean over its elements.

    Args:
        error: x̂ - x, float32 (B, 3, H, W), where H and W are multiples of 4.
    Returns:
        Scalar Tensor.
    """
    total = ops.abs(error).mean() + 2 * (error * error).mean()
    for scale in range(SCALES):
        error = halved(error) if scale else error
        down, across = error[:, :, 1:] - error[:, :, :-1], error[:, :, :, 1:] - error[:, :, :, :-1]
        total = total + EDGES * (ops.abs(down).mean() + ops.abs(across).mean())
    return total


def loss(p: Tree, x: Tensor, keys: Key) -> tuple[Tensor, Metrics]:
    """The round trip's `reconstruction`, 1e-3 of the latents' KL, and for a quarter that of averaged latents.

    The mean of 2 × 2 latents must show the picture at half its size.

    Args:
        p: the autoencoder's weights.
        x: pictures, float32 (B, 3, H, W) in [-1, 1], where B is a multiple of 4, and H and W of 16.
        keys: of the posterior's sample, (2,) or (B, 2).
    Returns:
        Scalar Tensor, and no metrics.
    """
    moments, part = vae.encode(p, CONFIG, x), x.shape[0] // 4
    z = vae.sample(keys, moments)
    kl = 0.5 * (moments.mean**2 + ops.exp(moments.logvar) - 1 - moments.logvar).mean()
    small = vae.decode(p, CONFIG, halved(z[:part])) - halved(x[:part])
    total = reconstruction(vae.decode(p, CONFIG, z) - x) + KL * kl + AVERAGED * reconstruction(small)
    return total, {}


def pictures(seed: int, step: int, glyphs: data.Glyphs, n: int = 16) -> NDArray[np.uint8]:
    """Draw crops of emoji, or every fourth step whole pictures: a function of the seed and the step alone.

    Args:
        seed: of the run, at least 0.
        step: at least 0.
        glyphs: the rendered emoji.
        n: crops; whole pictures are a quarter as many.
    Returns:
        uint8 (n, 64, 64, 3), or (n / 4, 128, 128, 3).
    """
    generator = np.random.default_rng((seed, step))
    whole = step % 4 == 3
    out = []
    for _ in range(n // 4 if whole else n):
        glyph = glyphs.pictures[generator.integers(len(glyphs.pictures))]
        ground = (
            data.WHITE
            if generator.random() < 0.6
            else list(captions.COLOURS.values())[generator.integers(len(captions.COLOURS))]
        )
        scale = 128 if whole or generator.random() < 0.6 else 256
        picture = data.compose(data.place(generator, glyph, scale, generator.random() < 0.5), ground)
        if not whole:
            y, x = generator.integers(0, scale - CROP + 1, 2)
            picture = picture[y : y + CROP, x : x + CROP]
        out.append(picture)
    return np.stack(out)


def whiten(p: Tree, pictures: NDArray[np.uint8]) -> Tree:
    """Change an autoencoder so that each channel of the latents has zero mean and unit variance over some pictures.

    The 1×1 convolutions on both sides of the latents absorb the change, so that `scaling_factor` is 1.

    Args:
        p: the autoencoder's weights.
        pictures: uint8 (N, H, W, 3), where N is a multiple of 16.
    Returns:
        The weights that draw the same pictures.
    """
    latents = np.concatenate(
        [vae.encode(p, CONFIG, to_tensor(x)).mean.asnumpy() for x in np.split(pictures, len(pictures) // 16)]
    )
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    C = CONFIG.latent_channels
    quant, post = ({k: v.asnumpy() for k, v in p[name].items()} for name in ("quant_conv", "post_quant_conv"))
    both = np.concatenate([std, np.ones_like(std)])
    shift = np.concatenate([mean / std, 2 * np.log(std)])  # log-variance loses log std²
    quant = {"weight": quant["weight"] / both[:, None, None, None], "bias": quant["bias"] / both - shift}
    kernel = post["weight"].reshape(C, C)
    post = {"weight": post["weight"] * std[:, None, None], "bias": post["bias"] + kernel @ mean}
    changed = {"quant_conv": quant, "post_quant_conv": post}
    return {k: {n: Tensor(v.astype(np.float32)) for n, v in changed[k].items()} if k in changed else p[k] for k in p}


def read(file: str | Path) -> Tree:
    """Read an autoencoder's weights.

    Args:
        file: what --save wrote, or the folder of a whole pipeline.
    Returns:
        The weights, a tree of Tensors.
    Raises:
        OSError: there is no such file, or it is no regular one.
        ValueError: the file is damaged or holds other tensors, or the pipeline has another autoencoder.
    """
    if Path(file).is_dir():
        params = checkpoint.load(file, text_encoder=None)
        if params.config.vae != CONFIG:
            raise ValueError(f"{str(file)!r} must have an autoencoder with the sizes of this recipe's")
        return params.vae
    stored = open_file(Path(file))
    tree.check_names({name: leaf.shape for name, leaf in stored.items()}, vae.shapes(CONFIG), str(file))
    return tree.nest({name: Tensor.from_numpy(leaf.copy()) for name, leaf in stored.items()})


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Turn pictures into what the autoencoder takes.

    Args:
        pictures: uint8 (B, H, W, 3).
    Returns:
        float32 (B, 3, H, W) in [-1, 1].
    """
    return Tensor.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1)


def main() -> None:
    """The command: train from where --out stands, and write the autoencoder where --save asks for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="what pixart_fn.train.emoji.render wrote")
    parser.add_argument("--out", required=True, help="where the resumable state is kept")
    parser.add_argument(
        "--save", type=Path, help="the .safetensors file to write the whitened autoencoder to at the end"
    )
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()
    if arguments.save:
        atomic.target(arguments.save)
    settle_on_cpu()
    glyphs = data.load(arguments.data)
    rate = optim.warmup_stable_decay(arguments.lr, arguments.steps)
    optimiser = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(rate, b2=0.99, weight_decay=0.01))
    average = optim.ema(0.999)
    last = loop.run(
        step.make(loss, optimiser, ema=average),
        state.init(vae.init(rng.key(0), CONFIG), optimiser, rng.key(1), ema=average),
        lambda i: to_tensor(pictures(0, i, glyphs)),
        arguments.out,
        steps=arguments.steps,
        minutes=arguments.minutes,
        identity={"steps": arguments.steps, "lr": arguments.lr, "data": chunks.of_glyphs(glyphs)},
    )
    if arguments.save:
        seen, _ = data.batch(1, 0, 512, glyphs, CONFIG.sample_size)
        leaves = dict(tree.items(whiten(last.average, seen)))
        atomic.write(arguments.save, lambda temporary: write_file(temporary, leaves, dict.fromkeys(leaves, "F32")))


if __name__ == "__main__":
    run(main)
