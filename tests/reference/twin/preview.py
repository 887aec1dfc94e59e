"""Train a small decoder to give what a pipeline's VAE gives: `python -m twin.preview --help`, in tests/reference.

It is an AutoencoderTiny (TAESD's layers). Its latents are of pictures, and what `lcm` has drawn: the x0 that a sampling
sees on its way. Its encoder learns the VAE's latents of the pictures, so that the files are whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor

import pixart_fn as px
from pixart_fn.train.emoji import data

from .autoencoder import AutoencoderKL
from .train import VAE, Trainer, reconstruction, say

CONFIG = {
    "encoder_block_out_channels": (16, 16, 16, 16),
    "decoder_block_out_channels": (24, 24, 24, 24),
    "num_encoder_blocks": (0, 1, 1, 1),
    "num_decoder_blocks": (2, 2, 1, 0),
    "latent_channels": 16,
}
PICTURES, DRAWN = 40, 24
"""In a chunk."""
HELD_OUT = 100_000
"""Where the pictures begin that are measured alone."""


class Chunk(NamedTuple):
    """Pictures and the VAE's latents of them; latents and what the VAE makes of them, those of the pictures first."""

    x: Tensor
    z: Tensor
    decoded: Tensor


class Source:
    """Chunks, each a function of its number."""

    def __init__(self, vae: AutoencoderKL, glyphs: data.Glyphs, drawn: Path) -> None:
        self.vae, self.glyphs, self.drawn = vae, glyphs, drawn
        seen = np.arange(len(glyphs.concepts)) % 20 != 7
        self.sides = [of_concepts(glyphs, keep) for keep in (seen, ~seen)]

    @torch.no_grad()
    def chunk(self, i: int, held_out: bool = False) -> Chunk:
        """The i-th; what is held out has concepts of its own, and the captions of the first chunk of `lcm`."""
        start = i * PICTURES + HELD_OUT * held_out
        pictures, _ = data.batch(0, start, PICTURES, self.sides[held_out], 128, primary=0.25)
        x = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
        files = sorted(self.drawn.glob("drawn.???.npz"))
        file = files[0] if held_out else files[1 + i % (len(files) - 1)]
        x0 = torch.from_numpy(np.load(file)["x0"]).flatten(0, 1).float()
        rows = torch.randperm(len(x0), generator=torch.Generator().manual_seed(i))[:DRAWN]
        with torch.autocast("cpu", torch.bfloat16, enabled=not held_out):
            z = torch.cat([self.vae.encode(x)[0].float(), x0[rows]])
            decoded = torch.cat([self.vae.decode(part).float() for part in z.split(8)])
        return Chunk(x, z, decoded.clamp(-1, 1))


def of_concepts(glyphs: data.Glyphs, keep: np.ndarray) -> data.Glyphs:
    """The same with only such concepts to draw from."""
    pools = {}
    for name, pool in glyphs.pools.items():
        rows = pool.rows[keep[glyphs.concept[pool.rows]]]
        weights = np.array([glyphs.concepts[i]["weight"] for i in glyphs.concept[rows]], float)
        pools[name] = data.Pool(rows, np.cumsum(weights / weights.sum()))
    return glyphs._replace(pools=pools)


def loss_of(model: AutoencoderTiny, chunk: Chunk, rows: Tensor) -> Tensor:
    """The decoder's, and for the pictures among the rows the encoder's, which shares no weight with it."""
    loss = reconstruction(model.decode(chunk.z[rows]).sample.float() - chunk.decoded[rows])
    shown = rows[rows < PICTURES]
    return loss + F.mse_loss(model.encode(chunk.x[shown]).latents.float(), chunk.z[shown]) if len(shown) else loss


@torch.no_grad()
def judge(model: AutoencoderTiny, chunk: Chunk) -> None:
    """PSNR of the small decoder against the VAE's, mean over pictures."""
    errors = torch.cat([model.decode(part).sample.clamp(-1, 1) for part in chunk.z.split(8)]) - chunk.decoded
    psnr = -10 * (errors.square().mean((1, 2, 3)) / 4).log10()
    error = (model.encode(chunk.x).latents - chunk.z[:PICTURES]).square().mean()
    say(
        f"pictures {psnr[:PICTURES].mean():.2f} dB, drawn {psnr[PICTURES:].mean():.2f} dB; encoder's error² {error:.3f}"
    )


def vae_of(params: px.Params) -> AutoencoderKL:
    vae = AutoencoderKL(**VAE)
    state = {name: torch.from_numpy(leaf.asnumpy()) for name, leaf in px.tree.items(params.vae)}
    vae.load_state_dict(state)
    return vae.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="what pixart_fn.train.emoji.render wrote")
    parser.add_argument("--drawn", type=Path, required=True, help="the --out of lcm")
    parser.add_argument("--save", required=True, help="the folder to write")
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--chunks", type=int, default=6)
    parser.add_argument("--every", type=int, default=80, help="steps after which there is one more chunk")
    parser.add_argument("--batch", type=int, default=4)
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source = Source(vae_of(px.load(text_encoder=None)), data.load(a.data), a.drawn)
    measured, chunks = source.chunk(0, held_out=True), [source.chunk(0)]
    model = AutoencoderTiny(**CONFIG).to(memory_format=torch.channels_last)
    torch.nn.init.constant_(model.decoder.layers[-1].bias, 0.9)  # most pixels are white
    trainer = Trainer(model, 2e-3, a.seconds, average=0.995, warmup=50, decay=0.6)
    generator = torch.Generator().manual_seed(1)
    while trainer.share() < 1:
        if trainer.step % a.every == a.every - 1 and len(chunks) < a.chunks:
            chunks.append(source.chunk(len(chunks)))
        chunk = chunks[int(torch.randint(len(chunks), (), generator=generator))]
        rows = torch.randperm(len(chunk.z), generator=generator)[: a.batch]
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, chunk, rows)
        trainer.update(loss, a.batch)
        if trainer.step % 250 == 0:
            judge(model, measured)
    trainer.use_average()
    judge(model, measured)
    model.half().save_pretrained(a.save)


if __name__ == "__main__":
    main()
