"""ControlNets in files: diffusers' research folder, the authors' .pth, and what is neither."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.hub import Hub
from safetensors.numpy import load_file, save_file

from pixart_fn import rng, tree
from pixart_fn.checkpoint import controlnet
from pixart_fn.files import pth

CONFIG = controlnet.Config(2, 2, 6)
D = CONFIG.width
SHAPES = controlnet.shapes(CONFIG)
WEIGHTS = {
    name: rng.normal(rng.fold_in(rng.key(0), i), shape).astype(np.float32)
    for i, (name, shape) in enumerate(SHAPES.items())
}
JOINED = {"attn.qkv": ("attn1", "to_q to_k to_v"), "cross_attn.kv_linear": ("attn2", "to_k to_v")}
ALONE = {
    **{"attn.proj": "attn1.to_out.0", "cross_attn.q_linear": "attn2.to_q", "cross_attn.proj": "attn2.to_out.0"},
    **{"mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2"},
}


def authors() -> dict[str, np.ndarray]:
    """The same tensors by the authors' names, with a transformer's beside them."""
    out = {"base_model.pos_embed": np.ones((1, 4, D), np.float32), "base_model.blocks.0.mlp.fc1.bias": np.ones(3)}
    out = {name: value.astype(np.float32) for name, value in out.items()}
    for i in range(CONFIG.num_layers):
        ours, theirs = f"controlnet_blocks.{i}.transformer_block.", f"controlnet.{i}.copied_block."
        out[f"{theirs}scale_shift_table"] = WEIGHTS[f"{ours}scale_shift_table"]
        for kind in ("weight", "bias"):
            for name, (home, parts) in JOINED.items():
                each = [WEIGHTS[f"{ours}{home}.{part}.{kind}"] for part in parts.split()]
                out[f"{theirs}{name}.{kind}"] = np.concatenate(each)
            for name, other in ALONE.items():
                out[f"{theirs}{name}.{kind}"] = WEIGHTS[f"{ours}{other}.{kind}"]
            out[f"controlnet.{i}.after_proj.{kind}"] = WEIGHTS[f"controlnet_blocks.{i}.after_proj.{kind}"]
            if i == 0:
                out[f"controlnet.0.before_proj.{kind}"] = WEIGHTS[f"controlnet_blocks.0.before_proj.{kind}"]
    return out


def folder(path: Path, config: dict | None = None, weights: dict | None = None) -> Path:
    path.mkdir(parents=True)
    content = {"_class_name": "PixArtControlNetAdapterModel", "_diffusers_version": "0.32.0", "num_layers": 2}
    content |= {"num_attention_heads": 2, "attention_head_dim": 6} if config is None else config
    (path / "config.json").write_text(json.dumps(content))
    save_file(WEIGHTS if weights is None else weights, path / "diffusion_pytorch_model.safetensors")
    return path


def assert_same(found):
    p, config = found
    leaves = dict(tree.items(p))
    assert config == CONFIG and list(leaves) == list(SHAPES)
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf.asnumpy(), WEIGHTS[name])


def test_a_file_in_halves_is_read_as_what_halves_hold(tmp_path):
    controlnet.save(tree.nest(WEIGHTS), CONFIG, tmp_path, dtype="float16")
    stored = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    for name, leaf in tree.items(controlnet.load(tmp_path)[0]):
        assert stored[name].dtype == np.float16
        np.testing.assert_array_equal(leaf.asnumpy(), WEIGHTS[name].astype(np.float16).astype(np.float32))


def test_a_revision_is_asked_for_and_belongs_to_the_hub(tmp_path, monkeypatch):
    net = folder(tmp_path / "net")
    hub = Hub({"owner/net": net}, tmp_path / "cache").put_in_place(monkeypatch)
    assert_same(controlnet.load("owner/net", revision="v2"))
    assert {(repo, revision) for repo, revision, _ in hub.downloads} == {("owner/net", "v2")}
    (tmp_path / "net.pth").write_bytes(b"")
    for source in (net, tmp_path / "net.pth"):
        with pytest.raises(ValueError, match="revision='v2' belongs to a hub id, and "):
            controlnet.load(source, revision="v2")
    with pytest.raises(ValueError, match="revision='v2' belongs to a hub id; the embedded checkpoint has none"):
        controlnet.load(revision="v2")


def test_without_a_source_it_is_the_embedded_checkpoint_s():
    p, config = controlnet.load()
    assert config == controlnet.Config(1, 5, 64)
    assert {name: leaf.shape for name, leaf in tree.items(p)} == controlnet.shapes(config)
    assert np.abs(p["controlnet_blocks"][0]["after_proj"]["weight"].asnumpy()).max() > 0.01


def test_a_folder_alone_and_in_a_pipeline(tmp_path):
    folder(tmp_path / "pipeline" / "controlnet")
    assert_same(controlnet.load(tmp_path / "pipeline"))
    assert_same(controlnet.load(str(tmp_path / "pipeline" / "controlnet")))


def test_the_authors_file(tmp_path):
    for name, content in (("one.pth", {"state_dict": authors(), "info": {}}), ("two.pt", authors())):
        pth.write(tmp_path / name, content)
        assert_same(controlnet.load(tmp_path / name, heads=2))


def test_halves_become_float32(tmp_path):
    pth.write(tmp_path / "half.pth", {name: value.astype(np.float16) for name, value in authors().items()})
    p, _ = controlnet.load(tmp_path / "half.pth", heads=2)
    for name, leaf in tree.items(p):
        np.testing.assert_array_equal(leaf.asnumpy(), WEIGHTS[name].astype(np.float16).astype(np.float32))


def test_save_and_load(tmp_path):
    p, config = controlnet.load(folder(tmp_path / "old"))
    controlnet.save(p, config, tmp_path / "new")
    assert_same(controlnet.load(tmp_path / "new"))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        *("config.json", "diffusion_pytorch_model.safetensors")
    ]
    assert load_file(tmp_path / "new" / "diffusion_pytorch_model.safetensors").keys() == WEIGHTS.keys()
    controlnet.save(tree.nest(WEIGHTS), config, tmp_path / "new")  # arrays, over what is there
    assert_same(controlnet.load(tmp_path / "new"))
    (tmp_path / "new" / "diffusion_pytorch_model.fp16.safetensors").touch()
    with pytest.raises(FileExistsError, match=r"holds other weights \(diffusion_pytorch_model.fp16.safetensors\)"):
        controlnet.save(p, config, tmp_path / "new")
    with pytest.raises(ValueError, match="after_proj"):
        controlnet.save({}, config, tmp_path / "another")


def test_the_released_size():
    """13 blocks of 1152: of each 16 D² of matrices in attention and MLP, 8 D and 5 D of biases, and a table of 6 D."""
    shapes = controlnet.shapes(controlnet.Config())
    D = 1152
    assert sum(np.prod(shape) for shape in shapes.values()) == 13 * (16 * D * D + 19 * D) + 14 * (D * D + D)
    assert dict(controlnet.to_json(controlnet.Config())) == {
        "_class_name": "PixArtControlNetAdapterModel",
        "num_layers": 13,
    }
    assert controlnet.read_config({"_class_name": "PixArtControlNetAdapterModel"}) == controlnet.Config()


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in authors().items() if key != name}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (without("controlnet.1.after_proj.bias"), "controlnet_blocks.1.after_proj.bias"),
        (without("controlnet.0.before_proj.weight"), "lacks the matrix controlnet.0.before_proj.weight"),
        (without("controlnet.1.copied_block.attn.qkv.weight"), "controlnet_blocks.1.transformer_block.attn1.to_k"),
        (authors() | {"controlnet.1.before_proj.bias": np.ones(D, np.float32)}, "controlnet_blocks.1.before_proj.bias"),
        (authors() | {"controlnet.0.copied_block.attn.q_norm.weight": np.ones(D, np.float32)}, "it holds .*q_norm"),
        (authors() | {"blocks.0.mlp.fc1.bias": np.ones(D, np.float32)}, "isn't a ControlNet .* it holds blocks.0.mlp"),
        (authors() | {"controlnet.1.copied_block.attn.qkv.bias": np.ones(37, np.float32)}, r"must be 3 tensors, .*37"),
        (authors() | {"controlnet.1.copied_block.attn.qkv.bias": np.float32(1)[...]}, r"must be 3 tensors, .*\(\)"),
        (authors() | {"controlnet.1.copied_block.attn.qkv.bias": np.ones(39, np.float32)}, r"attn1.to_k.bias"),
        (authors() | {"controlnet.1.after_proj.bias": np.ones(D, np.int64)}, "in I64, where floating-point numbers"),
        ({"base_model.pos_embed": np.ones((1, 4, D), np.float32)}, "isn't a ControlNet as PixArt's authors write it"),
        ({"state_dict": {"a": {}}}, "holds what is no tensor among its weights: a"),
    ],
)  # fmt: skip
def test_an_authors_file_with_other_tensors_is_refused(tmp_path, state, sentence):
    pth.write(tmp_path / "one.pth", state)
    with pytest.raises(ValueError, match=sentence) as caught:
        controlnet.load(tmp_path / "one.pth", heads=2)
    assert "one.pth" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "weights", "sentence"),
    [
        ({"_class_name": "ControlNetModel"}, None, "must name the class PixArtControlNetAdapterModel"),
        ({"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 6}, None, "controlnet_blocks.2"),
        ({}, None, "after_proj"),
        ({"num_layers": 0}, None, "config.json: controlnet config: num_layers must be a whole number within"),
        ({"blocks": 2}, None, "unknown field 'blocks'"),
        (None, {**WEIGHTS, "more": np.ones(2, np.float32)}, "more"),
    ],
)  # fmt: skip
def test_a_folder_of_something_else_is_refused(tmp_path, config, weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        controlnet.load(folder(tmp_path / "a", config, weights))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"controlnet/config\.json is missing; source takes a"):
        controlnet.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        controlnet.load(tmp_path / "none.pth")
    own = folder(tmp_path / "a")
    (own / "diffusion_pytorch_model.safetensors").rename(own / "diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=re.escape("and there is config.json, diffusion_pytorch_model.bin")):
        controlnet.load(own)
    with pytest.raises(ValueError, match=r"heads=2 is for a \.pth file"):
        controlnet.load(own, heads=2)
    pth.write(tmp_path / "one.pth", authors())
    for heads, sentence in ((None, "no tensor says how many heads"), (5, "12 isn't divisible by 5")):
        with pytest.raises(ValueError, match=f"has a width of 12, and {sentence}"):
            controlnet.load(tmp_path / "one.pth", heads=heads)


@pytest.mark.reference
def test_the_names_are_diffusers(tmp_path):
    """The research project's block is BasicTransformerBlock of the library, between the projections."""
    torch = pytest.importorskip("torch")
    attention = pytest.importorskip("diffusers.models.attention")
    with torch.device("meta"):
        block = attention.BasicTransformerBlock(
            1152,
            16,
            72,
            **{"cross_attention_dim": 1152, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000},
            **{"attention_bias": True, "norm_type": "ada_norm_single", "norm_elementwise_affine": False},
        )
    theirs = {name: tuple(value.shape) for name, value in block.state_dict().items()}
    start = "controlnet_blocks.12.transformer_block."
    ours = controlnet.shapes(controlnet.Config())
    assert {name.removeprefix(start): shape for name, shape in ours.items() if name.startswith(start)} == theirs
    torch.save({"state_dict": {name: torch.tensor(value) for name, value in authors().items()}}, tmp_path / "one.pth")
    assert_same(controlnet.load(tmp_path / "one.pth", heads=2))
