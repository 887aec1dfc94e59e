"""The authors' .pth and mindone's .ckpt to diffusers layout and back: no bit lost, and the authors' own formula."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.authors_weights import HEADS, MODELS, Model, forward, positions, shapes, state
from safetensors.numpy import load_file, save_file

import pixart_fn as px
from pixart_fn.checkpoint import authors
from pixart_fn.checkpoint.convert import convert
from pixart_fn.cli.convert import convert as command
from pixart_fn.files import pth
from pixart_fn.files.tensors import Held
from pixart_fn.models.compression import Compression

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

WITHOUT = {"α-1024", "Σ-256", "Σ-256 compressed"}
CONFIGS = {
    "α-256": (32, 1.0, False, None),
    "α-256 in half": (32, 1.0, False, None),
    "α-1024": (128, 2.0, True, None),
    "Σ-256": (32, 0.5, False, None),
    "Σ-256 compressed": (32, 0.5, False, {"sampling": "conv", "scale_factor": 2, "kv_compress_layer": [1]}),
    "Σ-512": (16, 2.0, False, None),
}
MODEL = "diffusion_pytorch_model.safetensors"


def size(name: str) -> int | None:
    """What must be said of a model: Σ without a table of positions doesn't tell."""
    return 256 if name.startswith("Σ") and name in WITHOUT else None


def written(folder: Path, name: str, **more) -> Path:
    file = folder / "authors.pth"
    pth.write(file, {"state_dict": state(MODELS[name]), **more})
    return file


def saved(file: Path, key: str = "state_dict") -> dict[str, np.ndarray]:
    return {name: leaf.bits() for name, leaf in pth.open_file(file)[key].items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
        assert found[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_loses_no_bit(name, tmp_path):
    file, there, back = written(tmp_path, name), tmp_path / "there", tmp_path / "back.pth"
    convert(file, there, size=size(name), heads=HEADS)
    config = json.loads((there / "transformer/config.json").read_text())
    fields = ("sample_size", "interpolation_scale", "use_additional_conditions", "kv_compress_config")
    assert tuple(map(config.get, fields)) == CONFIGS[name]
    convert(there, back)
    assert_same(saved(back), state(MODELS[name]))
    convert(there / "transformer", back, weights="state_dict_ema")
    assert_same(saved(back, "state_dict_ema"), state(MODELS[name]))


def test_a_checkpoint_of_mindspore_is_the_same(tmp_path):
    for name in ("α-256 in half", "Σ-256 compressed"):
        convert(written(tmp_path, name), tmp_path / name, size=size(name), heads=HEADS)
        convert(tmp_path / name, tmp_path / f"{name}.ckpt")
        read = ms.load_checkpoint(str(tmp_path / f"{name}.ckpt"))
        assert_same({each: value.asnumpy() for each, value in read.items()}, state(MODELS[name]))
        listed = [{"name": f"network.{each}", "data": value} for each, value in read.items()]
        ms.save_checkpoint(listed, str(tmp_path / "trained.ckpt"), append_dict={"epoch": 3})  # as mindone does it
        convert(tmp_path / "trained.ckpt", tmp_path / f"{name} again", size=size(name), heads=HEADS)
        for file in ("config.json", MODEL, "authors.safetensors"):
            first, second = (tmp_path / each / "transformer" / file for each in (name, f"{name} again"))
            assert first.read_bytes() == second.read_bytes()


def test_bfloat16_stays_what_it_is(tmp_path):
    """Which NumPy doesn't have: the upper halves of float32, put into files of safetensors by hand."""
    whole = state(MODELS["α-1024"])
    halves = {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in whole.items()}
    bf16(tmp_path / "authors.safetensors", halves)
    convert(tmp_path / "authors.safetensors", tmp_path / "there", heads=HEADS)
    for name in ("back.pth", "back.ckpt"):
        convert(tmp_path / "there", tmp_path / name)
    assert_same(saved(tmp_path / "back.pth"), halves)
    read = ms.load_checkpoint(str(tmp_path / "back.ckpt"))
    assert {name: value.get_bytes() for name, value in read.items()} == {
        name: value.tobytes() for name, value in halves.items()
    }
    convert(tmp_path / "back.ckpt", tmp_path / "again", heads=HEADS)
    for file in (MODEL, "authors.safetensors"):
        first, second = (tmp_path / each / "transformer" / file for each in ("there", "again"))
        assert first.read_bytes() == second.read_bytes()


def bf16(file: Path, arrays: dict[str, np.ndarray]) -> None:
    header, end = {}, 0
    for name, value in arrays.items():
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": [end, end := end + value.nbytes]}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(value.tobytes() for value in arrays.values()))


PAIRS = """
x_embedder.proj pos_embed.proj
y_embedder.y_proj.fc1 caption_projection.linear_1
y_embedder.y_proj.fc2 caption_projection.linear_2
t_embedder.mlp.0 adaln_single.emb.timestep_embedder.linear_1
t_embedder.mlp.2 adaln_single.emb.timestep_embedder.linear_2
csize_embedder.mlp.0 adaln_single.emb.resolution_embedder.linear_1
csize_embedder.mlp.2 adaln_single.emb.resolution_embedder.linear_2
ar_embedder.mlp.0 adaln_single.emb.aspect_ratio_embedder.linear_1
ar_embedder.mlp.2 adaln_single.emb.aspect_ratio_embedder.linear_2
t_block.1 adaln_single.linear
blocks.1.attn.qkv transformer_blocks.1.attn1.to_q transformer_blocks.1.attn1.to_k transformer_blocks.1.attn1.to_v
blocks.1.attn.proj transformer_blocks.1.attn1.to_out.0
blocks.1.attn.sr transformer_blocks.1.attn1.sr
blocks.1.attn.norm transformer_blocks.1.attn1.norm
blocks.1.cross_attn.q_linear transformer_blocks.1.attn2.to_q
blocks.1.cross_attn.kv_linear transformer_blocks.1.attn2.to_k transformer_blocks.1.attn2.to_v
blocks.1.cross_attn.proj transformer_blocks.1.attn2.to_out.0
blocks.1.mlp.fc1 transformer_blocks.1.ff.net.0.proj
blocks.1.mlp.fc2 transformer_blocks.1.ff.net.2
final_layer.linear proj_out
"""
TABLES = {
    "blocks.1.scale_shift_table": "transformer_blocks.1.scale_shift_table",
    "final_layer.scale_shift_table": "scale_shift_table",
}


def test_each_tensor_has_the_name_that_the_authors_own_converter_gives_it(tmp_path):
    own = state(MODELS["α-1024"]._replace(compressed=(0, 1)))
    pth.write(tmp_path / "a.pth", {"state_dict": own})
    convert(tmp_path / "a.pth", tmp_path / "there", heads=HEADS)
    found = load_file(tmp_path / "there/transformer" / MODEL)
    for name, *others in map(str.split, PAIRS.strip().splitlines()):
        for kind in ("weight", "bias"):
            parts = np.split(own[f"{name}.{kind}"], len(others))
            for other, part in zip(others, parts, strict=True):
                np.testing.assert_array_equal(found.pop(f"{other}.{kind}"), part, other)
    for name, other in TABLES.items():
        np.testing.assert_array_equal(found.pop(other), own[name])
    assert found and all(name.startswith("transformer_blocks.0.") for name in found)


def case(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    x, y = random.normal(size=(2, 4, 8, 12)), random.normal(size=(2, 5, model.captions))
    return x.astype(np.float32), np.array([40, 3], np.float32), y.astype(np.float32)


def test_a_pipeline_takes_it_as_its_transformer(tmp_path, pipeline):
    convert(written(tmp_path, "α-256 in half"), tmp_path / "there", heads=HEADS)
    params = px.load(pipeline, transformer=tmp_path / "there", text_encoder=None, vae=None)
    assert params.config.transformer.scale == 1.0 and params.config.transformer.sample_size == 32
    own = state(MODELS["α-256 in half"])["blocks.0.attn.qkv.weight"]
    keys = params.transformer["transformer_blocks"][0]["attn1"]["to_k"]["weight"]
    np.testing.assert_array_equal(keys.asnumpy(), own[24:48].astype(np.float32))


@pytest.mark.slow
def test_what_is_loaded_computes_the_authors_formula(tmp_path, pipeline):
    model = Model(micro=True, compressed=(0,), layers=1)
    pth.write(tmp_path / "authors.pth", {"state_dict": state(model)})
    convert(tmp_path / "authors.pth", tmp_path / "there", heads=HEADS)
    params = px.load(pipeline, transformer=tmp_path / "there", text_encoder=None, vae=None)
    x, t, y = case(model)
    micro = np.array([[64, 96]] * 2, np.float32), np.array([[64 / 96]] * 2, np.float32)
    given = [ms.Tensor.from_numpy(each) for each in (x, t, y, np.ones(y.shape[:2], np.float32), *micro)]
    found = px.transformer.apply(params.transformer, params.config.transformer, *given).asnumpy()
    np.testing.assert_allclose(found, forward(state(model), model, x, t, y, 64, 2.0), atol=1e-5)


# --- what files hold --------------------------------------------------------------------------------------------------


def test_either_of_two_states_is_taken(tmp_path):
    average = {name: value + 1 for name, value in state(MODELS["α-1024"]).items()}
    file = written(tmp_path, "α-1024", state_dict_ema=average)
    for key, bias in (("state_dict", 0.0), ("state_dict_ema", 1.0)):
        convert(file, tmp_path / key, heads=HEADS, weights=key)
        found = load_file(tmp_path / key / "transformer" / MODEL)["proj_out.bias"]
        np.testing.assert_array_equal(found, state(MODELS["α-1024"])["final_layer.linear.bias"] + np.float32(bias))
    with pytest.raises(ValueError, match=r"weights='state_dict_ema' isn't in .*, which holds state_dict$"):
        convert(written(tmp_path, "α-1024"), tmp_path / "there", heads=HEADS, weights="state_dict_ema")


@pytest.mark.parametrize("prefix", ["", "module.", "base_model.model."])
def test_a_state_without_a_name_and_names_with_a_prefix_are_read(prefix, tmp_path):
    own = state(MODELS["α-256"])
    pth.write(tmp_path / "a.bin", {prefix + name: value for name, value in own.items()})
    convert(tmp_path / "a.bin", tmp_path / "there", heads=HEADS)
    convert(tmp_path / "there", tmp_path / "back.pt")
    assert_same(saved(tmp_path / "back.pt"), own)


def test_the_names_that_others_give_to_what_diffusers_leaves_out_are_read_back(tmp_path):
    convert(written(tmp_path, "α-256"), tmp_path / "there", heads=HEADS)
    home, own = tmp_path / "there/transformer", state(MODELS["α-256"])
    (home / "authors.safetensors").unlink()
    convert(home, tmp_path / "without.pth")
    kept = {"pos_embed", "y_embedder.y_embedding"}
    assert_same(saved(tmp_path / "without.pth"), {name: value for name, value in own.items() if name not in kept})
    names = {"pos_embed": "pos_embed.pos_embed", "y_embedder.y_embedding": "caption_projection.y_embedding"}
    more = {other: own[name] for name, other in names.items()}
    save_file(load_file(home / MODEL) | more, home / MODEL)
    convert(home, tmp_path / "with.pth")
    assert_same(saved(tmp_path / "with.pth"), own)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_table_of_positions_says_size_and_scale(scale, dtype, tmp_path):
    model = MODELS["Σ-256"]
    own = state(model) | {"pos_embed": positions(model.width, 6, scale).astype(dtype)}
    pth.write(tmp_path / "a.pth", {"state_dict": own})
    convert(tmp_path / "a.pth", tmp_path / "there", heads=HEADS)
    config = json.loads((tmp_path / "there/transformer/config.json").read_text())
    assert (config["sample_size"], config["interpolation_scale"]) == (12, scale)


@pytest.mark.parametrize(
    ("pixels", "version", "tokens", "expected"),
    [
        (256, "alpha", None, 1.0),
        (256, "sigma", None, 0.5),
        (256, None, 120, 1.0),
        (256, None, 300, 0.5),
        (512, None, None, 1.0),
        (1024, None, 77, 2.0),
        (2048, None, None, 4.0),
    ],
)
def test_without_a_table_size_and_version_say_the_scale(pixels, version, tokens, expected, tmp_path):
    own = state(MODELS["Σ-256"]._replace(tokens=tokens or 1, layers=1))
    if tokens is None:
        del own["y_embedder.y_embedding"]
    pth.write(tmp_path / "a.pth", own)
    convert(tmp_path / "a.pth", tmp_path / "there", heads=HEADS, size=pixels, version=version)
    config = json.loads((tmp_path / "there/transformer/config.json").read_text())
    assert (config["sample_size"], config["interpolation_scale"]) == (pixels // 8, expected)


@pytest.mark.parametrize(("table", "said"), [(1.0, "256 pixels"), (3.0, "256 pixels and an unknown scale")])
def test_a_size_that_is_given_overrules_the_table_and_says_so(table, said, tmp_path):
    own = state(MODELS["α-256"]) | {"pos_embed": positions(24, 16, table)}
    pth.write(tmp_path / "a.pth", {"state_dict": own})
    for pixels in {512, 256 if table == 3.0 else 512}:
        with pytest.warns(UserWarning, match=f"holds positions of {said}; size={pixels} is taken") as caught:
            convert(tmp_path / "a.pth", tmp_path / str(pixels), heads=HEADS, size=pixels)
        assert caught[0].filename == __file__
        config = json.loads((tmp_path / str(pixels) / "transformer/config.json").read_text())
        assert (config["sample_size"], config["interpolation_scale"]) == (pixels // 8, 1.0)


RELEASED = {
    "α-512": (Model(base=32), 64, 1.0),
    "α-1024": (Model(micro=True), 128, 2.0),
    "Σ-1024 compressed": (Model(tokens=300, compressed=tuple(range(14, 28))), 128, 2.0),
    "Σ-2K": (Model(tokens=300), 256, 4.0),
    "900M": (Model(tokens=300, layers=42), 128, 2.0),
}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_models_have_all_their_names_at_full_size(name):
    model, sample, scale = RELEASED[name]
    model = model._replace(width=1152, captions=4096, layers=max(model.layers, 28))
    leaves = {each: Held(each, "F32", np.broadcast_to(np.float32(0), shape)) for each, shape in shapes(model).items()}
    if model.base:
        leaves["pos_embed"] = Held("pos_embed", "F32", positions(1152, model.base, model.scale))
    found, kept = authors.to_diffusers(leaves, "it")
    pixels = None if model.base or model.micro else 8 * sample
    config = authors.configuration(found, kept, "it", size=pixels, version=None, heads=None)
    compression = Compression("conv", 2, model.compressed) if model.compressed else None
    assert config == px.transformer.Config(
        sample_size=sample, interpolation_scale=scale, num_layers=model.layers, use_additional_conditions=model.micro,
        kv_compression=compression,
    )  # fmt: skip
    assert {each: leaf.shape for each, leaf in found.items()} == px.transformer.shapes(config)
    back = authors.to_authors(found) | kept
    assert {each: leaf.shape for each, leaf in back.items()} == {each: leaf.shape for each, leaf in leaves.items()}


def test_shards_are_one_model(tmp_path):
    convert(written(tmp_path, "α-1024"), tmp_path / "there", heads=HEADS)
    home = tmp_path / "there/transformer"
    whole = load_file(home / MODEL)
    (home / MODEL).unlink()
    halves = {f"diffusion_pytorch_model-{i}.safetensors": sorted(whole)[i::2] for i in range(2)}
    for file, names in halves.items():
        save_file({name: whole[name] for name in names}, home / file)
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (home / f"{MODEL}.index.json").write_text(json.dumps(index))
    convert(home, tmp_path / "back.pth")
    assert_same(saved(tmp_path / "back.pth"), state(MODELS["α-1024"]))


def test_the_command(tmp_path, monkeypatch, capsys):
    file = written(tmp_path, "Σ-256")
    monkeypatch.chdir(tmp_path)
    command.main([file.name, "there", "--size", "256", "--heads", str(HEADS)], standalone_mode=False)
    assert capsys.readouterr().out == "there\n"
    command.main(["there", "back.pth", "--quiet"], standalone_mode=False)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match="give --size 256, 512, 1024 or 2048"):
        command.main([file.name, "again", "--heads", str(HEADS)], standalone_mode=False)
    with pytest.raises(ValueError, match="give --heads, as its configuration has it"):
        command.main([file.name, "again", "--size", "256"], standalone_mode=False)
    with pytest.raises(ValueError, match=r"^--size must be one of 256, 512, 1024, 2048, got 300"):
        command.main([file.name, "again", "--size", "300"], standalone_mode=False)
    assert_same(saved(tmp_path / "back.pth"), state(MODELS["Σ-256"]))


# --- against torch and diffusers --------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize("name", [name for name in MODELS if "compressed" not in name])
def test_torch_and_diffusers_read_what_is_written(name, tmp_path):
    import torch
    from diffusers import PixArtTransformer2DModel

    model, own = MODELS[name], state(MODELS[name])
    tensors = {each: torch.from_numpy(value.copy()) for each, value in own.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "authors.pth")
    convert(tmp_path / "authors.pth", tmp_path / "there", size=size(name), heads=HEADS)
    convert(tmp_path / "there", tmp_path / "back.pth")
    read = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert_same({each: value.numpy() for each, value in read.items()}, own)
    theirs = PixArtTransformer2DModel.from_pretrained(tmp_path / "there", subfolder="transformer").eval()
    x, t, y = case(model)
    micro = {"resolution": torch.tensor([[64.0, 96.0]] * 2), "aspect_ratio": torch.tensor([[64 / 96]] * 2)}
    with torch.no_grad():
        found = theirs.float()(
            torch.from_numpy(x), encoder_hidden_states=torch.from_numpy(y), timestep=torch.from_numpy(t),
            added_cond_kwargs=micro if model.micro else {"resolution": None, "aspect_ratio": None},
        ).sample  # fmt: skip
    sample, scale, _, _ = CONFIGS[name]
    np.testing.assert_allclose(found.numpy(), forward(own, model, x, t, y, sample // 2, scale), atol=1e-5)
