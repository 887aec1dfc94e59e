"""Which clip art is used: by the files' own licence tags, their names and what they show. The files are made here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pixart_fn.train.emoji import clipart, concepts, render, sets

PUBLIC_DOMAIN = "http://web.resource.org/cc/PublicDomain"
SHAPE = '<rect x="10" y="{y}" width="{width}" height="{height}" rx="{r}" fill="{fill}"/>'
WORDS = {
    "en": {"lemon": 4.0, "wagon": 4.0, "wedge": 4.0, "casa": 3.5, "zeppelin": 2.0},
    "it": {"casa": 5.8},
}


def svg(title: str = "Lemon", licence: str = PUBLIC_DOMAIN, shape: str = "", **fields: Any) -> str:
    """A file as openclipart.org's are: its metadata, and a rounded rectangle."""
    tag = f'<cc:license rdf:resource="{licence}"/>'
    box = {"x": 10, "y": 10, "width": 80, "height": 80, "r": 30, "fill": "#d00", **fields}
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="http://web.resource.org/cc/"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/"
  width="{box["width"] + 20}pt" height="{box["height"] + 20}pt">
<metadata><rdf:RDF><cc:Work rdf:about=""><dc:title>{title}</dc:title>
<dc:creator><cc:Agent><dc:title>Gerald Grossmann</dc:title></cc:Agent></dc:creator>
{tag if licence else ""}</cc:Work></rdf:RDF></metadata>{shape or SHAPE.format(**box)}</svg>"""


BOMB = svg().replace("<svg", '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><svg', 1)
DEEP = "<g>" * 200 + "</g>" * 200
REASONS = {
    "another licence": svg(licence="http://creativecommons.org/licenses/by-sa/2.0/"),
    "no licence tag": svg(licence=""),
    "damaged": svg()[:-9],
    "declares entities": BOMB,
    "nested too deep": svg(shape=DEEP),
    "holds letters": svg(shape="<text>lemon</text>"),
    "holds <image>": svg(shape='<image xmlns:x="http://www.w3.org/1999/xlink" x:href="file:///a/picture.png"/>'),
    "holds <use>": svg(shape='<use href="#a"/>'),
    "no common name": svg(title="Zeppelin"),
    "a road sign": svg(title="SVG Road Signs"),
    "too large": svg() + "<!--" + "-" * clipart.LARGEST,
}


@pytest.fixture(autouse=True)
def words(monkeypatch) -> None:
    found = SimpleNamespace(zipf_frequency=lambda word, language: WORDS.get(language, {}).get(word, 0.0))
    monkeypatch.setitem(sys.modules, "wordfreq", found)


def listed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for label in ("cat", "lemon", "black bird"):
        concepts.add(found, label, "tool", 1.0)
    return found


def found_in(folder: Path, size: int = 32) -> tuple[list[sets.Picture], dict[str, int], list[dict[str, Any]]]:
    known = listed()
    pictures, reasons = clipart.find(folder, known, size)
    return pictures, dict(reasons), known


@pytest.mark.parametrize("reason", REASONS)
def test_a_file_is_refused_for_its_reason(reason, tmp_path) -> None:
    (tmp_path / "picture.svg").write_text(REASONS[reason], "utf-8")
    assert found_in(tmp_path)[:2] == ([], {reason: 1})


def test_what_is_no_file_and_what_is_not_in_utf8_is_refused(tmp_path) -> None:
    (tmp_path / "folder.svg").mkdir()
    latin = svg().replace("UTF-8", "ISO-8859-1").replace("Gerald", "Gérald")
    (tmp_path / "lemon.svg").write_bytes(latin.encode("latin-1"))
    assert found_in(tmp_path)[:2] == ([], {"can't be read": 1, "not in UTF-8": 1})


@pytest.mark.parametrize(
    "licence",
    [
        PUBLIC_DOMAIN,
        "http://creativecommons.org/publicdomain/zero/1.0/",
        "https://creativecommons.org/licenses/publicdomain/",
        "Public Domain",
    ],
)
def test_public_domain_is_said_in_several_ways(licence) -> None:
    assert clipart.tags(svg(licence=licence).encode()) == clipart.Tags("Lemon", ("Gerald Grossmann",), (licence,))
    assert clipart.PUBLIC_DOMAIN.fullmatch(licence)


@pytest.mark.parametrize("licence", ["", "http://creativecommons.org/licenses/by/2.0/", "not in the public domain"])
def test_one_other_licence_beside_it_is_enough_to_refuse_a_file(licence, tmp_path) -> None:
    both = svg().replace("</rdf:RDF>", f'<cc:License rdf:about="{licence}"/></rdf:RDF>')
    (tmp_path / "picture.svg").write_text(both, "utf-8")
    known = concepts.by_name(listed())
    if not licence:
        assert clipart.tags(both.encode()).licences == (PUBLIC_DOMAIN,)
    else:
        with pytest.raises(clipart.Unused, match="another licence"):
            clipart.picture(tmp_path / "picture.svg", known, 16)


@pytest.mark.parametrize(
    ("title", "file", "shown"),
    [
        ("Lemon", "a", "lemon"),
        ("", "lemon_gerald_gross_01", "lemon"),
        ("R16 submission", "lemon_gerald_g_01", "lemon"),
        ("Simple yellow lemon (B and W)", "a", "lemon"),
        ("lemon03", "a", "lemon"),
        ("Black-bird", "a", "black bird"),
        ("Red wagon", "a", "wagon"),
        ("Wedge", "a", None),
        ("Casa", "casa_01", None),
        ("Zeppelin", "zeppelin", None),
        ("lemon on a plate", "lemon_tree", None),
    ],
)
def test_a_picture_is_named_by_its_title_or_its_file(title, file, shown) -> None:
    found, known = clipart.Tags(title, ("Gerald Grossmann",), ()), concepts.by_name(listed())
    if shown:
        assert clipart.name(found, file, known) == shown
    else:
        with pytest.raises(clipart.Unused, match="no common name"):
            clipart.name(found, file, known)


def test_icons_maps_and_flags_are_left_out_by_their_folders(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sets, "render_svg", solid)
    for k, folder in enumerate(("computer/icons", "signs_and_symbols/flags", "food", "computer/hardware")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "lemon.svg").write_text(svg(r=20 + k, title=f"Lemon {k}"), "utf-8")
    pictures, reasons, _ = found_in(tmp_path)
    assert len(pictures) == 1 and reasons == {
        "in a folder of signs, maps, icons or people": 2,
        "the same as another": 1,
    }


def solid(svg: str, size: int) -> np.ndarray:
    """In the place of the renderer: a red disc."""
    at = (np.arange(size) + 0.5) / size - 0.5
    inside = at[:, None] ** 2 + at**2 < 0.2
    return np.where(inside[..., None], np.array([210, 0, 0, 255]), 0).astype(np.uint8)


def test_a_new_name_is_a_concept_at_the_end(tmp_path, monkeypatch) -> None:
    shades = iter((10, 20, 30))
    monkeypatch.setattr(sets, "render_svg", lambda svg, size: solid(svg, size) + np.uint8([0, next(shades), 0, 0]))
    for name in ("wagon_01", "lemon", "wagon_02"):
        (tmp_path / f"{name}.svg").write_text(svg(title=""), "utf-8")
    pictures, reasons, known = found_in(tmp_path)
    assert not reasons and {each.set for each in pictures} == {"openclipart"}
    assert [known[each.concept]["label"] for each in pictures] == ["lemon", "wagon", "wagon"]
    assert known[3:] == [{**known[1], "label": "wagon", "subgroup": "clip art", "weight": clipart.WEIGHT}]
    assert clipart.summary(pictures, clipart.Counter({"damaged": 2})).endswith(
        "3 files are used; the others: 2 damaged"
    )


def test_the_folder_must_be_one(tmp_path, capsys) -> None:
    with pytest.raises(NotADirectoryError, match=r"must be a folder of \.svg files"):
        clipart.find(tmp_path / "none", [], 16)
    with pytest.raises(SystemExit):
        render.main(["--npm", str(tmp_path), "--clipart", str(tmp_path / "none"), "--out", str(tmp_path)])
    assert "--clipart must be a folder" in capsys.readouterr().err


# With the renderer of the extra `train`


@pytest.mark.parametrize(("width", "height"), [(80, 80), (80, 20), (20, 80)])
def test_a_drawing_is_centred_on_a_square(width, height) -> None:
    pytest.importorskip("resvg_py")
    drawn = clipart.draw(svg(width=width, height=height, r=8), 64)
    alpha = drawn[..., 3] > 128
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    most = max(width, height)
    assert drawn.shape == (64, 64, 4) and tuple(drawn[32, 32]) == (221, 0, 0, 255)
    assert abs(len(rows) - 64 * height / most) <= 2 and abs(len(columns) - 64 * width / most) <= 2
    assert abs(rows.mean() - 31.5) <= 1 and abs(columns.mean() - 31.5) <= 1


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("nearly empty", svg(shape="<g/>")),
        ("nearly empty", svg(shape='<circle cx="9" cy="9" r="5" fill="#d00"/>')),
        ("no colour", svg(fill="#333")),
        ("a background of its own", svg(r=0, width=60, height=60)),
        ("can't be rendered", svg(width=-20)),
    ],
)
def test_a_drawing_that_shows_too_little_is_refused(reason, text) -> None:
    pytest.importorskip("resvg_py")
    with pytest.raises(clipart.Unused, match=reason):
        clipart.draw(text, 32)
