"""Adapters of the hub: only their files are downloaded, and a repository that leaves a choice says which there is."""

from __future__ import annotations

import shutil

import pytest
from helpers import tiny
from helpers.adapters import filled
from helpers.hub import Hub
from helpers.trees import assert_same

from pixart_fn import lora

PEFT, SETTINGS, DIFFUSERS = "adapter_model.safetensors", "adapter_config.json", "pytorch_lora_weights.safetensors"


@pytest.fixture
def adapter():
    return filled(lora.Config(rank=2, alpha=3.0), tiny.params().transformer, 1)


@pytest.fixture
def hub(monkeypatch, adapter, tmp_path):
    """Repositories with one adapter each, in several layouts, and much beside it."""
    folder = tmp_path / "hub"
    lora.save(adapter, folder / "peft")
    lora.save(adapter, folder / "diffusers", layout="diffusers")
    lora.save(adapter, folder / "named" / "style-v1.safetensors", layout="kohya")
    shutil.copytree(folder / "peft", folder / "nested" / "checkpoint-100")
    for name in ("peft", "diffusers", "named", "nested"):
        (folder / name / "README.md").write_text("not read")
        (folder / name / "optimizer.bin").write_text("not read")
    repositories = {f"owner/{path.name}": path for path in folder.iterdir()}
    return Hub(repositories, tmp_path / "cache").put_in_place(monkeypatch)


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("owner/peft", {PEFT, SETTINGS}),
        ("owner/peft/", {PEFT, SETTINGS}),
        ("owner/diffusers", {DIFFUSERS}),
        ("owner/named", {"style-v1.safetensors"}),
        ("owner/named/style-v1.safetensors", {"style-v1.safetensors"}),
        (f"owner/nested/checkpoint-100/{PEFT}", {f"checkpoint-100/{PEFT}", f"checkpoint-100/{SETTINGS}"}),
    ],
)
def test_what_is_read_is_downloaded_and_nothing_else(hub, adapter, source, files):
    found = lora.load(source)
    assert hub.downloaded("/".join(source.split("/")[:2])) == files
    assert_same(*(lora.merge(tiny.params(), each).transformer for each in (found, adapter)))
    with pytest.raises(ValueError, match=f"{source!r} isn't the file that was meant: its sha256 isn't {64 * '0'}"):
        lora.load(source, sha256=64 * "0")


def test_a_revision_is_asked_for_and_belongs_to_the_hub(hub):
    lora.load("owner/named/style-v1.safetensors", revision="v2")
    assert hub.downloads == [("owner/named", "v2", {"style-v1.safetensors"})]
    with pytest.raises(ValueError, match=r"and .*peft is a folder; leave it out"):
        lora.load(hub.repositories["owner/peft"], revision="v2")
    with pytest.raises(ValueError, match=r"and .*safetensors is a file; leave it out"):
        lora.load(hub.repositories["owner/peft"] / PEFT, revision="v2")


def test_what_leaves_a_choice_says_which(hub):
    with pytest.raises(FileNotFoundError, match=r"'owner/nested' holds no .safetensors file outside of its folders"):
        lora.load("owner/nested")
    named = hub.repositories["owner/named"]
    shutil.copy(named / "style-v1.safetensors", named / "style-v2.safetensors")
    with pytest.raises(
        ValueError,
        match=r"'owner/named' holds style-v1.safetensors, style-v2.safetensors; give one of them, as in "
        r"'owner/named/style-v1.safetensors'",
    ):
        lora.load("owner/named")
    with pytest.raises(OSError, match=r"the hub's 'owner/named' has no style-v3.safetensors"):
        lora.load("owner/named/style-v3.safetensors")
    assert not hub.downloads


@pytest.mark.parametrize("source", ["nothing", "adapters/cat.safetensors", "./owner/peft", "/owner/peft", "a/b/c"])
def test_what_names_no_repository_is_looked_for_here_alone(hub, source):
    with pytest.raises(FileNotFoundError, match="is neither a folder nor a file"):
        lora.load(source)


def test_an_address_is_refused_with_the_id_in_it(hub):
    with pytest.raises(ValueError, match="source must be a folder or a hub id, got an address; give 'owner/peft'"):
        lora.load("https://huggingface.co/owner/peft/blob/main/adapter_model.safetensors")


def test_a_folder_here_comes_before_a_repository(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(hub.repositories["owner/peft"], tmp_path / "owner" / "peft")
    lora.load("owner/peft")
    with pytest.raises(FileNotFoundError, match=r"owner/peft/none.safetensors is missing"):
        lora.load("owner/peft/none.safetensors")
    assert not hub.downloads
