"""What `convert` refuses: each in one sentence, and nothing is written then."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.authors_weights import HEADS, MODELS, positions, state
from helpers.payloads import SIX, archive, pickled, text
from safetensors.numpy import load_file

from pixart_fn.checkpoint.convert import convert
from pixart_fn.files import pth

MODEL = "diffusion_pytorch_model.safetensors"


def without(*names: str):
    return lambda own: {name: value for name, value in own.items() if name not in names}


def more(**others):
    return lambda own: own | {name.replace("__", "."): value for name, value in others.items()}


ONES = np.ones(24, np.float32)
WRONG = {
    "size unknown": (without(), {}, "holds no pos_embed, which says the size; give size=256, 512, 1024 or 2048"),
    "version unknown": (without("y_embedder.y_embedding"), {"size": 256}, "size=256 needs version='alpha' or 'sigma'"),
    "version wrong": (without(), {"size": 256, "version": "alpha"}, "contradicts .* 300 tokens as sigma has"),
    "no such size": (
        without("y_embedder.y_embedding"), {"size": 2048, "version": "alpha"}, "size=2048 must be 256, 512, 1024 for",
    ),
    "heads unknown": (without(), {"size": 256, "heads": None}, "no tensor says how many heads .* give heads="),
    "heads wrong": (without(), {"size": 256, "heads": 7}, "24 isn't divisible by 7; give heads="),
    "a scale unknown": (
        more(pos_embed=positions(24, 16, 3.0)), {}, "holds a pos_embed of an unknown scale, which hides the size",
    ),
    "a table of another shape": (more(pos_embed=np.ones((1, 7, 24), np.float32)), {}, r"\(1, n·n, 24\) belongs"),
    "a table of NaN": (more(pos_embed=np.full((1, 4, 24), np.nan, np.float32)), {}, "holds nan in pos_embed"),
    "norms of queries": (more(blocks__0__attn__q_norm__weight=ONES), {"size": 256}, r"\(qk_norm\)"),
    "windows": (more(blocks__0__attn__rel_pos_h=ONES), {"size": 256}, "relative positions in windows"),
    "a ControlNet": (more(controlnet__0__after_proj__weight=ONES), {"size": 256}, "a ControlNet"),
    "a stranger": (more(head__weight=ONES), {"size": 256}, "that PixArt's transformer doesn't have: head.weight"),
    "a stranger's count": (more(head__count=np.ones(1, np.int64)), {"size": 256}, "that PixArt's .* have: head.count"),
    "float64": (more(t_block__1__bias=np.zeros(144)), {"size": 256}, "t_block.1.bias in F64, and rounding isn't"),
    "a missing bias": (without("blocks.1.mlp.fc2.bias"), {"size": 256}, "1 missing: transformer_blocks.1.ff.net.2.b"),
    "no patches": (without("x_embedder.proj.weight"), {"size": 256}, "x_embedder.proj.weight is missing among"),
    "no output": (without("final_layer.linear.weight"), {"size": 256}, "holds no final_layer.linear.weight"),
    "three are two": (
        more(blocks__0__attn__qkv__bias=np.ones(70, np.float32)), {"size": 256}, r"qkv.bias .* must be 3 tensors, one",
    ),
    "a flat output": (more(final_layer__linear__weight=ONES), {"size": 256}, "where 2 sides belong"),
    "a caption too wide": (
        more(y_embedder__y_embedding=np.ones((300, 5), np.float32)), {"size": 256}, "whose last side must be 16",
    ),
    "NaN": (more(t_block__1__bias=np.full(144, np.nan, np.float32)), {"size": 256}, "holds nan in t_block.1.bias"),
}  # fmt: skip


@pytest.mark.parametrize("label", WRONG)
def test_what_a_file_lacks_is_one_sentence_and_nothing_is_written(label, tmp_path):
    change, options, sentence = WRONG[label]
    file = tmp_path / "a.pth"
    pth.write(file, {"state_dict": change(state(MODELS["Σ-256"]))})
    with pytest.raises(ValueError, match=sentence) as error:
        convert(file, tmp_path / "there", **{"heads": HEADS, **options})
    assert "\n" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_conversion_that_fails_leaves_the_old_files(tmp_path):
    own = state(MODELS["α-256"])
    pth.write(tmp_path / "a.pth", {"state_dict": own})
    convert(tmp_path / "a.pth", tmp_path / "there", heads=HEADS)
    before = {path: path.read_bytes() for path in (tmp_path / "there").rglob("*") if path.is_file()}
    own["y_embedder.y_embedding"][-1, -1] = np.inf  # in the file that is written last
    pth.write(tmp_path / "b.pth", {"state_dict": own})
    with pytest.raises(ValueError, match=r"holds inf in y_embedder.y_embedding"):
        convert(tmp_path / "b.pth", tmp_path / "there", heads=HEADS)
    assert before == {path: path.read_bytes() for path in (tmp_path / "there").rglob("*") if path.is_file()}


def test_tensors_that_lie_over_each_other_are_refused(tmp_path):
    """Or a small file could fill a disk, with as many layers of the same numbers as it names."""
    one = SIX.replace(b"K\x06tQ", b"M\x00\x40tQ").replace(b"K\x02K\x03\x86K\x03", b"M\x00\x40K\x01\x86K\x01")
    entries = b"".join(text(f"blocks.{i}.scale_shift_table") + one + b"s" for i in range(2))
    (tmp_path / "a.pth").write_bytes(archive(pickled(b"}" + entries), {"data/0": bytes(4 * 2**14)}))
    assert len(pth.open_file(tmp_path / "a.pth")) == 2
    with pytest.raises(ValueError, match="lie over each other"):
        convert(tmp_path / "a.pth", tmp_path / "there")


def test_other_weights_in_the_folder_are_not_mixed_with_these(tmp_path):
    file, home = tmp_path / "a.pth", tmp_path / "there/transformer"
    pth.write(file, {"state_dict": state(MODELS["α-256"])})
    convert(file, tmp_path / "there", heads=HEADS)
    convert(file, tmp_path / "there", heads=HEADS)  # which replaces them
    config = json.loads((home / "config.json").read_text())
    (home / "config.json").write_text(json.dumps({**config, "interpolation_scale": 7.0}))
    with pytest.raises(FileExistsError, match="holds a model of another configuration; name a new folder"):
        convert(file, tmp_path / "there", heads=HEADS)
    (home / "config.json").write_text(json.dumps(config))
    (home / f"{MODEL}.index.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds other weights"):
        convert(file, tmp_path / "there", heads=HEADS)


def test_float8_has_no_place_in_the_authors_files(tmp_path, pipeline):
    own, end, header = pipeline / "transformer" / MODEL, 0, {}
    for name, leaf in load_file(own).items():
        header[name] = {"dtype": "F8_E4M3", "shape": leaf.shape, "data_offsets": [end, end + leaf.size]}
        end += leaf.size
    head = json.dumps(header).encode()
    own.write_bytes(len(head).to_bytes(8, "little") + head + bytes(end))
    for target in ("b.pth", "b.ckpt"):
        with pytest.raises(ValueError, match="in F8_E4M3, which isn't written to such files"):
            convert(pipeline, tmp_path / target)
        assert not (tmp_path / target).exists()


def test_what_the_authors_files_cannot_say_is_said(tmp_path, pipeline):
    own = pipeline / "transformer" / "config.json"
    compressed = {"sampling": "ave", "scale_factor": 2, "kv_compress_layer": [1]}
    own.write_text(json.dumps({**json.loads(own.read_text()), "kv_compress_config": compressed}))
    with pytest.warns(UserWarning, match=r"can't say kv_compress_config of 'ave' and a size of 64 pixels; keep config"):
        convert(pipeline, tmp_path / "b.pth")


def test_each_way_says_what_it_takes(tmp_path, pipeline):
    file = tmp_path / "a.pth"
    pth.write(file, {"state_dict": state(MODELS["α-256"])})
    for source, target, options, sentence in (
        (file, tmp_path / "b.pth", {}, "target must be a folder where source is a file"),
        (pipeline, tmp_path / "there", {}, "target must end in .pth, .pt, .bin, .ckpt where source is a folder"),
        (pipeline / "model_index.json", tmp_path / "there", {}, "source must end in .pth"),
        (pipeline, tmp_path / "b.pth", {"size": 256}, "size=256 is for a file as source"),
        (pipeline, tmp_path / "b.ckpt", {"weights": "state_dict_ema"}, "is for torch's files"),
        (pipeline / "vae", tmp_path / "b.pth", {}, "unknown field"),
    ):
        with pytest.raises(ValueError, match=sentence):
            convert(source, target, **options)
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*nothing.pth'"):
        convert(tmp_path / "nothing.pth", tmp_path / "there")
    (tmp_path / "damaged.ckpt").write_bytes(b"\n\xff\x01")
    with pytest.raises(ValueError, match=r"damaged.ckpt is no checkpoint of MindSpore, or is damaged or"):
        convert(tmp_path / "damaged.ckpt", tmp_path / "there")
    assert not (tmp_path / "there").exists()
