"""Every released checkpoint at full size: the names and shapes that `load` wants are those that the libraries write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reference import make_released

from pixart_fn import transformer
from pixart_fn.checkpoint import manifest
from pixart_fn.checkpoint.layout import COMPONENTS
from pixart_fn.models.compression import Compression

GOLDEN = json.loads((Path(__file__).parent / "reference" / "released.json").read_text(encoding="utf-8"))
TABLES = {name: make_released.unpacked(rows) for name, rows in GOLDEN["tables"].items()}
ENTRIES = {entry.name: entry for entry in manifest.entries() if entry.kind in ("pipeline", "transformer", "pth")}


def test_all_of_them_are_in_the_table():
    assert {*GOLDEN["checkpoints"]} == {*ENTRIES, "compressed"}


@pytest.mark.parametrize("name", ENTRIES)
def test_nothing_is_missing_or_left_over(name):
    """Of T5, the libraries name one tensor twice, and files hold either name."""
    ours, theirs = ENTRIES[name].shapes(), GOLDEN["checkpoints"][name]
    assert ours.keys() == theirs.keys()
    for model, table in theirs.items():
        part = COMPONENTS[model]
        assert ours[model] == {part.today(key): shape for key, shape in TABLES[table].items()}
        assert not any(part.ignores(key) for key in ours[model])


def test_compressed_keys_and_values():
    config = transformer.Config(
        sample_size=128,
        interpolation_scale=2.0,
        use_additional_conditions=False,
        kv_compression=Compression(sampling="conv", factor=2, layers=tuple(range(14, 28))),
    )
    assert transformer.shapes(config) == TABLES[GOLDEN["checkpoints"]["compressed"]["transformer"]]


@pytest.mark.reference
def test_the_table_is_what_the_libraries_say():
    for library in ("torch", "diffusers", "transformers"):
        pytest.importorskip(library)
    assert json.loads(json.dumps(make_released.golden())) == GOLDEN
