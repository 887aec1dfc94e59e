"""`models` and `fetch` with a hub on this machine: what is listed, downloaded, resumed, checked and said."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from helpers.hub_server import Server
from helpers.pipelines import arrays, assert_same, shard, write_json

import pixart_fn as px
from pixart_fn import checkpoint
from pixart_fn.checkpoint import fetch as fetch_
from pixart_fn.checkpoint import manifest
from pixart_fn.cli.fetch import fetch
from pixart_fn.cli.models import models

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
HALVES = [f"text_encoder/model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def entry(name: str, **changes) -> manifest.Entry:
    return dataclasses.replace(manifest.find(name), **changes)


@pytest.fixture
def hub(monkeypatch, tmp_path, pipeline):
    """A hub with a pipeline, a transformer that it completes, an adapter and a .pth, and the manifest of these."""
    from huggingface_hub import constants

    shard(pipeline)
    for folder in ("transformer", "scheduler"):
        shutil.copytree(pipeline / folder, tmp_path / "dmd" / folder)
    write_json(tmp_path / "dmd" / "scheduler" / "scheduler_config.json", {"_class_name": "DDPMScheduler"})
    write_json(tmp_path / "others" / "adapter_config.json", {})
    for name in ("adapter_model.safetensors", "a.pth"):
        (tmp_path / "others" / name).write_bytes(b"no weights")
    (pipeline / "README.md").write_text("not read")
    server = Server({"owner/whole": pipeline, "owner/dmd": tmp_path / "dmd", "owner/others": tmp_path / "others"})
    for name, value in (
        ("ENDPOINT", server.address),
        ("HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
        ("DOWNLOAD_CHUNK_SIZE", 1000),
        ("HF_HUB_OFFLINE", False),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    listed = (
        entry("alpha-512", id="owner/whole"),
        entry("dmd-512", id="owner/dmd", pipeline="owner/whole"),
        entry("lcm-lora-1024", id="owner/others", files=("adapter_config.json", "adapter_model.safetensors")),
        entry("alpha-512-pth", id="owner/others", files=("a.pth",)),
    )
    monkeypatch.setattr(manifest, "entries", lambda: listed)
    yield server
    server.close()


def test_what_is_fetched_is_what_load_reads(hub, capsys, monkeypatch, pipeline):
    """The large tokenizer.json too, as tokenizer_config.json doesn't say which tokens were added."""
    write_json(pipeline / "tokenizer" / "tokenizer.json", {"added_tokens": []})
    fetch.main(["alpha-512"], standalone_mode=False)
    out, err = capsys.readouterr()
    assert out == 'px.load("owner/whole")\n'
    assert "licence openrail++" in err and "steps=20, guidance=4.5" in err
    asked = {name for name, _ in hub.sent}
    assert "README.md" not in asked and {WEIGHTS, *HALVES, "tokenizer/tokenizer.json"} < asked
    hub.sent.clear()
    params = eval(out, {"px": px})
    assert not hub.sent, "what was fetched was downloaded again"
    assert_same(params.transformer, arrays("transformer"))
    capsys.readouterr()
    fetch.main(["alpha-512", "--quiet"], standalone_mode=False)
    assert capsys.readouterr() == (out, "") and not hub.sent
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_same(eval(out, {"px": px}).vae, arrays("vae"))


def test_what_load_does_not_read_is_not_fetched(hub, pipeline):
    write_json(pipeline / "tokenizer" / "tokenizer.json", {"added_tokens": []})
    listed = {"extra_ids": 0, "added_tokens_decoder": {"1": {"content": "</s>"}}}
    write_json(pipeline / "tokenizer" / "tokenizer_config.json", listed)
    fetch.main(["alpha-512", "-q"], standalone_mode=False)
    assert "tokenizer/tokenizer.json" not in {name for name, _ in hub.sent}
    hub.sent.clear()
    checkpoint.load("owner/whole")
    assert not hub.sent


def test_a_transformer_comes_with_the_pipeline_that_completes_it(hub, capsys):
    fetch.main(["dmd-512"], standalone_mode=False)
    out, err = capsys.readouterr()
    assert out == 'px.load("owner/whole", transformer="owner/dmd")\n'
    assert "as others say" in err and "steps=1, guidance=1 at the time 400 alone" in err
    assert [name for name, _ in hub.sent].count(WEIGHTS) == 1
    hub.sent.clear()
    assert eval(out, {"px": px}).config.scheduler == {"_class_name": "DDPMScheduler"}
    assert not hub.sent


def test_a_folder_of_ones_own_holds_the_whole_pipeline(hub, capsys, tmp_path):
    fetch.main(["dmd-512", "--to", str(tmp_path / "mine")], standalone_mode=False)
    assert capsys.readouterr().out == f'px.load("{tmp_path / "mine"}")\n'
    hub.close()
    params = checkpoint.load(tmp_path / "mine")
    assert params.config.scheduler == {"_class_name": "DDPMScheduler"}
    assert_same(params.text_encoder, arrays("text_encoder"))
    with pytest.raises(ValueError, match=r"^to must be a new or empty folder, or one where a download began; .*holds"):
        fetch_.fetch(manifest.find("dmd-512"), None, tmp_path, str)
    with pytest.raises(ValueError, match=r"^to must be a folder, and .*index.json isn't one"):
        fetch_.fetch(manifest.find("dmd-512"), None, tmp_path / "mine" / "model_index.json", str)


@pytest.mark.parametrize("to", [True, False])
def test_a_download_that_was_stopped_goes_on(hub, capsys, tmp_path, to):
    arguments = ["alpha-512", *(["--to", str(tmp_path / "mine")] if to else [])]
    words = "tokenizer/spiece.model"  # the first file that is downloaded
    hub.cut[words], hub.broken = 1000, {words}
    with pytest.raises(OSError, match="stopped"):
        fetch.main(arguments, standalone_mode=False)
    hub.cut[WEIGHTS], hub.broken = 5000, {WEIGHTS}
    with pytest.raises(
        OSError, match=r"^the download of 'owner/whole' stopped \(.*500.*\); run the same call again to"
    ):
        fetch.main(arguments, standalone_mode=False)
    hub.sent.clear()
    hub.broken.clear()
    fetch.main(arguments, standalone_mode=False)
    ranges = [asked for name, asked in hub.sent if name == WEIGHTS]
    assert ranges == ["bytes=5000-"]
    assert not [name for name, _ in hub.sent if name in HALVES], "what was complete was downloaded again"
    assert_same(eval(capsys.readouterr().out, {"px": px}).transformer, arrays("transformer"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_connection_that_breaks_is_taken_up_again(hub):
    hub.cut[WEIGHTS] = 5000
    fetch.main(["alpha-512", "-q"], standalone_mode=False)
    assert [asked for name, asked in hub.sent if name == WEIGHTS] == [None, "bytes=5000-"]


@pytest.mark.parametrize("file", [WEIGHTS, "vae/config.json"])
def test_a_file_that_arrives_damaged_is_an_error(hub, file):
    """The hub's own library looks at sizes alone."""
    hub.corrupt.add(file)
    with pytest.raises(OSError, match=rf"{file}.*its sha(1|256) isn't \w+, as the hub says") as caught:
        fetch.main(["alpha-512", "-q"], standalone_mode=False)
    hub.corrupt.clear()
    if file != WEIGHTS:  # it is kept where huggingface_hub has put it
        Path(str(caught.value).split("remove ")[1].split(" and run")[0]).unlink()
    fetch.main(["alpha-512", "-q"], standalone_mode=False)


@pytest.mark.parametrize("damage", [lambda old: old[:-1] + b"\0", lambda old: old + b"\0"])
def test_a_file_that_was_damaged_here_is_an_error_that_says_what_to_do(hub, tmp_path, damage):
    fetch.main(["alpha-512", "-q", "--to", str(tmp_path / "mine")], standalone_mode=False)
    file = tmp_path / "mine" / WEIGHTS
    file.write_bytes(damage(file.read_bytes()))
    message = rf"^{WEIGHTS} of 'owner/whole' is damaged: it.*as the hub says|^{WEIGHTS} .* bytes, and the hub says \d+"
    with pytest.raises(OSError, match=message) as caught:
        fetch.main(["alpha-512", "-q", "--to", str(tmp_path / "mine")], standalone_mode=False)
    assert str(caught.value).endswith(f"; remove {file} and run this again")
    file.unlink()
    fetch.main(["alpha-512", "-q", "--to", str(tmp_path / "mine")], standalone_mode=False)


def test_files_that_are_no_pipeline(hub, capsys):
    fetch.main(["lcm-lora-1024"], standalone_mode=False)
    out, err = capsys.readouterr()
    assert (
        out.startswith('px.lora.load("') and "goes onto PixArt-alpha/PixArt-XL-2-1024-MS with the scheduler of" in err
    )
    fetch.main(["alpha-512-pth"], standalone_mode=False)
    out, err = capsys.readouterr()
    assert Path(out.strip()).read_bytes() == b"no weights" and "pixart-fn convert" in err
    with pytest.raises(ValueError, match=r"^variant is for a pipeline or a transformer"):
        fetch.main(["alpha-512-pth", "--variant", "fp16"], standalone_mode=False)


def test_json_has_the_call_or_the_file(hub, capsys):
    fetch.main(["dmd-512", "-q", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["call"] == 'px.load("owner/whole", transformer="owner/dmd")' and found["file"] is None
    assert (found["id"], found["steps"], found["guidance"], found["times"]) == ("owner/dmd", 1, 1.0, [400.0])
    fetch.main(["alpha-512-pth", "-q", "--json"], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert found["call"] is None and Path(found["file"]).read_bytes() == b"no weights"


def test_a_variant_that_is_not_there(hub):
    with pytest.raises(ValueError, match="no weights of the variant 'fp16'"):
        fetch.main(["alpha-512", "--variant", "fp16"], standalone_mode=False)
    assert not [name for name, _ in hub.sent if name.endswith(".safetensors")]


def test_mistakes_that_nothing_is_downloaded_for(hub, monkeypatch, tmp_path, pipeline):
    with pytest.raises(ValueError, match=r"got 'alpha-51'; the nearest is alpha-512$"):
        fetch.main(["alpha-51"], standalone_mode=False)
    monkeypatch.setattr(fetch_.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 0))
    with pytest.raises(OSError, match=r"MiB are to be downloaded, and .* has 0 MiB free$"):
        fetch.main(["alpha-512"], standalone_mode=False)
    assert not hub.sent
    monkeypatch.undo()


def test_a_folder_of_the_same_name_is_not_taken_for_the_repository(hub, monkeypatch, tmp_path, pipeline):
    (tmp_path / "here" / "owner").mkdir(parents=True)
    shutil.copytree(pipeline, tmp_path / "here" / "owner" / "whole")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match=r"^the folder owner/whole lies here, and is what `load` would take; run this"):
        fetch.main(["alpha-512"], standalone_mode=False)


def test_without_a_connection_nothing_is_called_checked(hub, monkeypatch):
    fetch.main(["alpha-512", "-q"], standalone_mode=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"^the hub can't be reached, and the hub's cache of 'owner/whole' can't be che"):
        fetch.main(["alpha-512", "-q"], standalone_mode=False)


def test_two_processes_do_not_download_one_file(hub, monkeypatch):
    from pixart_fn.files import owned

    monkeypatch.setattr(owned.Lock, "take", lambda lock, wait: False)
    with pytest.raises(BlockingIOError, match=r"^another process downloads .* of 'owner/whole'; wait for it, then r"):
        fetch.main(["alpha-512", "-q"], standalone_mode=False)


def test_a_user_who_has_logged_in_is_known_to_the_hub_alone(hub, monkeypatch):
    """And not to the host that large files come from."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    fetch.main(["alpha-512-pth", "-q"], standalone_mode=False)
    assert hub.tokens["hub"] >= {"Bearer secret"} and hub.tokens["elsewhere"] == {None}


def test_the_list_says_what_is_here(hub, capsys):
    def here():
        models.main(["--json"], standalone_mode=False)
        return {each["name"]: each["here"] for each in json.loads(capsys.readouterr().out)}

    assert set(here().values()) == {"no"}
    fetch.main(["dmd-512", "-q"], standalone_mode=False)
    fetch.main(["alpha-512-pth", "-q"], standalone_mode=False)
    capsys.readouterr()
    assert here() == {"alpha-512": "part", "dmd-512": "yes", "lcm-lora-1024": "no", "alpha-512-pth": "yes"}


def test_the_table_has_a_line_for_each(hub, capsys):
    models.main([], standalone_mode=False)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["name", "pixels"]
    assert lines[0].split() == ["alpha-512", "512", "20", "4.5", "120", "20.3", "openrail++", "no", "owner/whole"]
    assert len({line.rindex("owner") for line in lines}) == 1 and len(lines) == 4
