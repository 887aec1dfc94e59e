"""Hub ids: what is downloaded, what the cache serves offline, and what each failure says."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.hub import Hub
from helpers.pipelines import arrays, assert_same, shard, weights_file, write_json
from safetensors.numpy import save_file

from pixart_fn import checkpoint
from pixart_fn.checkpoint.hub import find


@pytest.fixture
def hub(monkeypatch, pipeline, tmp_path) -> Hub:
    return Hub({"owner/name": pipeline}, tmp_path / "cache").put_in_place(monkeypatch)


READ = {
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
}
UNREAD = [
    "README.md",
    "config.json",
    "PixArt-XL-2-512x512.pth",
    "asset/cat.png",
    "text_encoder/pytorch_model-00001-of-00002.bin",
    "text_encoder/pytorch_model.bin.index.json",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
    "text_encoder/model.safetensors.index.fp16.json",
    "text_encoder/flax_model.msgpack",
    "transformer/diffusion_pytorch_model.bin",
    "transformer/diffusion_pytorch_model.fp16.safetensors",
    "transformer/diffusion_pytorch_model.non_ema.safetensors",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_flax_model.msgpack",
    "model.safetensors",
]


def test_hub_downloads_only_what_is_read(hub, pipeline):
    shard(pipeline)
    for file in UNREAD:
        (pipeline / file).parent.mkdir(exist_ok=True)
        (pipeline / file).write_text("not read")
    params = checkpoint.load("owner/name", revision="v2")
    assert_same(params.text_encoder, arrays("text_encoder"))
    assert {(repo, revision) for repo, revision, _ in hub.downloads} == {("owner/name", "v2")}
    assert hub.downloaded() == READ
    hub.downloads.clear()
    checkpoint.load("owner/name", text_encoder=None, vae=None)
    weights = {file for file in READ if file.startswith(("text_encoder/model", "vae/diffusion", "tokenizer/"))}
    assert hub.downloaded() == READ - weights
    assert {revision for _, revision, _ in hub.downloads} == {None}


def test_a_folder_and_a_repository_list_the_same(hub, pipeline):
    for file in ("diffusion_pytorch_model.fp16.safetensors", "vae/old/config.json", "vae_approx/config.json"):
        (pipeline / file).parent.mkdir(exist_ok=True)
        (pipeline / file).write_text("")
    expected = {"": ["diffusion_pytorch_model.fp16.safetensors", "model_index.json"], "nowhere": []}
    expected["vae"] = ["config.json", "diffusion_pytorch_model.safetensors"]
    for place in (find(pipeline), find("owner/name")):
        assert {folder: place.names(folder) for folder in expected} == expected
        assert place.has("vae/old/config.json") and not place.has("vae") and not place.has("old/config.json")


def test_no_weights_are_downloaded_before_the_configuration_is_checked(hub, pipeline):
    content = json.loads((pipeline / "scheduler" / "scheduler_config.json").read_text())
    write_json(pipeline / "scheduler" / "scheduler_config.json", content | {"beta_schedule": "cubic"})
    with pytest.raises(ValueError, match="cubic"):
        checkpoint.load("owner/name")
    assert not [file for file in hub.downloaded() if file.endswith(".safetensors")]


def test_shards_with_the_decoder_alone_are_not_downloaded(hub, pipeline):
    shard(pipeline)
    index = pipeline / "text_encoder" / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map |= {"decoder.final_layer_norm.weight": "model-00003-of-00003.safetensors"}
    write_json(index, {"weight_map": weight_map})
    (pipeline / "text_encoder" / "model-00003-of-00003.safetensors").write_text("not read")
    assert_same(checkpoint.load("owner/name").text_encoder, arrays("text_encoder"))
    assert "text_encoder/model-00003-of-00003.safetensors" not in hub.downloaded()


@pytest.mark.parametrize("listed", [True, False])
def test_what_a_tokenizer_is_read_from_is_downloaded(hub, pipeline, listed):
    """The large tokenizer.json only where tokenizer_config.json doesn't say which tokens were added."""
    config = {"extra_ids": 0} | ({"added_tokens_decoder": {"1": {"content": "</s>"}}} if listed else {})
    write_json(pipeline / "tokenizer" / "tokenizer_config.json", config)
    write_json(pipeline / "tokenizer" / "special_tokens_map.json", {"eos_token": "</s>"})
    write_json(pipeline / "tokenizer" / "added_tokens.json", {})
    write_json(pipeline / "tokenizer" / "tokenizer.json", {"added_tokens": []})
    (pipeline / "tokenizer" / "vocab.txt").write_text("not read")
    checkpoint.load("owner/name", vae=None)
    names = ["spiece.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
    expected = {f"tokenizer/{name}" for name in (names if listed else [*names, "tokenizer.json"])}
    assert {file for file in hub.downloaded() if file.startswith("tokenizer/")} == expected


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_variant_is_downloaded_alone(hub, pipeline, alone, variant):
    halves = arrays("vae", np.float16)
    save_file(halves, pipeline / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    if alone:
        weights_file(pipeline, "vae").unlink()
    asked = {} if variant is None else {"variant": {"vae": variant}}
    params = checkpoint.load("owner/name", text_encoder=None, **asked)
    taken = "fp16.safetensors" if alone or variant else "safetensors"
    assert {file for file in hub.downloaded() if file.startswith("vae/d")} == {f"vae/diffusion_pytorch_model.{taken}"}
    expected = {name: value.astype(np.float32) for name, value in halves.items()}
    assert_same(params.vae, expected if alone or variant else arrays("vae"))


@pytest.mark.parametrize("own_folder", [True, False])
def test_hub_model_from_elsewhere_may_be_a_repository_of_its_own(hub, pipeline, tmp_path, own_folder):
    home = tmp_path / "home"
    shutil.copytree(pipeline, home)
    other = pipeline / "vae" if own_folder else pipeline
    hub.repositories["owner/vae"] = other
    assert_same(checkpoint.load(home, vae="owner/vae", text_encoder=None).vae, arrays("vae"))
    names = {"config.json", "diffusion_pytorch_model.safetensors"}
    assert hub.downloaded("owner/vae") == {name if own_folder else f"vae/{name}" for name in names}


def test_a_repository_with_a_transformer_and_its_scheduler(hub, pipeline, tmp_path):
    """As PixArt-Alpha-DMD-XL-2-512x512 is published."""
    scheduler = {"_class_name": "DDPMScheduler", "beta_schedule": "linear"}
    for folder in ("transformer", "scheduler"):
        shutil.copytree(pipeline / folder, tmp_path / "dmd" / folder)
    write_json(tmp_path / "dmd" / "scheduler" / "scheduler_config.json", scheduler)
    changed = {name: value + 1 for name, value in arrays("transformer").items()}
    save_file(changed, weights_file(tmp_path / "dmd", "transformer"))
    hub.repositories["owner/dmd"] = tmp_path / "dmd"
    shutil.rmtree(pipeline / "transformer")  # as in pixart_sigma_sdxlvae_T5_diffusers
    params = checkpoint.load("owner/name", transformer="owner/dmd")
    assert_same(params.transformer, changed)
    assert params.config.scheduler == scheduler
    assert not [file for file in hub.downloaded() if file.startswith(("transformer/", "scheduler/"))]
    with pytest.raises(
        OSError, match=r"the hub's 'owner/dmd' has no model_index\.json; give a pipeline as source and t"
    ):
        checkpoint.load("owner/dmd")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("vae", r"^the hub's 'owner/name' has no vae/config\.json; vae=None leaves it out, and vae='folder or"),
        ("vae/diffusion_pytorch_model.safetensors", r"has no vae/diffusion_pytorch_model\.safetensors or its index"),
        ("tokenizer/spiece.model", r"^the hub's 'owner/name' has no tokenizer/spiece\.model"),
    ],
)
def test_what_a_repository_lacks(hub, pipeline, missing, message):
    path = pipeline / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(OSError, match=message) as caught:
        checkpoint.load("owner/name")
    assert type(caught.value) is OSError


def test_a_download_that_comes_back_incomplete(hub, monkeypatch, tmp_path):
    """huggingface_hub answers with what its cache has where the connection is lost in between."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(tmp_path / "empty"))
    with pytest.raises(OSError, match=r"^the hub's cache of 'owner/name' is incomplete: model_index\.json is missing"):
        checkpoint.load("owner/name")


ERRORS = [
    ("GatedRepoError", r"'owner/name' at revision 'v2' is gated: accept its terms on https://huggingface\.co/owner/na"),
    ("RepositoryNotFoundError", r"there is neither a folder nor a hub repository 'owner/name'"),
    ("RevisionNotFoundError", r"the hub has no 'owner/name' at revision 'v2'"),
    ("HfHubHTTPError", r"the listing of 'owner/name' at revision 'v2' stopped"),
    ("HTTPError", r"'owner/name' at revision 'v2' is neither a folder nor in the hub's cache, and the hub can't be r"),
]


def failing(kind):
    from huggingface_hub import errors

    cls = getattr(errors, kind)

    def fail(*args, **kwargs):
        raise cls.__new__(cls)  # their constructors want an HTTP response of whichever library the hub uses

    return fail


@pytest.mark.parametrize(("kind", "message"), ERRORS)
def test_errors_of_the_listing(offline, hub, monkeypatch, kind, message):
    monkeypatch.setattr(hub, "list_repo_files", failing(kind))
    monkeypatch.setattr("huggingface_hub.snapshot_download", failing("LocalEntryNotFoundError"))
    with pytest.raises(OSError, match=message) as caught:
        checkpoint.load("owner/name", revision="v2")
    assert type(caught.value) is OSError


@pytest.mark.parametrize("kind", ["GatedRepoError", "HTTPError", "LocalEntryNotFoundError"])
def test_errors_of_the_download(hub, monkeypatch, kind):
    message = dict(ERRORS)["HTTPError" if kind == "LocalEntryNotFoundError" else kind]
    message = r"the download of 'owner/name' at revision 'v2' stopped" if kind == "HTTPError" else message
    monkeypatch.setattr("huggingface_hub.snapshot_download", failing(kind))
    with pytest.raises(OSError, match=message) as caught:
        checkpoint.load("owner/name", revision="v2")
    assert type(caught.value) is OSError


@pytest.mark.parametrize("kind", ["GatedRepoError", "HfHubHTTPError", "HTTPError"])
def test_the_cache_serves_where_the_hub_does_not(hub, monkeypatch, pipeline, kind):
    """A token that has run out, a hub that is down, or no connection; a revision that isn't there is an error."""
    monkeypatch.setattr(hub, "list_repo_files", failing(kind))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(pipeline))
    assert_same(checkpoint.load("owner/name").vae, arrays("vae"))
    monkeypatch.setattr(hub, "list_repo_files", failing("RevisionNotFoundError"))
    with pytest.raises(OSError, match="the hub has no 'owner/name' at revision 'v2'"):
        checkpoint.load("owner/name", revision="v2")
