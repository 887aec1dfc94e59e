"""A text encoder whose weights are read layer by layer, from a file or from int8."""

from __future__ import annotations

import gc
from importlib import import_module

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import without_numpy
from helpers.tolerances import assert_close, relative_error

import pixart_fn as px
from pixart_fn import t5, tree
from pixart_fn.backend import stream
from pixart_fn.checkpoint.text import load_text, save_text
from pixart_fn.files import safetensors

PROMPTS = ["a cute cat", "the big dog runs over a green field"]


@pytest.fixture(params=["float32", "float32 mapped", "float16", "bfloat16"])
def stored(request, tmp_path, monkeypatch):
    """A saved pipeline, loaded into memory and as places in its file."""
    without_numpy(monkeypatch)  # which evaluates what is in memory alone, and rounds in another way
    dtype, *mapped = request.param.split()
    if mapped:
        monkeypatch.setattr(safetensors, "MAPPED", 0)
    px.save(tiny.params(), tmp_path / "saved", dtype=dtype)
    return px.load(tmp_path / "saved", stream=False), px.load(tmp_path / "saved", stream=True)


def test_streamed_states_are_those_of_the_weights_in_memory(stored):
    whole, streamed = stored
    assert all(isinstance(leaf, safetensors.Stored) for leaf in tree.leaves(streamed.text_encoder))
    ours, theirs = (px.encode_prompt(params, PROMPTS) for params in (streamed, whole))
    np.testing.assert_array_equal(ours.states.asnumpy(), theirs.states.asnumpy())
    again = px.encode_prompt(streamed, PROMPTS)  # what was let go of is read again
    np.testing.assert_array_equal(again.states.asnumpy(), theirs.states.asnumpy())


def test_a_large_encoder_is_streamed_unasked(tmp_path, monkeypatch):
    px.save(tiny.params(), tmp_path / "saved")
    assert not stream.is_stored(px.load(tmp_path / "saved").text_encoder["shared"]["weight"])
    loading = import_module("pixart_fn.checkpoint.load")  # whose name in the package is the function's
    assert loading.STREAMED == 2 * 1024**3  # the 2 GiB that `load` promises
    size = 4 * tree.size(tiny.params().text_encoder)  # of float32
    monkeypatch.setattr(loading, "STREAMED", size)
    assert not stream.is_stored(px.load(tmp_path / "saved").text_encoder["shared"]["weight"])
    monkeypatch.setattr(loading, "STREAMED", size - 1)
    assert stream.is_stored(px.load(tmp_path / "saved").text_encoder["shared"]["weight"])
    assert not stream.is_stored(px.load(tmp_path / "saved", stream=False).text_encoder["shared"]["weight"])


def test_a_streamed_pipeline_draws_and_is_saved_again(stored, tmp_path):
    whole, streamed = stored
    ours, theirs = (px.generate(p, "a cute cat", px.key(0), steps=2, output="latents") for p in (streamed, whole))
    np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())
    px.save(streamed, tmp_path / "again")
    leaves = zip(*(tree.leaves(p.text_encoder) for p in (px.load(tmp_path / "again"), whole)), strict=True)
    assert all(np.array_equal(a.asnumpy(), b.asnumpy()) for a, b in leaves)


def test_a_streamed_encoder_has_no_gradient_and_says_so(stored):
    with pytest.raises(TypeError, match=r"float Tensors as leaves, got Stored at 'shared.weight'"):
        px.value_and_grad(lambda p: p)(stored[1].text_encoder)


def test_two_layers_are_held_at_most():
    """The one in use and the next, also where the garbage collector doesn't run."""

    class Counted(np.ndarray):
        alive = most = 0

        def __array_finalize__(self, other):
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)

        def __del__(self):
            Counted.alive -= 1

    class Leaf:
        shape = (2,)
        released = 0

        def read(self):
            return np.ones(2, np.float32).view(Counted)

        def prefetch(self):
            pass

        def release(self):
            self.released += 1

    layers = [{"w": Leaf()} for _ in range(6)]
    gc.disable()
    try:
        for layer in stream.each(layers):
            assert layer["w"].shape == (2,)
    finally:
        gc.enable()
    assert Counted.most == 2
    assert [layer["w"].released for layer in layers] == [1] * 6


def test_an_error_of_the_reader_reaches_the_caller():
    class Broken:
        shape = (2,)

        def prefetch(self):
            raise OSError("the disk is gone")

        read = release = prefetch

    with pytest.raises(OSError, match="the disk is gone"):
        list(stream.each([{"w": Broken()}]))


# --- int8 -------------------------------------------------------------------------------------------------------------


def test_int8_is_within_half_a_step_a_row():
    matrix = px.rng.normal(px.key(0), (5, 40)) * np.array([[1e-3], [1], [30], [0], [7]], np.float32)
    quantized = stream.quantize(matrix)
    assert quantized.values.dtype == np.int8 and quantized.shape == (5, 40)
    assert (np.abs(quantized.read() - matrix) <= np.abs(matrix).max(1, keepdims=True) / 254 * 1.0001).all()
    np.testing.assert_array_equal(quantized.rows(np.array([[3, 1]])), quantized.read()[[[3, 1]]])


def test_quantized_states_are_near(stored):
    whole, streamed = stored
    exact = px.encode_prompt(whole, PROMPTS)
    mask = exact.mask.asnumpy().astype(bool)
    states = []
    for params in (whole, streamed):
        small = params.replace(text_encoder=t5.quantize(params.text_encoder))
        states.append(px.encode_prompt(small, PROMPTS).states.asnumpy()[mask])
        kinds = {len(leaf.shape): type(leaf).__name__ for leaf in tree.leaves(small.text_encoder)}
        assert kinds[2] == "Quantized" and kinds[1] == "Tensor"
    np.testing.assert_array_equal(*states)
    assert 1e-4 < relative_error(states[0], exact.states.asnumpy()[mask]) < 3e-2


# --- encoded prompts in a file ----------------------------------------------------------------------------------------


def test_encoded_prompts_are_saved_and_draw_the_same(tmp_path):
    params = tiny.params()
    text = px.encode_prompt(params, PROMPTS)
    save_text(text, tmp_path / "text.safetensors")
    back = load_text(tmp_path / "text.safetensors")
    for ours, theirs in zip(back, text, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())
    assert [path.name for path in tmp_path.iterdir()] == ["text.safetensors"]
    alone = params.replace(text_encoder=None, tokenizer=None)
    negative = px.encode_prompt(params, "")
    drawn = [px.sample_latents(p, t, px.key(0), negative=negative, steps=2) for p, t in ((alone, back), (params, text))]
    assert_close(drawn[0].asnumpy(), drawn[1].asnumpy())


def test_a_file_without_encoded_prompts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"stored in a \.safetensors file, got 'text\.npz'"):
        save_text(px.encode_prompt(tiny.params(), "a cat"), "text.npz")
    for name in (None, b"x.safetensors"):
        with pytest.raises(TypeError, match=r"file must be a \.safetensors file, as a str or a Path"):
            load_text(name)
    file = tmp_path / "other.safetensors"
    safetensors.write_file(file, {"states": np.zeros((1, 2, 3), np.float32)}, {"states": "F32"})
    with pytest.raises(ValueError, match="doesn't hold encoded prompts"):
        load_text(file)
