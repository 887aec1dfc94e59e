"""Adapters that don't fit a model or their settings, each a sentence."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny, trees
from helpers.adapters import CONFIGS, KEY, filled, model, weights

import pixart_fn as px
from pixart_fn import tree
from pixart_fn.backend.autodiff import grad
from pixart_fn.models import lora, t5


def test_an_adapter_of_another_model_is_one_sentence():
    p, adapter = model(), filled(CONFIGS["lora"][0])
    more = {**weights(), "more.to_q.weight": np.ones((4, 3), np.float32)}
    bigger = filled(CONFIGS["lora"][0], trees.tensors(tree.nest(more)))
    with pytest.raises(ValueError, match=r"changes 1 of 4 modules that the tree hasn't.* another model: more.to_q$"):
        lora.apply(p, bigger)
    wide = {**weights(), "attn1.to_q.weight": np.ones((4, 5), np.float32)}
    with pytest.raises(
        ValueError, match=r"lora_A of attn1.to_q.weight must have the shape \(2, 5\) for a weight \(4, 5\)"
    ):
        lora.merge(trees.tensors(tree.nest(wide)), adapter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proj.lora_B.weight": None}, "must hold lora_A.weight, lora_B.weight for each module, and holds lora_A"),
        ({"proj.lora_C.weight": np.ones(1)}, "holds lora_A.weight, lora_B.weight, lora_C.weight for proj"),
        (
            {"proj.lora_A.weight": np.ones((3, 2, 2, 2))},
            r"proj must have matrices of rank 2, as its config says, got \(3",
        ),
        ({"weight": np.ones(1)}, "and holds weight for one without a name"),
        ({"proj.lora_B.weight": np.ones((4, 2))}, r"must have matrices of rank 2"),
        ({"proj.lora_B.weight": np.ones((5, 2, 1, 1))}, r"lora_B of proj.weight must have the shape \(4, 2, 1, 1\)"),
    ],
)
def test_an_adapter_that_isnt_whole_is_one_sentence(change, message):
    flat = {**trees.numbers(filled(CONFIGS["lora"][0]).weights), **change}
    adapter = lora.Adapter(tree.nest({k: v for k, v in flat.items() if v is not None}), CONFIGS["lora"][0])
    with pytest.raises(ValueError, match=message):
        lora.merge(model(), adapter)


def test_what_no_adapter_changes_is_one_sentence():
    p = tiny.params()
    for target, sentence in {
        "shared": "shared.weight is a table that is looked up",
        "layer_norm": "belongs to neither a linear nor a convolution",
        "nothing": "targets must name modules of the tree, got 'nothing'",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            lora.init(KEY, p.text_encoder, lora.Config(targets=(target,)))
    adapter = filled(lora.Config(rank=2, targets=("SelfAttention.q",)), p.text_encoder)
    for f in (lora.apply, lora.merge):
        with pytest.raises(ValueError, match=r"q.weight is int8 or still in its file, .*px.load\(stream=False\)"):
            f(t5.quantize(p.text_encoder), adapter)
    with pytest.raises(RuntimeError, match=r"merging can't be differentiated; px.lora.apply can be"):
        grad(lambda a: lora.merge(p, a).text_encoder["shared"]["weight"].sum())(adapter)
        with pytest.raises(ValueError, match="merge before the model is quantized"):
            f(t5.quantize(p.text_encoder), adapter)
    with pytest.raises(ValueError, match="one for each adapter, got 2 for 1"):
        lora.merge(p, adapter, [1, 2])
    with pytest.raises(ValueError, match="at least one adapter, got none"):
        lora.merge(p, [])
    with pytest.raises(TypeError, match=r"what px.lora.load gives, got 'a.safetensors'"):
        lora.merge(p, "a.safetensors")
    with pytest.raises(ValueError, match=r"the sum at .* is NaN: the adapter"):
        lora.merge(p, tree.map(lambda leaf: leaf * float("nan"), adapter))


@pytest.mark.parametrize(
    "bad", [{"rank": 0}, {"alpha": 0}, {"targets": []}, {"targets": [1]}, {"alpha_pattern": {"a": -1}}]
)
def test_settings_out_of_range_are_one_sentence(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        lora.Config(**bad)


@pytest.mark.parametrize("layout", ["peft", "diffusers", "kohya", "comfyui"])
def test_a_diverged_adapter_is_not_written(tmp_path, layout):
    adapter = px.lora.init(px.key(0), tiny.params().transformer, px.lora.Config(rank=2))
    broken = adapter.replace(weights=px.tree.map(lambda leaf: leaf * np.nan, adapter.weights))
    with pytest.raises(ValueError, match="holds NaN or infinity in transformer_blocks"):
        px.lora.save(broken, tmp_path / "there", layout=layout)
    assert not (tmp_path / "there").exists()
