"""A file that is changed after `load`: what is small was copied, and what is read later says so; and NaN in a file."""

from __future__ import annotations

import os

import numpy as np
import pytest
from helpers.pipelines import arrays, assert_same, weights_file
from safetensors.numpy import save_file

import pixart_fn as px
from pixart_fn.files import safetensors


def cut_off(path):
    os.truncate(path, 4096)


def overwrite(path):
    """The same length, so that only the time tells."""
    size, before = path.stat().st_size, path.stat().st_mtime_ns
    with open(path, "r+b") as file:
        file.seek(size // 2)
        file.write(b"\x01" * 8)
    os.utime(path, ns=(before + 10**6, before + 10**6))  # a clock may be coarser than the test is quick


@pytest.mark.parametrize("harm", [cut_off, overwrite])
@pytest.mark.parametrize("stream", [True, False])
def test_small_weights_are_in_memory_of_their_own(pipeline, harm, stream):
    params = px.load(pipeline, stream=stream)
    for name in ("vae", "transformer", *(() if stream else ("text_encoder",))):
        harm(weights_file(pipeline, name))
        assert_same(getattr(params, name), arrays(name))


@pytest.mark.parametrize("harm", [cut_off, overwrite])
@pytest.mark.parametrize("least", [0, safetensors.MAPPED], ids=["mapped", "copied"])
def test_a_streamed_encoder_says_that_its_file_was_changed(pipeline, monkeypatch, harm, least):
    monkeypatch.setattr(safetensors, "MAPPED", least)
    params = px.load(pipeline, stream=True)
    px.encode_prompt(params, "a cat")
    harm(weights_file(pipeline, "text_encoder"))
    for _ in range(2):
        with pytest.raises(
            OSError, match=r"model\.safetensors was changed after it was opened; load it again"
        ) as raised:
            px.encode_prompt(params, "a cat")
        assert str(raised.value).isprintable()
    with pytest.raises(OSError, match="was changed after it was opened"):
        px.t5.quantize(params.text_encoder)


def test_a_change_while_a_layer_is_used_is_an_error_at_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors, "MAPPED", 0)
    file = tmp_path / "x.safetensors"
    safetensors.write_file(file, {"a": np.ones((40, 40), np.float32)}, {"a": "F32"})
    leaf = safetensors.open_file(file)["a"]
    leaf.prefetch()
    leaf.read()
    overwrite(file)
    with pytest.raises(OSError, match="was changed after it was opened"):
        leaf.release()


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_what_is_copied_is_not_of_two_versions(tmp_path, dtype):
    file = tmp_path / "x.safetensors"
    safetensors.write_file(file, {"a": np.ones((40, 40), np.float32)}, {"a": dtype})
    leaf = safetensors.open_file(file)["a"]
    leaf.read()
    overwrite(file)
    for read in (leaf.read, leaf.copy, lambda: leaf.rows(np.array([1]))):
        with pytest.raises(OSError, match="was changed after it was opened"):
            read()


def test_a_file_that_is_replaced_is_still_read(tmp_path):
    file, value = tmp_path / "x.safetensors", np.ones((4, 3), np.float32)
    safetensors.write_file(file, {"a": value}, {"a": "F32"})
    leaf = safetensors.open_file(file)["a"]
    safetensors.write_file(tmp_path / "new", {"b": value[:1]}, {"b": "F32"})
    os.replace(tmp_path / "new", file)
    np.testing.assert_array_equal(leaf.read(), value)
    np.testing.assert_array_equal(leaf.rows(np.array([[3, 0], [3, 1]])), np.ones((2, 2, 3)))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("least", [0, safetensors.MAPPED], ids=["mapped", "copied"])
@pytest.mark.parametrize("preadv", [True, False], ids=["preadv", "seek"])
def test_rows_are_those_of_the_matrix(tmp_path, monkeypatch, dtype, least, preadv):
    monkeypatch.setattr(safetensors, "MAPPED", least)
    if not preadv:  # as on Windows
        monkeypatch.delattr(os, "preadv")
    value = np.arange(21, dtype=np.float32).reshape(7, 3) - 10
    safetensors.write_file(tmp_path / "x.safetensors", {"pad": value[:1], "a": value}, {"pad": "BF16", "a": dtype})
    leaf = safetensors.open_file(tmp_path / "x.safetensors")["a"]
    ids = np.array([[6, 0, 3], [3, 3, 5]], np.int32)
    np.testing.assert_array_equal(leaf.rows(ids), value[ids])
    np.testing.assert_array_equal(leaf.copy(), leaf.read())
    with pytest.raises(IndexError):
        leaf.rows(np.array([7]))


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 77])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_tensor_is_read_piece_by_piece(tmp_path, monkeypatch, size, dtype):
    monkeypatch.setattr(safetensors, "FEW", 32)
    value = (np.arange(size) - 30).astype(np.float32)
    safetensors.write_file(tmp_path / "x.safetensors", {"a": value}, {"a": dtype})
    np.testing.assert_array_equal(safetensors.open_file(tmp_path / "x.safetensors")["a"].read(), value)


# --- numbers that aren't finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("least", [0, safetensors.MAPPED], ids=["mapped", "copied"])
def test_a_weight_that_isnt_finite_is_named_by_load(pipeline, monkeypatch, value, dtype, least):
    monkeypatch.setattr(safetensors, "MAPPED", least)
    weights = arrays("transformer", dtype)
    weights["proj_out.weight"][3, 2] = value
    save_file(weights, weights_file(pipeline, "transformer"))
    sentence = rf"transformer.*\.safetensors holds {value} in proj_out\.weight, where only finite numbers can be used"
    with pytest.raises(ValueError, match=sentence):
        px.load(pipeline)


def test_a_streamed_weight_that_isnt_finite_is_named_when_it_is_read(pipeline):
    weights = arrays("text_encoder")
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    weights[name][0, 1] = np.nan
    weights["shared.weight"][31] = np.inf
    save_file(weights, weights_file(pipeline, "text_encoder"))
    params = px.load(pipeline, stream=True)
    with pytest.raises(ValueError, match=rf"model\.safetensors holds nan in {name}, where"):
        px.encode_prompt(params, "a cat")
    with pytest.raises(ValueError, match=r"model\.safetensors holds inf in shared\.weight, where"):
        px.t5.encode(params.text_encoder, params.config.text_encoder, np.array([[31, 1]]), np.ones((1, 2), int))
