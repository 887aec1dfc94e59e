"""The pictures that the page keeps: which is which, and what is left of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_app import WISH, grey

from pixart_fn import picture
from pixart_fn.app import wish
from pixart_fn.app.gallery import Keeper


def test_pictures_of_one_seed_say_which_they_are_and_are_dropped_with_their_files():
    settings = [wish.settings_of(WISH._replace(n=2), {}, {"model": "a/b"}, i) for i in (0, 1)]
    assert picture.call(settings[1]).startswith("px.generate(px.load('a/b'), 'a cat', px.split(px.key(7), 2)[1],")
    keeper = Keeper()
    kept = keeper.keep([(grey((16, 16), 9), each) for each in settings], {})
    keeper.drop(kept[:1], kept[1:])
    with pytest.raises(OSError):
        picture.read_settings(kept[0].file)
    assert picture.read_settings(kept[1].file)["index"] == 1
    keeper.close()
    with pytest.raises(OSError):
        picture.read_settings(kept[1].file)


def test_nothing_is_left_of_what_is_dropped_or_cannot_be_written(monkeypatch):
    keeper, settings = Keeper(), wish.settings_of(WISH, {}, {}, 0)
    files = {"init": wish.Attached("init-a.png", b"a picture")}
    (home,) = [Path(kept.file).parents[1] for kept in keeper.keep([(grey((16, 16), 9), settings)], {})]
    (first,) = home.iterdir()
    (kept,) = keeper.keep([(grey((16, 16), 9), settings)], files)
    keeper.drop([kept])
    assert [*home.iterdir()] == [first]

    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pixart_fn.app.gallery.save_picture", full)
    with pytest.raises(OSError, match="No space left"):
        keeper.keep([(grey((16, 16), 9), settings)], files)
    assert [*home.iterdir()] == [first]
    keeper.close()
