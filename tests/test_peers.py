"""The tests that diffusers has for PixArt, and ours of the same thing; those that were missing are here.

Of diffusers 0.42, in its folder tests: pipelines/pixart_alpha, pipelines/pixart_sigma and pag/test_pag_pixart_sigma.py,
what they inherit from pipelines/test_pipelines_common.py, and models/transformers/test_models_pixart_transformer2d.py
with what it inherits from models/testing_utils.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import latents
from helpers.pipelines import CONFIGS, assert_same, weights_file, write_json
from safetensors.numpy import save_file

import pixart_fn as px
from pixart_fn import checkpoint, transformer

HERE = Path(__file__).parent

BINS = "test_pipeline_sizes::test_a_released_size_is_drawn_at_the_nearest_bin_then_resized_and_cropped"
PIPELINES = {
    "test_inference": "test_parity::test_twenty_guided_steps_follow_the_reference",
    "test_inference_non_square_images": "test_pipeline::test_an_oblong_picture_is_as_high_and_wide_as_asked",
    "test_inference_with_embeddings_and_multiple_images": "test_peers::test_texts_draw_without_the_text_encoder",
    "test_inference_with_multiple_images_per_prompt": "test_pipeline::test_pictures_of_one_prompt_stand_in_a_row",
    "test_raises_warning_for_mask_feature": "test_request::test_missing_and_superfluous_arguments_are_named",
    "test_inference_batch_single_identical": "test_pipeline::test_a_picture_of_a_batch_equals_the_same_alone",
    "test_pixart_1024": "test_full_size::test_a_pipeline_of_few_layers_agrees",
    "test_pixart_512": "test_full_size::test_a_transformer_agrees",
    "test_pixart_1024_without_resolution_binning": BINS,
    "test_pixart_512_without_resolution_binning": BINS,
    "test_fused_qkv_projections": "test_convert::test_what_is_loaded_computes_the_authors_formula",
    "test_pag_disable_enable": "test_peers::test_without_a_scale_perturbed_attention_is_off",
    "test_pag_applied_layers": "test_peers::test_each_block_that_is_perturbed_counts",
    "test_pag_inference": "test_reference_live::test_perturbed_attention",
    "test_save_load_local": "test_peers::test_a_pipeline_that_was_saved_draws_the_same_bits",
    "test_save_load_optional_components": "test_save::test_save_without_models",
    "test_components_function": "test_params::test_params_is_a_tree_of_its_models",
    "test_attention_slicing_forward_pass": "test_transformer::test_large_pictures_agree_with_diffusers",
    "test_dict_tuple_outputs_equivalent": "test_pipeline::test_types_of_the_result",
}
SHARED = {
    "test_pipeline_call_signature": "test_signatures::test_the_options_that_a_type_checker_sees_are_those_of_generate",
    "test_inference_batch_consistent": "test_pipeline::test_one_key_stands_for_its_split",
    "test_num_images_per_prompt": "test_pipeline::test_pictures_of_one_prompt_stand_in_a_row",
    "test_cfg": "test_pipeline::test_both_branches_are_one_evaluation_and_guidance_1_skips_the_negative",
    "test_callback_inputs": "test_request::test_on_step_sees_each_step_and_changes_nothing",
    "test_callback_cfg": "test_pipeline_guidance::test_a_scale_that_follows_t",
    "test_encode_prompt_works_in_isolation": "test_pipeline::test_generate_is_encode_then_sample_then_decode",
    "test_float16_inference": "test_half::test_a_picture_in_halves_is_the_picture",
    "test_save_load_float16": "test_half::test_halves_are_saved_and_loaded_again",
    "test_to_dtype": "test_half::test_load_gives_halves_but_for_the_outputs_of_feed_forward",
    "test_dtype_dict": "test_half::test_a_vae_that_asks_for_it_stays_float32",
    "test_serialization_with_variants": "test_save::test_narrow_round_trip_is_idempotent",
    "test_loading_with_variants": "test_load_parts::test_files_of_a_variant_alone",
    "test_loading_with_incorrect_variants_raises_error": "test_load_parts::test_variants_to_choose_from_are_named",
    "test_latents_input": "test_pipeline::test_injected_latents_stand_for_the_keys_noise",
    "test_pt_np_pil_outputs_equivalent": "test_pipeline::test_types_of_the_result",
    "test_pt_np_pil_inputs_equivalent": "test_request::test_numpy_goes_through_the_stages_and_denoisers",
    "test_karras_schedulers_shape": "test_pipeline_guidance::test_every_solver_draws",
    "test_vae_tiling": "test_vae_tiles::test_a_vae_is_tiled_as_in_diffusers",
    "test_vae_slicing": "test_vae::test_pictures_of_256_pixels_and_more_go_one_by_one",
    "test_multi_vae": "test_peers::test_three_pipelines_over_shared_weights_cost_the_memory_of_one",
    "test_from_pipe_consistent_forward_pass": "test_peers::test_pipelines_over_shared_weights_draw_as_if_alone",
    "test_sequential_cpu_offload_forward_pass": "test_stream::test_a_streamed_pipeline_draws_and_is_saved_again",
    "test_model_cpu_offload_forward_pass": "test_stream::test_streamed_states_are_those_of_the_weights_in_memory",
    "test_group_offloading_inference": "test_stream::test_two_layers_are_held_at_most",
    "test_layerwise_casting_inference": "test_int8::test_it_draws_nearly_the_same_picture_in_a_quarter_of_the_memory",
}
MODELS = {
    "test_from_save_pretrained": "test_save::test_save_and_load_again",
    "test_from_save_pretrained_variant": "test_load_parts::test_one_half_precision_variant_alone_needs_no_asking",
    "test_from_save_pretrained_dtype_inference": "test_half::test_module_agrees_with_the_reference",
    "test_determinism": "test_pipeline::test_the_same_twice_is_the_same_bits",
    "test_output": "test_parity::test_module_agrees_with_the_reference",
    "test_keep_in_fp32_modules": "test_half::test_load_gives_halves_but_for_the_outputs_of_feed_forward",
    "test_sharded_checkpoints": "test_checkpoint::test_shards",
    "test_sharded_checkpoints_with_variant": "test_load_parts::test_files_of_a_variant_alone",
    "test_correct_class_remapping": "test_peers::test_the_older_class_is_the_same_model",
    "test_training": "test_gradients::test_every_leaf_agrees_with_torch",
    "test_training_with_ema": "test_optim::test_the_average_starts_with_the_parameters_own_numbers",
    "test_gradient_checkpointing_equivalence": (
        "test_gradients::test_a_block_that_keeps_what_it_computed_has_the_same_gradient"
    ),
    "test_mixed_precision_training": "test_step::test_halves_have_the_gradient_of_float32_weights",
    "test_cached_files_are_used_when_no_internet": "test_hub::test_the_cache_serves_where_the_hub_does_not",
    "test_local_files_only_with_sharded_checkpoint": "test_hub_offline::test_an_incomplete_cache_says_so",
}
APART = {
    "test_xformers_attention_forwardGenerator_pass": "another library's kernel",
    "test_freeu": "for U-Nets",
    "test_to_device": "weights have one place here",
    "test_pipeline_with_accelerator_device_map": "weights have one place here",
    "test_model_parallelism": "workers hold whole models here",
    "test_get_set_processor": "attention is a function here, and has no processor to set",
    "test_getattr_is_correct": "a configuration is a dataclass here",
    "test_pixart_512_neuron_compile": "another accelerator",
}
"""Tests of what isn't here, and why."""


@pytest.mark.parametrize("named", sorted({*PIPELINES.values(), *SHARED.values(), *MODELS.values()}))
def test_every_test_that_is_named_exists(named):
    module, name = named.split("::")
    assert name in functions(module)


@functools.cache
def functions(module: str) -> set[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_each_test_of_theirs_is_named_once():
    theirs = [*PIPELINES, *SHARED, *MODELS, *APART]
    assert len(theirs) == len({*theirs}) and all(name.startswith("test_") for name in theirs)


# --- those that were missing ------------------------------------------------------------------------------------------


def test_texts_draw_without_the_text_encoder(tmp_path):
    """Several pictures of one text, from a pipeline that holds neither encoder nor tokenizer, also once saved."""
    params, options = tiny.params(), {"negative": None, "guidance": 1, "steps": 2, "progress": False}
    text = px.Text(*(part.repeat_interleave(2, 0) for part in px.encode_prompt(params, "a cute cat")))
    alone = params.replace(text_encoder=None, tokenizer=None)
    drawn = px.sample_latents(alone, text, px.key(0), **options).asnumpy()
    assert drawn.shape == (2, 4, 8, 8) and not np.allclose(*drawn, atol=1e-3)
    px.save(alone, tmp_path / "alone")
    saved = px.load(tmp_path / "alone", text_encoder=None)
    assert saved.text_encoder is None
    assert np.array_equal(px.sample_latents(saved, text, px.key(0), **options).asnumpy(), drawn)
    two = {"images_per_prompt": 2, "guidance": 1, "steps": 2, "output": "latents", "progress": False}
    assert np.array_equal(px.generate(params, "a cute cat", px.key(0), **two).asnumpy(), drawn)


def test_a_pipeline_that_was_saved_draws_the_same_bits(tmp_path):
    px.save(tiny.params(), tmp_path / "saved")
    assert np.array_equal(latents(px.load(tmp_path / "saved"), steps=1), latents(tiny.params(), steps=1))


def test_without_a_scale_perturbed_attention_is_off():
    params = tiny.params()
    plain, off, on = (
        latents(params, steps=1, guidance=px.Guidance(**more)) for more in ({}, {"pag_scale": 0.0}, {"pag_scale": 3.0})
    )
    assert np.array_equal(off, plain) and np.abs(on - plain).max() > 1e-3


def test_each_block_that_is_perturbed_counts():
    params = tiny.params()
    drawn = {
        blocks: latents(params, steps=1, guidance=px.Guidance(pag_scale=3.0, pag_layers=blocks))
        for blocks in ((0,), (1,), (0, 1), (1, 0), None)
    }
    middle = params.config.transformer.num_layers // 2
    assert np.array_equal(drawn[None], drawn[(middle,)]) and np.array_equal(drawn[0, 1], drawn[1, 0])
    for one, other in itertools.combinations(((0,), (1,), (0, 1)), 2):
        assert np.abs(drawn[one] - drawn[other]).max() > 1e-3


def test_the_older_class_is_the_same_model(pipeline):
    """Released transformers name a class that diffusers has split since, with fields of its other models."""
    file = pipeline / "transformer" / "config.json"
    old = {**CONFIGS["transformer"], "norm_num_groups": 32, "num_vector_embeds": None, "only_cross_attention": False}
    assert json.loads(file.read_text())["_class_name"] == "Transformer2DModel"
    found = []
    for content in (CONFIGS["transformer"], old, {**CONFIGS["transformer"], "_class_name": "PixArtTransformer2DModel"}):
        write_json(file, content)
        found.append(checkpoint.load(pipeline))
    assert found[0].config.transformer == found[1].config.transformer == found[2].config.transformer
    for params in found[1:]:
        assert_same(params.transformer, {name: leaf.asnumpy() for name, leaf in px.tree.items(found[0].transformer)})


def test_pipelines_over_shared_weights_draw_as_if_alone(tmp_path):
    """Another scheduler or VAE over the same trees changes neither them nor what the first pipeline draws."""
    params = tiny.params()
    before = latents(params, steps=2)
    ddim = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    other = params.replace(config=dataclasses.replace(params.config, scheduler=ddim))
    assert all(getattr(other, name) is getattr(params, name) for name in params.TREES)
    px.save(params, tmp_path / "saved")
    loaded = px.load(tmp_path / "saved", scheduler=ddim)
    assert np.array_equal(latents(other, steps=2), latents(loaded, steps=2))
    assert np.array_equal(latents(params, steps=2), before) and not np.allclose(
        latents(other, steps=2), before, atol=1e-3
    )


WIDE = transformer.Config(
    num_attention_heads=8, attention_head_dim=64, num_layers=4, cross_attention_dim=512, sample_size=8,
    caption_channels=32,
)  # fmt: skip
SHARING = """
import dataclasses, json, pathlib, re, sys
import numpy as np
import pixart_fn as px
from mindspore import Tensor
from pixart_fn.backend import jit
jit.FIRST_CALLS = 0

def mib():
    "Of this process: its own pages, and of those of a file that it maps several times, each once."
    said = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\\d+) kB", said, re.M)[1]) / 1024

def costs(params):
    before = mib()
    px.generate(params, "a cute cat", px.key(0), steps=2, output="latents", progress=False)
    return mib() - before

ddim = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
one = px.load(sys.argv[1])
costs(one)  # with the graphs
replaced = one.replace(config=dataclasses.replace(one.config, scheduler=ddim))
loaded = px.load(sys.argv[1], scheduler=ddim)
found = {"again": costs(one), "replaced": costs(replaced), "loaded": costs(loaded)}
before = mib()
copy = px.tree.map(lambda leaf: Tensor.from_numpy(leaf.asnumpy().copy()), one.transformer)
found["copied"] = mib() - before
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_three_pipelines_over_shared_weights_cost_the_memory_of_one(tmp_path):
    """73 MiB of weights: a second scheduler over the same trees, and the same files loaded again, which are mapped."""
    px.save(tiny.params(), tmp_path / "wide")
    random = np.random.default_rng(0)
    shapes = transformer.shapes(WIDE)
    weights = {name: random.standard_normal(shape, np.float32) * np.float32(0.02) for name, shape in shapes.items()}
    save_file(weights, weights_file(tmp_path / "wide", "transformer"))
    write_json(tmp_path / "wide" / "transformer" / "config.json", transformer.to_json(WIDE))
    size = sum(each.nbytes for each in weights.values()) / 2**20
    code = [sys.executable, "-c", SHARING, str(tmp_path / "wide")]
    done = subprocess.run(code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["copied"] > 0.9 * size > 60, "the measure sees a copy"
    for how in ("again", "replaced", "loaded"):
        assert found[how] < 0.1 * size, found
