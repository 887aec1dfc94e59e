"""What `render` finds in the npm packages: concepts, icons, and which set is missing. The real ones aren't used."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixart_fn.train.emoji import captions, concepts, data, judge, render, sets

LABELS = ("cat face", "lemon")
ICON = {"body": '<circle cx="8" cy="8" r="7" fill="#f00"/>'}


def picture(svg: str, size: int) -> np.ndarray:
    """In the place of the renderer, which is of the extra `train`: full, or empty where there is no shape."""
    return np.full((size, size, 4), 255 if "circle" in svg else 0, np.uint8)


def written(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def npm(tmp_path, monkeypatch) -> Path:
    """A node_modules with every package, in each of which few icons are."""
    monkeypatch.setattr(sets, "render_svg", picture)
    common = {"hammer": 4.0, "void": 4.0, "zweihander": 1.0}
    monkeypatch.setitem(sys.modules, "wordfreq", SimpleNamespace(zipf_frequency=lambda word, _: common.get(word, 0.0)))
    folder = tmp_path / "node_modules"
    entries = [
        {"label": label, "hexcode": f"1F43{i}", "tags": [], "group": 3, "subgroup": 34}
        for i, label in enumerate(LABELS)
    ]
    written(folder / "emojibase-data/en/data.json", entries)
    written(folder / "emojibase-data/meta/groups.json", {"subgroups": {str(i): "animal" for i in range(100)}})
    for name, package in sets.PACKAGES.items():
        written(folder / package / "chars.json", {})
        written(folder / package / "icons.json", {"icons": {"cat-face": ICON, "lemon": ICON}})
        if name == "fluent-emoji-3d":
            (folder / package / "assets").mkdir()
            Image.new("RGBA", (8, 8), "red").save(folder / package / "assets/1f430.webp")
    written(folder / sets.PACKAGES["fxemoji"] / "icons.json", {"icons": {"cat": ICON, "hotdog": ICON}})
    games = dict.fromkeys(("cat", "hammer", "hammer-2", "zweihander", "lemon"), ICON) | {"void": {"body": ""}}
    written(folder / sets.PACKAGES["game-icons"] / "icons.json", {"icons": games})
    return folder


def test_concepts_keep_things_and_leave_out_hours_people_and_flags(tmp_path, monkeypatch) -> None:
    def zipf_frequency(word: str, language: str) -> float:
        return {"kitten": 3.0, "grinning face": 9.0, "puppy": 2.9}.get(word, 0.0) if language == "en" else 9.0

    monkeypatch.setitem(sys.modules, "wordfreq", SimpleNamespace(zipf_frequency=zipf_frequency))
    entries = [
        {"label": "cat face", "hexcode": "1F431-FE0F", "tags": ["pet", "kitty"], "group": 3, "subgroup": 34},
        {"label": "dog face", "hexcode": "1F436", "tags": ["pet"], "group": 3, "subgroup": 34},
        {"label": "grinning face", "hexcode": "1F600", "tags": [], "group": 0, "subgroup": 0},
        {"label": "thumbs up", "hexcode": "1F44D", "tags": [], "group": 1, "subgroup": 18},
        {"label": "one o’clock", "hexcode": "1F550", "tags": [], "group": 5, "subgroup": 58},
        {"label": "flag: Andorra", "hexcode": "1F1E6", "tags": [], "group": 9, "subgroup": 98},
        {"label": "man: beard", "hexcode": "1F9D4", "tags": [], "group": 1, "subgroup": 23},
    ]
    groups = {"subgroups": {str(i): f"subgroup {i}" for i in range(100)}}
    for name, content in (("en/data.json", entries), ("meta/groups.json", groups)):
        path = tmp_path / "emojibase-data" / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content), "utf-8")
    cat, dog, grin, thumb = concepts.read(tmp_path)
    assert (cat["code"], cat["unique_tags"], cat["animal_or_food"], cat["flip"]) == ("1f431", ["kitty"], True, True)
    # a cat face answers to "kitten", a common word; a common phrase doesn't count
    assert (cat["weight"], dog["weight"], grin["weight"]) == (2.5, 2.5 * concepts.RARE, 0.3 * concepts.RARE)
    assert not thumb["flip"]


def test_icons_are_found_by_code_name_and_alias_on_a_square(tmp_path) -> None:
    icons = {
        "width": 32,
        "height": 32,
        "icons": {"pinata": {"body": "<a/>"}, "sedan": {"body": "<b/>", "width": 40}},
        "aliases": {"automobile": {"parent": "sedan"}, "turned": {"parent": "sedan", "hFlip": True}},
    }
    (tmp_path / "icons.json").write_text(json.dumps(icons), "utf-8")
    (tmp_path / "chars.json").write_text(json.dumps({"1f697-fe0f": "sedan"}), "utf-8")
    find = sets.iconify(tmp_path)
    assert "<a/>" in find("0", "piñata")
    assert find("1f697", "any") == find("0", "automobile")
    assert 'viewBox="0.0 -4.0 40 40"' in find("1f697", "any")
    assert "scale(-1 1)" in find("0", "turned")
    assert find("0", "nothing") is None


# The sets


def test_every_set_is_rendered_and_a_silhouette_may_be_a_new_concept(npm, tmp_path, capsys) -> None:
    render.main(["--npm", str(npm), "--out", str(tmp_path / "out"), "--size", "16"])
    said = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[:-1])
    few = {"fluent-emoji-3d": "1", "fxemoji": "1", "game-icons": "3", "openclipart": "0"}
    assert said == {name: few.get(name, "2") for name in sets.STYLES}
    found = data.load(tmp_path / "out")
    assert [c["label"] for c in found.concepts] == [*LABELS, "hammer"]
    shown = {name: [] for name in sets.STYLES}
    for name, i in zip(found.sets, found.concept, strict=True):
        shown[name].append(int(i))
    assert shown["fxemoji"] == shown["fluent-emoji-3d"] == [0], "“cat” is the cat's face"
    assert shown["game-icons"] == [0, 2, 1], "digits, rare words and empty pictures are left out"
    assert found.concepts[2]["subgroup"] == "game" and captions.names(found.concepts[2]) == ("hammer",)
    assert {"soft flat", "silhouette"} < set(found.styles)


def test_a_missing_package_is_named(npm, tmp_path, capsys) -> None:
    (npm / "@iconify-json/fxemoji").rename(npm / "gone")
    said = "lacks @iconify-json/fxemoji; run npm install @iconify-json/fxemoji"
    with pytest.raises(FileNotFoundError, match=said):
        render.render(npm, tmp_path / "out", 16)
    with pytest.raises(SystemExit):
        render.main(["--npm", str(npm), "--out", str(tmp_path / "out")])
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_damaged_package_is_named(npm) -> None:
    written(npm / "@iconify-json/game-icons/icons.json", {"icons": []})
    with pytest.raises(ValueError, match=r"game-icons isn't an icon set .*install it again"):
        sets.pictures(npm, concepts.read(npm), 16)


def test_the_judge_ranks_as_it_did_before_there_were_other_sets() -> None:
    def glyphs(*names: tuple[str, int]) -> data.Glyphs:
        rows = [{"concept": i, "set": name, "style": sets.STYLES[name]} for name, n in names for i in range(n)]
        drawn = [np.random.default_rng((i["concept"], len(i["set"]))).integers(0, 256, (48, 48, 4)) for i in rows]
        listed: list[dict[str, Any]] = []
        for i in range(1 + max(row["concept"] for row in rows)):
            concepts.add(listed, str(i), "tool", 1.0)
        return data.glyphs(np.stack(drawn).astype(np.uint8), rows, listed)

    before = glyphs(("noto", 5), ("twemoji", 5), ("fluent-emoji-high-contrast", 5))
    after = glyphs(
        ("noto", 5), ("twemoji", 5), ("fluent-emoji-high-contrast", 5), ("fxemoji", 5), ("game-icons", 7),
        ("openclipart", 9),
    )  # fmt: skip
    images = data.compose(after.pictures, data.WHITE)
    old, new = judge.scores(judge.build(before), images), judge.scores(judge.build(after), images)
    np.testing.assert_array_equal(new[:, :5], old)
    assert new.shape[1] == 9 and (new[:, 5:] == -1).all()
    right = [int(i) % 5 for i in after.concept]
    np.testing.assert_array_equal(judge.ranks_of(new, right), judge.ranks_of(old, right))
