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
    chance, two = scenes.Chance(torch.Generator().manual_seed(0), 1000), torch.arange(1000) % 2 == 1
    first, second, line = scenes.glyphs(chance, few, two, hold_out)
    assert torch.equal(sets[first], sets[second])
    assert abs((sets[first][two] == 0).float().mean() - scenes.PAIR_SETS[0] / (1 - scenes.PAIR_SETS[-1])) < 0.05
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


def test_both_of_a_pair_fill_whole_patches_where_the_caption_says():
    from reference.twin import scenes

    chance, apart = scenes.Chance(torch.Generator().manual_seed(0), 4000), set()
    box, relation = scenes.places(chance, torch.ones(4000, dtype=torch.bool))
    for word in range(7):
        (first, second) = box[relation == word][:, :2].unique(dim=0)[0]
        assert len(box[relation == word][:, :2].unique(dim=0)) == 1
        for x, y, side in (first, second):
            assert {x.item(), y.item()} <= {0.25, 0.5, 0.75} and 0.44 < side.item() <= 0.5
        apart.add((word, *torch.sign(second - first)[:2].tolist()))
    assert apart == {*((word, 1, 0) for word in range(4)), (4, -1, 0), (5, 0, 1), (6, 0, -1)}
