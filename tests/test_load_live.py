"""`load` against folders that diffusers and transformers write now."""

from __future__ import annotations

import inspect

import pytest
from helpers.pipelines import CONFIGS, assert_same

from pixart_fn import checkpoint, t5, transformer, vae

pytestmark = pytest.mark.reference

CLASSES = {"PixArtTransformer2DModel": transformer, "Transformer2DModel": transformer, "AutoencoderKL": vae}


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_that_diffusers_registers_is_known(name):
    diffusers = pytest.importorskip("diffusers")
    cls = getattr(diffusers, name)
    own = CONFIGS["vae" if name == "AutoencoderKL" else "transformer"]
    # The older class's defaults are another model's; a release of PixArt holds the newer one's, and the rest off.
    made = diffusers.PixArtTransformer2DModel if name == "Transformer2DModel" else cls
    written = dict.fromkeys(list(inspect.signature(cls).parameters)) | dict(made(**arguments(own)).config)
    off = {"use_linear_projection": False, "only_cross_attention": False, "double_self_attention": False}
    written |= {field: value for field, value in off.items() if field in written}
    expected = own | {"sample_size": written["sample_size"]}
    assert CLASSES[name].read_config(written) == CLASSES[name].read_config(expected)


def arguments(config: dict) -> dict:
    return {name: value for name, value in config.items() if not name.startswith("_")}


def test_every_field_that_transformers_registers_is_known():
    transformers = pytest.importorskip("transformers")
    from transformers import GenerationConfig, PretrainedConfig

    own = {name: value for name, value in CONFIGS["text_encoder"].items() if name != "architectures"}
    written = transformers.T5Config(**own).to_dict()
    fields = PretrainedConfig().to_dict() | GenerationConfig()._get_default_generation_params() | written
    assert t5.read_config(fields) == t5.read_config(own)
    alias = transformers.T5Config(feed_forward_proj="gated-gelu_new")
    assert (alias.dense_act_fn, alias.is_gated_act) == ("gelu_new", True)


@pytest.mark.parametrize("name", ["T5EncoderModel", "T5ForConditionalGeneration", "T5Model"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_text_encoders_that_transformers_writes(pipeline, tmp_path, name, variant):
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, name)(transformers.T5Config(**arguments(CONFIGS["text_encoder"])))
    model.save_pretrained(tmp_path / "theirs", variant=variant, max_shard_size="5KB")
    assert len(list((tmp_path / "theirs").glob("*-of-*.safetensors"))) > 1
    params = checkpoint.load(pipeline, text_encoder=tmp_path / "theirs")
    encoder = {key: value.detach().numpy() for key, value in model.encoder.named_parameters()}
    table = encoder.pop("embed_tokens.weight")
    assert_same(params.text_encoder, {f"encoder.{key}": x for key, x in encoder.items()} | {"shared.weight": table})


@pytest.mark.parametrize("size", ["5KB", "1GB"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_pipelines_that_diffusers_writes(pipeline, tmp_path, variant, size):
    diffusers = pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel

    models = {"transformer": PixArtTransformer2DModel, "vae": AutoencoderKL}
    made = {name: cls(**arguments(CONFIGS[name])) for name, cls in models.items()}
    theirs = diffusers.PixArtSigmaPAGPipeline(None, None, scheduler=DPMSolverMultistepScheduler(), **made)
    theirs.save_pretrained(tmp_path / "theirs", variant=variant, max_shard_size=size)
    for source, parts in (
        (tmp_path / "theirs", {"text_encoder": None}),
        (pipeline, {"transformer": tmp_path / "theirs" / "transformer", "vae": tmp_path / "theirs"}),
    ):
        for asked in {None, variant}:
            if asked and source == pipeline:
                parts["variant"] = {"transformer": asked, "vae": asked}
            elif asked:
                parts["variant"] = asked
            params = checkpoint.load(source, **parts)
            for name, model in made.items():
                expected = {key: value.detach().numpy() for key, value in model.named_parameters()}
                assert_same(getattr(params, name), expected)
            assert params.config.pipeline == ("PixArtAlphaPipeline" if source == pipeline else "PixArtSigmaPipeline")
            assert params.config.scheduler["solver_order"] == theirs.scheduler.config.solver_order
