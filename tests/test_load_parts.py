"""`load` with parts from elsewhere, variants, and files of other classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.pipelines import CONFIGS, SCHEDULER, arrays, assert_same, shard, weights_file, write_json
from safetensors.numpy import save_file

from pixart_fn import checkpoint, t5

OTHER_SCHEDULER = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "clip_sample": False}


@pytest.fixture
def other(pipeline, tmp_path) -> Path:
    """Another pipeline's folder, whose transformer's numbers are larger by 1 and whose scheduler is DDPM's."""
    folder = tmp_path / "other"
    shutil.copytree(pipeline, folder)
    changed = {name: value + 1 for name, value in arrays("transformer").items()}
    save_file(changed, weights_file(folder, "transformer"))
    write_json(folder / "scheduler" / "scheduler_config.json", OTHER_SCHEDULER)
    return folder


# --- a transformer and a scheduler from elsewhere ---------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["own folder", "folder with transformer/", "pipeline"])
def test_transformer_from_elsewhere_comes_with_its_scheduler(pipeline, other, layout):
    if layout != "pipeline":
        for name in ("model_index.json", "text_encoder", "vae", "tokenizer"):
            path = other / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(pipeline / "transformer")
    where = other / "transformer" if layout == "own folder" else other
    for given in (where, f"{where}/"):
        params = checkpoint.load(pipeline, transformer=given)
        assert_same(params.transformer, {name: value + 1 for name, value in arrays("transformer").items()})
        assert_same(params.vae, arrays("vae"))
        assert params.config.scheduler == OTHER_SCHEDULER


def test_scheduler_of_the_source_where_the_transformer_has_none(pipeline, other):
    shutil.rmtree(other / "scheduler")
    assert checkpoint.load(pipeline, transformer=other).config.scheduler == SCHEDULER


@pytest.mark.parametrize("place", ["pipeline", "scheduler/", "dict"])
def test_scheduler_from_elsewhere(pipeline, other, place):
    given = {"pipeline": other, "scheduler/": str(other / "scheduler"), "dict": OTHER_SCHEDULER}[place]
    params = checkpoint.load(pipeline, scheduler=given)
    assert params.config.scheduler == OTHER_SCHEDULER
    assert_same(params.transformer, arrays("transformer"))
    assert checkpoint.load(other, transformer=pipeline, scheduler=given).config.scheduler == OTHER_SCHEDULER


def test_a_scheduler_that_is_not_supported_is_an_error_of_load(pipeline):
    with pytest.raises(ValueError, match="KarrasVeScheduler"):
        checkpoint.load(pipeline, scheduler={"_class_name": "KarrasVeScheduler"})
    with pytest.raises(FileNotFoundError, match=r"scheduler.scheduler_config\.json is missing"):
        checkpoint.load(pipeline, scheduler=pipeline / "vae")


def test_a_transformer_without_a_pipeline_is_no_source(other):
    for name in ("text_encoder", "vae"):
        shutil.rmtree(other / name)
    (other / "model_index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"give a pipeline as source and this one as transformer='.*other'"):
        checkpoint.load(other)
    with pytest.raises(FileNotFoundError, match=r"a model's own folder goes to transformer=, text_encoder= or vae="):
        checkpoint.load(other / "transformer")


def test_a_folder_without_the_model_is_refused(pipeline, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"vae= takes a model's own folder or one that holds vae/$"):
        checkpoint.load(pipeline, vae=tmp_path)
    with pytest.raises(ValueError, match="transformer holds a Transformer2DModel, which isn't a vae"):
        checkpoint.load(pipeline, vae=pipeline / "transformer")


@pytest.mark.parametrize("place", ["tokenizer", "text_encoder"])
def test_the_tokenizer_comes_with_its_text_encoder(pipeline, other, place):
    """Also where the source has one of its own."""
    if place != "tokenizer":  # as a repository of the encoder alone has it
        for file in (other / "tokenizer").iterdir():
            shutil.copy(file, other / place)
    write_json(other / place / "tokenizer_config.json", {"extra_ids": 3})
    for given in (other, other / "text_encoder"):
        assert checkpoint.load(pipeline, text_encoder=given).tokenizer.extra_ids == 3
    shutil.rmtree(other / "tokenizer")
    if place == "tokenizer":
        assert checkpoint.load(pipeline, text_encoder=other).tokenizer.extra_ids == 0


def test_a_tokenizer_may_have_as_many_ids_as_the_embedding_has_rows(pipeline):
    write_json(pipeline / "tokenizer" / "tokenizer_config.json", {"extra_ids": 6})
    assert checkpoint.load(pipeline).tokenizer.size == CONFIGS["text_encoder"]["vocab_size"] == 32
    write_json(pipeline / "tokenizer" / "tokenizer_config.json", {"extra_ids": 7})
    with pytest.raises(ValueError, match="has 33 ids and the text encoder knows 32"):
        checkpoint.load(pipeline)


@pytest.mark.parametrize(("value", "fits"), [(-1e5, False), (1e5, False), (-65504, True), (65504, True)])
def test_a_weight_beyond_float16_is_refused_in_float16(pipeline, value, fits):
    weights = arrays("transformer")
    weights["proj_out.bias"][3] = value
    save_file(weights, weights_file(pipeline, "transformer"))
    assert_same(checkpoint.load(pipeline, text_encoder=None).transformer, weights)
    if fits:
        found = checkpoint.load(pipeline, text_encoder=None, dtype="float16").transformer
        assert found["proj_out"]["bias"].asnumpy()[3] == value
        return
    with pytest.raises(
        ValueError, match=r"proj_out\.bias has values beyond float16's 65504; load with dtype='bfloat16'"
    ):
        checkpoint.load(pipeline, text_encoder=None, dtype="float16")


def test_float8_weights_with_a_scale_apart_are_refused(pipeline):
    save_file({**arrays("text_encoder"), "scaled_fp8": np.zeros(2, "f")}, weights_file(pipeline, "text_encoder"))
    with pytest.raises(ValueError, match="holds float8 weights with a scale apart, such as scaled_fp8, which aren't"):
        checkpoint.load(pipeline)


# --- files of other classes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "plain"),
    [
        ("PixArtAlphaPipeline", "PixArtAlphaPipeline"),
        ("PixArtSigmaPipeline", "PixArtSigmaPipeline"),
        ("PixArtSigmaPAGPipeline", "PixArtSigmaPipeline"),
    ],
)
def test_pipeline_classes(pipeline, tmp_path, stored, plain):
    write_json(pipeline / "model_index.json", {"_class_name": stored})
    params = checkpoint.load(pipeline)
    assert params.config.pipeline == plain
    checkpoint.save(params, tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "model_index.json").read_text())["_class_name"] == plain


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "T5Model"])
def test_an_encoder_and_decoder_gives_its_encoder(pipeline, name, sharded):
    encoder = arrays("text_encoder")
    table = encoder["shared.weight"]
    extra = {
        "encoder.embed_tokens.weight": table.copy(),
        "decoder.embed_tokens.weight": table.copy(),
        "decoder.block.0.layer.1.EncDecAttention.q.weight": np.zeros((16, 16), np.float32),
        "decoder.final_layer_norm.weight": np.zeros(16, np.float32),
        "lm_head.weight": np.zeros((32, 16), np.float32),
    }
    path = weights_file(pipeline, "text_encoder")
    path.unlink()
    if sharded:
        shard(pipeline, encoder | extra)
    else:
        save_file(encoder | extra, path)
    config = CONFIGS["text_encoder"] | {"architectures": [name], "is_encoder_decoder": True, "num_decoder_layers": 1}
    write_json(pipeline / "text_encoder" / "config.json", config)
    params = checkpoint.load(pipeline)
    assert_same(params.text_encoder, encoder)
    assert params.config.text_encoder == t5.read_config(CONFIGS["text_encoder"])


# What transformers 4 writes into a T5 inside another model's config.json: every field of the base class.
BASE = {
    "return_dict": True, "output_hidden_states": False, "output_attentions": False, "torchscript": False,
    "torch_dtype": "float32", "use_bfloat16": False, "tf_legacy_loss": False, "pruned_heads": {},
    "tie_word_embeddings": False, "chunk_size_feed_forward": 0, "is_encoder_decoder": True, "is_decoder": False,
    "cross_attention_hidden_size": None, "add_cross_attention": False, "tie_encoder_decoder": False,
    "max_length": 20, "min_length": 0, "do_sample": False, "early_stopping": False, "num_beams": 1,
    "num_beam_groups": 1, "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
    "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None, "num_return_sequences": 1, "output_scores": False, "return_dict_in_generate": False,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "remove_invalid_values": False,
    "exponential_decay_length_penalty": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "finetuning_task": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "tokenizer_class": None, "prefix": None, "bos_token_id": None, "pad_token_id": 0, "eos_token_id": 1,
    "sep_token_id": None, "decoder_start_token_id": 0, "task_specific_params": None, "problem_type": None,
    "_name_or_path": "google/t5-v1_1-xxl", "transformers_version": "4.46.0", "model_type": "t5", "n_positions": 512,
    "dense_act_fn": "gelu_new", "is_gated_act": True, "dropout_rate": 0.1, "classifier_dropout": 0.0,
    "initializer_factor": 1.0, "use_cache": True, "num_decoder_layers": 24,
}  # fmt: skip


def test_fields_that_do_not_concern_the_encoder_are_ignored_and_others_reported():
    config = CONFIGS["text_encoder"]
    assert t5.read_config(config | BASE) == t5.read_config(config)
    assert t5.read_config(config | {"feed_forward_proj": "gated-gelu_new"}) == t5.read_config(config)
    for change, message in [
        ({"quantization_config": {"load_in_8bit": True}}, "unknown field 'quantization_config'"),
        ({"return_dicts": True}, r"unknown field 'return_dicts' = True \(nearest: 'return_dict'\)"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads = "),
        ({"is_decoder": True}, r"is_decoder = True isn't supported \(supported: False\)"),
        ({"dense_act_fn": "relu"}, "dense_act_fn = 'relu'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj = 'gated-silu'"),
    ]:
        with pytest.raises(ValueError, match=message):
            t5.read_config(config | BASE | change)


# --- variants ---------------------------------------------------------------------------------------------------------

HALVES = {name: value.astype(np.float16) for name, value in arrays("text_encoder").items()}
WIDENED = {name: value.astype(np.float32) for name, value in HALVES.items()}


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_one_half_precision_variant_alone_needs_no_asking(pipeline, half):
    plain = weights_file(pipeline, "vae")
    plain.rename(plain.with_suffix(f".{half}.safetensors"))
    assert_same(checkpoint.load(pipeline).vae, arrays("vae"))


@pytest.mark.parametrize("asked", [None, "fp16", {"text_encoder": "fp16"}])
@pytest.mark.parametrize("index", [None, "model.safetensors.index.fp16.json", "model.safetensors.fp16.index.json"])
def test_files_of_a_variant_alone(pipeline, index, asked):
    weights_file(pipeline, "text_encoder").unlink()
    if index is None:
        save_file(HALVES, pipeline / "text_encoder" / "model.fp16.safetensors")
    else:
        shard(pipeline, HALVES, "model.fp16-0000{}-of-00002.safetensors", index)
    if asked == "fp16":
        for name in ("transformer", "vae"):
            plain = weights_file(pipeline, name)
            plain.rename(plain.with_suffix(".fp16.safetensors"))
    params = checkpoint.load(pipeline, variant=asked)
    assert_same(params.text_encoder, WIDENED)
    assert_same(params.vae, arrays("vae"))


def test_a_variant_beside_plain_files_has_to_be_asked_for(pipeline):
    save_file(HALVES, pipeline / "text_encoder" / "model.fp16.safetensors")
    assert_same(checkpoint.load(pipeline).text_encoder, arrays("text_encoder"))
    assert_same(checkpoint.load(pipeline, variant={"text_encoder": "fp16"}).text_encoder, WIDENED)
    with pytest.raises(
        ValueError, match=r"vae has no weights of the variant 'fp16'; found diffusion_pytorch_model\.saf"
    ):
        checkpoint.load(pipeline, variant="fp16", transformer=as_fp16(pipeline / "transformer"))


def as_fp16(folder: Path) -> Path:
    plain = folder / "diffusion_pytorch_model.safetensors"
    shutil.copy(plain, plain.with_suffix(".fp16.safetensors"))
    return folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["fp16.safetensors", "bf16.safetensors"],
            r"has no diffusion_pytorch_model\.safetensors; found diffusion_pytorch_model\.bf16\.safetensors, "
            r"diffusion_pytorch_model\.fp16\.safetensors: choose with variant='bf16' or variant='fp16'$",
        ),
        (["fp16.safetensors", "non_ema.safetensors"], r"choose with variant='fp16' or variant='non_ema'$"),
        (
            ["non_ema.safetensors"],
            r"has no diffusion_pytorch_model\.safetensors; found diffusion_pytorch_model\.non_ema\.safetensors: choose "
            r"with variant='non_ema'$",
        ),
    ],
)
def test_variants_to_choose_from_are_named(pipeline, files, message):
    plain = weights_file(pipeline, "vae")
    for file in files:
        shutil.copy(plain, plain.with_suffix(f".{file}"))
    plain.unlink()
    with pytest.raises(ValueError, match=message):
        checkpoint.load(pipeline)
    assert_same(checkpoint.load(pipeline, variant={"vae": files[-1].split(".")[0]}).vae, arrays("vae"))


def test_weights_of_another_name_are_named(pipeline):
    weights_file(pipeline, "vae").rename(pipeline / "vae" / "vae-ft-mse.safetensors")
    with pytest.raises(FileNotFoundError, match=r"neither diffusion_py.* nor its index\.json; found vae-ft-mse\.safet"):
        checkpoint.load(pipeline)
    shard(pipeline)
    (pipeline / "text_encoder" / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"found model-00001-of-00002\.safetensors, model-00002-of-"):
        checkpoint.load(pipeline)


def test_numbers_of_an_unknown_type_are_an_error_of_load_though_nothing_is_read(pipeline):
    wide = {name: value.astype(np.float64) for name, value in arrays("text_encoder").items()}
    save_file(wide, weights_file(pipeline, "text_encoder"))
    with pytest.raises(ValueError, match=r"model\.safetensors stores F64, which isn't supported"):
        checkpoint.load(pipeline, stream=True)


# --- the embedded checkpoint ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["package/_weights/emoji", "weights/emoji"])
def test_embedded_is_found_installed_and_in_a_source_tree(monkeypatch, pipeline, tmp_path, place):
    monkeypatch.setattr(checkpoint.files, "__file__", str(tmp_path / "package" / "checkpoint" / "files.py"))
    with pytest.raises(FileNotFoundError, match="lacks its embedded checkpoint"):
        checkpoint.load()
    shutil.copytree(pipeline, tmp_path / place)
    assert_same(checkpoint.load().vae, arrays("vae"))
