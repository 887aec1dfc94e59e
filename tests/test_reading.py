"""Files that are no regular ones, too large, or JSON that is no plain one: one sentence from every reader."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from fuzz.run import watched
from helpers.pipelines import weights_file

import pixart_fn as px
from pixart_fn import picture
from pixart_fn.checkpoint.layout import COMPONENTS, read_json, shards
from pixart_fn.checkpoint.text import load_text
from pixart_fn.cli.given import prompts
from pixart_fn.files import reading, safetensors
from pixart_fn.models import tokenizer
from pixart_fn.train import state
from pixart_fn.train.emoji import latents

READERS = {
    "x.json": read_json,
    "index.json": lambda path: shards(path, COMPONENTS["vae"]),
    "x.safetensors": safetensors.open_file,
    "text.safetensors": load_text,
    "state.safetensors": lambda path: state.restore(path, state.TrainState({}, {}, None, px.key(0))),
    "spiece.model": lambda path: tokenizer.load(path.parent),
    "tokenizer_config.json": lambda path: [(path.parent / "spiece.model").touch(), tokenizer.load(path.parent)],
    "bare.model": tokenizer.load,
    "cat.png": picture.read_settings,
    "cat.webp": picture.read_settings,
    "0.npz": lambda path: latents.load(path.parent),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a device"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    file = tmp_path / name
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(name)
    elif kind == "device" and os.geteuid() == 0:
        os.mknod(file, 0o20600, os.stat("/dev/zero").st_rdev)
    else:
        file.symlink_to("/dev/zero")
    with watched(), pytest.raises((OSError, ValueError), match=rf"{name}.*a regular file is needed") as raised:
        READERS[name](file)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors", "model_index.json"])
def test_a_pipe_in_a_pipeline_is_no_missing_file(pipeline, name):
    (pipeline / name).unlink()
    os.mkfifo(pipeline / name)
    with watched(), pytest.raises((OSError, ValueError)) as raised:
        px.load(pipeline)
    assert str(pipeline) in str(raised.value) and str(raised.value).isprintable()


def test_prompts_come_through_a_pipe_that_is_written_and_not_from_a_device(tmp_path):
    ends = os.pipe()
    os.write(ends[1], "a cat\nGröße\n".encode())
    os.close(ends[1])
    assert prompts((), f"/dev/fd/{ends[0]}") == ["a cat", "Größe"]  # as <(…) of a shell names it
    os.close(ends[0])
    os.mkfifo(tmp_path / "pipe")
    with watched(), pytest.raises(ValueError, match="there are no prompts in"):
        prompts((), str(tmp_path / "pipe"))
    with watched(), pytest.raises(OSError, match="/dev/zero is a device; a regular file is needed"):
        prompts((), "/dev/zero")


@pytest.mark.parametrize("name", [name for name in READERS if "safetensors" not in name and "cat." not in name])
def test_a_file_over_the_bound_is_refused_before_it_is_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr(latents, "LARGEST", reading.MOST)
    with open(tmp_path / name, "wb") as file:
        file.truncate(reading.MOST + 1)  # which takes no space on the disk
    with watched(), pytest.raises(ValueError, match=rf"{name}.* holds more than 64 MiB, which is the most") as raised:
        READERS[name](tmp_path / name)
    assert str(raised.value).isprintable()


JSON = {
    "truncated": (b'{"a"', r"Expecting ':' delimiter"),
    "empty": (b"", "Expecting value"),
    "not UTF-8": (b'{"a": "\xff"}', "can't decode byte 0xff"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "it begins with a byte order mark; save it without one"),
    "a key twice": (b'{"a": {"b": 1, "c": 2, "b": 1}}', "the key 'b' is there twice"),
    "deep": (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "it is nested more than 64 deep"),
    "deeper": (b"[" * 10**6, "it is nested more than 64 deep"),
    "half a pair": (rb'{"a": ["\uD800"]}', "a string holds half a surrogate pair, which isn't text"),
    "a long number": (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
}


@pytest.mark.parametrize("case", JSON)
def test_json_that_is_no_plain_one(tmp_path, case):
    content, sentence = JSON[case]
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.json isn't valid JSON \(.*{sentence}") as raised:
        reading.json_object(tmp_path / "x.json")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("content", ["[]", "3", "null", '"a"'])
def test_json_that_is_no_object(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json should hold a JSON object, not "):
        reading.json_object(tmp_path / "x.json")


def test_json_that_is_read(tmp_path):
    deep = b'{"a": ' + b"[" * 63 + b"]" * 63 + rb', "b": "\ud83d\ude00 [[[[", "c": -Infinity}'
    (tmp_path / "x.json").write_bytes(deep)
    read = reading.json_object(tmp_path / "x.json")
    assert read["b"] == "😀 [[[[" and read["c"] == -np.inf


# --- a path stays inside its folder -----------------------------------------------------------------------------------

OUTSIDE = [
    "../x.safetensors", "/etc/x.safetensors", "C:x.safetensors", "a\\x.safetensors", "a/x.safetensors", "..", "",
    "x\0.safetensors", "x\n.safetensors", "\u202ex.safetensors", "x.bin", "x" * 300 + ".safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_names_files_of_its_own_folder(pipeline, name):
    from helpers.pipelines import shard, write_json

    shard(pipeline)
    index = pipeline / "text_encoder" / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"shared.weight": name}})
    with pytest.raises(
        ValueError, match=r"index\.json must name \.safetensors files in its own folder, got "
    ) as raised:
        px.load(pipeline)
    assert str(raised.value).isprintable()


def test_links_are_followed_as_the_hubs_cache_needs_it(pipeline, tmp_path):
    for i, path in enumerate([weights_file(pipeline, "vae"), pipeline / "vae" / "config.json"]):
        (tmp_path / "blobs").mkdir(exist_ok=True)
        path.rename(tmp_path / "blobs" / str(i))
        path.symlink_to(Path("..") / ".." / "blobs" / str(i))
    assert px.load(pipeline).vae is not None


def test_a_tensor_in_two_shards_is_refused(pipeline):
    from helpers.pipelines import arrays, shard
    from safetensors.numpy import load_file, save_file

    first, second = shard(pipeline)
    name = min(arrays("text_encoder"))
    save_file(load_file(second) | {name: arrays("text_encoder")[name]}, second)
    assert name in load_file(first)
    with pytest.raises(ValueError, match=rf"00002-of-00002\.safetensors and model-00001.* both hold {name}; download"):
        px.load(pipeline)
