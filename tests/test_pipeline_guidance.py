"""Solvers, grids and guidance through `generate`: what each option changes, and what it asks of the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import ALONE, KEY, evaluations, latents
from helpers.tolerances import assert_close

import pixart_fn as px
from pixart_fn.backend import jit
from pixart_fn.guidance import Blur, Perturb, Projected, Skip, Weaker, ZeroStar

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
    assert_close(latents(params, steps=None, grid=grid), expected)


def test_no_negative_is_evaluated_outside_the_interval(params, monkeypatch):
    calls = evaluations(monkeypatch)
    latents(params, steps=4, guidance=px.Guidance(interval=(300, 800)))
    make_grid = px.solvers.from_config(params.config.scheduler).make_grid
    assert [pictures for pictures, _ in calls] == [2 if 300 <= t <= 800 else 1 for t in make_grid(4).t[:-1]]


def test_a_scale_that_follows_t(params):
    constant = latents(params, guidance=lambda t: 3.0)
    assert np.array_equal(constant, latents(params, guidance=3.0))
    assert np.abs(latents(params, guidance=lambda t: 1 + t / 200) - constant).max() > 1e-3


def test_rescaling_and_perturbed_attention_change_the_picture(params, monkeypatch):
    reference = latents(params)
    for guide in ({"rescale": 0.7}, {"pag_scale": 3.0}, {"pag_scale": 3.0, "pag_layers": (0,)}, {"compat": "original"}):
        assert np.abs(latents(params, guidance=px.Guidance(**guide)) - reference).max() > 1e-3, guide
    assert np.array_equal(latents(params, guidance=px.Guidance()), reference)
    calls = evaluations(monkeypatch)
    latents(params, steps=1, guidance=px.Guidance(pag_scale=3.0))
    assert calls == [(2, ()), (1, (1,))]


KINDS = {
    "projected": {"method": Projected(0.2, 5.0, -0.5)},
    "zero star": {"method": ZeroStar(900)},
    "skip": {"worse": Skip([1.0, 2.0], (0,))},
    "blur": {"worse": Blur(2.0, sigma=1.0)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_draws_a_picture_in_a_batch_as_alone_and_compiles_nothing_for_another_scale(params, kind):
    keys, options = px.split(KEY, 2), KINDS[kind]
    both = latents(params, ["a cute cat", "the big dog"], keys, guidance=px.Guidance([3.0, 4.5], **options))
    before = jit.compilations()
    others = {**options, "worse": replace(options["worse"], scale=[3.0, 1.0])} if "worse" in options else options
    other = latents(params, ["a cute cat", "the big dog"], keys, guidance=px.Guidance([2.0, 5.0], **others))
    assert jit.compilations() == before and np.abs(other - both).max() > 1e-3
    own = {**options, "worse": replace(options["worse"], scale=2.0)} if "worse" in options else options
    alone = latents(params, "the big dog", keys[1], guidance=px.Guidance(4.5, **own))
    assert_close(alone[0], both[1], ALONE)
    assert np.abs(alone - latents(params, "the big dog", keys[1])).max() > 1e-3


def test_a_worse_branch_is_the_model_with_blocks_changed(params):
    text, negative = px.encode_prompt(params, "a cute cat"), px.encode_prompt(params, "")
    x, noise = px.rng.normal(KEY, (1, 4, 8, 8)), px.solvers.from_config(params.config.scheduler).schedule

    def alone(text, **ways):
        def model(x, t):
            weights, config = params.transformer, params.config.transformer
            return px.transformer.apply(weights, config, ms.Tensor(x), ms.Tensor([t]), *text, **ways).asnumpy()

        return px.guidance.denoiser(model, noise)(x, 500.0)

    conditional = alone(text)
    guided = px.guidance.combine(conditional, alone(negative), 4.5)
    for worse, ways in (
        (Perturb(2.0, (0,)), {"perturbed": (0,)}),
        (Skip(2.0), {"skipped": (1,)}),
        (Blur(2.0, (0, 1), 0.7), {"blurred": (0, 1), "blur_sigma": 0.7}),
        (Blur(2.0), {"blurred": (1,)}),
    ):
        got = px.text_denoiser(params, text, negative, px.Guidance(4.5, worse=worse))(x, 500.0)
        assert_close(got, px.guidance.away(guided, conditional, alone(text, **ways), 2.0), ALONE)


def test_auto_guidance_takes_the_denoiser_of_a_weaker_model(params):
    """Its weights are halfway to nothing; equal weights change nothing."""
    weights = px.tree.map(lambda leaf: leaf * 0.5, params.transformer)
    text, x = px.encode_prompt(params, "a cute cat"), px.rng.normal(KEY, (1, 4, 8, 8))
    good, weak = (px.text_denoiser(p, text, guidance=1) for p in (params, params.replace(transformer=weights)))
    how = px.Guidance(1, worse=Weaker(2.0))
    got = px.guidance.guided(how, good, worse=weak)(x, 500.0)
    assert_close(got, 3.0 * good(x, 500.0) - 2.0 * weak(x, 500.0), ALONE)
    assert np.array_equal(px.guidance.guided(how, good, worse=good)(x, 500.0), good(x, 500.0))
    with pytest.raises(
        ValueError, match=r"worse must be a Perturb, a Skip or a Blur, .* got Weaker\(scale=2.0.*guided"
    ):
        px.text_denoiser(params, text, guidance=how)


@pytest.mark.parametrize(
    ("worse", "sentence"),
    [
        (Skip(1.0, (2,)), r"^layers of worse must be a list of blocks within 0 … 1, got \(2,\)$"),
        (Blur([1.0, 2.0]), "^the scale of worse must be a number or one for each picture \\(1\\), got .* shape"),
    ],
)
def test_a_worse_branch_that_does_not_fit_is_refused(params, worse, sentence):
    with pytest.raises(ValueError, match=sentence):
        px.text_denoiser(params, px.encode_prompt(params, "a cute cat"), guidance=px.Guidance(1, worse=worse))


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
