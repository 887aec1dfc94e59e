"""Hub ids without a connection: what the cache serves, and what is said where it has nothing."""

from __future__ import annotations

import shutil
import socket
import warnings
from pathlib import Path

import pytest
from helpers.pipelines import arrays, assert_same, shard, weights_file

from pixart_fn import checkpoint


def test_hub_offline(offline):
    with pytest.raises(OSError, match="'owner/name' is neither a folder nor in the hub's cache, and the hub can't be"):
        checkpoint.load("owner/name")
    with pytest.raises(OSError, match="'owner/name' at revision 'v2' is neither"):
        checkpoint.load("owner/name", revision="v2")


def test_without_a_network_nothing_waits(offline, monkeypatch):
    """huggingface_hub tries for 23 seconds to resolve a name; where a proxy does that, it is asked."""
    asked = []

    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def api() -> None:
        asked.append("the hub")
        raise OSError("no")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("huggingface_hub.HfApi", api)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    test_hub_offline(offline)
    assert not asked
    monkeypatch.setenv("https_proxy", "http://localhost:1")
    test_hub_offline(offline)
    assert asked == ["the hub"] * 2


def cached(cache: Path, pipeline: Path, repo: str, ref: str) -> Path:
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / ref).write_text("0" * 40)
    return Path(shutil.copytree(pipeline, folder / "snapshots" / ("0" * 40)))


def test_hub_cache_serves_offline(offline, pipeline):
    cached(offline, pipeline, "owner/name", "main")
    assert_same(checkpoint.load("owner/name").vae, arrays("vae"))
    assert_same(checkpoint.load("owner/name/").vae, arrays("vae"))
    params = checkpoint.load(pipeline, vae="owner/name", text_encoder=None)
    assert_same(params.vae, arrays("vae"))
    with pytest.raises(OSError, match="revision 'v2'"):
        checkpoint.load("owner/name", revision="v2")


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("vae/config.json", r"vae/config\.json"),
        ("transformer/diffusion_pytorch_model.safetensors", r"transformer/diffusion_pytorch_model\.safetensors"),
        ("text_encoder/model-00002-of-00002.safetensors", r"text_encoder/model-00002-of-00002\.safetensors"),
        ("scheduler/scheduler_config.json", r"scheduler/scheduler_config\.json"),
        ("tokenizer/spiece.model", r"tokenizer/spiece\.model"),
        ("model_index.json", r"model_index\.json"),
    ],
)
def test_an_incomplete_cache_says_so(offline, pipeline, missing, named):
    shard(pipeline)
    (cached(offline, pipeline, "owner/name", "main") / missing).unlink()
    message = rf"^the hub's cache of 'owner/name' is incomplete: {named} is missing; connect and run it again$"
    with pytest.raises(OSError, match=message):
        checkpoint.load("owner/name")


def test_what_the_cache_has_in_place_of_something_else_is_taken_with_a_warning(offline, pipeline, tmp_path):
    """Connected, another file may have been chosen."""
    half = pipeline / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    weights_file(pipeline, "vae").rename(half)
    snapshot = cached(offline, pipeline, "owner/name", "main")
    message = r"cache of 'owner/name' holds only the variant 'fp16' of vae, which is used$"
    with pytest.warns(UserWarning, match=message) as warned:
        checkpoint.load("owner/name")
    assert [warning.filename for warning in warned] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.load("owner/name", variant={"vae": "fp16"})
    shutil.rmtree(snapshot / "scheduler")
    with pytest.warns(
        UserWarning, match=r"cache of 'owner/name' holds no scheduler; the one of .*pipeline is used$"
    ) as w:
        checkpoint.load(pipeline, transformer="owner/name")
    assert [warning.filename for warning in w] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.load(pipeline)


# --- a hub of folders -------------------------------------------------------------------------------------------------
