"""The transformer of large pictures agrees with diffusers and torch; positions, times and initial weights, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import compare
from helpers.initial import assert_different, assert_normal
from reference.case import load

from pixart_fn import rng, transformer, tree
from pixart_fn.backend import heads

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


@pytest.fixture(params=[600, 100], ids=["heads", "queries"])
def parts(request, monkeypatch):
    """Few scores at a time; gives how many parts attention went in."""
    monkeypatch.setattr(heads, "SCORES", request.param)
    monkeypatch.setattr(heads, "ROWS", 10)
    seen, mix = [], heads._mix

    def watched(q, k, v):
        seen.append(q.shape)
        return mix(q, k, v)

    monkeypatch.setattr(heads, "_mix", watched)
    return seen


@pytest.mark.parametrize("name", ["transformer", "transformer_micro"])
def test_large_pictures_agree_with_diffusers(name, parts, eagerly):
    case = load(name)
    for scenario in case.values:
        if scenario != "sampling":
            assert not compare.too_far(compare.forward_errors(name, case, scenario), compare.MODULE), scenario
    assert parts


def test_gradients_of_large_pictures_agree_with_torch(parts):
    case = load("gradients_transformer")
    errors = compare.gradient_errors("gradients_transformer", case, "apply")
    assert not compare.too_far(errors, compare.GRADIENT)
    assert parts


def test_more_pictures_than_rows_go_patch_by_patch(parts, monkeypatch):
    monkeypatch.setattr(heads, "ROWS", 1)
    errors = compare.gradient_errors("gradients_transformer", load("gradients_transformer"), "apply")
    assert not compare.too_far(errors, compare.GRADIENT)


# --- numbers that enter the network -----------------------------------------------------------------------------------


def test_a_number_is_embedded_as_cosines_then_sines_of_falling_frequencies():
    """128 frequencies from 1, the i-th 10000^(-i/128): the 64th is 1/100."""
    times = [0.0, 1.0, 0.5, 100.0, 999.0]
    out = transformer.sinusoid(ms.Tensor(np.array(times, np.float32))).asnumpy().astype(np.float64)
    assert out.shape == (5, 256)
    assert out[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert out[3, [64, 192]] == pytest.approx([math.cos(1.0), math.sin(1.0)], abs=1e-6)
    angles = np.outer(times, 10000.0 ** (-np.arange(128) / 128))
    # a frequency is the exponential of a float32 of up to 9.2, as in diffusers: a few units of its last place
    tolerance = 2e-7 + 5e-7 * angles
    assert (np.abs(out[:, :128] - np.cos(angles)) <= tolerance).all()
    assert (np.abs(out[:, 128:] - np.sin(angles)) <= tolerance).all()


def position(config: transformer.Config, x: float, y: float) -> list[float]:
    """The embedding of one place in pure Python: sines and cosines of x, then of y, at frequencies 10000^(-i/(D/4))."""
    frequencies = [10000.0 ** (-i / (config.width / 4)) for i in range(config.width // 4)]
    return [f(c * omega) for c in (x, y) for f in (math.sin, math.cos) for omega in frequencies]


@pytest.mark.parametrize(
    ("fields", "size", "steps"),
    [
        ({"sample_size": 8}, (8, 8), (1.0, 1.0)),
        ({"sample_size": 8}, (4, 12), (2.0, 2 / 3)),  # 4 patches' worth of a range, in 2 rows and 6 columns
        ({"sample_size": 16, "patch_size": 4}, (8, 4), (2.0, 4.0)),
        ({"sample_size": 8, "interpolation_scale": 2.0}, (8, 16), (0.5, 0.25)),
        ({"sample_size": 64}, (4, 8), (16.0, 8.0)),
        ({"sample_size": 128}, (8, 4), (8.0, 16.0)),  # left open, the scale is 128 // 64 = 2
        ({"sample_size": 256}, (4, 8), (16.0, 8.0)),
    ],
)
def test_positions_span_the_same_range_at_every_size(fields, size, steps):
    config = transformer.Config(
        num_attention_heads=1, attention_head_dim=12, cross_attention_dim=12, use_additional_conditions=False, **fields
    )
    rows, columns = (side // config.patch_size for side in size)
    expected = [position(config, j * steps[1], i * steps[0]) for i in range(rows) for j in range(columns)]
    out = transformer.positions(config, *size)
    assert out.shape == (1, rows * columns, 12)
    # a coordinate is rounded to float32, as in diffusers
    np.testing.assert_allclose(out.asnumpy()[0], expected, rtol=0, atol=5e-6)


# --- initial weights --------------------------------------------------------------------------------------------------


def test_initial_weights_are_as_pixart_starts_them():
    """Xavier's √(2 / (fan-in + fan-out)), tables / √D, 0.02 for the modulation, 1/√fan-in for embedders, and zeros."""
    D, text = 24, 40
    config = transformer.Config(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        cross_attention_dim=D,
        caption_channels=text,
        use_additional_conditions=True,
    )
    embedder = {"linear_1.weight": 256**-0.5, "linear_2.weight": D**-0.5}
    small = {"linear_1.weight": 256**-0.5, "linear_2.weight": (D / 3) ** -0.5}
    stds = {"pos_embed.proj.weight": (2 / (D + 16)) ** 0.5}
    for name, table in (("timestep", embedder), ("resolution", small), ("aspect_ratio", small)):
        stds |= {f"adaln_single.emb.{name}_embedder.{leaf}": std for leaf, std in table.items()}
    stds |= {"adaln_single.linear.weight": 0.02, "scale_shift_table": D**-0.5}
    stds |= {"caption_projection.linear_1.weight": text**-0.5, "caption_projection.linear_2.weight": D**-0.5}
    for block in ("transformer_blocks.0", "transformer_blocks.1"):
        stds |= {f"{block}.attn1.{part}.weight": D**-0.5 for part in ("to_q", "to_k", "to_v", "to_out.0")}
        stds |= {f"{block}.attn2.{part}.weight": D**-0.5 for part in ("to_q", "to_k", "to_v")}
        stds |= {f"{block}.ff.net.{part}.weight": (2 / (5 * D)) ** 0.5 for part in ("0.proj", "2")}
        stds[f"{block}.scale_shift_table"] = D**-0.5
    leaves = {name: leaf.asnumpy() for name, leaf in tree.items(transformer.init(rng.key(0), config))}
    assert {name: leaf.shape for name, leaf in leaves.items()} == transformer.shapes(config)
    for name, leaf in leaves.items():
        assert leaf.dtype == np.float32
        if name in stds:
            assert_normal(name, leaf, stds.pop(name))
        else:
            assert name.endswith("bias") or "attn2.to_out" in name or name == "proj_out.weight", name
            assert not leaf.any(), name
    assert not stds
    assert_different(leaves)
