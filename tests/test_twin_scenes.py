"""The twin draws scenes from the sets that are there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.reference
torch = pytest.importorskip("torch")


@pytest.mark.parametrize("hold_out", [False, True])
def test_a_set_without_pictures_is_never_drawn(hold_out):
    from reference.twin import pack, scenes

    sets = torch.arange(pack.SETS).repeat(4)
    sets[sets == pack.COLOUR_SETS - 1] = 0  # no clip art
    sets[sets == pack.SETS - 1] = pack.SETS - 2  # no silhouettes
    concept = torch.arange(len(sets))
    few = SimpleNamespace(
        concept=concept,
        held_out=concept % 20 == 7,
        weights=[torch.where(sets == s, 1.0, 0.0) for s in range(pack.SETS)],
    )
    chance = scenes.Chance(torch.Generator().manual_seed(0), 500)
    first, second, line = scenes.glyphs(chance, few, hold_out)
    assert set(sets[first].tolist()) == set(sets[second].tolist()) == set(range(pack.COLOUR_SETS - 1))
    assert set(sets[line].tolist()) == {pack.SETS - 2}
    assert few.held_out[torch.cat([first, second, line])].any() != hold_out


def test_the_sets_have_the_numbers_that_the_pack_gives_them():
    from reference.twin import pack, scenes

    from pixart_fn.train.emoji import sets

    order = list(sets.STYLES)
    assert order[pack.COLOUR_SETS :] == list(sets.INKS) and len(order) == pack.SETS
    assert len(scenes.SETS) == pack.COLOUR_SETS and sum(scenes.SETS) == pytest.approx(1)
    assert scenes.SETS[order.index("openclipart")] == 0.05
