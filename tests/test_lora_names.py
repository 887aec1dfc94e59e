"""Every tool's names of every module of the released models, and names that are read here by no means."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.adapter_names import FORMS, modules
from safetensors.numpy import save_file

from pixart_fn.checkpoint import lora
from pixart_fn.checkpoint.lora_names import read_names
from pixart_fn.models import t5, transformer

XL = transformer.Config(sample_size=128, interpolation_scale=2)
LAYERS = {"XL/2": XL, "900M": transformer.Config(num_layers=42, sample_size=128, use_additional_conditions=False)}
Q = "transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize("model", LAYERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_module_has_a_name_and_every_name_a_module(form, model):
    every, own = modules(LAYERS[model], t5.Config()), FORMS[form]
    assert [len(each) for each in every.values()] == ([291, 168] if model == "XL/2" else [427, 168])
    whats = ["A", "B", *(["alpha"] if own.alpha else [])]
    written = [(part, module) for part in own.parts for module in every[part]]
    names = dict.fromkeys(own.name(*each, what) for each in written for what in whats)
    found = read_names(names, "a.safetensors").modules
    targets = [target for module in found for target in module.targets]
    assert sorted(targets) == sorted(module if own.bare else f"{part}.{module}" for part, module in written)
    assert sorted(name for module in found for name in module.names.values()) == sorted(names)
    for part, module in written:  # each is that of its own name
        target = module if own.bare else f"{part}.{module}"
        where = next(each for each in found if target in each.targets)
        assert where.names["lora_A.weight"] == own.name(part, module, "A")


@pytest.mark.parametrize("kind", ["hada", "lokr"])
def test_lycoris_names_at_full_size(kind):
    parts = {
        "hada": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"),
        "lokr": ("lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha", "dora_scale"),
    }[kind]
    every = modules(XL, t5.Config())["transformer"]
    for start, peft in (("lycoris_", ""), ("lora_unet_", ""), ("base_model.model.", ".default")):
        names = [
            f"{start}{name.replace('.', '_') if '.' not in start else name}.{what}" for name in every for what in parts
        ]
        names = [name + peft if peft and not name.endswith(("alpha", "scale")) else name for name in names]
        found = read_names(names, "a.safetensors").modules
        assert len(found) == 291 and all(len(module.names) == len(parts) for module in found)


SD = "Stable Diffusion"
OTHERS = {
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": SD,
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight": SD,
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight": SD,
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": SD,
    "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.alpha": SD,
    "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": "Flux",
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": "Flux",
    "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": "Stable Diffusion 3",
    f"transformer.{Q}x.lora_A.weight": "",
    f"text_encoder.{Q}.lora_A.weight": "",
    "transformer.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight": "",
    "lora_te_shared.lora_down.weight": "",
    "lora_transformer_transformer_blocks_00_attn1_to_q.lora_down.weight": "",
    "lora_unet_blocks_0_attn_qkv_3.lora_down.weight": "",
}
UNKNOWN = {
    "base_model.model.shared.lora_embedding_A": "an adapter of an embedding, which isn't supported",
    f"base_model.model.{Q}.lora_B.bias": "a change of biases, which isn't supported",
    f"lycoris_{Q}.diff_b": "a change of biases",
    f"lycoris_{Q}.w_norm": "a change of norms",
    f"base_model.model.{Q}.oft_R.weight": "OFT, which isn't supported",
    f"lycoris_{Q}.oft_blocks": "OFT, which isn't supported",
    f"lycoris_{Q}.a1.weight": "GLoRA, which isn't supported",
    f"lycoris_{Q}.on_input": r"\(IA\)³, which isn't supported",
    "bundle_emb.cat.t5": "an embedding of OneTrainer",
    f"{Q}.weight": "a tensor of another kind",
    "a": "a tensor of another kind",
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_models_names_are_one_sentence(tmp_path, name):
    save_file({name: np.ones((2, 2), np.float16)}, tmp_path / "a.safetensors")
    whose = f", but {OTHERS[name]} has" if OTHERS[name] else ""
    sentence = f"holds '{name}', of a module that PixArt's transformer and T5 don't have{whose}; it belongs to another"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        lora.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_kinds_of_adapters_are_one_sentence(tmp_path, name):
    stored = {name: np.ones(2, np.float16), f"transformer.{Q}.x": np.ones(1, np.float32)}  # wider, so it comes first
    save_file(stored if "another" not in UNKNOWN[name] else {name: np.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=rf"a.safetensors holds {UNKNOWN[name]}.*, such as '{name}'; what is read here is LoRA"
    ):
        lora.load(tmp_path / "a.safetensors")


def test_one_change_in_two_names_is_one_sentence():
    for names, said in {
        (f"transformer.{Q}.lora_A.weight", f"unet.{Q}.lora_down.weight"): f"lora_A of {Q} twice, as",
        (f"{Q}.lora_A.default.weight", f"{Q}.lora_A.second.weight"): f"lora_A of {Q} twice, as",
        tuple(
            f"lora_unet_{name}.lora_{end}.weight" for name in ("blocks_0_attn_qkv", Q) for end in ("up", "down")
        ): f"a change of transformer.{Q} twice",
    }.items():
        with pytest.raises(ValueError, match=said):
            read_names(names, "a.safetensors")
