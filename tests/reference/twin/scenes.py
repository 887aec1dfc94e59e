"""What a training picture shows, drawn on the device: glyphs, line drawings, two glyphs at once, scenes of shapes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .pack import COLOUR_SETS, Pack

GLYPH, LINE, TWO, SHAPES = range(4)
MIX = (0.46, 0.08, 0.34, 0.12)
"""How often each kind is drawn."""
SETS = (0.171, 0.1045, 0.1235, 0.1235, 0.1425, 0.1235, 0.1045, 0.057, 0.05)
"""How often each set in colour is drawn, in the order of `make_pack.ORDER`; a set without pictures never is."""
PAIR_SETS = (0.5, *(0.5 * share / sum(SETS[1:]) for share in SETS[1:]))
"""How often both glyphs of a pair are of each set: a pair whose style isn't named is nearly always of the first one."""
LINES = (0.7, 0.3)
"""Line drawings and silhouettes."""
ON_WHITE, PAIR_ON_WHITE, FLIPPED = 0.62, 0.8, 0.2
WHITE_CONTRAST, CONTRAST = 0.11, 0.2
PAIR_SIDE = 0.46
"""Of each glyph of a pair, in the middle of 4 × 4 patches, which are half as wide as the picture."""
SIDES = ((0.20, 0.05), (0.30, 0.05), (0.40, 0.04))
"""The least side of a small, a middling and a large shape, and how much larger it may be."""
UNSEEN_PAINT = (5, 3, 4, 0)
"""Of a circle, a square, a triangle and a star: the paint that training never gives it (`shapes.HELD_OUT`)."""
ABOVE, BELOW, LEFT, RIGHT, NOWHERE = range(5)
STEPS = ((0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0))


class Scenes(NamedTuple):
    """n pictures of up to three items each; all but `box` are whole numbers.

    kind (n,); row (n, 3), -1 for no item; ink (n, 3), -1 for a glyph's own colours; box (n, 3, 3), centre x, y and side
    in [0, 1]; flip (n, 3); ground (n,); relation (n,): of two glyphs a word of `pack.BETWEEN`, of shapes 10 · their
    number plus a place; shape (n, 3, 3): kind, paint and size.
    """

    kind: Tensor
    row: Tensor
    ink: Tensor
    box: Tensor
    flip: Tensor
    ground: Tensor
    relation: Tensor
    shape: Tensor

    def take(self, rows: Tensor | slice) -> Scenes:
        return Scenes(*(x[rows] for x in self))


class Chance:
    """Random choices on the device of a generator."""

    def __init__(self, generator: torch.Generator, n: int) -> None:
        self.generator, self.n, self.device = generator, n, generator.device

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.n, *shape, generator=self.generator, device=self.device)

    def pick(self, weights: tuple[float, ...] | Tensor, *shape: int) -> Tensor:
        """Indices with these weights: (n, *shape)."""
        weights = torch.as_tensor(weights, device=self.device)
        many = self.n * int(np.prod(shape))
        return torch.multinomial(weights, many, True, generator=self.generator).view(self.n, *shape)

    def pick_rows(self, weights: Tensor) -> Tensor:
        """An index for each row of weights: (n, V) → (n,)."""
        return torch.multinomial(weights, 1, generator=self.generator)[:, 0]


def draw(generator: torch.Generator, pack: Pack, n: int, hold_out: bool = False) -> Scenes:
    """Draw n scenes; with `hold_out` none of the concepts that the autoencoder never sees."""
    c = Chance(generator, n)
    kind = c.pick(MIX)
    first, second, line = glyphs(c, pack, kind == TWO, hold_out)
    row = torch.full((n, 3), -1, device=c.device)
    row[:, 0] = torch.where(kind == LINE, line, first)
    row[:, 1] = torch.where(kind == TWO, second, -1)
    ground = grounds(c, pack, kind, row[:, 0], second)
    ink = torch.full((n, 3), -1, device=c.device)
    ink[:, 0] = torch.where(kind == LINE, inks(c, pack, ground), -1)
    box, relation = places(c, kind == TWO)
    flip = torch.zeros(n, 3, dtype=torch.bool, device=c.device)
    flip[:, :2] = pack.may_flip[pack.concept[row[:, :2].clamp(min=0)]] & (c.uniform(2) < FLIPPED)
    scenes = Scenes(
        kind, row, ink, box, flip, ground, relation, torch.zeros(n, 3, 3, dtype=torch.long, device=c.device)
    )
    return add_shapes(c, pack, scenes)


def glyphs(c: Chance, pack: Pack, two: Tensor, hold_out: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a first and a second glyph in colour, both of one set, and of a drawing in one colour."""
    weights = [w * ~pack.held_out[pack.concept] if hold_out else w for w in pack.weights]
    some = torch.stack([w.sum() > 0 for w in weights])
    colours, pairs, inks = (
        torch.tensor(shares, device=c.device) * there
        for shares, there in ((SETS, some[:COLOUR_SETS]), (PAIR_SETS, some[:COLOUR_SETS]), (LINES, some[COLOUR_SETS:]))
    )
    sets = torch.where(two, c.pick(pairs), c.pick(colours))
    # a set without pictures, whose row nobody takes, must have weights too
    chosen = [torch.stack([c.pick(w + (w.sum() == 0)) for w in weights]) for _ in range(2)]
    first, second = (rows.gather(0, sets[None])[0] for rows in chosen)
    return first, second, chosen[0][COLOUR_SETS:].gather(0, c.pick(inks)[None])[0]


def grounds(c: Chance, pack: Pack, kind: Tensor, row: Tensor, second: Tensor) -> Tensor:
    """A colour that the picture stands out from; a tenth of the pairs of concept and colour are never drawn."""
    two = (kind == TWO)[:, None]
    contrast = torch.where(two, torch.minimum(pack.contrast[row], pack.contrast[second]), pack.contrast[row])
    colours = contrast[:, 1:] >= CONTRAST
    colours &= ~(pack.unseen_grounds(pack.concept[row]) & (kind == GLYPH)[:, None])
    white = torch.where(two, PAIR_ON_WHITE, ON_WHITE)
    each = (1 - white) / colours.sum(1, keepdim=True).clamp(min=1)
    share = torch.cat([(contrast[:, :1] >= WHITE_CONTRAST) * white, colours * each], 1)
    best = torch.nn.functional.one_hot(contrast.argmax(1), 12).float()
    share = torch.where(share.sum(1, keepdim=True) > 0, share, best)
    share[kind == LINE] = torch.tensor([0.5, *[0.5 / 11] * 11], device=c.device)
    return torch.where(kind == SHAPES, 0, c.pick_rows(share))


def inks(c: Chance, pack: Pack, ground: Tensor) -> Tensor:
    """Of a line drawing: black in two of five, else any colour; far enough from the ground in lightness."""
    far = (pack.luma[1:] - pack.luma[ground][:, None]).abs() >= CONTRAST
    return 1 + c.pick_rows(far * torch.tensor([*[0.06] * 10, 0.4], device=c.device))


def places(c: Chance, two: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and side of the glyphs, and the relation of two: side by side, an eighth one above the other.

    Each of two fills 4 × 4 whole patches of the transformer. Where they lay anywhere, they were drawn vaguely.
    """
    side = 0.83 + 0.10 * c.uniform()
    room = torch.minimum((1 - side) / 2, torch.full_like(side, 0.05))
    box = torch.zeros(c.n, 3, 3, device=c.device)
    box[:, 0] = torch.stack([0.5 + room * (2 * c.uniform() - 1), 0.5 + room * (2 * c.uniform() - 1), side], 1)
    upright = c.uniform() < 0.125
    swapped = c.uniform() < torch.where(upright, 0.5, 0.15)
    beside = c.pick((0.6, 0.15, 0.1, 0.15))
    relation = torch.where(upright, 5 + swapped.long(), torch.where(swapped, 4, beside))
    centre, away = torch.full_like(side, 0.5), torch.where(swapped, -0.25, 0.25)
    for k, direction in ((0, -1), (1, 1)):
        along = 0.5 + direction * away
        x, y = torch.where(upright, centre, along), torch.where(upright, along, centre)
        box[:, k] = torch.where(two[:, None], torch.stack([x, y, torch.full_like(x, PAIR_SIDE)], 1), box[:, k])
    return box, relation


def add_shapes(c: Chance, pack: Pack, scenes: Scenes) -> Scenes:
    """Fill the scenes of one, two or three shapes, in combinations that aren't held out."""
    mine, count = scenes.kind == SHAPES, 1 + c.pick((0.3, 0.4, 0.3))
    shape = torch.stack([c.pick((1.0,) * m, 3) for m in (4, 7, 3)], -1)
    unseen = torch.tensor(UNSEEN_PAINT, device=c.device)[shape[..., 0]]
    other = (shape[..., 1] + 1 + c.pick((1.0,) * 6, 3)) % 7
    shape[..., 1] = torch.where(shape[..., 1] == unseen, other, shape[..., 1])
    least, span = torch.tensor(SIDES, device=c.device)[shape[..., 2]].unbind(-1)
    side = (least + span * c.uniform(3)) * torch.where(count == 3, 0.68, 1.0)[:, None]
    where, column, jitter = c.pick((1.0,) * 4), c.uniform() < 0.4, 0.03 * (c.uniform(3, 2) - 0.5)
    placed = (c.uniform() < 0.5) | (count == 2)
    step = 0.26 * torch.tensor(STEPS, device=c.device)[where] * placed[:, None]
    axis = 0.32 * torch.stack([~column, column], 1)
    _, row, ink, box, flip, _, relation, _ = scenes
    for k in range(3):
        offset = torch.where((count == 3)[:, None], (k - 1) * axis, (1, -1, 0)[k] * step)
        here = mine & (k < count)
        box[here, k] = torch.cat([0.5 + jitter[:, k] + offset, side[:, k, None]], 1)[here]
        row[:, k] = torch.where(mine, torch.where(here, pack.n + shape[:, k, 0], -1), row[:, k])
        ink[:, k] = torch.where(mine, pack.paints[shape[:, k, 1]], ink[:, k])
    arranged = torch.where(count == 3, column.long(), torch.where(placed, where, NOWHERE))
    return scenes._replace(
        flip=flip & ~mine[:, None], relation=torch.where(mine, arranged + 10 * count, relation), shape=shape
    )
