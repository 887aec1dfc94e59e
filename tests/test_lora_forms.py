"""LoHa, LoKr, whole differences and DoRA of rows and columns: against LyCORIS's own numbers, and their gradients."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from helpers import trees
from helpers.tolerances import assert_close
from reference.case import HERE
from safetensors.numpy import save_file

from pixart_fn import tree
from pixart_fn.backend import jit
from pixart_fn.backend.autodiff import value_and_grad
from pixart_fn.checkpoint import lora, lora_tensors
from pixart_fn.models import lora_forms

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

Q = "transformer_blocks.0.attn1.to_q"
STORED = np.load(HERE / "lora_lycoris.npz")
CASES: dict[str, dict[str, np.ndarray]] = {}
for key in STORED:
    CASES.setdefault(key.split("|")[0], {})[key.split("|")[1]] = STORED[key]


def loaded(tmp_path, case: dict[str, np.ndarray], prefix="lora_transformer_transformer_blocks_0_attn1_to_q"):
    """The adapter of a layer's tensors, and the tree with its weight."""
    tensors = {f"{prefix}.{what}": np.array(leaf) for what, leaf in case.items() if what not in ("W", "merged")}
    save_file(tensors, tmp_path / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter = lora.load(tmp_path / "a.safetensors")
    return adapter, tree.nest({f"{Q}.weight": ms.Tensor(case["W"])})


@pytest.mark.parametrize("name", CASES)
def test_every_form_is_what_lycoris_makes_of_it(tmp_path, name):
    adapter, p = loaded(tmp_path, CASES[name])
    merged = lora.merge(p, adapter)
    for changed in (merged, lora.apply(p, adapter)):
        assert_close(trees.numbers(changed)[f"{Q}.weight"], CASES[name]["merged"], 5e-7)
    if "dora_scale" not in CASES[name]:
        back = trees.numbers(lora.unmerge(merged, adapter))[f"{Q}.weight"]
        assert np.abs(back - CASES[name]["W"]).max() <= 2e-7 * np.abs(CASES[name]["merged"]).max()  # float32's rounding
        half = (CASES[name]["W"] + CASES[name]["merged"]) / 2
        assert_close(trees.numbers(lora.merge(p, adapter, 0.5))[f"{Q}.weight"], half, 5e-7)
    for layout in ("kohya", "comfyui"):
        lora.save(adapter, tmp_path / "again.safetensors", layout=layout)
        trees.assert_same(lora.merge(p, lora.load(tmp_path / "again.safetensors")), merged)


def test_pefts_settings_scale_what_lycoris_doesnt(tmp_path):
    """LoKr of two whole matrices, which in LyCORIS has the scale 1."""
    case = CASES["lokr two matrices"]
    stored = {f"base_model.model.{Q}.{what}": case[what] for what in ("lokr_w1", "lokr_w2")}
    save_file(stored, tmp_path / lora.WEIGHTS)
    settings = {"peft_type": "LOKR", "r": 4, "alpha": 6, "target_modules": ["to_q"], "decompose_factor": -1}
    (tmp_path / lora.CONFIG).write_text(json.dumps(settings))
    adapter, p = lora.load(tmp_path), tree.nest({f"{Q}.weight": ms.Tensor(case["W"])})
    changed = case["W"] + 1.5 * (case["merged"].astype(np.float64) - case["W"])
    assert_close(trees.numbers(lora.merge(p, adapter))[f"{Q}.weight"], changed)
    lora.save(adapter, tmp_path / "a.safetensors", layout="kohya")
    assert_close(trees.numbers(lora.merge(p, lora.load(tmp_path / "a.safetensors")))[f"{Q}.weight"], changed)


def test_pefts_names_without_settings_have_pefts_alpha(tmp_path):
    case = CASES["loha"]
    stored = {f"base_model.model.{Q}.{what}": leaf for what, leaf in case.items() if what.startswith("hada")}
    save_file(stored, tmp_path / lora.WEIGHTS)
    with pytest.warns(UserWarning, match="doesn't say alpha.*; 8 is taken"):
        adapter = lora.load(tmp_path)
    found = trees.numbers(lora.merge(tree.nest({f"{Q}.weight": ms.Tensor(case["W"])}), adapter))[f"{Q}.weight"]
    assert_close(found, case["W"] + 8 / 3 * (case["merged"].astype(np.float64) - case["W"]))


def test_what_an_adapter_is_shows_in_its_text(tmp_path):
    for name, said in {"loha": "LoHa, rank 2", "lokr": "LoKr, rank 2", "locon columns": "DoRA, rank 2"}.items():
        assert repr(loaded(tmp_path, CASES[name])[0]).startswith(f"Adapter({said}, alpha 3, 1 modules")


@pytest.mark.parametrize("name", ["loha convolution core", "lokr two products", "lokr convolution core", "full"])
def test_the_gradient_is_that_of_finite_differences(tmp_path, name):
    adapter, p = loaded(tmp_path, CASES[name])
    target = trees.normal(3, *CASES[name]["W"].shape)
    value, gradients = value_and_grad(
        lambda adapter: ((next(iter(tree.leaves(lora.apply(p, adapter)))) - ms.Tensor(target)) ** 2).sum()
    )(adapter)
    leaves = {
        path.removeprefix(f"transformer.{Q}."): leaf.astype(np.float64)
        for path, leaf in trees.numbers(adapter.weights).items()
    }
    scale = adapter.config.scale_at(Q)

    def distance(leaves):
        W = CASES[name]["W"].reshape(len(target), -1)
        return ((W + scale * lora_forms.product(leaves) - target.reshape(len(target), -1)) ** 2).sum()

    assert_close(np.float32(value.asnumpy()), distance(leaves), 1e-6)
    for path, gradient in trees.numbers(gradients.weights).items():
        what = path.removeprefix(f"transformer.{Q}.")
        along = trees.normal(5, *gradient.shape)
        ends = [distance(leaves | {what: leaves[what] + step * along}) for step in (1e-5, -1e-5)]
        assert_close(np.float32((gradient * along).sum()), (ends[0] - ends[1]) / 2e-5, 1e-4)


def test_merging_all_forms_adds_them_and_compiles_nothing(tmp_path):
    names = ["lokr", "lokr two products", "lokr square root", "lokr columns"]
    adapters, before = [loaded(tmp_path, CASES[name])[0] for name in names], jit.compilations()
    W = CASES["lokr"]["W"]
    p = tree.nest({f"{Q}.weight": ms.Tensor(W)})
    changes = [
        trees.numbers(lora.merge(p, each, w))[f"{Q}.weight"] - W
        for each, w in zip(adapters, (0.7, 0.3, 1, 2), strict=True)
    ]
    assert_close(trees.numbers(lora.merge(p, adapters, [0.7, 0.3, 1, 2]))[f"{Q}.weight"], W + sum(changes))
    lora.apply(p, adapters[0])
    assert jit.compilations() == before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("loha", {"hada_w2_b": np.ones((2, 4))}, r"must have matrices of rank 2, as its config says, got"),
        ("loha", {"hada_w2_a": np.ones((6, 3))}, r"must have matrices of rank 2"),
        ("loha convolution core", {"hada_t1": np.ones((3, 2, 2, 2))}, r"must have matrices of rank 2"),
        ("lokr", {"lokr_w2_a": np.ones((6, 3))}, r"must have matrices of rank 2"),
        ("lokr", {"lokr_w1": np.ones((4, 3, 1))}, r"must have matrices of rank 2"),
        ("lokr", {"lokr_w1": np.ones(4)}, "must hold a matrix as lora_.*lokr_w1, got the shape"),
        ("lokr", {"lokr_w1": None}, r"holds alpha, lokr_w2_a, lokr_w2_b for .*to_q, which is neither a whole LoRA nor"),
        ("loha", {"hada_t1": np.ones((2, 2, 2, 2))}, "which is neither a whole LoRA nor a LoHa, a LoKr or a diff"),
        ("loha", {"lora_mid.weight": np.ones((2, 2, 2, 2))}, "which is neither a whole LoRA nor"),
        ("locon", {"lora_mid.weight": np.ones((2, 2, 2, 2))}, r"to_q: lora_mid \(2, 2, 2, 2\) and lora_down \(2, 5\)"),
        ("locon rows", {"dora_scale": np.ones((4, 1))}, r"for .*to_q: dora_scale \(4, 1\) for a weight \(6, 5\)"),
        ("locon rows", {"lora_magnitude_vector": np.ones(6)}, "holds DoRA's lengths of .*to_q twice"),
        ("locon", {"alpha": np.ones(2)}, r"must hold one number as .*alpha, got the shape \(2,\)"),
        ("locon", {"alpha": np.zeros(())}, "alpha must be a finite number above 0|alpha must be within"),
    ],
)  # fmt: skip
def test_tensors_that_dont_fit_together_are_one_sentence(tmp_path, name, change, message):
    case = {**CASES[name], **{what: leaf if leaf is None else np.float32(leaf) for what, leaf in change.items()}}
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path, {what: leaf for what, leaf in case.items() if leaf is not None})


def test_a_change_of_another_weight_is_one_sentence(tmp_path):
    for name in ("loha", "lokr", "full"):
        adapter, _ = loaded(tmp_path, CASES[name])
        p = tree.nest({f"{Q}.weight": ms.Tensor(np.ones((7, 5), np.float32))})
        with pytest.raises(
            ValueError, match=r"change of .*to_q.weight must have the shape \(7, 5\) of the weight, got"
        ):
            lora.merge(p, adapter)
    adapter, _ = loaded(tmp_path, CASES["locon columns"])
    with pytest.raises(ValueError, match=r"lora_A of .*to_q.weight must have the shape \(2, 4\) for a weight \(6, 4\)"):
        lora.merge(tree.nest({f"{Q}.weight": ms.Tensor(np.ones((6, 4), np.float32))}), adapter)


def test_a_core_that_asks_for_much_memory_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(lora_tensors, "LARGEST", 31)
    with pytest.raises(ValueError, match=r"to_q: lora_mid \(2, 2, 2, 2\) and lora_down \(2, 4, 1, 1\)$"):
        loaded(tmp_path, CASES["locon convolution core"])


def test_alpha_of_what_isnt_scaled_is_one_sentence(tmp_path):
    save_file({f"transformer.{Q}.diff": CASES["full"]["diff"]}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"^alpha must be left out for .*whole and not scaled, got 3"):
        lora.load(tmp_path / "a.safetensors", alpha=3)


def test_only_one_layout_has_names_for_them(tmp_path):
    for name, what in {"lokr": "LoKr", "loha": "LoHa", "full": "diff", "locon columns": "DoRA of columns"}.items():
        for layout in ("peft", "diffusers"):
            with pytest.raises(
                ValueError, match=f"^layout='{layout}' has no names for {what}; use 'kohya' or 'comfyui'$"
            ):
                lora.save(loaded(tmp_path, CASES[name])[0], tmp_path / "b", layout=layout)
