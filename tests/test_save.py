"""`save` read back by `load`, by the safetensors library and (live) by diffusers."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import stat
from importlib import import_module

import numpy as np
import pytest
from helpers import tiny
from helpers.pipelines import CONFIGS, SCHEDULER, arrays, assert_same, shard, weights_file
from safetensors import safe_open
from safetensors.numpy import load_file

from pixart_fn import checkpoint, tree
from pixart_fn.files import safetensors
from pixart_fn.files.folder import UNFINISHED
from pixart_fn.models import tokenizer

import mindspore  # isort: skip - after pixart_fn, which silences it


def test_save_and_load_again(pipeline, tmp_path):
    params = checkpoint.load(pipeline)
    checkpoint.save(params, tmp_path / "deep" / "copy")
    for name in CONFIGS:
        stored = load_file(weights_file(tmp_path / "deep" / "copy", name))
        assert_same(stored, arrays(name))
    again = checkpoint.load(tmp_path / "deep" / "copy")
    assert again.config == params.config
    for name in CONFIGS:
        assert_same(getattr(again, name), arrays(name))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_numpy_leaves_are_saved_too(pipeline, tmp_path):
    params = checkpoint.load(pipeline).replace(vae=tree.nest(arrays("vae")))
    checkpoint.save(params, tmp_path / "copy")
    assert_same(load_file(weights_file(tmp_path / "copy", "vae")), arrays("vae"))


def test_bfloat16_leaves_are_saved_too(pipeline, tmp_path):
    params = checkpoint.load(pipeline)
    narrow = tree.map(lambda leaf: leaf.astype(mindspore.bfloat16), params.vae)
    checkpoint.save(params.replace(vae=narrow), tmp_path / "copy")
    for name, value in load_file(weights_file(tmp_path / "copy", "vae")).items():
        assert not (value.view(np.uint32) & 0xFFFF).any()
        np.testing.assert_allclose(value, arrays("vae")[name], rtol=2.0**-8)


def test_save_float16_keeps_t5s_wo_wide(pipeline, tmp_path):
    checkpoint.save(checkpoint.load(pipeline), tmp_path / "half", dtype="float16")
    for name in CONFIGS:
        for key, value in load_file(weights_file(tmp_path / "half", name)).items():
            wide = name == "text_encoder" and key.endswith("DenseReluDense.wo.weight")
            assert value.dtype == (np.float32 if wide else np.float16)
            np.testing.assert_array_equal(value, arrays(name)[key].astype(value.dtype))
        with safe_open(weights_file(tmp_path / "half", name), framework="np") as file:
            assert file.metadata() == {"format": "pt"}  # without which transformers refuses it
    again = checkpoint.load(tmp_path / "half")
    assert_same(again.vae, {key: value.astype(np.float16).astype(np.float32) for key, value in arrays("vae").items()})


def test_every_tensor_is_written_at_a_multiple_of_its_width(tmp_path):
    """Else it couldn't be mapped as it is."""
    leaves = {
        "a": np.ones(3, np.float32),
        "b": np.ones(1, np.float32),
        "name of another length": np.ones(4, np.float32),
    }
    safetensors.write_file(tmp_path / "x", leaves, {"a": "F16", "b": "F32", "name of another length": "BF16"})
    stored = safetensors.open_file(tmp_path / "x")
    assert [stored["b"].offset % 4, stored["a"].offset % 2] == [0, 0]


def test_bfloat16_rounds_to_nearest_even(tmp_path):
    half = 2.0**-8  # of bfloat16's spacing above 1
    value = np.array([1, 1 + half, 1 + 3 * half, 1 + 1.01 * half, -1 - 1.01 * half, np.inf, np.nan, 0], np.float32)
    expected = np.array([1, 1, 1 + 4 * half, 1 + 2 * half, -1 - 2 * half, np.inf, np.nan, 0], np.float32)
    safetensors.write_file(tmp_path / "x.safetensors", {"a": value}, {"a": "BF16"})
    stored = np.frombuffer((tmp_path / "x.safetensors").read_bytes()[-16:], "<u2")
    np.testing.assert_array_equal((stored.astype(np.uint32) << 16).view(np.float32), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_round_trip_is_idempotent(pipeline, tmp_path, dtype):
    checkpoint.save(checkpoint.load(pipeline), tmp_path / "once", dtype=dtype)
    checkpoint.save(checkpoint.load(tmp_path / "once"), tmp_path / "twice", dtype=dtype)
    for name in CONFIGS:
        assert weights_file(tmp_path / "once", name).read_bytes() == weights_file(tmp_path / "twice", name).read_bytes()
        largest = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
        for key, stored in safetensors.open_file(weights_file(tmp_path / "once", name)).items():
            wide = dtype == "float16" and key.endswith("DenseReluDense.wo.weight")
            assert stored.dtype == ("F32" if wide else safetensors.DTYPES[dtype])
            np.testing.assert_allclose(stored.read(), arrays(name)[key], rtol=largest, atol=1e-7)


def test_save_without_models(pipeline, tmp_path):
    params = checkpoint.load(pipeline, text_encoder=None)
    checkpoint.save(params, tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == [
        "model_index.json",
        "scheduler",
        "transformer",
        "vae",
    ]
    assert checkpoint.load(tmp_path / "copy", text_encoder=None).config.text_encoder is None
    with pytest.raises(FileNotFoundError, match=r"text_encoder.config\.json is missing; text_encoder=None leaves"):
        checkpoint.load(tmp_path / "copy")
    with pytest.raises(FileExistsError, match=r"vae holds other weights"):  # model_index.json would deny them
        checkpoint.save(params.replace(vae=None), tmp_path / "copy")


def test_save_over_the_folder_that_is_mapped(pipeline):
    params = checkpoint.load(pipeline)
    doubled = params.replace(vae=tree.map(lambda leaf: leaf * 2, params.vae))
    (pipeline / "notes.txt").write_text("kept")
    checkpoint.save(doubled, pipeline)
    assert_same(params.vae, arrays("vae"))
    assert_same(checkpoint.load(pipeline).vae, {key: value * 2 for key, value in arrays("vae").items()})
    assert (pipeline / "notes.txt").read_text() == "kept"


def test_save_keeps_out_of_folders_with_other_weights(pipeline):
    params = checkpoint.load(pipeline)
    shard(pipeline)
    with pytest.raises(FileExistsError, match=r"text_encoder holds other weights \(model.*; save to a new folder"):
        checkpoint.save(params, pipeline)


@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_save_leaves_everything_as_it_was(pipeline, tmp_path, existing):
    params = checkpoint.load(pipeline)
    folder = pipeline if existing else tmp_path / "new"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"vae doesn't hold .*; 1 missing: quant_conv\.bias"):
        checkpoint.save(
            params.replace(vae=params.vae | {"quant_conv": {"weight": params.vae["quant_conv"]["weight"]}}), folder
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert folder.exists() == existing


def test_save_refuses(pipeline, tmp_path):
    params = checkpoint.load(pipeline)
    with pytest.raises(ValueError, match="dtype must be one of 'float32', 'float16', 'bfloat16', got 'int8'"):
        checkpoint.save(params, tmp_path / "new", dtype="int8")
    for change, message in [
        ({"transformer": None}, "no transformer to save"),
        (
            {"config": dataclasses.replace(params.config, vae=None)},
            r"params\.vae has weights but params\.config\.vae is",
        ),
        ({"config": dataclasses.replace(params.config, scheduler={})}, "scheduler names no _class_name"),
    ]:
        with pytest.raises(ValueError, match=message):
            checkpoint.save(params.replace(**change), tmp_path / "new")
    with pytest.raises(FileExistsError, match=r"model_index\.json is a file; name a folder"):
        checkpoint.save(params, pipeline / "model_index.json")
    big = tree.map(lambda leaf: leaf * 1e6, params.vae)
    with pytest.raises(ValueError, match="has values beyond float16's 65504; save with dtype='bfloat16' or 'float32'"):
        checkpoint.save(params.replace(vae=big), tmp_path / "new", dtype="float16")
    assert not (tmp_path / "new").exists()


def test_a_new_folder_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        checkpoint.save(tiny.params(), tmp_path / "new")
    finally:
        os.umask(before)
    for path in (tmp_path / "new", *(tmp_path / "new").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def test_a_full_disk_is_one_sentence_and_leaves_the_old_pipeline(pipeline, tmp_path):
    params = checkpoint.load(pipeline)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for folder in (pipeline, tmp_path / "new"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            with pytest.raises(OSError, match=rf"^'{folder}' can't be written: file too large$"):
                checkpoint.save(params, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert os.listdir(tmp_path) == ["pipeline"]


@pytest.mark.parametrize("folder", ["~/new", "new", "./new/../new/", "a folder\nof two lines", "."])
def test_every_way_to_name_a_folder(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        checkpoint.save(tiny.params(), folder)
        assert checkpoint.load(folder).config == tiny.params().config
    if folder != ".":
        assert os.listdir(tmp_path) == [os.path.basename(os.path.normpath(folder))]


# --- readers that come between ----------------------------------------------------------------------------------------


def test_load_says_that_the_pipeline_was_replaced_meanwhile(pipeline, tmp_path, monkeypatch):
    other = shutil.copytree(pipeline, tmp_path / "other")
    params, loading = checkpoint.load(pipeline), import_module("pixart_fn.checkpoint.load")
    shard, calls = loading._shards, []

    def late(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            checkpoint.save(params, pipeline, dtype="bfloat16")
        return shard(*arguments)

    monkeypatch.setattr(loading, "_shards", late)
    with pytest.raises(OSError, match="pipeline' was replaced while it was read; read it again"):
        checkpoint.load(pipeline)
    calls.clear()
    with pytest.raises(OSError, match="pipeline/vae' was replaced while it was read; read it again"):
        checkpoint.load(other, vae=pipeline / "vae")
    monkeypatch.undo()
    checkpoint.load(pipeline)


def test_load_refuses_half_of_a_pipeline_until_it_is_saved_again(pipeline):
    params = checkpoint.load(pipeline)
    (pipeline / UNFINISHED).touch()
    for arguments in ({"source": pipeline}, {"transformer": pipeline}, {"vae": pipeline / "vae"}):
        with pytest.raises(OSError, match="pipeline' holds old and new files mixed: they are being replaced"):
            checkpoint.load(**arguments)
    checkpoint.save(params, pipeline)
    assert_same(checkpoint.load(pipeline).vae, arrays("vae"))


# --- live: diffusers and transformers ---------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_diffusers_loads_what_save_writes(pipeline, tmp_path, dtype):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    checkpoint.save(checkpoint.load(pipeline), tmp_path / "ours", dtype=dtype)
    kind = getattr(torch, dtype)
    theirs = diffusers.PixArtAlphaPipeline.from_pretrained(tmp_path / "ours", torch_dtype=kind)
    for name in CONFIGS:
        model = getattr(theirs, name)
        expected = {key: torch.from_numpy(value) for key, value in arrays(name).items()}
        found = dict(model.named_parameters())
        assert found.keys() == expected.keys()
        for key, value in found.items():
            torch.testing.assert_close(value.detach(), expected[key].to(kind).to(value.dtype), rtol=2e-3, atol=0)
            if value.dtype == kind:
                assert torch.equal(value, expected[key].to(kind)), key
    assert theirs.text_encoder.encoder.embed_tokens.weight is theirs.text_encoder.shared.weight
    assert type(theirs.scheduler).__name__ == SCHEDULER["_class_name"]
    ids, _ = tokenizer.encode(checkpoint.load(tmp_path / "ours").tokenizer, ["a cute cat"], 10)
    assert theirs.tokenizer("a cute cat", padding="max_length", max_length=10).input_ids == list(ids[0])


@pytest.mark.reference
def test_diffusers_loads_a_pipeline_without_text_encoder(pipeline, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    params = checkpoint.load(pipeline, text_encoder=None)
    params = params.replace(config=dataclasses.replace(params.config, pipeline="PixArtSigmaPipeline"))
    checkpoint.save(params, tmp_path / "ours")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert type(theirs) is diffusers.PixArtSigmaPipeline
    assert theirs.text_encoder is None
    assert_same(tree.nest({key: p.detach().numpy() for key, p in theirs.vae.named_parameters()}), arrays("vae"))


@pytest.mark.reference
def test_load_reads_what_diffusers_saves(pipeline, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.PixArtAlphaPipeline.from_pretrained(pipeline)
    theirs.transformer.save_pretrained(tmp_path / "theirs" / "transformer", max_shard_size="5KB")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="5KB")
    # transformers 5 saves tokenizer.json alone
    assert not (tmp_path / "theirs" / "tokenizer" / "spiece.model").exists()
    params = checkpoint.load(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs" / "transformer").glob("*.safetensors"))) > 1
    for name in CONFIGS:
        assert_same(getattr(params, name), arrays(name))
