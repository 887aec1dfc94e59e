"""The arguments of `load` and `save` as people make them: what works, and what gets one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.pipelines import SCHEDULER, arrays, assert_same

from pixart_fn import checkpoint


def test_a_path_a_home_and_a_trailing_slash(pipeline, monkeypatch):
    monkeypatch.setenv("HOME", str(pipeline.parent))
    for source in (pipeline, str(pipeline), f"{pipeline}/", "~/pipeline", Path("~/pipeline")):
        assert_same(checkpoint.load(source).vae, arrays("vae"))
    monkeypatch.chdir(pipeline)
    assert checkpoint.load(".", vae="vae", transformer="transformer").config.scheduler == SCHEDULER
    monkeypatch.chdir(pipeline / "vae")
    assert_same(checkpoint.load("..", vae=".").vae, arrays("vae"))


SOURCES = [
    ("", ValueError, "source is empty; give a folder in diffusers layout or a hub id owner/name"),
    (" ", ValueError, "source is empty"),
    (b"pipeline", TypeError, r"source must be a folder .* as a str or a Path, got b'pipeline'"),
    (3, TypeError, "source must be a folder .* got 3"),
    ("{}/model_index.json", ValueError, r"model_index\.json is a file; give the folder .*pipeline as source$"),
    ("{}/vae/config.json", ValueError, r"vae.config\.json is a file; give the folder .*pipeline as source$"),
    ("{}/vae/diffusion_pytorch_model.safetensors", ValueError, r"is a file; give the folder .*pipeline as source$"),
    ("~nobody-of-this-name/x", FileNotFoundError, "there is no folder ~nobody-of-this-name/x; give"),
    ("owner/name/transformer", FileNotFoundError, "there is no folder owner/name/transformer; give a folder"),
    (
        "https://huggingface.co/o-1/n.2",
        ValueError,
        "source must be a folder or a hub id, got an address; give 'o-1/n.2'$",
    ),
    (Path("https://huggingface.co/o/n"), ValueError, "got an address; give 'o/n'$"),
    ("http://www.huggingface.co/o/n/", ValueError, "got an address; give 'o/n'$"),
    ("huggingface.co/o/n", ValueError, "got an address; give 'o/n'$"),
    ("https://hf.co/o/n/tree/main", ValueError, "got an address; give 'o/n'$"),
    ("https://hf.co/o/n/tree/v2/vae", ValueError, "got an address; give 'o/n' and revision='v2'$"),
    ("https://huggingface.co/o/n/blob/v2/x.safetensors?x=1", ValueError, "give 'o/n' and revision='v2'$"),
    ("hf://o/n", ValueError, "got an address; give 'o/n'$"),
]


@pytest.mark.parametrize(("source", "kind", "message"), SOURCES)
def test_sources_that_are_none(pipeline, source, kind, message):
    source = source.format(pipeline) if isinstance(source, str) else source
    with pytest.raises(kind, match=message) as caught:
        checkpoint.load(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"torch_dtype": "float16"}, TypeError, "load has no argument 'torch_dtype'; say dtype=\"float16\""),
        ({"use_safetensors": True}, TypeError, r"'use_safetensors'; leave it out, since only \.safetensors"),
        ({"cache_dir": "x"}, TypeError, "'cache_dir'; set the environment variable HF_HUB_CACHE"),
        ({"device_map": "auto"}, TypeError, "'device_map'; MindSpore computes on the device that it finds"),
        ({"local_files_only": True}, TypeError, "set the environment variable HF_HUB_OFFLINE=1"),
        ({"token": "x"}, TypeError, "log in with `hf auth login`"),
        ({"subfolder": "transformer"}, TypeError, "the model's folder inside is found"),
        ({"streams": True}, TypeError, "load has no argument 'streams'; the argument is 'stream'"),
        ({"xyzzy": True}, TypeError, "load has no argument 'xyzzy'; its arguments are source, revision, transformer, "),
        ({"transformer": None}, ValueError, "transformer=None leaves nothing that draws; give True"),
        ({"transformer": False}, TypeError, "transformer must be True, or a folder or hub id; got False"),
        ({"text_encoder": 3}, TypeError, r"text_encoder must be True, None \(left out\), or a folder or hub id; got 3"),
        ({"vae": ""}, ValueError, "vae is empty"),
        ({"vae": "{}/vae/config.json"}, ValueError, r"is a file; give the folder .*vae as vae$"),
        ({"vae": "https://hf.co/o/n"}, ValueError, "vae must be a folder or a hub id, got an address"),
        ({"scheduler": None}, TypeError, "scheduler must be True, a folder or hub id, or the dict"),
        ({"scheduler": "{}/scheduler/scheduler_config.json"}, ValueError, r"give the folder .*scheduler as scheduler$"),
        ({"variant": {"unet": "fp16"}}, ValueError, "must be for text_encoder, transformer, vae, .* got 'unet'"),
        ({"variant": {"vae": "fp16"}, "vae": None}, ValueError, "must be for text_encoder, transformer, .* got 'vae'"),
        ({"variant": ""}, TypeError, "variant must be the name of one, such as 'fp16', or a dict of them; got ''"),
        ({"variant": 16}, TypeError, "variant must be the name of one, such as 'fp16', or a dict of them; got 16"),
        ({"variant": {"vae": 16}}, TypeError, "variant must be the name of one"),
        ({"revision": 3}, TypeError, "revision must be the name of a branch, a tag or a commit, got 3"),
        ({"revision": ""}, TypeError, "revision must be the name of a branch, a tag or a commit, got ''"),
        ({"dtype": np.float16}, ValueError, "dtype must be one of 'float32', 'float16', 'bfloat16', got <class"),
    ],
)
def test_arguments_that_are_refused(pipeline, arguments, kind, message):
    given = {name: value.format(pipeline) if isinstance(value, str) else value for name, value in arguments.items()}
    with pytest.raises(kind, match=message) as caught:
        checkpoint.load(pipeline, **given)
    assert "\n" not in str(caught.value)


def test_save_wants_a_folder(pipeline):
    params = checkpoint.load(pipeline)
    for folder, kind in (("", ValueError), (b"x", TypeError), (None, TypeError)):
        with pytest.raises(kind, match="folder"):
            checkpoint.save(params, folder)
    with pytest.raises(TypeError, match=r"params must be Params, such as px\.load\(\) gives, got a dict"):
        checkpoint.save({}, pipeline.parent / "new")
    assert not (pipeline.parent / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"source": "no/such/folder"}, FileNotFoundError, "there is no folder no/such/folder; give"),
        ({"source": "./nowhere"}, FileNotFoundError, "there is no folder nowhere; give"),
        ({"source": "{pipeline}/model_index.json"}, ValueError, "is a file; give the folder"),
        (
            {"source": "{pipeline}/vae"},
            FileNotFoundError,
            "a model's own folder goes to transformer=, text_encoder= or vae=",
        ),
        ({"source": "{pipeline}", "revision": "main"}, ValueError, "revision='main' belongs to a hub id"),
        ({"revision": "main"}, ValueError, "the embedded checkpoint has none"),
        ({"source": "{pipeline}", "vae": False}, TypeError, "vae must be True, None"),
    ],
)
def test_sources_and_arguments_that_do_not_go_together(pipeline, arguments, kind, message):
    arguments = {
        name: str(pipeline).join(value.split("{pipeline}")) if isinstance(value, str) else value
        for name, value in arguments.items()
    }
    with pytest.raises(kind, match=message):
        checkpoint.load(**arguments)
