"""Teach a model to draw two things at once: `python -m twin.pairs --help`, in tests/reference.

Training goes on from a pipeline's weights. Four things make it short enough for two CPU cores. Each glyph fills 4 × 4
whole patches. Both glyphs have one style, which is nearly always named if it isn't the first set's. Most steps leave
out the empty patches above and below. Any left half goes with any right half of the same style and background.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from torch import Tensor

import pixart_fn as px

from . import say
from .autoencoder import AutoencoderKL
from .export import to_tree
from .latents import Pool, schedule
from .pack import COLOUR_SETS, Pack
from .preview import vae_of
from .scenes import FLIPPED, SETS, TWO, Chance, Scenes, grounds
from .train import Model, Trainer, model_loss

FIRST_SET = 0.65
"""How often both glyphs are of the first set; the others keep their shares of the rest."""
NAMED, ON_WHITE, SIDE = 0.85, 0.8, 0.46
RELATIONS = (0.5, 0.2, 0.1, 0.1, 0.1)
"""Words of `pack.BETWEEN` for two side by side; the last one exchanges their places."""
EXCHANGED, RIGHT_OF = 0.6, 4
WITHOUT_MARGIN = 0.85
CONTENT = torch.arange(64).view(8, 8)[2:6].flatten()
"""The patches that the glyphs lie in."""


class Speaker(say.Speaker):
    """Names the style of a pair more often, so that a pair without one is nearly always of the first set."""

    def __init__(self, generator: torch.Generator, pack: Pack, scenes: Scenes) -> None:
        super().__init__(generator, pack, scenes)
        self.names_style |= (self.set != 0) & (self.chance() < NAMED)


class Pairs(Pool):
    """The latents of pairs, whose halves are exchanged."""

    def __init__(self, vae: AutoencoderKL, pack: Pack, generator: torch.Generator, n: int) -> None:
        super().__init__(vae, pack, generator, n)
        s = self.scenes
        alike = (pack.set[s.row[:, 0]] * len(pack.colours) + s.ground) * 2 + (s.relation == RIGHT_OF)
        self.group = alike.unique(return_inverse=True)[1]
        self.order = self.group.argsort()
        self.size = self.group.bincount()
        self.start = self.size.cumsum(0) - self.size

    def draw(self) -> Scenes:
        """Draw two glyphs of one set, side by side."""
        c, pack = Chance(self.generator, self.chunk), self.pack
        some = torch.stack([w.sum() > 0 for w in pack.weights[1:COLOUR_SETS]])
        rest = torch.tensor(SETS[1:]) * some
        sets = c.pick(torch.cat([torch.tensor([FIRST_SET]), rest / rest.sum() * (1 - FIRST_SET)]))
        # a set without pictures, whose rows nobody takes, must have weights too
        rows = torch.stack([c.pick(w + (w.sum() == 0), 2) for w in pack.weights[:COLOUR_SETS]])
        row = torch.full((c.n, 3), -1)
        row[:, :2] = rows[sets, torch.arange(c.n)]
        relation, kind = c.pick(RELATIONS), torch.full((c.n,), TWO)
        x = torch.where(relation[:, None] == RIGHT_OF, torch.tensor((0.75, 0.25)), torch.tensor((0.25, 0.75)))
        box = torch.full((c.n, 3, 3), 0.5)
        box[:, :2, 0], box[..., 2] = x, SIDE
        flip = torch.zeros(c.n, 3, dtype=torch.bool)
        flip[:, :2] = pack.may_flip[pack.concept[row[:, :2]]] & (c.uniform(2) < FLIPPED / 2)
        ground = grounds(c, pack, kind, row[:, 0], row[:, 1], ON_WHITE)
        shape = torch.zeros(c.n, 3, 3, dtype=torch.long)
        return Scenes(kind, row, torch.full_like(row, -1), box, flip, ground, relation, shape)

    @torch.no_grad()
    def batch(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """n latents, each of the left half of one pair and the right half of that pair or another, and captions."""
        rows = torch.randint(len(self.z), (n,), generator=self.generator)
        u, v = torch.rand(2, n, generator=self.generator)
        group = self.group[rows]
        other = self.order[self.start[group] + (u * self.size[group]).long()]
        other = torch.where(v < EXCHANGED, other, rows)
        left, right = self.scenes.take(rows), self.scenes.take(other)
        row, swapped = left.row.clone(), left.relation == RIGHT_OF
        row[:, 0] = torch.where(swapped, right.row[:, 0], left.row[:, 0])
        row[:, 1] = torch.where(swapped, left.row[:, 1], right.row[:, 1])
        half = self.z.shape[-1] // 2
        z = torch.cat([self.z[rows, ..., :half], self.z[other, ..., half:]], -1).float()
        return z, *say.captions(self.generator, self.pack, left._replace(row=row), Speaker)


def in_patches(x: Tensor, p: int = 2) -> Tensor:
    """(B, C, H, W) → (B, H/p · W/p, p · p · C), as the transformer's last layer has them."""
    B, C, H, W = x.shape
    return x.view(B, C, H // p, p, W // p, p).permute(0, 2, 4, 3, 5, 1).reshape(B, -1, p * p * C)


def train(a: argparse.Namespace, pack: Pack, model: Model, vae: AutoencoderKL) -> None:
    generator = torch.Generator().manual_seed(a.seed)
    pairs, others = Pairs(vae, pack, generator, a.pool), Pool(vae, pack, generator, a.pool)
    trainer = Trainer(model, a.lr, a.seconds, average=0.998, warmup=100, decay=a.decay)
    alphas, sigmas = schedule()
    while trainer.share() < 1:
        kind, margin = torch.rand(2, generator=generator)
        if kind < a.others:
            source, n, keep = others, a.batch * 3 // 4, None
        else:
            source, n, keep = pairs, a.batch, CONTENT
            if margin > WITHOUT_MARGIN:
                n, keep = a.batch // 2, None
        x0, ids, mask = source.batch(n)
        x, t = source.noisy(x0, alphas, sigmas)
        predicted = model.transformer.patches(x, t, model.text_encoder(ids, mask), mask, keep)
        wanted = in_patches(x0) if keep is None else in_patches(x0)[:, keep]
        trainer.update(model_loss(wanted, predicted, alphas[t], sigmas[t]), n)
    trainer.use_average()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", required=True, help="what make_pack wrote, with the weights' vocabulary")
    parser.add_argument("--start", required=True, help="the pipeline's folder to go on from")
    parser.add_argument("--out", required=True, help="the pipeline's folder to write")
    parser.add_argument("--seconds", type=float, default=1800, help="of training")
    parser.add_argument("--others", type=float, default=0.47, help="share of steps on pictures of all kinds")
    parser.add_argument("--decay", type=float, default=1.0, help="share of the time in which the learning rate falls")
    parser.add_argument("--batch", type=int, default=64, help="pairs in a step")
    parser.add_argument("--lr", type=float, default=2.5e-4, help="peak learning rate")
    parser.add_argument("--pool", type=int, default=4096, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--limit", type=int, help="read only so many glyphs")
    a = parser.parse_args()
    pack, params = Pack(a.pack, "cpu", a.limit), px.load(a.start)
    model = Model(params.config.text_encoder.vocab_size)
    for name, part in model.named_children():
        leaves = px.tree.items(getattr(params, name))
        part.load_state_dict({key: torch.from_numpy(leaf.asnumpy().copy()) for key, leaf in leaves})
    train(a, pack, model, vae_of(params))
    trees = {name: to_tree(part.state_dict()) for name, part in model.named_children()}
    px.save(dataclasses.replace(params, **trees), a.out, dtype="float16")


if __name__ == "__main__":
    main()
