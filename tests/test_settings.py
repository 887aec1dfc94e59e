"""The adapters that settings name: how they are stored, checked, printed as a call, and looked for by `show`."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest

from pixart_fn import cli, settings
from pixart_fn.picture import save_picture
from pixart_fn.settings import call

SHA = hashlib.sha256(b"style").hexdigest()
DRAWN = {"prompt": "a cat", "seed": 1}
TWO = {"lora": ["a", "b"], "lora_sha256": [SHA, SHA], "lora_weight": [0.5, -1.0]}


def merged(text):
    """What a printed call merges, and the loads in it."""
    px = SimpleNamespace(
        generate=lambda params, prompt, key, **options: params,
        load=lambda *source: [("base", *source)],
        merge=lambda params, adapter, weight=1.0: [*params, (adapter, weight)],
        key=lambda seed: seed,
    )
    return eval(
        text,
        {"px": SimpleNamespace(**vars(px), lora=SimpleNamespace(load=lambda source, sha256: source, merge=px.merge))},
    )


@pytest.mark.parametrize("rows", [[], [("a", SHA, 0.5)], [("a", SHA, 1.0), ("b", SHA[::-1], -2)]])
def test_adapters_are_stored_as_they_are_listed_and_merged_one_after_the_other(rows):
    stored = settings.adapters(rows)
    assert settings.listed(stored) == rows
    assert merged(call({**DRAWN, "model": "m", **stored})) == [("base", "m"), *((name, w) for name, _, w in rows)]


def test_one_adapter_of_weight_one_is_a_short_call():
    assert call({**DRAWN, "lora": "a", "lora_sha256": SHA}) == (
        f"px.generate(px.lora.merge(px.load(), px.lora.load('a', sha256='{SHA}')), 'a cat', px.key(1))"
    )
    assert call({**DRAWN, **dict.fromkeys(TWO)}) == call(DRAWN)


REFUSED = {
    "no sha256": ({"lora_sha256": ...}, ValueError, "lora needs lora_sha256"),
    "sha256 alone": ({"lora": ..., "lora_weight": ...}, ValueError, "lora_sha256 needs lora"),
    "weight alone": ({"lora": ..., "lora_sha256": ...}, ValueError, "lora_weight needs lora"),
    "one for two": ({"lora_sha256": SHA}, ValueError, "lora_sha256 must be one for each lora, got 1 for 2"),
    "three": ({"lora_weight": [1, 2, 3]}, ValueError, "lora_weight must be one for each lora, got 3 for 2"),
    "none": ({"lora": []}, ValueError, "lora must be one or a list of at least one, got none"),
    "a number": ({"lora": ["a", 3]}, TypeError, "lora must be a string, got an int"),
    "code": ({"lora_weight": ["1)", 1]}, TypeError, "lora_weight must be a number"),
    "large": ({"lora_weight": [1, 1e4]}, ValueError, "lora_weight must be "),
    "digits": ({"lora_sha256": [SHA, "0x"]}, ValueError, "lora_sha256 must be 64 hexadecimal digits, got '0x'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_adapter_is_refused(case):
    changed, error, sentence = REFUSED[case]
    given = {name: value for name, value in {**DRAWN, **TWO, **changed}.items() if value is not ...}
    with pytest.raises(error) as raised:
        call(given)
    assert sentence in str(raised.value)


def test_the_digest_is_that_of_the_weights_in_a_folder(tmp_path):
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"style")
    (tmp_path / "adapter_config.json").write_bytes(b"{}")
    assert settings.digest(str(tmp_path)) == settings.digest(f"{tmp_path}/pytorch_lora_weights.safetensors") == SHA
    with pytest.raises(OSError):
        settings.digest(f"{tmp_path}/none")


def test_show_says_which_adapter_is_missing_or_another(tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    save_picture(Image.new("RGB", (8, 8)), "cat.png", **DRAWN, **settings.adapters([("style.safetensors", SHA, 0.5)]))
    loaded = f"px.lora.load('style.safetensors', sha256='{SHA}')"
    printed = f"px.generate(px.lora.merge(px.load(), {loaded}, 0.5), 'a cat', px.key(1))\n"
    said = {
        None: f"the call reads the LoRA 'style.safetensors', which is no file here; its sha256 is {SHA}",
        b"other": "the LoRA 'style.safetensors' isn't the file that the picture was drawn with: its sha256 isn't "
        + SHA,
        b"style": "",
    }
    for content, sentence in said.items():
        if content is not None:
            (tmp_path / "style.safetensors").write_bytes(content)
        assert cli.main(["show", "cat.png"]) == 0
        assert capsys.readouterr() == (printed, f"pixart-fn: {sentence}\n" if sentence else "")
