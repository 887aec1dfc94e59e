"""The manifest of the released checkpoints: what it says, against what is published, and that it is read strictly."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from helpers.bad_manifest import RIGHT, WRONG

from pixart_fn import transformer, vae
from pixart_fn.checkpoint import manifest
from pixart_fn.checkpoint.manifest import Call

# of the authors' converters to diffusers: the stretch of positions by the side in pixels
STRETCH = {"alpha": {256: 1, 512: 1, 1024: 2}, "sigma": {256: 0.5, 512: 1, 1024: 2, 2048: 4}}
# of diffusers' two pipelines: the length of a prompt, and of the released VAEs: the factor of latents
FAMILY = {"alpha": (120, 0.18215), "sigma": (300, 0.13025)}
# sides in the names of the repositories and files
SIDES = {"256x256": 256, "512x512": 512, "512-MS": 512, "1024-MS": 1024, "2K-MS": 2048, "1024-ft": 1024}
ENTRIES = {entry.name: entry for entry in manifest.entries()}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_what_each_entry_says_is_what_is_published(entry):
    tokens, factor = FAMILY[entry.family]
    assert (entry.scale, entry.tokens) == (STRETCH[entry.family][entry.side], tokens)
    assert manifest.VAES[entry.family].scaling_factor == factor
    assert vae.factor(manifest.VAES[entry.family]) == manifest.FACTOR
    named = [side for word, side in SIDES.items() if word in "".join((entry.id, *entry.files))]
    assert named in ([entry.side], []) and (named or entry.kind == "controlnet")
    assert ("Sigma" in entry.id or "900m" in entry.id) == (entry.family == "sigma")
    # the only ones with micro-conditions; a sample size of 128 alone would mean them
    assert entry.config.conditions == (entry.family == "alpha" and entry.side == 1024)
    assert entry.config.scale == entry.scale and entry.config.sample_size * 8 == entry.side


def test_what_calls_want():
    """LCM and DMD have guidance in their weights; DMD draws in one step at t = 400."""
    calls = {name: entry.call for name, entry in ENTRIES.items()}
    assert calls.pop("dmd-512") == Call(1, 1.0, 120, (400.0,))
    assert calls.pop("lcm-1024") == calls.pop("lcm-lora-1024") == Call(4, 1.0, 120, None)
    assert calls.pop("sigma-900m") == Call(25, 4.5, 300, None)
    assert {*calls.values()} == {Call(20, 4.5, tokens, None) for tokens in (120, 300)}
    assert manifest.call("PixArt-alpha/PixArt-Alpha-DMD-XL-2-512x512") == Call(1, 1.0, 120, (400.0,))
    assert manifest.call("PixArt-alpha/PixArt-Sigma-XL-2-2K-MS") == Call(20, 4.5, 300, None)
    for other in ("owner/name", "alpha-512", "PixArt-alpha/PixArt-alpha", ""):
        assert manifest.call(other) is None


def test_sizes_are_those_that_are_published():
    """0.6 billion in the authors' table, 908,433,824 of the 900M's files on the hub, 4.3 to 4.8 billion of T5."""
    sizes = {name: ENTRIES[name].shapes() for name in ("alpha-512", "sigma-900m", "alpha-512-pth", "controlnet-512")}
    counts = {
        name: {part: sum(map(math.prod, each.values())) for part, each in found.items()}
        for name, found in sizes.items()
    }
    assert counts["sigma-900m"]["transformer"] == 908_433_824
    assert round(counts["alpha-512"]["transformer"] / 1e9, 1) == 0.6
    assert round(counts["alpha-512"]["text_encoder"] / 1e9, 1) == 4.8 and round(counts["alpha-512"]["vae"] / 1e6) == 84
    assert counts["alpha-512-pth"] == {"transformer": counts["alpha-512"]["transformer"]}
    assert ENTRIES["alpha-512"].size() == 4 * sum(counts["alpha-512"].values())
    assert counts["controlnet-512"] == {} and ENTRIES["controlnet-512"].size() is None


def test_every_repository_of_the_authors_is_there():
    ids = {entry.id for entry in ENTRIES.values()}
    alpha = ("256x256", "SAM-256x256", "512x512", "1024-MS")
    sigma = ("256x256", "512-MS", "1024-MS", "2K-MS")
    names = [*(f"XL-2-{each}" for each in alpha), *(f"Sigma-XL-2-{each}" for each in sigma)]
    names += ["LCM-XL-2-1024-MS", "Alpha-DMD-XL-2-512x512", "LCM-LoRA-XL-2-1024-MS", "alpha", "Sigma", "ControlNet"]
    assert {f"PixArt-alpha/PixArt-{name}" for name in names} == {each for each in ids if not each.startswith("term")}
    whole = {entry.pipeline for entry in ENTRIES.values()} - {None}
    assert whole - ids == {"PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers"}


# --- reading ----------------------------------------------------------------------------------------------------------


def written(path: Path, *tables: dict) -> Path:
    def value(each) -> str:
        if isinstance(each, list):
            return f"[{', '.join(map(value, each))}]"
        return str(each).lower() if isinstance(each, (bool, float)) else repr(each)

    lines = []
    for table in tables:
        lines += ["[[checkpoint]]", *(f"{name} = {value(each)}" for name, each in table.items() if each is not None)]
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_a_table_that_is_right(tmp_path):
    (entry,) = manifest.read(written(tmp_path / "a.toml", RIGHT))
    assert entry.config == transformer.Config(
        sample_size=64, interpolation_scale=1.0, use_additional_conditions=False, num_layers=28
    )


@pytest.mark.parametrize(("change", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_a_table_that_is_wrong_is_one_sentence(tmp_path, change, said):
    path = written(tmp_path / "a.toml", RIGHT | {"name": "another"}, RIGHT | change)
    with pytest.raises(ValueError, match=said) as caught:
        manifest.read(path)
    sentence = str(caught.value)
    assert "\n" not in sentence and (f"{path}, table 2: " in sentence or sentence.startswith("alpha-512 m"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[[checkpoint]", "isn't TOML"),
        (b"\xff", "isn't TOML"),
        (b"", r"must hold tables \[\[checkpoint\]\] and nothing else, got \[\]"),
        (b"[checkpoint]", "must hold tables"),
        (b"checkpoint = [1]", "table 1: it must be a table, got 1"),
        (b"version = 1\n[[checkpoint]]", "must hold tables"),
    ],
)
def test_a_file_that_is_no_manifest(tmp_path, text, said):
    (tmp_path / "a.toml").write_bytes(text)
    with pytest.raises(ValueError, match=said):
        manifest.read(tmp_path / "a.toml")


def test_a_name_is_there_once(tmp_path):
    with pytest.raises(ValueError, match="has two entries of the name 'alpha-512'"):
        manifest.read(written(tmp_path / "a.toml", RIGHT, RIGHT))


def test_it_is_found_where_the_package_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "__file__", str(tmp_path / "pixart_fn" / "checkpoint" / "manifest.py"))
    with pytest.raises(FileNotFoundError, match=r"^this installation lacks manifest\.toml.*reinstall"):
        manifest.entries()
    (tmp_path / "weights").mkdir()
    written(tmp_path / "weights" / "manifest.toml", RIGHT | {"name": "of-a-tree"})
    assert [entry.name for entry in manifest.entries()] == ["of-a-tree"]
    (tmp_path / "pixart_fn" / "_weights").mkdir(parents=True)
    written(tmp_path / "pixart_fn" / "_weights" / "manifest.toml", RIGHT)
    assert [entry.name for entry in manifest.entries()] == ["alpha-512"]


@pytest.mark.parametrize("name", ["sigma-2k", "PixArt-alpha/PixArt-Sigma-XL-2-2K-MS"])
def test_an_entry_is_found_by_its_name_or_its_id(name):
    assert manifest.find(name) == ENTRIES["sigma-2k"]


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("alpha-1025", ValueError, "got 'alpha-1025'; the nearest is alpha-1024"),
        ("PixArt-alpha/PixArt-XL-2-512", ValueError, "the nearest is PixArt-alpha/PixArt-XL-2-512x512"),
        ("nonsense", ValueError, "there are alpha-256, alpha-sam-256,"),
        ("x" * 10**6, ValueError, "there are alpha-256"),
        ("", ValueError, "got ''"),
        ("PixArt-alpha/PixArt-ControlNet", ValueError, "holds several checkpoints; name one of controlnet-512, contr"),
        (None, TypeError, "^name must be the name or hub id of a released checkpoint, got"),
        (["alpha-512"], TypeError, "^name must be"),
    ],
)
def test_a_name_that_is_not_there(name, error, said):
    with pytest.raises(error, match=re.escape(said).replace(r"\^", "^")) as caught:
        manifest.find(name)
    assert len(str(caught.value)) < 800 and "\n" not in str(caught.value)
