"""Adapters against NumPy: made, applied, merged and taken off again."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny, trees
from helpers.adapters import CONFIGS, KEY, NAMES, each, expected, filled, model, weights
from helpers.tolerances import assert_close

from pixart_fn import rng, tree
from pixart_fn.backend import jit
from pixart_fn.backend.autodiff import grad, value_and_grad
from pixart_fn.models import lora

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

# --- what an adapter is -----------------------------------------------------------------------------------------------


def test_targets_and_patterns_match_as_in_peft():
    config = lora.Config(
        rank=4, alpha=8, targets=["to_q", "^proj", "out.0"], rank_pattern={"1.to_q": 2}, alpha_pattern={"to_q": 6}
    )
    hits = [
        name for name in ("to_q", "a.1.to_q", "a.auto_q", "proj", "a.proj", "to_out.0", "out.0") if config.adapts(name)
    ]
    assert hits == ["to_q", "a.1.to_q", "proj", "out.0"]
    assert [config.rank_at(name) for name in ("a.1.to_q", "a.11.to_q")] == [2, 4]
    assert [config.scale_at(name) for name in ("a.1.to_q", "a.2.to_q", "proj")] == [3, 1.5, 2]
    assert lora.Config(rank=4, alpha=8, rslora=True).scale_at("x") == 4


def test_defaults_are_both_attentions_of_the_transformer():
    p = tiny.params()
    adapter = lora.init(KEY, p, lora.Config(rank=2))
    names = {path.rpartition(".lora_")[0] for path in tree.paths(adapter.weights)}
    parts = ("to_q", "to_k", "to_v", "to_out.0")
    assert names == {
        f"transformer.transformer_blocks.{i}.{a}.{part}" for i in (0, 1) for a in ("attn1", "attn2") for part in parts
    }
    every = lora.init(KEY, p.transformer, lora.Config(rank=2, targets=lora.AUTHORS))
    matrices = [name for name, leaf in tree.items(p.transformer) if name.endswith("weight")]
    assert {path.rpartition(".lora_")[0] + ".weight" for path in tree.paths(every.weights)} == set(matrices)


def test_init_is_pefts_and_changes_nothing():
    config = lora.Config(rank=64, targets=("to_q", "proj"), dora=True)
    adapter = lora.init(KEY, model(), config)
    leaves = trees.numbers(adapter.weights)
    A, conv = leaves["attn1.to_q.lora_A.weight"], leaves["proj.lora_A.weight"]
    assert A.shape == (64, 3) and conv.shape == (64, 2, 2, 2) and leaves["proj.lora_B.weight"].shape == (4, 64, 1, 1)
    for x, fan_in in ((A, 3), (conv, 8)):  # uniform within ±1/√I has the variance 1/(3 I)
        assert 0.9 < np.abs(x).max() * fan_in**0.5 <= 1
        assert abs(x.var() * 3 * fan_in - 1) < 0.2
    assert not any(leaves[name].any() for name in leaves if "lora_B" in name)
    W = weights()
    assert_close(leaves["attn1.to_q.lora_magnitude_vector.weight"], np.linalg.norm(W["attn1.to_q.weight"], axis=1))
    assert leaves["proj.lora_magnitude_vector.weight"].shape == (1, 4, 1, 1)
    for name, leaf in trees.numbers(lora.apply(model(), adapter)).items():
        assert_close(leaf, W[name])


def test_a_modules_numbers_depend_on_the_key_and_its_name_alone():
    one, two = (lora.init(KEY, model(), lora.Config(targets=t)) for t in (("to_v",), ("to_q", "to_v")))
    other = lora.init(rng.key(1), model(), lora.Config(targets=("to_v",)))
    a, b, c = (each.weights["attn2"]["to_v"]["lora_A"]["weight"].asnumpy() for each in (one, two, other))
    assert (a == b).all() and not (a == c).any()
    q = two.weights["attn1"]["to_q"]["lora_A"]["weight"].asnumpy()
    assert not np.isclose(a.ravel()[:48] * 4**0.5, q.ravel()[:48] * 3**0.5, rtol=1e-4).any()


def test_an_adapter_is_a_tree_of_its_weights():
    adapter = filled(CONFIGS["dora"][0])
    doubled = tree.map(lambda leaf: leaf * 2, adapter)
    assert type(doubled) is lora.Adapter and doubled.config is adapter.config
    np.testing.assert_array_equal(
        doubled.weights["proj"]["lora_A"]["weight"].asnumpy(), 2 * adapter.weights["proj"]["lora_A"]["weight"].asnumpy()
    )
    assert repr(adapter) == "Adapter(DoRA, rank 2, alpha 3, 3 modules, 60 numbers)"


# --- apply and merge --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("f", [lora.apply, lora.merge])
@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_apply_and_merge_are_the_formula(kind, f, weight):
    config, scale = CONFIGS[kind]
    p, adapter, W = model(), filled(config), weights()
    found = trees.numbers(f(p, adapter, weight))
    assert list(found) == list(W)
    for name in NAMES:
        assert_close(found[f"{name}.weight"], expected(W[f"{name}.weight"], *each(adapter, name), weight * scale))
    changed = f(p, adapter)
    assert changed["table"] is p["table"] and changed["attn1"]["to_q"]["bias"] is p["attn1"]["to_q"]["bias"]
    trees.assert_same(p, tree.nest(W))  # the tree that was given


def test_merge_adds_what_each_adapter_changes_in_any_order():
    p, W = model(), weights()
    adapters = [filled(CONFIGS[kind][0], seed=i) for i, kind in enumerate(CONFIGS)]
    factors = [0.5, 2.0, -1.0]
    found = trees.numbers(lora.merge(p, adapters, factors))
    for name in NAMES:
        w = W[f"{name}.weight"]
        sums = sum(
            expected(w, *each(a, name), f * scale) - w
            for a, f, (_, scale) in zip(adapters, factors, CONFIGS.values(), strict=True)
        )
        assert_close(found[f"{name}.weight"], w + sums)
    for name, leaf in trees.numbers(lora.merge(p, adapters[::-1], factors[::-1])).items():
        assert_close(leaf, found[name])


@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_unmerge_restores(kind):
    p, adapters = model(), [filled(CONFIGS[kind][0], seed=i) for i in (0, 1)]
    back = lora.unmerge(lora.merge(p, adapters, [0.7, -2]), adapters, [0.7, -2])
    for name, leaf in trees.numbers(back).items():
        assert_close(leaf, weights()[name], 1e-6)
    changed = trees.numbers(lora.unmerge(p, adapters[0]))
    np.testing.assert_allclose(changed["proj.weight"], trees.numbers(lora.merge(p, adapters[0], -1))["proj.weight"])


def test_dora_cant_be_taken_off():
    with pytest.raises(ValueError, match=r"^adapter is DoRA, which can't be taken off: .*keep the tree from before"):
        lora.unmerge(model(), [filled(CONFIGS["lora"][0]), filled(CONFIGS["dora"][0])])


def test_rows_of_zeros_stay_finite_with_dora():
    """The transformer's zero weights, where text enters at the beginning of a training."""
    p = tree.map(lambda leaf: leaf * 0, model())
    adapter = lora.init(KEY, p, CONFIGS["dora"][0])
    gradients = grad(lambda a: sum((leaf * leaf).sum() for leaf in tree.leaves(lora.apply(p, a))))(adapter)
    assert all(np.isfinite(leaf).all() for leaf in trees.numbers(gradients).values())
    assert not any(leaf.any() for leaf in trees.numbers(lora.merge(p, adapter)).values())


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    p = tree.map(lambda leaf: leaf.astype(dtype), model())
    adapter = filled(CONFIGS["dora"][0])
    wide = lora.merge(tree.map(lambda leaf: leaf.float(), p), adapter)
    for f in (lora.apply, lora.merge):
        found = f(p, adapter)
        for (name, leaf), (_, exact) in zip(tree.items(found), tree.items(wide), strict=True):
            assert leaf.dtype == dtype, name
            assert_close(leaf.float().asnumpy(), exact.float().asnumpy(), 2.0**-8 if dtype == ms.bfloat16 else 2.0**-11)


def test_numpy_trees_are_merged_and_stay_numpy():
    p = tree.nest(weights())
    found, adapter = lora.merge(p, filled(CONFIGS["dora"][0])), filled(CONFIGS["dora"][0])
    assert all(type(leaf) is np.ndarray and leaf.dtype == np.float32 for leaf in tree.leaves(found))
    trees.assert_same(found, lora.merge(model(), adapter))
    with pytest.raises(TypeError, match=r"tree must hold Tensors, got an ndarray at attn1.to_q.weight; px.tree.map"):
        lora.apply(p, adapter)
    with pytest.raises(ValueError, match=r"beyond 65504, the largest number of its dtype; give a smaller weight"):
        lora.merge(tree.map(lambda leaf: leaf.astype(np.float16), p), filled(CONFIGS["lora"][0]), 1e6)


def test_of_params_the_models_that_the_adapter_is_for():
    p = tiny.params()
    bare = filled(lora.Config(rank=2), p.transformer)
    both = filled(lora.Config(rank=2, targets=("to_q", "SelfAttention.q")), p)
    t5s = filled(lora.Config(rank=2, targets=("wi_0",)), p.text_encoder)
    assert set(both.weights) == {"transformer", "text_encoder"}
    for f in (lora.apply, lora.merge):
        found = f(p, bare)
        assert type(found) is type(p) and found.config is p.config
        assert all(a is b for a, b in zip(tree.leaves(found.vae), tree.leaves(p.vae), strict=True))
        trees.assert_same(found.transformer, f(p.transformer, bare))
        trees.assert_same(found.text_encoder, p.text_encoder)
        trees.assert_same(f(p, t5s).text_encoder, f(p.text_encoder, t5s))
        name = "encoder.block.0.layer.0.SelfAttention.q.weight"
        assert not np.array_equal(trees.numbers(f(p, both).text_encoder)[name], trees.numbers(p.text_encoder)[name])
        only = both.replace(weights={"transformer": both.weights["transformer"]})
        trees.assert_same(f(p.transformer, only), f(p, both).transformer)
    with pytest.raises(ValueError, match="for the transformer and the text encoder, so tree must be Params"):
        lora.apply(p.transformer, both)


def test_nothing_is_compiled():
    p = model()
    before = jit.compilations()
    for kind, (config, _) in CONFIGS.items():
        adapter = filled(config)
        value_and_grad(lambda a: lora.apply(p, a, 0.5)["proj"]["weight"].sum())(adapter)
        merged = lora.merge(p, [adapter, adapter], [0.5, 2])
        if kind != "dora":
            lora.unmerge(merged, adapter)
    assert jit.compilations() == before
