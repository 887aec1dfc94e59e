"""`load` against files that the safetensors library made, whole and broken."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from helpers.pipelines import CONFIGS, MODULES, SCHEDULER, arrays, assert_same, shard, weights_file, write_json
from safetensors.numpy import load_file, save_file

from pixart_fn import checkpoint, vae
from pixart_fn.files import safetensors

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it


def raw_file(path: Path, entries: dict[str, tuple[str, tuple[int, ...], bytes]], pad: int = 0) -> None:
    """A safetensors file by hand, from the format's description."""
    header, data = {}, b""
    for name, (dtype, shape, content) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


# --- load -------------------------------------------------------------------------------------------------------------


def test_load_gives_the_numbers_of_the_files(pipeline):
    params = checkpoint.load(pipeline)
    for name in CONFIGS:
        assert_same(getattr(params, name), arrays(name))
        assert getattr(params.config, name) == MODULES[name].read_config(CONFIGS[name])
    assert params.config.scheduler == SCHEDULER
    assert params.config.pipeline == "PixArtAlphaPipeline"
    assert isinstance(params.text_encoder["encoder"]["block"], list)


def test_repr_shows_sizes_not_arrays(pipeline):
    params = checkpoint.load(pipeline, vae=None)
    count = sum(value.size for value in arrays("transformer").values())
    assert f"transformer={count / 1e6:.1f}M" in repr(params)
    assert "vae=None" in repr(params)
    assert len(repr(params)) < 200


@pytest.mark.parametrize("name", ["Params", "Configs"])
def test_a_name_that_has_moved_says_where(name):
    with pytest.raises(AttributeError, match=f"has no attribute {name!r}; it is now pixart_fn.params.{name}$"):
        getattr(checkpoint, name)
    assert not hasattr(checkpoint, "xyzzy")


def test_replace_leaves_the_original_alone(pipeline):
    params = checkpoint.load(pipeline, vae=None)
    other = params.replace(transformer={"a": 1})
    assert other.transformer == {"a": 1}
    assert "a" not in params.transformer
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.transformer = None


@pytest.mark.parametrize("mapped", [True, False], ids=["large", "small"])
def test_float32_of_a_large_file_is_the_mapped_one_and_writing_to_it_stays_in_memory(pipeline, monkeypatch, mapped):
    opened = {}
    monkeypatch.setattr(safetensors, "MAPPED", 0 if mapped else 2**26)
    open_file = safetensors.open_file
    loading = import_module("pixart_fn.checkpoint.load")  # whose name in the package is the function's
    monkeypatch.setattr(loading, "open_file", lambda path: opened.setdefault(path.parent.name, open_file(path)))
    path = weights_file(pipeline, "vae")
    before = path.read_bytes()
    leaf = checkpoint.load(pipeline).vae["quant_conv"]["weight"]
    file = np.frombuffer(opened["vae"]["quant_conv.weight"].file.bytes, np.uint8)
    assert np.shares_memory(leaf.asnumpy(), file) == mapped
    leaf.asnumpy()[...] = 5
    assert path.read_bytes() == before


@pytest.mark.parametrize("pad", range(4))
def test_a_header_of_any_length_is_read(tmp_path, pad):
    """Old writers didn't pad the header, so tensors start at any byte."""
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw_file(tmp_path / "x.safetensors", {"a": ("F32", (2, 3), value.tobytes())}, pad)
    read = safetensors.open_file(tmp_path / "x.safetensors")["a"].read()
    assert read.flags.aligned
    np.testing.assert_array_equal(read, value)
    np.testing.assert_array_equal(Tensor.from_numpy(read).asnumpy(), value)


def test_half_precision_becomes_float32(tmp_path):
    halves = np.array([0, -0.0, 1, 65504, 6e-8, -3], np.float16)
    # 1.0, -2.0, 2^-133 (subnormal), the largest: the upper halves of the float32 patterns
    brains = np.array([0x3F80, 0xC000, 0x0001, 0x7F7F], np.uint16)
    raw_file(
        tmp_path / "x.safetensors", {"h": ("F16", (6,), halves.tobytes()), "b": ("BF16", (2, 2), brains.tobytes())}
    )
    stored = safetensors.open_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(stored["h"].read(), halves.astype(np.float32))
    expected = np.array([[1, -2], [2.0**-133, 2.0**127 * (2 - 2.0**-7)]], np.float32)
    np.testing.assert_array_equal(stored["b"].read(), expected)
    assert stored["b"].read().dtype == stored["h"].read().dtype == np.float32
    assert stored["b"].shape == (2, 2)


def test_float16_pipeline(pipeline):
    halves = arrays("transformer", np.float16)
    weights_file(pipeline, "transformer").unlink()
    # the name that diffusers gives with variant="fp16"
    save_file(halves, pipeline / "transformer" / "diffusion_pytorch_model.fp16.safetensors")
    expected = {name: value.astype(np.float32) for name, value in halves.items()}
    assert_same(checkpoint.load(pipeline).transformer, expected)


def test_shards(pipeline):
    shard(pipeline)
    assert_same(checkpoint.load(pipeline).text_encoder, arrays("text_encoder"))


def test_left_out_models_keep_their_configuration(pipeline):
    params = checkpoint.load(pipeline, text_encoder=None, vae=None)
    assert params.text_encoder is params.vae is params.tokenizer is None
    assert params.config.vae == vae.read_config(CONFIGS["vae"])
    shutil.rmtree(pipeline / "vae")
    assert checkpoint.load(pipeline, text_encoder=None, vae=None).config.vae is None


@pytest.mark.parametrize("alone", [True, False])
def test_models_from_elsewhere(pipeline, tmp_path, alone):
    other = tmp_path / "other"
    shutil.copytree(pipeline, other)
    for name in ("text_encoder", "vae"):
        changed = {key: value + 1 for key, value in arrays(name).items()}
        save_file(changed, weights_file(other, name))
        shutil.rmtree(pipeline / name)
    shutil.rmtree(pipeline / "tokenizer")
    where = {name: other / name if alone else str(other) for name in ("text_encoder", "vae")}
    params = checkpoint.load(pipeline, **where)
    assert_same(params.vae, {key: value + 1 for key, value in arrays("vae").items()})
    assert_same(params.text_encoder, {key: value + 1 for key, value in arrays("text_encoder").items()})
    assert params.tokenizer is not None


def rename(path: Path, change) -> None:
    weights = load_file(path)
    path.unlink()
    save_file(change(weights), path)


def test_names_of_older_releases(pipeline):
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def older(weights):
        for new_part, old_part in old.items():
            weights = {name.replace(new_part, old_part): value for name, value in weights.items()}
        return weights

    rename(weights_file(pipeline, "vae"), older)
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in load_file(weights_file(pipeline, "vae"))
    # the null caption of the released transformers, which diffusers doesn't use
    extra = {"caption_projection.y_embedding": np.zeros((120, 16), np.float32)}
    rename(weights_file(pipeline, "transformer"), lambda weights: weights | extra)
    params = checkpoint.load(pipeline)
    assert_same(params.vae, arrays("vae"))
    assert_same(params.transformer, arrays("transformer"))


@pytest.mark.parametrize("both", [True, False])
def test_t5_embedding_under_its_other_name(pipeline, both):
    path = weights_file(pipeline, "text_encoder")

    def change(weights):
        table = weights["shared.weight"] if both else weights.pop("shared.weight")
        return weights | {"encoder.embed_tokens.weight": table.copy()}

    rename(path, change)
    assert_same(checkpoint.load(pipeline).text_encoder, arrays("text_encoder"))


# --- what load refuses: one sentence each -----------------------------------------------------------------------------


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def edit(path: Path, **fields) -> None:
    write_json(path, json.loads(path.read_text()) | fields)


def damage_names(folder: Path) -> None:
    def change(weights):
        del weights["quant_conv.bias"]
        weights["post_quant_conv.bias"] = np.zeros(3, np.float32)
        return weights | {f"loss.{i}": np.zeros(1, np.float32) for i in range(9)}

    rename(weights_file(folder, "vae"), change)


def only_bin(folder: Path) -> None:
    weights_file(folder, "vae").rename(folder / "vae" / "diffusion_pytorch_model.bin")


def wrong_offsets(folder: Path) -> None:
    raw_file(weights_file(folder, "vae"), {"a": ("F32", (3,), bytes(8))})


REFUSED = {
    "no index": (
        lambda f: (f / "model_index.json").unlink(),
        FileNotFoundError,
        r"model_index\.json is missing; give a pipeline in diffusers layout",
    ),
    "index not JSON": (lambda f: cut(f / "model_index.json", 20), ValueError, r"model_index\.json isn't valid JSON"),
    "index a list": (
        lambda f: (f / "model_index.json").write_text("[]"),
        ValueError,
        r"hold a JSON object, not \[\]",
    ),
    "pipeline": (
        lambda f: edit(f / "model_index.json", _class_name="FluxPipeline"),
        ValueError,
        r"FluxPipeline, which isn't supported \(supported: PixArtAlphaPipeline, PixArtSigmaPipeline, PixArt",
    ),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), FileNotFoundError, r"scheduler_config\.json is missing"),
    "no vae": (
        lambda f: shutil.rmtree(f / "vae"),
        FileNotFoundError,
        r"vae.config\.json is missing; vae=None leaves it out, and vae='folder or hub id'",
    ),
    "no transformer": (
        lambda f: shutil.rmtree(f / "transformer"),
        FileNotFoundError,
        r"transformer.config\.json is missing; transformer='folder or hub id' takes it from there",
    ),
    "no config": (lambda f: (f / "vae" / "config.json").unlink(), FileNotFoundError, r"vae.config\.json is missing"),
    "class": (
        lambda f: edit(f / "vae" / "config.json", _class_name="AsymmetricAutoencoderKL"),
        ValueError,
        r"vae holds a AsymmetricAutoencoderKL, which isn't a vae \(supported: AutoencoderKL, AutoencoderTiny\)",
    ),
    "architecture": (
        lambda f: edit(f / "text_encoder" / "config.json", architectures=["CLIPTextModel"]),
        ValueError,
        r"CLIPTextModel, which isn't a text_encoder \(supported: T5EncoderModel, T5ForC",
    ),
    "unknown field": (lambda f: edit(f / "vae" / "config.json", depth=3), ValueError, r"unknown field 'depth' = 3"),
    "no weights": (
        lambda f: weights_file(f, "vae").unlink(),
        FileNotFoundError,
        r"vae.diffusion_pytorch_model\.safetensors is missing, and so is its index\.json$",
    ),
    "only .bin": (only_bin, ValueError, r"only \.bin weights.*diffusers\.AutoencoderKL\.from_pretrained\(.*save_pretr"),
    "missing shard": (
        lambda f: shard(f)[1].unlink(),
        FileNotFoundError,
        r"model-00002-of-00002\.safetensors is missing, though model\.safetensors\.index\.json names it; download it",
    ),
    "index without map": (
        lambda f: write_json(f / "vae" / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": [1]}),
        ValueError,
        r"has no weight_map",
    ),
    "truncated data": (lambda f: cut(weights_file(f, "vae"), -1), ValueError, r"is truncated: its tensors end at byte"),
    "truncated header": (
        lambda f: cut(weights_file(f, "vae"), 99),
        ValueError,
        r"is truncated: its header ends at byte",
    ),
    "empty": (lambda f: cut(weights_file(f, "vae"), 0), ValueError, r"safetensors isn't a safetensors file$"),
    "not safetensors": (
        lambda f: weights_file(f, "vae").write_bytes(b"PK\x03\x04" * 99),
        ValueError,
        r"safetensors isn't a safetensors file$",
    ),
    "a header of the format's limit": (
        lambda f: weights_file(f, "vae").write_bytes((100_000_000).to_bytes(8, "little")),
        ValueError,
        r"is truncated: its header ends at byte 100000008, the file at 8",
    ),
    "a header beyond it": (
        lambda f: weights_file(f, "vae").write_bytes((100_000_001).to_bytes(8, "little")),
        ValueError,
        r"safetensors isn't a safetensors file$",
    ),
    "LFS pointer": (
        lambda f: weights_file(f, "vae").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        ValueError,
        r"isn't a safetensors file but a Git LFS pointer: run `git lfs pull`",
    ),
    "header not JSON": (
        lambda f: weights_file(f, "vae").write_bytes((8).to_bytes(8, "little") + b"not json"),
        ValueError,
        r"damaged safetensors header",
    ),
    "header without shape": (
        lambda f: weights_file(f, "vae").write_bytes((14).to_bytes(8, "little") + b'{"a": {"x":1}}'),
        ValueError,
        r"damaged safetensors header",
    ),
    "offsets": (wrong_offsets, ValueError, r"'a' takes 8 bytes, which doesn't fit its shape \[3\] of F32"),
    "names": (
        damage_names,
        ValueError,
        r"1 missing: quant_conv\.bias; 9 unexpected: loss\.0, .*loss\.7, …; 1 of another shape: post_quant_conv\.bias"
        r" \(3,\) instead of \(4,\)",
    ),
    "float64": (
        lambda f: rename(
            weights_file(f, "vae"), lambda w: {name: value.astype(np.float64) for name, value in w.items()}
        ),
        ValueError,
        r"stores F64, which isn't supported; convert it to F32, F16 or BF16",
    ),
    "tokenizer": (
        lambda f: (f / "tokenizer" / "spiece.model").unlink(),
        FileNotFoundError,
        r"tokenizer.spiece\.model is missing; it, or a tokenizer\.json in its place",
    ),
    "vocabulary": (
        lambda f: edit(f / "tokenizer" / "tokenizer_config.json", extra_ids=100),
        ValueError,
        r"tokenizer has 126 ids and the text encoder knows 32; take both",
    ),
    "text width": (
        lambda f: edit(f / "text_encoder" / "config.json", d_model=24),
        ValueError,
        r"states of width 24 and the transformer takes 16",
    ),
    "latent channels": (
        lambda f: edit(f / "vae" / "config.json", latent_channels=16),
        ValueError,
        r"the VAE has 16 latent channels and the transformer takes 4",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_sentence(pipeline, case):
    harm, kind, message = REFUSED[case]
    harm(pipeline)
    with pytest.raises(kind, match=message) as caught:
        checkpoint.load(pipeline)
    assert "\n" not in str(caught.value)
