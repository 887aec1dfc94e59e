"""Solvers, grids and guidance through `generate`: what each option changes, and what it asks of the model."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import ALONE, KEY, counted, latents
from helpers.tolerances import assert_close

import pixart_fn as px
from pixart_fn import transformer

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


@pytest.fixture(scope="module")
def params():
    return tiny.params()


@pytest.mark.filterwarnings("ignore:.* may draw noise on this grid")  # held by test_noisy_solvers
@pytest.mark.parametrize("name", sorted({*px.solvers.SOLVERS} - {"ddpm"}))
def test_every_solver_draws(params, name):
    assert np.isfinite(latents(params, steps=4, solver=px.solvers.SOLVERS[name]())).all()


def test_a_learned_variance_is_read_where_a_solver_asks(params):
    """The tiny transformer predicts one, as the released do; in a batch the picture is its own."""
    solver = px.solvers.ddpm("learned_range")
    both = latents(params, ["a cute cat", "the big dog"], px.split(KEY, 2), solver=solver)
    assert_close(latents(params, "the big dog", px.split(KEY, 2)[1], solver=solver)[0], both[1], ALONE)
    assert np.abs(both[0] - latents(params, key=px.split(KEY, 2)[0], solver=px.solvers.ddpm())[0]).max() > 1e-4


def test_a_grid_of_one_s_own(params):
    """DMD's single step: unit noise taken for x at t = 400."""
    noise = px.solvers.from_config(params.config.scheduler).schedule
    grid = px.schedule.grid(noise, [400])
    text, negative = px.encode_prompt(params, "a cute cat"), px.encode_prompt(params, "")
    x = ms.Tensor(px.rng.normal(KEY[None], (1, 4, 8, 8)))
    expected = px.text_denoiser(params, text, negative)(x, 400.0).asnumpy()
    assert_close(latents(params, grid=grid), expected)


def test_no_negative_is_evaluated_outside_the_interval(params, monkeypatch):
    calls = counted(monkeypatch, transformer, "evaluate")
    latents(params, steps=4, guidance=px.Guidance(interval=(300, 800)))
    make_grid = px.solvers.from_config(params.config.scheduler).make_grid
    assert [len(args[2]) for args, _ in calls] == [2 if 300 <= t <= 800 else 1 for t in make_grid(4).t[:-1]]


def test_a_scale_that_follows_t(params):
    constant = latents(params, guidance=lambda t: 3.0)
    assert np.array_equal(constant, latents(params, guidance=3.0))
    assert np.abs(latents(params, guidance=lambda t: 1 + t / 200) - constant).max() > 1e-3


def test_rescaling_and_perturbed_attention_change_the_picture(params, monkeypatch):
    reference = latents(params)
    for guide in ({"rescale": 0.7}, {"pag_scale": 3.0}, {"pag_scale": 3.0, "pag_layers": (0,)}, {"compat": "original"}):
        assert np.abs(latents(params, guidance=px.Guidance(**guide)) - reference).max() > 1e-3, guide
    assert np.array_equal(latents(params, guidance=px.Guidance()), reference)
    calls = counted(monkeypatch, transformer, "evaluate")
    latents(params, steps=1, guidance=px.Guidance(pag_scale=3.0))
    assert [(len(args[2]), kwargs["ways"].perturbed) for args, kwargs in calls] == [(2, ()), (1, (1,))]


def test_a_single_patch_has_nothing_to_perturb(params):
    x, t = ms.Tensor(px.rng.normal(KEY, (1, 4, 2, 2))), ms.Tensor([500.0])
    text = px.encode_prompt(params, "a cute cat")
    plain, perturbed = (
        px.transformer.apply(params.transformer, params.config.transformer, x, t, *text, perturbed=blocks).asnumpy()
        for blocks in ((), (0, 1))
    )
    assert_close(perturbed, plain, ALONE)
    with pytest.raises(ValueError, match=r"pag_layers must be a list of blocks within 0 … 1, got \(2,\)"):
        latents(params, guidance=px.Guidance(pag_scale=1.0, pag_layers=(2,)))
    with pytest.raises(ValueError, match=r"perturbed must name blocks within 0 … 1, got \[2\]"):
        px.transformer.apply(params.transformer, params.config.transformer, x, t, *text, perturbed=[2])


def test_the_original_reads_the_negative_text_under_the_prompts_mask(params):
    """PixArt-α's own sampler: the null branch takes the prompt's mask, and three channels are guided."""
    prompt = "a cute cat sits"
    text = px.encode_prompt(params, prompt)
    negative = px.encode_prompt(params, "", pad_to=text.mask.shape[1])
    x = ms.Tensor(px.rng.normal(KEY, (1, 4, 8, 8)))

    def alone(states):
        return px.text_denoiser(params, type(text)(states, text.mask), None, 1.0)(x, 500.0).asnumpy()

    conditional, unconditional = alone(text.states), alone(negative.states)
    expected = conditional.copy()
    expected[:, :3] = unconditional[:, :3] + 4.5 * (conditional - unconditional)[:, :3]
    got = px.text_denoiser(params, text, negative, px.Guidance(compat="original"))(x, 500.0).asnumpy()
    assert_close(got, expected, ALONE)
    short = type(text)(negative.states[:, :8], negative.mask[:, :8])
    with pytest.raises(ValueError, match="so it needs 16 tokens, got 8"):
        px.text_denoiser(params, text, short, px.Guidance(compat="original"))
