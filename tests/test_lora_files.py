"""Adapters' files: written and read again, and read from what peft and diffusers write."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from helpers import tiny, trees
from helpers.tolerances import assert_close
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pixart_fn import rng, tree
from pixart_fn.checkpoint import lora

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

KEY = rng.key(0)
PEFT, DIFFUSERS = "adapter_model.safetensors", "pytorch_lora_weights.safetensors"
Q = "transformer_blocks.0.attn1.to_q"
SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["to_q"]}


def filled(p, **settings) -> lora.Adapter:
    adapter = lora.init(KEY, p, lora.Config(**settings))
    return tree.map_with_path(lambda name, leaf: ms.Tensor(trees.normal(len(name), *leaf.shape)), adapter)


def a_config(**changes) -> lora.Config:
    return lora.Config(**{"rank": 2, "alpha": 3, "targets": ("to_q",), **changes})


def tensors(prefix: str, *whats: str, rank: int = 2) -> dict[str, np.ndarray]:
    shapes = {"lora_A.weight": (rank, 32), "lora_B.weight": (32, rank), "lora_magnitude_vector": (32,), "alpha": ()}
    return {f"{prefix}{Q}.{what}": np.asarray(trees.normal(i, *shapes[what]) ** 2) for i, what in enumerate(whats)}


AB = ("lora_A.weight", "lora_B.weight")


def peft_folder(folder, settings=SETTINGS, names=AB, **more):
    folder.mkdir(exist_ok=True)
    save_file({**tensors("base_model.model.", *names), **more}, folder / PEFT)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


# --- written and read again -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["peft", "diffusers"])
@pytest.mark.parametrize("change", [{}, {"dora": True}, {"rslora": True}], ids=str)
def test_what_is_saved_is_loaded_again(tmp_path, layout, change):
    p = tiny.params()
    patterns = {"rank_pattern": {"attn2.to_q": 3, "pos_embed.proj": 1}, "alpha_pattern": {"0.attn1.to_q": 5.0}}
    adapter = filled(p.transformer, rank=2, alpha=3.0, targets=("to_q", "proj"), **patterns, **change)
    lora.save(adapter, tmp_path / "a", layout=layout)
    again = lora.load(tmp_path / "a")
    part = {"peft": p.transformer, "diffusers": p}[layout]
    prefix = {"peft": "", "diffusers": "transformer."}[layout]
    found = {name.removeprefix(prefix): leaf for name, leaf in trees.numbers(again.weights).items()}
    assert found.keys() == trees.numbers(adapter.weights).keys()
    for name, leaf in trees.numbers(adapter.weights).items():
        np.testing.assert_array_equal(found[name], leaf)
    ours, theirs = lora.merge(part, adapter), lora.merge(part, again)
    trees.assert_same(ours, theirs)
    lora.save(again, tmp_path / "b", layout=layout)
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()


def test_pefts_names_and_settings(tmp_path):
    adapter = filled(tiny.params().transformer, rank=2, alpha=3.0, targets=("to_q",), dora=True, rslora=True)
    lora.save(adapter, tmp_path / "new" / "a")
    names = load_file(tmp_path / "new" / "a" / PEFT)
    whats = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    blocks = [f"transformer_blocks.{i}.{a}.to_q" for i in (0, 1) for a in ("attn1", "attn2")]
    assert set(names) == {f"base_model.model.{block}.{what}" for block in blocks for what in whats}
    settings = json.loads((tmp_path / "new" / "a" / "adapter_config.json").read_text())
    expected = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["to_q"], "bias": "none"}
    assert settings.items() >= {**expected, "use_dora": True, "use_rslora": True, "fan_in_fan_out": False}.items()


def test_diffusers_one_file_holds_both_models(tmp_path):
    p = tiny.params()
    adapter = filled(p, rank=2, alpha=3.0, targets=("to_q", "wi_0"), alpha_pattern={"wi_0": 7.0})
    lora.save(adapter, tmp_path / "mine.safetensors", layout="diffusers")
    with safe_open(tmp_path / "mine.safetensors", "np") as file:
        names, metadata = [*file.keys()], file.metadata()
    assert {name.split(".")[0] for name in names} == {"transformer", "text_encoder"}
    settings = json.loads(metadata["lora_adapter_metadata"])
    assert settings["transformer.target_modules"] == ["to_q"] and settings["text_encoder.target_modules"] == ["wi_0"]
    wi = [f"encoder.block.{i}.layer.1.DenseReluDense.wi_0" for i in (0, 1)]
    assert settings["text_encoder.alpha_pattern"] == dict.fromkeys(wi, 7) and settings["transformer.lora_alpha"] == 3
    trees.assert_same(lora.merge(p, lora.load(tmp_path / "mine.safetensors")), lora.merge(p, adapter))
    with pytest.raises(ValueError, match=r"^layout='peft' is for the adapter of one model.*use 'diffusers'"):
        lora.save(adapter, tmp_path / "b")


def test_of_the_text_encoder_alone(tmp_path):
    p = tiny.params()
    adapter = filled(p.text_encoder, rank=2, targets=("SelfAttention.q",))
    for layout in ("peft", "diffusers"):
        lora.save(adapter, tmp_path / layout, layout=layout)
        trees.assert_same(lora.merge(p, lora.load(tmp_path / layout)), lora.merge(p, adapter))
    with safe_open(tmp_path / "diffusers" / DIFFUSERS, "np") as file:
        assert all(name.startswith("text_encoder.encoder.block.") for name in [*file.keys()])


def test_a_file_with_another_sha256_is_refused(tmp_path):
    lora.save(filled(tiny.params().transformer, rank=2, targets=("to_q",)), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    own = hashlib.sha256(file.read_bytes()).hexdigest()
    for source in (tmp_path, file):
        assert trees.numbers(lora.load(source, sha256=own).weights)
        with pytest.raises(ValueError, match=f"isn't the file that was meant: its sha256 isn't {own[::-1]}"):
            lora.load(source, sha256=own[::-1])


def test_a_folder_of_the_other_layout_is_left_alone(tmp_path):
    adapter = filled(tiny.params().transformer, rank=2)
    lora.save(adapter, tmp_path / "a")
    lora.save(adapter, tmp_path / "a")  # its own is replaced
    with pytest.raises(FileExistsError, match=r"folder .* holds an adapter in the other layout; save to a new one"):
        lora.save(adapter, tmp_path / "a", layout="diffusers")
    with pytest.raises(ValueError, match=r"layout='peft' writes two files, so folder can't be the name of one"):
        lora.save(adapter, tmp_path / "a.safetensors")


# --- what others write ------------------------------------------------------------------------------------------------


def merged(adapter):
    p = tiny.params().transformer
    change = lora.merge(p, adapter)["transformer_blocks"][0]["attn1"]["to_q"]["weight"].asnumpy()
    return change - p["transformer_blocks"][0]["attn1"]["to_q"]["weight"].asnumpy()


def product(prefix: str) -> np.ndarray:
    A, B = tensors(prefix, *AB).values()
    return B.astype(np.float64) @ A


def test_pefts_patterns_and_regular_targets(tmp_path):
    settings = {**SETTINGS, "r": 8, "target_modules": ".*attn.*", "rank_pattern": {"to_q": 2}, "lora_dropout": 0.1}
    for pattern in ({"attn1.to_q": 5}, {f"^{Q}": 5}):
        adapter = lora.load(peft_folder(tmp_path / "a", {**settings, "alpha_pattern": pattern}))
        assert_close(merged(adapter), 2.5 * product(""), 1e-5)


def test_alpha_comes_from_the_tensors_or_the_argument(tmp_path):
    file = tmp_path / "a.safetensors"
    for prefix in ("transformer.", ""):  # as a pipeline writes them, and as a model does
        save_file(tensors(prefix, *AB), file)
        assert_close(merged(lora.load(file, alpha=5)), 2.5 * product(prefix), 1e-5)
        with pytest.warns(
            UserWarning, match=r"a.safetensors doesn't say alpha.*; 8 is taken.*rank, 2; alpha=…"
        ) as seen:
            assert_close(merged(lora.load(file)), 4 * product(prefix), 1e-5)
        assert len(seen) == 1 and seen[0].filename == __file__
    stored = tensors("transformer.", *AB, "alpha")
    save_file(stored, file)
    said = float(stored[f"transformer.{Q}.alpha"])
    assert_close(merged(lora.load(file)), said / 2 * product("transformer."), 1e-5)
    with pytest.raises(ValueError, match=r"by its tensors, 5 by the argument; leave alpha out where the file says it"):
        lora.load(file, alpha=5)


def test_a_single_file_of_pefts_uses_the_settings_beside_it(tmp_path):
    folder = peft_folder(tmp_path / "a")
    assert_close(merged(lora.load(folder / PEFT)), 1.5 * product(""), 1e-5)
    (folder / "adapter_config.json").unlink()
    assert_close(merged(lora.load(folder, alpha=5)), 2.5 * product(""), 1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bias": "all"}, "asks for bias = 'all', which isn't supported \\(supported: 'none'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True"),
        (
            {"modules_to_save": ["proj_out"]},
            "modules_to_save = \\['proj_out'\\], which isn't supported \\(it must be off",
        ),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"peft_type": "VERA"}, "peft_type = 'VERA'"),
        ({"peft_type": "LOHA"}, "lora_alpha = 3, which isn't supported"),
        ({"peft_type": "LOKR", "lora_alpha": None}, "must say r and alpha, and lacks alpha"),
        ({"use_of_tomorrow": 1}, "use_of_tomorrow = 1"),
        ({"lora_alpha": None}, "must say r and lora_alpha, and lacks lora_alpha"),
        ({"lora_alpha": "x"}, "adapter_config.json: alpha must be a number"),
        ({"r": 4}, "holds rank 2 for .*to_q, and its settings say 4"),
        ({"use_dora": True}, "must hold lora_magnitude_vector for each module with DoRA"),
        (
            {"rank_pattern": {"(a+)+": 2}},
            "rank_pattern names '\\(a\\+\\)\\+', and regular expressions aren't supported",
        ),
        ({"alpha_pattern": 3}, "alpha_pattern must be a dict"),
    ],
    ids=str,
)
def test_settings_that_arent_supported_are_one_sentence(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        lora.load(peft_folder(tmp_path / "a", {**SETTINGS, **change}))


def test_off_is_no_option(tmp_path):
    off = {"modules_to_save": None, "loftq_config": {}, "use_qalora": False, "megatron_core": "megatron.core"}
    assert lora.load(peft_folder(tmp_path / "a", {**SETTINGS, **off})).config.rank == 2


def test_a_file_that_isnt_whole_is_one_sentence(tmp_path):
    for names, said in {
        ("lora_A.weight",): "must hold lora_A and lora_B of each module, and for .*to_q holds one of them",
        (*AB, "lora_magnitude_vector"): "must hold lora_magnitude_vector for each module with DoRA",
    }.items():
        with pytest.raises(ValueError, match=said):
            lora.load(peft_folder(tmp_path / "a", names=names))
    with pytest.raises(ValueError, match=r"lora_magnitude_vector of proj_out twice"):
        twice = {
            f"base_model.model.proj_out.lora_magnitude_vector{end}": np.ones(2, np.float32) for end in ("", ".weight")
        }
        lora.load(peft_folder(tmp_path / "a", names=(), **twice))
    with pytest.raises(
        ValueError, match=r"adapter_model.safetensors: .*matrices of rank 2.*got \(2, 32\) and \(32, 3\)"
    ):
        wrong = {f"base_model.model.{Q}.lora_B.weight": np.ones((32, 3), np.float32)}
        lora.load(peft_folder(tmp_path / "a", **wrong))
    nan = {f"base_model.model.{Q}.lora_B.weight": np.full((32, 2), np.nan, np.float32)}
    with pytest.raises(ValueError, match=r"adapter_model.safetensors holds nan in .*lora_B"):
        lora.load(peft_folder(tmp_path / "a", **nan))


def test_where_there_is_no_adapter_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="is neither a folder nor a file"):
        lora.load(tmp_path / "nothing")
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(FileNotFoundError, match=f"has neither {PEFT} nor {DIFFUSERS}; it holds adapter_model.bin$"):
        lora.load(tmp_path)
    for name in (PEFT, DIFFUSERS):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"holds both {PEFT} and {DIFFUSERS}; give one of these files"):
        lora.load(tmp_path)


def test_diffusers_metadata_of_two_models(tmp_path):
    """Each model has its own rank, alpha and patterns."""
    ends = {"transformer": Q, "text_encoder": "encoder.block.0.layer.0.SelfAttention.q"}
    stored, settings = {}, {}
    for (part, name), rank in zip(ends.items(), (2, 3), strict=True):
        stored |= {f"{part}.{name}.lora_A.weight": trees.normal(rank, rank, 32)}
        stored |= {f"{part}.{name}.lora_B.weight": trees.normal(rank + 5, 32, rank)}
        settings |= {f"{part}.r": rank, f"{part}.lora_alpha": 10 * rank, f"{part}.peft_type": "LORA"}
    save_file(stored, tmp_path / DIFFUSERS, metadata={"lora_adapter_metadata": json.dumps(settings)})
    p, adapter = tiny.params(), lora.load(tmp_path)
    found = trees.numbers(lora.merge(p, adapter))
    for part, name in ends.items():
        B, A = (stored[f"{part}.{name}.lora_{f}.weight"].astype(np.float64) for f in "BA")
        assert_close(found[f"{part}.{name}.weight"], trees.numbers(p)[f"{part}.{name}.weight"] + 10 * B @ A)
    settings["transformer.use_rslora"] = True
    save_file(stored, tmp_path / DIFFUSERS, metadata={"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(ValueError, match="is rsLoRA for one model and not for the other"):
        lora.load(tmp_path)
    save_file(stored, tmp_path / DIFFUSERS, metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(ValueError, match=r"lora_adapter_metadata in .* isn't valid JSON"):
        lora.load(tmp_path)
