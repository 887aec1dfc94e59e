"""`load` and `save` against files that the safetensors library, a hub cache and (live) diffusers made."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
import shutil
from pathlib import Path

import mindspore
import numpy as np
import pytest
import sentencepiece
from mindspore import Tensor
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pixart_fn import checkpoint, safetensors_file, t5, tokenizer, transformer, tree, vae

CONFIGS = {
    "text_encoder": {
        "architectures": ["T5EncoderModel"],
        "d_model": 16,
        "d_kv": 8,
        "num_heads": 2,
        "d_ff": 32,
        "num_layers": 2,
        "feed_forward_proj": "gated-gelu",
        "vocab_size": 32,
    },
    "transformer": {
        "_class_name": "Transformer2DModel",
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 8,
        "caption_channels": 16,
        "cross_attention_dim": 16,
        "norm_type": "ada_norm_single",
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
}
MODULES = {"text_encoder": t5, "transformer": transformer, "vae": vae}
FILES = {"text_encoder": "model", "transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
SCHEDULER = {"_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.0001, "num_train_timesteps": 1000}
INDEX = {
    "_class_name": "PixArtAlphaPipeline",
    "_diffusers_version": "0.22.0.dev0",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5Tokenizer"],
    "transformer": ["diffusers", "Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def arrays(name: str, dtype=np.float32) -> dict[str, np.ndarray]:
    """Random weights with the names and shapes of the tiny configuration."""
    random = np.random.default_rng(len(name))
    shapes = MODULES[name].shapes(MODULES[name].read_config(CONFIGS[name]))
    return {key: random.normal(size=shape).astype(dtype) for key, shape in shapes.items()}


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def weights_file(folder: Path, name: str) -> Path:
    return folder / name / f"{FILES[name]}.safetensors"


@pytest.fixture(scope="session")
def spiece(tmp_path_factory) -> Path:
    prefix = tmp_path_factory.mktemp("vocabulary") / "spiece"
    text = ["a cute cat", "a dog on a table", "two red apples", "sun and moon"] * 10
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(prefix),
        vocab_size=28,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.fixture
def pipeline(tmp_path, spiece) -> Path:
    """A folder as the released ones are: the old transformer class, a SentencePiece model, float32 safetensors."""
    folder = tmp_path / "pipeline"
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    for name, config in CONFIGS.items():
        write_json(folder / name / "config.json", config)
        save_file(arrays(name), weights_file(folder, name), metadata={"format": "pt"})
    (folder / "tokenizer").mkdir()
    shutil.copy(spiece, folder / "tokenizer" / "spiece.model")
    write_json(folder / "tokenizer" / "tokenizer_config.json", {"extra_ids": 0})
    return folder


def flat(weights) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(leaf.asnumpy() if isinstance(leaf, Tensor) else leaf) for name, leaf in tree.items(weights)
    }


def assert_same(weights, expected: dict[str, np.ndarray]) -> None:
    found = flat(weights)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


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


def test_replace_leaves_the_original_alone(pipeline):
    params = checkpoint.load(pipeline, vae=None)
    other = params.replace(transformer={"a": 1})
    assert other.transformer == {"a": 1}
    assert "a" not in params.transformer
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.transformer = None


def test_float32_is_the_mapped_file_and_writing_to_it_stays_in_memory(pipeline, monkeypatch):
    opened = {}
    open_tensors = checkpoint.open_tensors
    monkeypatch.setattr(
        checkpoint, "open_tensors", lambda path: opened.setdefault(path.parent.name, open_tensors(path))
    )
    path = weights_file(pipeline, "vae")
    before = path.read_bytes()
    leaf = checkpoint.load(pipeline).vae["quant_conv"]["weight"]
    assert np.shares_memory(leaf.asnumpy(), opened["vae"]["quant_conv.weight"].file)
    leaf.asnumpy()[...] = 5
    assert path.read_bytes() == before


@pytest.mark.parametrize("pad", range(4))
def test_a_header_of_any_length_is_read(tmp_path, pad):
    """Old writers didn't pad the header, so tensors start at any byte."""
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    raw_file(tmp_path / "x.safetensors", {"a": ("F32", (2, 3), value.tobytes())}, pad)
    read = checkpoint.open_tensors(tmp_path / "x.safetensors")["a"].read()
    assert read.flags.aligned
    np.testing.assert_array_equal(read, value)
    np.testing.assert_array_equal(Tensor.from_numpy(read).asnumpy(), value)


def test_half_precision_becomes_float32(tmp_path):
    halves = np.array([0, -0.0, 1, 65504, 6e-8, np.inf], np.float16)
    # 1.0, -2.0, 2^-133 (subnormal), infinity: the upper halves of the float32 patterns
    brains = np.array([0x3F80, 0xC000, 0x0001, 0x7F80], np.uint16)
    raw_file(
        tmp_path / "x.safetensors", {"h": ("F16", (6,), halves.tobytes()), "b": ("BF16", (2, 2), brains.tobytes())}
    )
    stored = checkpoint.open_tensors(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(stored["h"].read(), halves.astype(np.float32))
    expected = np.array([[1, -2], [2.0**-133, np.inf]], np.float32)
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


def shard(pipeline: Path) -> list[Path]:
    weights = arrays("text_encoder")
    weights_file(pipeline, "text_encoder").unlink()
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, pipeline / "text_encoder" / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    write_json(pipeline / "text_encoder" / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return [pipeline / "text_encoder" / file for file in halves]


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
        r"no model_index\.json; give a pipeline's",
    ),
    "index not JSON": (lambda f: cut(f / "model_index.json", 20), ValueError, r"model_index\.json isn't valid JSON"),
    "index a list": (
        lambda f: (f / "model_index.json").write_text("[]"),
        ValueError,
        r"hold a JSON object, not a list",
    ),
    "pipeline": (
        lambda f: edit(f / "model_index.json", _class_name="FluxPipeline"),
        ValueError,
        r"FluxPipeline, which isn't supported \(supported: PixArtAlphaPipeline, PixArtSigmaPipeline\)",
    ),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), FileNotFoundError, r"scheduler_config\.json is missing"),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), FileNotFoundError, r"no folder vae; pass vae=None to leave it out"),
    "no transformer": (lambda f: shutil.rmtree(f / "transformer"), FileNotFoundError, r"no folder transformer$"),
    "no config": (lambda f: (f / "vae" / "config.json").unlink(), FileNotFoundError, r"vae.config\.json is missing"),
    "class": (
        lambda f: edit(f / "vae" / "config.json", _class_name="AsymmetricAutoencoderKL"),
        ValueError,
        r"vae holds a AsymmetricAutoencoderKL, which isn't a vae \(supported: AutoencoderKL\)",
    ),
    "architecture": (
        lambda f: edit(f / "text_encoder" / "config.json", architectures=["CLIPTextModel"]),
        ValueError,
        r"CLIPTextModel, which isn't a text_encoder \(supported: T5EncoderModel\)",
    ),
    "unknown field": (lambda f: edit(f / "vae" / "config.json", depth=3), ValueError, r"unknown field 'depth' = 3"),
    "no weights": (
        lambda f: weights_file(f, "vae").unlink(),
        FileNotFoundError,
        r"no weights; diffusion_pytorch_model",
    ),
    "only .bin": (only_bin, ValueError, r"only \.bin weights.*diffusers\.AutoencoderKL\.from_pretrained\(.*save_pretr"),
    "missing shard": (
        lambda f: shard(f)[1].unlink(),
        FileNotFoundError,
        r"names shards that aren't beside it: model-00002-of-00002\.safetensors; download them again",
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
    "offsets": (wrong_offsets, ValueError, r"the place of a in the file doesn't fit its shape"),
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
    "tokenizer": (lambda f: (f / "tokenizer" / "spiece.model").unlink(), FileNotFoundError, r"has no spiece\.model"),
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


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"source": "no/such/folder"}, FileNotFoundError, "there is no folder no/such/folder; give"),
        ({"source": "./nowhere"}, FileNotFoundError, "there is no folder nowhere; give"),
        ({"source": "{pipeline}/model_index.json"}, ValueError, "is a file; give the folder"),
        ({"source": "{pipeline}/vae"}, FileNotFoundError, "a model's own folder goes to text_encoder= or vae="),
        ({"source": "{pipeline}", "revision": "main"}, ValueError, "revision='main' belongs to a hub id"),
        ({"revision": "main"}, ValueError, "the embedded checkpoint has none"),
        ({"source": "{pipeline}", "vae": False}, TypeError, "vae must be True, None"),
    ],
)
def test_refused_arguments(pipeline, arguments, kind, message):
    arguments = {
        name: str(pipeline).join(value.split("{pipeline}")) if isinstance(value, str) else value
        for name, value in arguments.items()
    }
    with pytest.raises(kind, match=message):
        checkpoint.load(**arguments)


# --- the hub ----------------------------------------------------------------------------------------------------------


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


# --- the embedded checkpoint ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["package/_weights/emoji", "weights/emoji"])
def test_embedded_is_found_installed_and_in_a_source_tree(monkeypatch, pipeline, tmp_path, place):
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "package" / "checkpoint.py"))
    with pytest.raises(FileNotFoundError, match="lacks its embedded checkpoint"):
        checkpoint.load()
    shutil.copytree(pipeline, tmp_path / place)
    assert_same(checkpoint.load().vae, arrays("vae"))


# --- save -------------------------------------------------------------------------------------------------------------


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
    safetensors_file.write_file(tmp_path / "x", leaves, {"a": "F16", "b": "F32", "name of another length": "BF16"})
    stored = checkpoint.open_tensors(tmp_path / "x")
    assert [stored["b"].offset % 4, stored["a"].offset % 2] == [0, 0]


def test_bfloat16_rounds_to_nearest_even(tmp_path):
    half = 2.0**-8  # of bfloat16's spacing above 1
    value = np.array([1, 1 + half, 1 + 3 * half, 1 + 1.01 * half, -1 - 1.01 * half, np.inf, np.nan, 0], np.float32)
    expected = np.array([1, 1, 1 + 4 * half, 1 + 2 * half, -1 - 2 * half, np.inf, np.nan, 0], np.float32)
    safetensors_file.write_file(tmp_path / "x.safetensors", {"a": value}, {"a": "BF16"})
    np.testing.assert_array_equal(checkpoint.open_tensors(tmp_path / "x.safetensors")["a"].read(), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_round_trip_is_idempotent(pipeline, tmp_path, dtype):
    checkpoint.save(checkpoint.load(pipeline), tmp_path / "once", dtype=dtype)
    checkpoint.save(checkpoint.load(tmp_path / "once"), tmp_path / "twice", dtype=dtype)
    for name in CONFIGS:
        assert weights_file(tmp_path / "once", name).read_bytes() == weights_file(tmp_path / "twice", name).read_bytes()
        largest = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
        for key, stored in checkpoint.open_tensors(weights_file(tmp_path / "once", name)).items():
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
    with pytest.raises(FileNotFoundError, match="no folder text_encoder; pass text_encoder=None"):
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
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16; got 'int8'"):
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
def test_load_reads_what_diffusers_saves(pipeline, spiece, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.PixArtAlphaPipeline.from_pretrained(pipeline)
    theirs.transformer.save_pretrained(tmp_path / "theirs" / "transformer", max_shard_size="5KB")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="5KB")
    with pytest.raises(FileNotFoundError, match=r"has no spiece\.model"):
        checkpoint.load(tmp_path / "theirs")  # transformers 5 saves its own tokenizer.json alone
    shutil.copy(spiece, tmp_path / "theirs" / "tokenizer")
    params = checkpoint.load(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs" / "transformer").glob("*.safetensors"))) > 1
    for name in CONFIGS:
        assert_same(getattr(params, name), arrays(name))
