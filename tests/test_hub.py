"""Hub ids: what is downloaded, what the cache serves offline, and what each failure says."""

from __future__ import annotations

import fnmatch
import re
import shutil
from pathlib import Path

import pytest
from pipelines import arrays, assert_same

from pixart_fn import checkpoint


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """huggingface_hub as with HF_HUB_OFFLINE=1 (read at its import) and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_hub_offline(offline):
    with pytest.raises(OSError, match="'owner/name' is neither a folder nor complete in the hub's cache, and the hub"):
        checkpoint.load("owner/name")
    with pytest.raises(OSError, match="'owner/name' at revision 'v2' is neither"):
        checkpoint.load("owner/name", revision="v2")


def cached(cache: Path, pipeline: Path, repo: str, ref: str) -> None:
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / ref).write_text("0" * 40)
    shutil.copytree(pipeline, folder / "snapshots" / ("0" * 40))


def test_hub_cache_serves_offline(offline, pipeline):
    cached(offline, pipeline, "owner/name", "main")
    assert_same(checkpoint.load("owner/name").vae, arrays("vae"))
    params = checkpoint.load(pipeline, vae="owner/name", text_encoder=None)
    assert_same(params.vae, arrays("vae"))
    with pytest.raises(OSError, match="revision 'v2'"):
        checkpoint.load("owner/name", revision="v2")


RELEASED = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "tokenizer/spiece.model",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]
UNWANTED = [
    "README.md",
    "tokenizer/special_tokens_map.json",
    "PixArt-XL-2-512x512.pth",
    "asset/cat.png",
    "text_encoder/pytorch_model-00001-of-00002.bin",
    "text_encoder/pytorch_model.bin.index.json",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model.bin",
    "transformer/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.bin",
    "model.safetensors",
]


def downloads(monkeypatch, pipeline) -> list[tuple]:
    """Replace the download by the local folder; returns the list that the calls are noted in."""
    calls = []

    def snapshot_download(repo, *, revision, allow_patterns):
        files = [*RELEASED, *UNWANTED]
        calls.append((repo, revision, {f for f in files if any(fnmatch.fnmatchcase(f, p) for p in allow_patterns)}))
        return str(pipeline)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return calls


def test_hub_downloads_only_what_is_needed(monkeypatch, pipeline):
    calls = downloads(monkeypatch, pipeline)
    checkpoint.load("owner/name", revision="v2")
    assert calls == [("owner/name", "v2", {*RELEASED})]
    checkpoint.load("owner/name", text_encoder=None, vae=None)
    weights = re.compile(r"(text_encoder|vae)/.*safetensors")
    assert calls[-1] == ("owner/name", None, {file for file in RELEASED if not weights.match(file)})


def test_hub_model_from_elsewhere_may_be_a_repository_of_its_own(monkeypatch, pipeline):
    calls = downloads(monkeypatch, pipeline / "vae")
    checkpoint.load(pipeline, vae="owner/vae", text_encoder=None)
    assert calls[0][:2] == ("owner/vae", None)
    assert "vae/diffusion_pytorch_model.safetensors" in calls[0][2]
    assert "transformer/diffusion_pytorch_model.safetensors" not in calls[0][2]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "GatedRepoError",
            r"'owner/name' at revision 'v2' is gated: accept its terms on https://huggingface\.co/owner/name",
        ),
        ("RepositoryNotFoundError", r"there is neither a folder nor a hub repository 'owner/name'"),
        ("RevisionNotFoundError", r"the hub has no 'owner/name' at revision 'v2'"),
        ("HTTPError", r"the download of 'owner/name' at revision 'v2' stopped"),
    ],
)
def test_hub_errors(monkeypatch, kind, message):
    from huggingface_hub import errors

    cls = getattr(errors, kind)

    def snapshot_download(*args, **kwargs):
        raise cls.__new__(cls)  # their constructors want an HTTP response of whichever library the hub uses

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(OSError, match=message) as caught:
        checkpoint.load("owner/name", revision="v2")
    assert type(caught.value) is OSError
