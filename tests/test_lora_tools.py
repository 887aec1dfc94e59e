"""Files as other tools name them: what they change, written out in NumPy; and their alpha."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from helpers import tiny, trees
from helpers.adapter_names import FORMS, ORDER
from helpers.tolerances import assert_close
from safetensors.numpy import save_file

from pixart_fn.checkpoint import lora, lora_tensors

TABLES = ("scale_shift_table", "shared.weight", "relative_attention_bias.weight")
Q = "transformer_blocks.0.attn1.to_q"
RANK, ALPHA = 3, 5.0


def originals(parts) -> dict[tuple[str, str], np.ndarray]:
    """The weights of every module of some models of the small pipeline."""
    return {
        (part, name.removesuffix(".weight")): leaf
        for part in parts
        for name, leaf in trees.numbers(getattr(tiny.params(), part)).items()
        if leaf.ndim in (2, 4) and not name.endswith(TABLES)
    }


def drawn(form: str, lengths: bool = False) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A tool's file, and what each weight should become; modules under one name share A and stack their B."""
    own, file, expected = FORMS[form], {}, {}
    for i, ((part, module), W) in enumerate(originals(own.parts).items()):
        O, *inner = W.shape
        start, tail = own.name(part, module, "A"), (1, 1) if W.ndim == 4 else ()
        A = file.setdefault(start, trees.normal(len(start), RANK, *inner))
        B, m = 0.3 * trees.normal(i, O, RANK, *tail), np.abs(trees.normal(i + 1, O)) + 0.5
        alpha = 1.0 + len(start) % 7 if own.alpha else ALPHA
        out = W.reshape(O, -1) + alpha / RANK * (B.reshape(O, -1).astype(np.float64) @ A.reshape(RANK, -1))
        stacked = {own.name(part, module, "B"): B}
        if lengths:
            out *= (m / np.linalg.norm(out, axis=1))[:, None]
            shape = (O, *([1] * (W.ndim - 1))) if own.alpha else (1, O, 1, 1) if tail else (O,)
            stacked[own.name(part, module, "lengths")] = m.reshape(shape)
        if own.alpha:
            file[own.name(part, module, "alpha")] = np.asarray(alpha)
        for name, leaf in stacked.items():
            assert name not in file or len(file[name]) == ORDER[module.split(".", 2)[-1]] * O
            file[name] = np.concatenate([file[name], leaf]) if name in file else leaf
        expected[f"{part}.{module}.weight"] = out.reshape(W.shape)
    return {name: np.asarray(leaf, np.float32) for name, leaf in file.items()}, expected


def check(params, expected) -> None:
    found = trees.numbers(params)
    for name, leaf in expected.items():
        assert_close(found[name], leaf)


def read(tmp_path, file, alpha=None, metadata=None) -> lora.Adapter:
    """The adapter of a file that says all that is needed, so that nothing is warned of."""
    save_file(file, tmp_path / "a.safetensors", metadata=metadata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return lora.load(tmp_path / "a.safetensors", alpha=alpha)


@pytest.mark.parametrize("form", FORMS)
def test_every_tools_file_changes_what_its_formula_says(tmp_path, form):
    file, expected = drawn(form)
    adapter = read(tmp_path, file, None if FORMS[form].alpha else ALPHA)
    assert len(expected) == len(originals(FORMS[form].parts))
    check(lora.merge(tiny.params(), adapter), expected)


@pytest.mark.parametrize(
    "form", ["OneTrainer", "kohya, authors' names", "peft, authors' model", "a pipeline of diffusers"]
)
def test_doras_rows_in_every_convention(tmp_path, form):
    file, expected = drawn(form, lengths=True)
    adapter = read(tmp_path, file, None if FORMS[form].alpha else ALPHA)
    assert adapter.config.dora
    check(lora.merge(tiny.params(), adapter), expected)


def test_columns_of_one_matrix_of_three_cant_be_split(tmp_path):
    file, _ = drawn("kohya, authors' names", lengths=True)
    for name, leaf in file.items():
        if name.endswith("dora_scale"):
            A = file[name.replace("dora_scale", "lora_down.weight")]
            file[name] = np.ones((1, A.shape[1], *leaf.shape[2:]), np.float32)
    with pytest.raises(
        ValueError, match=r"to_q: the lengths of columns are those of queries, keys and values together"
    ):
        read(tmp_path, file)


def lycoris(kind: str, O: int, I: int, seed: int) -> dict[str, np.ndarray]:
    """A LoHa, or a LoKr whose first factor has 6 rows, or 8, which aren't three times as many."""
    shapes = {"hada_w1_a": (O, 2), "hada_w1_b": (2, I), "hada_w2_a": (O, 2), "hada_w2_b": (2, I)}
    if kind != "ha":
        first = 8 if "8" in kind else 6
        shapes = {"lokr_w1": (first, 4), "lokr_w2_a": (O // first, 2), "lokr_w2_b": (2, I // 4)}
    return {what: 0.4 * trees.normal(seed + i, *shape) for i, (what, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("kind", ["ha", "kr", "kr8"])
def test_a_matrix_of_three_of_lycoris_is_split_exactly(tmp_path, kind):
    parts = lycoris(kind, 96, 32, 7)
    if kind == "ha":
        change = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    else:
        change = np.kron(parts["lokr_w1"], parts["lokr_w2_a"] @ parts["lokr_w2_b"])
    file = {f"lora_unet_blocks_0_attn_qkv.{what}": leaf for what, leaf in parts.items()}
    adapter = read(tmp_path, {**file, "lora_unet_blocks_0_attn_qkv.alpha": np.float32([3])})
    W = originals(["transformer"])
    names = [f"transformer_blocks.0.attn1.to_{letter}" for letter in "qkv"]
    check(
        lora.merge(tiny.params(), adapter),
        {
            f"transformer.{name}.weight": W["transformer", name] + 1.5 * change[32 * i : 32 * i + 32]
            for i, name in enumerate(names)
        },
    )
    wrong = {what: leaf[:4] if what in ("lokr_w1", "lokr_w2_a", "hada_w2_a") else leaf for what, leaf in parts.items()}
    with pytest.raises(ValueError, match=r"rows, which are to be split for 3 modules$"):
        read(tmp_path, {f"lora_unet_blocks_0_attn_qkv.{what}": leaf for what, leaf in wrong.items()}, 3.0)


def test_a_lokr_of_three_that_asks_for_much_memory_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(lora_tensors, "LARGEST", 96 * 32 - 1)
    file = {f"lora_unet_blocks_0_attn_qkv.{what}": leaf for what, leaf in lycoris("kr8", 96, 32, 7).items()}
    with pytest.raises(ValueError, match=r"to_q: LoKr of \(96, 32\) numbers$"):
        read(tmp_path, file, 3.0)


def test_what_three_share_is_a_copy_for_each(tmp_path):
    """Training writes into an adapter's memory."""
    file = {f"lora_unet_blocks_0_attn_qkv.{what}": leaf for what, leaf in lycoris("ha", 96, 32, 7).items()}
    leaves = trees.numbers(read(tmp_path, file, 3.0).weights)
    first, second = (leaves[f"transformer.transformer_blocks.0.attn1.to_{each}.hada_w1_b"] for each in "qk")
    assert (first == second).all() and not np.shares_memory(first, second)


def test_names_of_two_models_that_say_neither(tmp_path):
    file = {**pair(Q), **pair("encoder.block.0.layer.0.SelfAttention.q")}
    B_A = trees.normal(2, 32, 2).astype(np.float64) @ trees.normal(1, 2, 32)
    W = originals(["transformer", "text_encoder"])
    places = [("transformer", Q), ("text_encoder", "encoder.block.0.layer.0.SelfAttention.q")]
    expected = {f"{part}.{name}.weight": W[part, name] + B_A for part, name in places}
    check(lora.merge(tiny.params(), read(tmp_path, file, 2.0)), expected)


# --- alpha ------------------------------------------------------------------------------------------------------------


def pair(start: str, down: str = "lora_A", up: str = "lora_B") -> dict[str, np.ndarray]:
    return {f"{start}.{down}.weight": trees.normal(1, 2, 32), f"{start}.{up}.weight": trees.normal(2, 32, 2)}


def change(adapter, file) -> float:
    """By what the product is multiplied in effect."""
    B_A = next(leaf for name, leaf in file.items() if leaf.shape == (32, 2)) @ next(
        leaf for name, leaf in file.items() if leaf.shape == (2, 32)
    )
    W = originals(["transformer"])["transformer", Q]
    found = trees.numbers(lora.merge(tiny.params().transformer, adapter))[f"{Q}.weight"] - W
    scale = float((found * B_A).sum() / (B_A * B_A).sum())
    assert_close(found, scale * B_A, 1e-5)
    return scale


KOHYA = pair("lora_transformer_" + Q.replace(".", "_"), "lora_down", "lora_up")


@pytest.mark.parametrize(
    ("file", "scale", "said"),
    [
        (pair(f"unet.base_model.model.{Q}"), 4, "8 is taken, as ComfyUI does, where diffusers would take the rank, 2"),
        (pair(f"transformer.{Q}"), 4, "8 is taken"),
        (pair(f"base_model.model.{Q}"), 4, "8 is taken"),
        (KOHYA, 1, "the rank is taken, here 2, as the tools that write such names do"),
        (pair(f"unet.{Q}", "lora.down", "lora.up"), 1, "the rank is taken"),
    ],
)
def test_where_nothing_says_alpha_one_warning_does(tmp_path, file, scale, said):
    save_file(file, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=f"a.safetensors doesn't say alpha.*; {said}.*; alpha=… says another$") as seen:
        assert change(lora.load(tmp_path / "a.safetensors"), file) == pytest.approx(scale, 1e-5)
    assert len(seen) == 1 and seen[0].filename == __file__


def test_alpha_of_the_settings_beside_the_file(tmp_path):
    """The authors' trainer writes its own file and peft's settings into one folder."""
    file = pair(f"unet.base_model.model.{Q}")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["to_q"], "use_rslora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert change(read(tmp_path, file), file) == pytest.approx(3 / 2**0.5, 1e-5)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "r": 4}))
    with pytest.raises(
        ValueError, match=r"holds rank 2 for .*, and its settings say 4; they belong to different adapters"
    ):
        read(tmp_path, file)
    assert change(read(tmp_path, KOHYA, 7), KOHYA) == pytest.approx(3.5, 1e-5)  # which peft doesn't write


def test_alpha_of_kohyas_metadata(tmp_path):
    metadata = {"ss_network_alpha": "3.0", "ss_network_dim": "2"}
    assert change(read(tmp_path, KOHYA, None, metadata), KOHYA) == pytest.approx(1.5, 1e-5)
    assert change(read(tmp_path, KOHYA, None, {"ss_network_alpha": "3"}), KOHYA) == pytest.approx(1.5, 1e-5)
    for other in ({**metadata, "ss_network_dim": "4"}, {"ss_network_alpha": "None"}):
        with pytest.raises(UserWarning, match="the rank is taken, here 2"):
            read(tmp_path, KOHYA, None, other)
    with pytest.raises(ValueError, match=r"ss_network_alpha in the metadata of .* must be a number, got 'x'"):
        read(tmp_path, KOHYA, None, {"ss_network_alpha": "x"})
    alpha = {next(iter(KOHYA)).replace("lora_down.weight", "alpha"): np.asarray(5)}  # int64, as diffusers converts it
    assert change(read(tmp_path, {**KOHYA, **alpha}, None, metadata), KOHYA) == pytest.approx(2.5, 1e-5)
