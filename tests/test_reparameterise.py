"""The first weights of a stage: a DiT's at t = 500 without a class, and the stage's before at another size."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers.tolerances import assert_close
from reference import case
from safetensors.numpy import save_file

import pixart_fn as px
from pixart_fn import rng, transformer, tree
from pixart_fn.train import reparameterise

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

CONFIG = transformer.Config(
    num_attention_heads=2, attention_head_dim=12, num_layers=2, cross_attention_dim=24, sample_size=8,
    caption_channels=20, interpolation_scale=1, use_additional_conditions=True,
)  # fmt: skip
PLAIN = dataclasses.replace(CONFIG, use_additional_conditions=False)
KEY = px.key(3)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def write(folder, golden, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**golden.config, **changes}))
    save_file(golden.weights, folder / WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def golden():
    return case.load("dit")


@pytest.fixture(scope="module")
def dit(tmp_path_factory, golden):
    return write(tmp_path_factory.mktemp("dit") / "transformer", golden)


def apply(p, config, x, t=500.0, size=(64.0, 128.0)):
    """With captions that must not matter where cross-attention's output is zero."""
    B, text = len(x), rng.normal(px.key(8), (len(x), 5, config.caption_channels))
    more = ()
    if config.conditions:
        more = np.tile(np.float32(size), (B, 1)), np.full((B, 1), size[0] / size[1], np.float32)
    inputs = (x, np.full(B, t, np.float32), text, np.ones((B, 5), np.int32), *more)
    return transformer.apply(p, config, *map(Tensor, inputs)).asnumpy()


@pytest.mark.parametrize("compat", ["diffusers", "original"])
def test_it_computes_what_the_dit_computes(golden, dit, compat):
    start = golden.values["start"]
    p = reparameterise.from_dit(KEY, CONFIG, dit, compat=compat)
    # a float32 network against another's: the order of sums alone
    assert_close(apply(p, CONFIG, start["x"]), start[compat], 1e-5)
    other = "original" if compat == "diffusers" else "diffusers"
    assert np.abs(start[compat] - start[other]).max() > 1e-3


@pytest.mark.reference
def test_it_computes_what_a_dit_of_diffusers_computes(tmp_path):
    make = pytest.importorskip("reference.make_dit")
    model, x = make.dit(77, num_attention_heads=4, num_layers=3), make.normal(78, 2, 4, 8, 8)
    model.save_pretrained(tmp_path / "transformer")
    config = dataclasses.replace(CONFIG, num_attention_heads=4, cross_attention_dim=48, num_layers=3)
    p = reparameterise.from_dit(KEY, config, tmp_path)
    theirs = make.without_class(model, x).numpy()
    assert np.abs(apply(p, config, x.numpy()) - theirs).max() < 1e-5 * max(1, np.abs(theirs).max())


@pytest.mark.reference
def test_the_golden_is_what_the_script_makes(golden):
    made = pytest.importorskip("reference.make").golden("dit")
    assert {name: x.tobytes() for name, x in golden.weights.items()} == {
        name: x.tobytes() for name, x in made.weights.items()
    }
    for name, x in made.values["start"].items():
        assert_close(golden.values["start"][name], x, 1e-5)  # sums in another order on another CPU


def test_what_a_dit_lacks_is_drawn_and_silent(golden, dit):
    flat = dict(tree.items(reparameterise.from_dit(KEY, CONFIG, dit.parent)))
    drawn = dict(tree.items(transformer.init(KEY, CONFIG)))
    assert list(flat) == list(transformer.shapes(CONFIG))
    for name in ("attn2.to_out.0", "resolution_embedder.linear_2", "aspect_ratio_embedder.linear_2"):
        silent = [leaf.asnumpy() for own, leaf in flat.items() if f".{name}." in own]
        assert silent and not any(map(np.any, silent))
    for name in ("caption_projection.linear_1.weight", "transformer_blocks.1.attn2.to_k.weight"):
        assert flat[name].asnumpy().any() and np.array_equal(flat[name].asnumpy(), drawn[name].asnumpy())
    mean = np.mean([golden.weights[f"transformer_blocks.{i}.norm1.linear.weight"] for i in range(2)], 0)
    assert_close(flat["adaln_single.linear.weight"].asnumpy(), mean)
    plain = dict(tree.items(reparameterise.from_dit(KEY, PLAIN, dit)))
    assert list(plain) == list(transformer.shapes(PLAIN))
    from_the_dit = [name for name in plain if "attn2" not in name and "caption" not in name]
    assert len(from_the_dit) == 37 and all(
        np.array_equal(plain[name].asnumpy(), flat[name].asnumpy()) for name in from_the_dit
    )


def test_the_older_class_name_and_shards_and_halves(tmp_path, golden):
    old = {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "num_vector_embeds": None}
    folder = write(tmp_path / "dit", golden, **old, only_cross_attention=False, norm_eps=1e-5)
    names = sorted(golden.weights)
    (folder / WEIGHTS).unlink()
    parts = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
    for file, own in parts.items():
        save_file({name: golden.weights[name].astype(np.float16) for name in own}, folder / file)
    listed = {name: file for file, own in parts.items() for name in own}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": listed}))
    p = reparameterise.from_dit(KEY, CONFIG, folder)
    start = golden.values["start"]
    assert_close(apply(p, CONFIG, start["x"]), start["diffusers"], 2e-3)  # of weights in float16


WRONG = {
    "layers": ({"num_layers": 3}, "has num_layers = 3, and the transformer 2; they must be the same"),
    "channels": ({"out_channels": None}, "has out_channels = 4, and the transformer 8; they must be the same"),
    "classes": ({"num_embeds_ada_norm": 11}, "embedding_table.weight (11, 24) instead of (12, 24)"),
    "a PixArt": ({"_class_name": "PixArtTransformer2DModel"}, "which is no DiTTransformer2DModel or Transformer2DM"),
    "another norm": ({"norm_type": "layer_norm"}, "norm_type = 'layer_norm' isn't supported"),
    "an unknown field": ({"qk_norm": True}, "unknown field 'qk_norm' = True"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_dit_is_one_sentence(tmp_path, golden, name):
    changes, sentence = WRONG[name]
    with pytest.raises(ValueError) as raised:
        reparameterise.from_dit(KEY, CONFIG, write(tmp_path / "dit", golden, **changes))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_other_files_are_one_sentence(tmp_path, golden):
    folder = write(tmp_path / "dit", golden._replace(weights={**golden.weights, "new": np.ones(1, np.float32)}))
    with pytest.raises(ValueError, match=r"1 unexpected: new"):
        reparameterise.from_dit(KEY, CONFIG, folder)
    shutil.move(folder / WEIGHTS, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only \.bin weights.*DiTPipeline\.from_pretrained\("):
        reparameterise.from_dit(KEY, CONFIG, folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing; give the pipeline of a DiT"):
        reparameterise.from_dit(KEY, CONFIG, folder)


# --- from one stage to the next ---------------------------------------------------------------------------------------


def test_a_stage_at_another_size_keeps_what_positions_mean():
    half = transformer.Config(sample_size=32, interpolation_scale=0.5, use_additional_conditions=False)
    for size, scale in ((64, 1), (128, 2), (256, 4)):  # as Σ was released
        stage = reparameterise.resized(half, {"sample_size": size})
        assert stage == dataclasses.replace(half, sample_size=size, interpolation_scale=scale)
        # the i-th of n patches stays where it was
        assert_close(transformer.positions(stage, 16, 8).asnumpy(), transformer.positions(half, 16, 8).asnumpy())
    alpha = transformer.Config(sample_size=64)
    stage = reparameterise.resized(alpha, {"sample_size": 128, "use_additional_conditions": True})
    assert (stage.scale, stage.conditions) == (2, True)
    assert not reparameterise.resized(alpha, {"sample_size": 128}).conditions
    explicit = reparameterise.resized(alpha, {"sample_size": 32, "interpolation_scale": 1})
    assert explicit.scale == 1 and reparameterise.resized(alpha, {}) == alpha


def test_micro_conditions_come_without_an_effect_and_go():
    """A zero second layer adds nothing, as the DiT's start above shows; a first layer of zeros would learn nothing."""
    p = transformer.init(px.key(1), PLAIN)
    more = dict(tree.items(reparameterise.with_conditions(KEY, p, PLAIN, CONFIG)))
    assert list(more) == list(transformer.shapes(CONFIG))
    assert all(more[name] is leaf for name, leaf in tree.items(p))
    for name in ("resolution", "aspect_ratio"):
        own = {key.split("_embedder.")[1]: more[key].asnumpy() for key in more if f".{name}_embedder." in key}
        assert abs(own.pop("linear_1.weight").std() * 16 - 1) < 0.1  # N(0, 1 / 256)
        assert len(own) == 3 and not any(map(np.any, own.values()))
    again = dict(tree.items(reparameterise.with_conditions(KEY, tree.nest(more), CONFIG, PLAIN)))
    assert list(again) == list(transformer.shapes(PLAIN)) and all(again[name] is leaf for name, leaf in tree.items(p))
    with pytest.raises(ValueError, match="new must differ from old in sample_size, interpolation_scale, use_"):
        reparameterise.with_conditions(KEY, p, PLAIN, dataclasses.replace(PLAIN, num_layers=3))
