"""Adapters exchanged with peft and diffusers, live, and the outputs of a small transformer with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import tiny, trees
from helpers.adapters import KEY
from helpers.tolerances import assert_close
from safetensors import safe_open

from pixart_fn import tree
from pixart_fn.checkpoint import lora

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


def filled(p, **settings) -> lora.Adapter:
    adapter = lora.init(KEY, p, lora.Config(**settings))
    return tree.map_with_path(lambda name, leaf: ms.Tensor(trees.normal(len(name), *leaf.shape)), adapter)


TARGETS = {"attention": lora.ATTENTION, "authors": lora.AUTHORS}
KINDS = {"lora": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True}}


def theirs():
    """diffusers' transformer with our tiny weights, and inputs."""
    torch = pytest.importorskip("torch")
    from diffusers import PixArtTransformer2DModel

    from pixart_fn.models import transformer

    p, config = tiny.params().transformer, transformer.to_json(tiny.TRANSFORMER)
    model = PixArtTransformer2DModel.from_config(config).eval()
    weights = {name: torch.from_numpy(leaf.asnumpy().copy()) for name, leaf in tree.items(p)}
    assert not model.load_state_dict(weights, strict=False).missing_keys
    return torch, p, model


INPUTS = (trees.normal(1, 2, 4, 8, 8), np.float32([900, 3]), trees.normal(2, 2, 5, 32), np.ones((2, 5), np.int32))


def run_theirs(torch, model) -> np.ndarray:
    x, t, text, mask = map(torch.from_numpy, INPUTS)
    added = {"resolution": None, "aspect_ratio": None}
    with torch.no_grad():
        return model(x, text, t, added_cond_kwargs=added, encoder_attention_mask=mask).sample.numpy()


def run_ours(p) -> np.ndarray:
    from pixart_fn.models import transformer

    return transformer.apply(p, tiny.TRANSFORMER, *map(ms.Tensor, INPUTS)).asnumpy()


@pytest.mark.reference
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_pefts_adapter_gives_the_same_output_here_and_ours_there(tmp_path, kind, targets):
    torch, p, model = theirs()
    from peft import LoraConfig, PeftModel, get_peft_model

    patterns = {"rank_pattern": {"attn2.to_q": 2}, "alpha_pattern": {"0.attn1.to_v": 9}}
    settings = LoraConfig(r=4, lora_alpha=6, target_modules=list(TARGETS[targets]), **KINDS[kind], **patterns)
    plain = run_theirs(torch, model)
    wrapped = get_peft_model(model, settings).eval()
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape)
        elif "magnitude" in name:
            parameter.data *= 1 + 0.2 * torch.randn(parameter.shape)
    expected = run_theirs(torch, wrapped)
    assert np.abs(expected - plain).max() > 0.1
    wrapped.save_pretrained(tmp_path / "theirs")
    adapter = lora.load(tmp_path / "theirs")
    for f in (lora.apply, lora.merge):
        assert_close(run_ours(f(p, adapter)), expected, 1e-5)
    half = [module for module in wrapped.modules() if hasattr(module, "set_scale")]
    for module in half:
        module.set_scale("default", 0.5)
    assert_close(run_ours(lora.apply(p, adapter, 0.5)), run_theirs(torch, wrapped), 1e-5)

    lora.save(adapter, tmp_path / "ours")
    again = PeftModel.from_pretrained(theirs()[2], tmp_path / "ours").eval()
    assert_close(run_theirs(torch, again), expected, 1e-5)
    if kind != "dora":  # of which peft applies the second to what the first has made, with the lengths of neither
        again.load_adapter(tmp_path / "theirs", adapter_name="second")
        again.base_model.set_adapter(["default", "second"])
        assert_close(run_ours(lora.merge(p, [adapter, adapter])), run_theirs(torch, again), 1e-5)


@pytest.mark.reference
def test_init_is_pefts():
    _, p, model = theirs()
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=64, target_modules=list(lora.AUTHORS), use_dora=True))
    ours = trees.numbers(lora.init(KEY, p, lora.Config(rank=64, targets=lora.AUTHORS, dora=True)).weights)
    theirs_ = {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter.detach().numpy()
        for name, parameter in wrapped.named_parameters()
        if "lora_" in name
    }
    assert {name: leaf.shape for name, leaf in ours.items()} == {name: leaf.shape for name, leaf in theirs_.items()}
    for name, leaf in theirs_.items():
        if "lora_A" in name:
            assert (
                abs(leaf.std() / ours[name].std() - 1) < 0.1
                and abs(np.abs(leaf).max() / np.abs(ours[name]).max() - 1) < 0.02
            )
        else:
            np.testing.assert_allclose(ours[name], leaf, rtol=1e-5)


@pytest.mark.reference
def test_diffusers_reads_the_metadata_of_ours(tmp_path):
    """Its steps by hand, since its pipelines of PixArt load no adapters: LoraConfig(**metadata), then the tensors."""
    torch, p, model = theirs()
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file as load_torch

    adapter = filled(p, rank=2, alpha=3.0, targets=("to_q", "proj"), dora=True, alpha_pattern={"proj": 9.0})
    lora.save(adapter, tmp_path, layout="diffusers")
    with safe_open(tmp_path / lora.DIFFUSERS, "np") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    settings = LoraConfig(**{name.removeprefix("transformer."): value for name, value in metadata.items()})
    inject_adapter_in_model(settings, model)
    weights = {
        name.removeprefix("transformer."): value for name, value in load_torch(tmp_path / lora.DIFFUSERS).items()
    }
    assert not set_peft_model_state_dict(model, weights).unexpected_keys
    assert_close(run_ours(lora.apply(p, adapter)), run_theirs(torch, model), 1e-5)


def adapted(model, settings):
    """peft's model with numbers in place of the zeros that an adapter begins with."""
    import torch
    from peft import get_peft_model

    wrapped = get_peft_model(model, settings).eval()
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "lokr_" in name or "hada_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape)
    return wrapped


def check_weights(tree_, wrapped) -> None:
    """That peft merges to the same weights."""
    merged = {name: leaf.numpy() for name, leaf in wrapped.merge_and_unload().state_dict().items()}
    for name, leaf in trees.numbers(tree_).items():
        assert_close(leaf, merged[name])


@pytest.mark.reference
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LoHaConfig", {}),
        ("LoHaConfig", {"use_effective_conv2d": True}),
        ("LoKrConfig", {}),
        ("LoKrConfig", {"use_effective_conv2d": True, "decompose_both": True}),
        ("LoKrConfig", {"r": 64, "decompose_factor": 4}),
    ],
    ids=str,
)
def test_pefts_loha_and_lokr_give_the_same_output(tmp_path, kind, options):
    torch, p, model = theirs()
    import peft

    patterns = {"rank_pattern": {"attn2.to_q": 1}, "alpha_pattern": {"to_v": 9}}
    settings = getattr(peft, kind)(**{"r": 2, "alpha": 3, "target_modules": list(lora.AUTHORS), **patterns, **options})
    plain = run_theirs(torch, model)
    wrapped = adapted(model, settings)
    expected = run_theirs(torch, wrapped)
    assert np.abs(expected - plain).max() > 0.1
    wrapped.save_pretrained(tmp_path)
    adapter = lora.load(tmp_path)
    for f in (lora.apply, lora.merge):
        assert_close(run_ours(f(p, adapter)), expected, 1e-5)
    check_weights(lora.merge(p, adapter), wrapped)


def without_settings(tmp_path, file):
    with pytest.warns(UserWarning, match="8 is taken"):
        return lora.load(tmp_path / file)


@pytest.mark.reference
@pytest.mark.parametrize("tool", ["authors' trainer", "a model", "old names", "kohya"])
def test_what_diffusers_writes_gives_the_same_output(tmp_path, tool):
    torch, p, model = theirs()
    from diffusers import StableDiffusionPipeline
    from diffusers.loaders import PeftAdapterMixin
    from diffusers.utils import state_dict_utils
    from peft import LoraConfig, get_peft_model_state_dict
    from safetensors.torch import save_file

    settings = LoraConfig(r=4, lora_alpha=4 if tool == "kohya" else 8, target_modules=list(lora.AUTHORS))
    if tool == "a model":
        # whose mixin PixArt's lacks
        model.__class__ = type("Model", (type(model), PeftAdapterMixin), {})
        model.add_adapter(settings)
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = 0.2 * torch.randn(parameter.shape)
        model.save_lora_adapter(tmp_path)
        adapter, expected = lora.load(tmp_path), run_theirs(torch, model)
        assert_close(run_ours(lora.merge(p, adapter)), expected, 1e-5)
        return
    wrapped = adapted(model, settings)
    tensors = get_peft_model_state_dict(wrapped)
    bare = {name.removeprefix("base_model.model."): leaf for name, leaf in tensors.items()}
    if tool == "authors' trainer":
        StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=tensors)
        with safe_open(tmp_path / lora.DIFFUSERS, "np") as file:
            assert all(name.startswith("unet.base_model.model.") for name in [*file.keys()])
        adapter = without_settings(tmp_path, lora.DIFFUSERS)
    elif tool == "old names":
        old = state_dict_utils.convert_state_dict_to_diffusers(bare)
        assert any(name.endswith("to_q.lora.down.weight") for name in old)
        save_file(old, tmp_path / "a.safetensors")
        adapter = lora.load(tmp_path / "a.safetensors", alpha=8)
    else:
        named = state_dict_utils.convert_state_dict_to_kohya({f"unet.{name}": leaf for name, leaf in bare.items()})
        assert "lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight" in named
        save_file(named, tmp_path / "a.safetensors")
        adapter = lora.load(tmp_path / "a.safetensors")
    assert_close(run_ours(lora.merge(p, adapter)), run_theirs(torch, wrapped), 1e-5)
    check_weights(lora.merge(p, adapter), wrapped)
