"""Captions of scenes as token ids, put together on the device from pieces: other words each time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .pack import Pack
from .scenes import GLYPH, LINE, TWO, Scenes

L = 24
"""Tokens of a caption, </s> included."""
DROPOUT = 0.1
BLACK = 11
PLACED = (5, 6, 3, 4, 0)
"""Words of `pack.BETWEEN` for above, below, left, right."""


def captions(generator: torch.Generator, pack: Pack, scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Say what the scenes show; one in ten says nothing: ids and mask (n, L)."""
    say = Speaker(generator, pack, scenes)
    kind = scenes.kind[:, None]
    pieces = torch.where(kind == GLYPH, say.glyph(), torch.where(kind == LINE, say.line(), say.shapes()))
    pieces = torch.where(kind == TWO, say.two(), pieces)
    ids = torch.where((say.chance() < DROPOUT)[:, None], 0, pack.table[pieces].flatten(1))
    ids = ids.gather(1, torch.argsort((ids == 0).int(), dim=1, stable=True))[:, : L - 1]
    length = (ids > 0).sum(1)
    ids = F.pad(ids, (0, 1)).scatter_(1, length[:, None], 1)
    return ids, (torch.arange(L, device=ids.device) <= length[:, None]).long()


class Speaker:
    """The pieces of each kind of caption, (n, 6) numbers of `pack.table`'s rows; 0 says nothing."""

    def __init__(self, generator: torch.Generator, pack: Pack, scenes: Scenes) -> None:
        self.generator, self.pieces, self.scenes = generator, pack.pieces, scenes
        self.nothing = torch.zeros_like(scenes.kind)
        rows = scenes.row[:, :2].clamp(0, pack.n - 1)
        self.first, self.second = pack.concept[rows].unbind(1)
        self.set = pack.set[rows[:, 0]]
        self.phrase, self.phrase2 = (self.choice(self.pieces["phrase"][c]) for c in (self.first, self.second))
        self.on, self.with_comma, self.comma_on = self.pieces["ground"][scenes.ground].unbind(1)
        self.names_ground = (scenes.ground > 0) | (self.chance() < 1 / 3)
        others = torch.where(scenes.kind == TWO, 0.93, 0.55)
        self.names_style = self.chance() < torch.where(self.set == 0, 0.4, others)
        self.style_before, self.ground_before, self.r = self.chance() < 0.3, self.chance() < 0.5, self.chance()

    def chance(self) -> Tensor:
        return torch.rand(len(self.nothing), generator=self.generator, device=self.nothing.device)

    def choice(self, table: Tensor) -> Tensor:
        """One of each row: (n, V) → (n,)."""
        v = torch.randint(table.shape[1], (len(table), 1), generator=self.generator, device=table.device)
        return table.gather(1, v)[:, 0]

    def stack(self, *pieces: Tensor) -> Tensor:
        return torch.stack([*pieces, *[self.nothing] * (6 - len(pieces))], 1)

    def glyph(self) -> Tensor:
        """ "a 3D render of a cute cat on a blue background", "cat, pet, cartoon, on a white background", …"""
        before = self.names_style & self.style_before
        body = torch.where(before, self.phrase, self.choice(self.pieces["subject"][self.first]))
        suffix = torch.where(self.names_style & ~before, self.pieces["suffix"][self.set], 0)
        early = self.names_ground & (self.ground_before | (suffix == 0))
        late = torch.where(self.r < 0.3, self.with_comma, self.comma_on)
        return self.stack(
            torch.where(before, self.pieces["prefix"][self.set], 0),
            body,
            torch.where(early, torch.where(self.r < 0.15, self.with_comma, self.on), 0),
            suffix,
            torch.where(self.names_ground & ~early, late, 0),
        )

    def line(self) -> Tensor:
        """ "a red cat line drawing on a yellow background"; black often goes without saying."""
        noun = self.pieces["noun"][self.first]
        v = torch.randint(noun.shape[1], self.nothing.shape, generator=self.generator, device=noun.device)
        article = self.pieces["article"][self.first, v]
        quiet = (self.scenes.ink[:, 0] == BLACK) & (self.r < 0.6)
        return self.stack(
            torch.where(quiet, 0, self.pieces["ink"][self.scenes.ink[:, 0].clamp(min=0), article]),
            torch.where(quiet, self.phrase, noun.gather(1, v[:, None])[:, 0]),
            self.pieces["word"][self.set],
            torch.where(self.names_ground, self.on, 0),
        )

    def two(self) -> Tensor:
        """ "a cat next to a lemon, flat, on a pink background"."""
        style = torch.where(self.names_style, self.pieces["suffix"][self.set], 0)
        after_style = torch.where(self.ground_before, self.with_comma, self.comma_on)
        after_noun = torch.where(self.r < 0.15, self.with_comma, self.on)
        ground = torch.where(style > 0, after_style, after_noun)
        between = self.pieces["between"][self.scenes.relation.clamp(0, 6)]
        return self.stack(self.phrase, between, self.phrase2, style, torch.where(self.names_ground, ground, 0))

    def shapes(self) -> Tensor:
        """ "a small red circle above a blue square", "a red star, a green circle and a large blue square in a row"."""
        count, place = self.scenes.relation // 10, self.scenes.relation % 10
        kind, paint, size = self.scenes.shape.unbind(-1)
        name = self.pieces["shape"][kind, paint, size]
        with_comma = self.pieces["comma_shape"][kind[:, 1], paint[:, 1], size[:, 1]]
        where = torch.where(place < 4, self.pieces["where"][place.clamp(0, 3)], 0)
        relation = self.pieces["between"][torch.tensor(PLACED, device=place.device)[place.clamp(0, 4)]]
        order = self.choice(self.pieces["order"][place.clamp(0, 1)])
        order = torch.where((place == 0) & (self.r < 0.4), 0, order)
        one, two = self.stack(name[:, 0], where), self.stack(name[:, 0], relation, name[:, 1])
        three = self.stack(name[:, 0], with_comma, self.pieces["between"][:1].expand_as(place), name[:, 2], order)
        return torch.where((count == 1)[:, None], one, torch.where((count == 2)[:, None], two, three))
