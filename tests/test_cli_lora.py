"""`generate --lora`: what is drawn is what the merged weights draw, and `show` prints the call that merges them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import command, tiny
from helpers.adapters import filled
from helpers.command import pixels, shown
from helpers.hub import Hub

import pixart_fn as px
from pixart_fn import checkpoint, cli, picture, settings


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two adapters of the tiny model that change what it draws: a folder of peft's, and a file."""
    folder = tmp_path_factory.mktemp("adapters")
    named = folder / "a", folder / "b.safetensors"
    for seed, path, layout in zip((1, 2), named, ("peft", "diffusers"), strict=True):
        px.lora.save(filled(px.lora.Config(rank=2), tiny.params().transformer, seed), path, layout=layout)
    return [str(path) for path in named]


@pytest.mark.slow
def test_the_adapters_are_merged_one_after_the_other_and_shown(run, adapters, capsys, model):
    assert run("--out", "plain.png")[0] == 0
    words = [word for source, weight in zip(adapters, ("0.5", "-1"), strict=True)
             for word in ("--lora", source, "--lora-weight", weight)]  # fmt: skip
    assert run("--out", "adapted.png", *words)[0] == 0
    assert (pixels("plain.png") != pixels("adapted.png")).any()
    stored = picture.read_settings("adapted.png")
    assert stored["lora"] == adapters and stored["lora_weight"] == [0.5, -1.0]
    assert stored["lora_sha256"] == [settings.digest(source) for source in adapters]
    assert np.array_equal(np.asarray(shown(capsys, "adapted.png"), int), pixels("adapted.png"))
    assert run("--out", "one.png", "--lora", adapters[0])[0] == 0
    assert picture.read_settings("one.png")["lora"] == adapters[0]
    assert np.array_equal(np.asarray(shown(capsys, "one.png"), int), pixels("one.png"))


def test_a_folder_of_pictures_is_drawn_anew_with_another_weight(run, adapters, monkeypatch):
    command.painted(monkeypatch)
    assert run("--out", "many/", "--lora", adapters[0])[0] == 0
    assert "pictures that are there already: 1 of 1" in run("--out", "many/", "--lora", adapters[0])[2]
    status, _, err = run("--out", "many/", "--lora", adapters[0], "--lora-weight", "2")
    assert status == 2 and "holds another picture; --force overwrites it" in err


def test_an_adapter_of_the_hub_is_that_of_its_file(run, adapters, capsys, model, monkeypatch, tmp_path):
    Hub({"owner/style": Path(adapters[0])}, tmp_path / "cache").put_in_place(monkeypatch)
    assert run("--out", "local.png", "--lora", adapters[0])[0] == 0
    assert run("--out", "hub.png", "--lora", "owner/style")[0] == 0
    stored = picture.read_settings("hub.png")
    assert stored["lora"] == "owner/style" and stored["lora_sha256"] == settings.digest(adapters[0])
    assert np.array_equal(pixels("local.png"), pixels("hub.png"))
    capsys.readouterr()
    assert cli.main(["show", "hub.png"]) == 0
    out, err = capsys.readouterr()
    assert f"px.lora.load('owner/style', sha256='{stored['lora_sha256']}')" in out
    assert "the call reads the LoRA 'owner/style', which is no file here" in err


def test_mistakes_are_one_sentence_before_the_model_is_loaded(run, adapters, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: pytest.fail("it was loaded"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 16)
    mistakes = {
        "source 'none.safetensors' is neither a folder nor a file": ["none.safetensors"],
        "'empty' holds neither adapter_model.safetensors nor pytorch_lora_weights.safetensors": ["empty"],
        "--lora-weight must be given as often as --lora, 1, got 2": [
            adapters[0], "--lora-weight", "1", "--lora-weight", "1",
        ],
        "--lora-weight must be": [adapters[0], "--lora-weight", "nan"],
        "bad.safetensors": ["bad.safetensors"],
    }  # fmt: skip
    for said, words in mistakes.items():
        status, out, err = run("--lora", *words)
        assert (status, out) == (2, "") and said in err and "Traceback" not in err
    assert cli.main(["generate", "a cat", "--lora-weight", "1"]) == 2
