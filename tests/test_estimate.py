"""Memory: the estimate against measured peaks, what is refused, and batches in parts that fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny

import pixart_fn as px
from pixart_fn import estimate, t5, transformer, tree, vae
from pixart_fn.backend import jit
from pixart_fn.params import Configs, Params
from pixart_fn.process import limits

RESULTS = json.loads((Path(__file__).parent / "bench" / "results.json").read_text())
GIB = 2**30


def released(*models):
    """PixArt-XL/2 and its VAE as shapes, of which only the named ones are there."""
    configs = {"text_encoder": t5.Config(), "transformer": transformer.Config(), "vae": vae.Config()}
    trees = {
        name: tree.nest({key: np.broadcast_to(np.float32(0), shape) for key, shape in module.shapes(config).items()})
        if name in models
        else None
        for (name, config), module in zip(configs.items(), (t5, transformer, vae), strict=True)
    }
    return Params(**trees, config=Configs(**configs, scheduler={}), tokenizer=None)


@dataclasses.dataclass
class Layer:
    """A weight that is still in its file."""

    shape: tuple[int, ...]

    def read(self):
        raise AssertionError("nothing is read")


@pytest.mark.parametrize(
    ("row", "side", "n"),
    [*((f"dit-{side}", side, 1) for side in (256, 512, 1024)), *((f"dit-256-batch-{n}", 256, n) for n in (2, 4, 8))],
)
def test_an_evaluation_is_within_a_quarter_of_its_measured_peak(row, side, n):
    found = estimate.estimate(released("transformer"), n, (side, side), 2)
    assert found.total / GIB == pytest.approx(RESULTS[row]["ours"]["peak_gib"], rel=0.25)


@pytest.mark.parametrize(
    ("row", "side", "tile"),
    [*((f"decode-{side}", side, None) for side in (128, 256, 512, 1024)), ("decode-2048-tiled", 2048, 512)],
)
def test_decoding_is_within_a_quarter_of_its_measured_peak(row, side, tile):
    params = released("vae")
    found = estimate.PROCESS + estimate.weights(params) + estimate.decoding(params, (side, side), 1, tile)
    assert found / GIB == pytest.approx(RESULTS[row]["ours"]["peak_gib"], rel=0.25)


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_encoding_is_within_a_quarter_of_its_measured_peak(side):
    params = released("vae")
    found = estimate.PROCESS + estimate.weights(params) + estimate.encoding(params, (side, side), 1)
    assert found / GIB == pytest.approx(RESULTS[f"encode-{side}"]["ours"]["peak_gib"], rel=0.25)


# measured as the peak of a process that draws such pictures in three steps, on two EPYC cores
EMBEDDED = {(1, 128): 0.517, (16, 128): 0.554, (64, 128): 0.676, (1, 256): 0.545, (1, 512): 0.848, (16, 64): 0.541}


@pytest.mark.parametrize(("n", "side"), EMBEDDED)
def test_the_embedded_checkpoint_is_within_a_quarter_of_its_measured_peak(n, side):
    assert px.memory(px.load(), n, side, side).total / GIB == pytest.approx(EMBEDDED[n, side], rel=0.25)


# the same for half of a VAE of these widths and one layer a level, beside its weights, in MiB
HALVES = {("decoding", (256, 8), 384): 462, ("encoding", (8, 256), 384): 212, ("decoding", (16,) * 4, 1280): 324}


@pytest.mark.parametrize(("half", "widths", "side"), HALVES)
def test_half_of_a_vae_of_other_widths_is_within_a_quarter_of_its_measured_peak(half, widths, side):
    params = px.load()
    config = vae.Config(block_out_channels=widths, layers_per_block=1, norm_num_groups=4)
    params = params.replace(vae=vae.init(px.key(0), config), config=dataclasses.replace(params.config, vae=config))
    more = {"tile": None} if half == "decoding" else {}
    found = getattr(estimate, half)(params, (side, side), 1, **more)
    assert found / 2**20 == pytest.approx(HALVES[half, widths, side], rel=0.25)


def test_the_whole_pipeline_is_within_a_quarter_of_its_measured_peak():
    """With the text encoder read layer by layer."""
    params = released("transformer", "vae")
    shapes = t5.shapes(t5.Config())
    layers = tree.nest({key: Layer(shape) for key, shape in shapes.items()})
    found = estimate.estimate(dataclasses.replace(params, text_encoder=layers), 1, (512, 512), 2)
    assert found.total / GIB == pytest.approx(RESULTS["pipeline-512"]["ours"]["peak_gib"], rel=0.25)


def test_the_public_estimate_counts_what_its_arguments_say():
    params = tiny.params()
    one = px.memory(params)
    assert one.total == one.process + one.weights + one.graphs + max(one[3:])
    assert px.memory(params, 8).sample_latents > one.sample_latents
    assert px.memory(params, guidance=1).sample_latents < one.sample_latents
    assert px.memory(params, height=64, width=64).decode_latents > one.decode_latents
    assert px.memory(params, tokens=120).encode_prompt > one.encode_prompt
    assert px.memory(params.replace(vae=None)).decode_latents == 0
    assert repr(one).startswith("Memory(0.") and "sample_latents=" in repr(one)


def test_a_quantized_encoder_takes_less_and_a_streamed_one_only_two_layers(tmp_path):
    params = tiny.params()
    small = params.replace(text_encoder=t5.quantize(params.text_encoder))
    assert px.memory(small).weights < px.memory(params).weights
    px.save(params, tmp_path / "p")
    streamed = px.load(tmp_path / "p", stream=True)
    assert px.memory(streamed).weights < px.memory(small).weights
    assert px.memory(streamed).encode_prompt > px.memory(params).encode_prompt


OPTIONS = {"steps": 2, "progress": False}


def in_parts(monkeypatch, size):
    monkeypatch.setattr("pixart_fn.pipeline.pictures_at_once", lambda *_, **__: size)
    monkeypatch.setattr("pixart_fn.stages.pictures_at_once", lambda *_, **__: size)


@pytest.mark.parametrize("output", ["numpy", "latents", "pil"])
@pytest.mark.parametrize("size", [2, 4])
def test_pictures_in_parts_are_those_of_the_whole(monkeypatch, output, size):
    prompts = ["a cat", "a dog", "an apple"]
    scale = [1.0, 2, 3, 4, 5, 6]
    perturbed, skipped = px.Guidance(4, pag_scale=scale), px.Guidance(4, worse=px.guidance.Skip(scale))
    for guidance in (scale, lambda t: np.array(scale), perturbed, skipped):
        given = {"images_per_prompt": 2, "guidance": guidance, "negative_prompt": ["", "red", "blue"], **OPTIONS}
        whole = px.generate(tiny.params(), prompts, px.key(0), output=output, **given)
        with monkeypatch.context() as patch:
            in_parts(patch, size)
            parts = px.generate(tiny.params(), prompts, px.key(0), output=output, **given)
        assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(whole, parts, strict=True))
        assert type(whole) is type(parts) and len(parts) == 6


def test_latents_that_are_given_and_texts_are_taken_in_parts(monkeypatch):
    params = tiny.params()
    text = px.encode_prompt(params, ["a cat", "a dog", "an apple"])
    start = px.noise(params, px.key(1), 3)
    given = {"negative": px.encode_prompt(params, "red"), "latents": start, **OPTIONS}
    whole = px.sample_latents(params, text, px.key(0), **given)
    seen = []
    in_parts(monkeypatch, 2)
    parts = px.sample_latents(params, text, px.key(0), on_step=lambda info: seen.append(len(info.x)), **given)
    assert np.array_equal(whole.asnumpy(), parts.asnumpy()) and seen == [2, 2, 1, 1]


def test_as_many_are_drawn_together_as_fit():
    params, size = tiny.params(), (16, 16)
    one, hundred = (estimate.estimate(params, n, size, 2).total for n in (1, 100))
    assert estimate.pictures_at_once(params, 100, size, 2, hundred) == 100
    fewer = estimate.pictures_at_once(params, 10**6, size, 2, 2 * hundred)
    assert 1 < fewer < 10**6 and estimate.estimate(params, fewer, size, 2).total < 2 * hundred
    assert estimate.pictures_at_once(params, 10**6, size, 2, one) == 1


def test_what_does_not_fit_is_refused_before_any_work_with_what_would_fit():
    params, before = tiny.params(), jit.compilations()
    limit = px.memory(params).total
    for call in (
        lambda: px.generate(params, "a cat", px.key(0), height=4096, width=4096, memory=limit),
        lambda: px.decode_latents(params, np.zeros((1, 4, 2048, 2048), np.float32), memory=limit),
        lambda: px.encode_image(params, np.zeros((4096, 4096, 3), np.uint8), memory=limit),
    ):
        with pytest.raises(MemoryError, match=r"4096 × 4096 pixels takes about .* GiB, and there are .* GiB"):
            call()
    with pytest.raises(MemoryError, match=r"height=.*, width=.* would fit"):
        px.generate(params, "a cat", px.key(0), height=4096, width=4096, memory=limit + GIB // 8)
    with pytest.raises(MemoryError, match=r"decoding 2048 × 2048 pixels .*; tile=512 would fit; memory="):
        estimate.check_decoding(released("vae"), (2048, 2048), 1, None, 4 * GIB)
    few = estimate.PROCESS + estimate.weights(params) + estimate.decoding(params, (16, 16), 10, None)
    with pytest.raises(MemoryError, match=r"; fewer pictures at a time would fit; memory="):
        px.decode_latents(params, np.zeros((100, 4, 8, 8), np.float32), memory=few)
    with pytest.raises(MemoryError, match=r"1000000000 pictures .*; fewer at a time would fit; memory="):
        px.generate(params, "a cat", px.key(0), images_per_prompt=10**9, memory=limit)
    little = estimate.PROCESS + estimate.weights(params) + estimate.GRAPHS["encode_prompt"] + 2**20
    with pytest.raises(MemoryError, match=r"encoding 1000 prompts .*; fewer at a time would fit; memory="):
        px.encode_prompt(params, ["a cat"] * 1000, memory=little)
    with pytest.raises(MemoryError, match=r"; fewer prompts at a time would fit; memory="):
        px.generate(params, ["a cat"] * 10**5, px.key(0), memory=limit + GIB // 4)
    assert jit.compilations() == before


@pytest.mark.parametrize("memory", [0, -1, float("nan"), "4 GiB", True])
def test_the_limit_is_a_number_above_0(memory):
    with pytest.raises((TypeError, ValueError), match="memory must be a"):
        px.generate(tiny.params(), "a cat", px.key(0), memory=memory)


def test_without_an_argument_the_limit_is_what_is_free_and_what_this_process_has_for_it(monkeypatch):
    params = tiny.params()
    own = estimate.OWN + estimate.weights(params) + estimate._STATE.largest
    monkeypatch.setattr(limits, "free", lambda: 1000)
    monkeypatch.setattr(limits, "resident", lambda: 234)
    assert estimate.room(params, None) == 1234 and estimate.room(params, 5e9) == 5 * 10**9
    monkeypatch.setattr(limits, "resident", lambda: 2**40)  # arrays of the user's
    assert estimate.room(params, None) == 1000 + own
    monkeypatch.setattr(limits, "free", lambda: None)
    assert estimate.room(params, None) is None
    assert estimate.pictures_at_once(params, 10**6, (16, 16), 2, None) == 10**6


def test_what_this_process_has_is_counted_where_what_is_free_is_too_little(monkeypatch):
    params, size = tiny.params(), (16, 16)
    needed = estimate.estimate(params, 4, size, 2).total
    calls = {
        needed: lambda: estimate.pictures_at_once(params, 4, size, 2, None) == 4,
        estimate.PROCESS + 4 * 3 * 256: lambda: estimate.check_results(params, 4, size, "pil", None) == 4 * 3 * 256,
        estimate.PROCESS + estimate.weights(params) + estimate.decoding(params, size, 4, None): lambda: (
            estimate.check_decoding(params, size, 4, None, None) is None
        ),
    }
    for free, fits in calls.items():
        monkeypatch.setattr(limits, "free", lambda free=free: free - 1)
        monkeypatch.setattr(limits, "resident", lambda: 1)
        assert fits()
        monkeypatch.setattr(limits, "resident", lambda: 0)
        with pytest.raises((MemoryError, AssertionError)):  # fewer pictures together, or none
            assert fits()
        monkeypatch.setattr(limits, "free", lambda free=free: free)
        monkeypatch.setattr(limits, "resident", lambda: pytest.fail("it doesn't matter here"))
        assert fits()


def test_weights_that_are_pages_of_a_file_are_no_reason_to_refuse(tmp_path, monkeypatch):
    params = tiny.params()
    assert estimate.mapped(params) == 0
    px.save(params, tmp_path / "p")
    monkeypatch.setattr("pixart_fn.files.safetensors.MAPPED", 0)
    params = px.load(tmp_path / "p")
    every = sum(leaf.nbytes for leaf in px.tree.leaves(params))
    assert estimate.mapped(params) == every == estimate.weights(params)
    limit = px.memory(params).total - every
    assert estimate.pictures_at_once(params, 1, (16, 16), 2, limit) == 1
    with pytest.raises(MemoryError):
        estimate.pictures_at_once(tiny.params(), 1, (16, 16), 2, limit)


def test_prompts_go_through_a_layer_in_parts(monkeypatch):
    params = tiny.params()
    prompts = [f"a cat and {word}" for word in ("a dog", "an apple", "two birds", "a house", "a tree")]
    whole = px.encode_prompt(params, prompts).states.asnumpy()
    monkeypatch.setattr(t5, "TOKENS", 16 * 300)
    assert t5.rows_at_once(params.config.text_encoder, 16) < 5
    assert np.array_equal(px.encode_prompt(params, prompts).states.asnumpy(), whole)


def a_control(params):
    config = px.controlnet.Config(1, 2, 16)
    net = px.controlnet.init(params.transformer, params.config.transformer, config), config
    return px.controlnet.Control(net, px.noise(params, px.key(0)))


def test_controlnets_count_with_their_weights_and_what_they_add():
    params = tiny.params()
    control = a_control(params)
    net = control.net
    alone, one, two = (px.memory(params, 3, controls=controls) for controls in (None, control, [control] * 2))
    assert one.weights - alone.weights == 4 * sum(leaf.size for leaf in tree.leaves(net[0]))
    added = one.sample_latents - alone.sample_latents
    config, N, D = params.config.transformer, 16, params.config.transformer.width
    # for 3 pictures with guidance: each block's residuals, and keys and values of 32 tokens
    assert added == 4 * net[1].num_layers * 6 * (N + 2 * 32) * D and config.patch_size == 2
    assert two.sample_latents - alone.sample_latents == 2 * added


def test_a_call_with_controlnets_is_refused_where_only_one_without_fits():
    params = tiny.params()
    control = a_control(params)
    memory = px.memory(params).total
    with pytest.raises(MemoryError, match="a picture of"):
        px.generate(params, "a", px.key(0), steps=1, controls=[control] * 50, memory=memory)
