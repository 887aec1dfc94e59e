"""From model outputs to x0, and from denoisers to a guided one; the value that says how."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.branches import conditional, guide, pair
from helpers.strategies import latents, schedules, shapes
from helpers.tolerances import assert_close
from hypothesis import given
from hypothesis import strategies as st

from pixart_fn import guidance, schedule
from pixart_fn.backend import numpy2

LINEAR = schedule.from_betas(schedule.linear())


@given(schedules(), st.floats(0, 1), shapes, st.sampled_from([np.float32, np.float64]))
def test_every_parameterisation_gives_x0_back(noise, where, shape, dtype):
    t = where * (noise.steps - 1)
    alpha, sigma = noise.alpha(t), noise.sigma(t)
    x0, eps = latents(0, shape, dtype), latents(1, shape, dtype)
    x = alpha * x0 + sigma * eps
    outputs = {"epsilon": eps, "x0": x0, "v": alpha * eps - sigma * x0}
    assert set(outputs) == set(schedule.PREDICTIONS)
    for prediction, output in outputs.items():
        got = guidance.denoiser(lambda x, t, output=output: output, noise, prediction)(x, t)
        assert got.dtype == dtype and got.shape == shape
        # Dividing by α blows the rounding of x up.
        assert_close(got, x0, 10 * np.finfo(dtype).eps / alpha)


def test_a_denoiser_takes_the_prediction_of_its_schedule():
    x, output = latents(0, (2, 3)), latents(1, (2, 3))
    for prediction in schedule.PREDICTIONS:
        noise = schedule.from_betas(schedule.linear(), prediction)
        by_default = guidance.denoiser(lambda x, t: output, noise)(x, 500.0)
        assert np.array_equal(by_default, guidance.denoiser(lambda x, t: output, LINEAR, prediction)(x, 500.0))


@pytest.mark.parametrize("prediction", schedule.PREDICTIONS)
def test_a_learned_variance_is_left_out_or_stands_beside_x0(prediction):
    x, output = latents(0, (2, 4, 3, 3)), latents(1, (2, 8, 3, 3))
    whole = guidance.denoiser(lambda x, t: output, LINEAR, prediction)(x, 500.0)
    assert np.array_equal(whole, guidance.denoiser(lambda x, t: output[:, :4], LINEAR, prediction)(x, 500.0))
    x0, variance = guidance.variance_denoiser(lambda x, t: output, LINEAR, prediction)(x, 500.0)
    assert np.array_equal(x0, whole) and np.array_equal(variance, output[:, 4:])


def test_a_variance_that_no_model_predicts_is_refused():
    denoise = guidance.variance_denoiser(lambda x, t: x, LINEAR)
    with pytest.raises(ValueError, match=r"must have 2C channels, of which half is a variance, got \(2, 4, 3, 3\)"):
        denoise(np.zeros((2, 4, 3, 3)), 5.0)


@pytest.mark.parametrize("shape", [(2, 6, 3, 3), (1, 4, 3, 3), (2, 4, 3), (2, 4, 3, 6)])
def test_an_output_of_another_shape_is_refused(shape):
    denoise = guidance.denoiser(lambda x, t: np.zeros(shape), LINEAR)
    with pytest.raises(ValueError, match=r"must have C or 2C channels, got \("):
        denoise(np.zeros((2, 4, 3, 3)), 5.0)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match=r"prediction must be one of .*got 'eps'"):
        guidance.denoiser(lambda x, t: x, LINEAR, "eps")


@given(shapes, st.floats(0, 999), st.sampled_from([np.float32, np.float64]))
def test_scale_one_is_conditional_and_zero_unconditional(shape, t, dtype):
    x = latents(0, shape, dtype)
    for scale, expected in ((1.0, pair(x, t)[0]), (0.0, pair(x, t)[1])):
        for w in (scale, int(scale), np.float32(scale), np.full(shape[0], scale), [scale] * shape[0]):
            for got in (guidance.combine(*pair(x, t), w), guide(w)(x, t)):
                assert got.dtype == dtype and np.array_equal(got, expected)


@given(shapes, st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 1))
def test_affine_in_the_scale(shape, one, other, share):
    x = latents(0, shape)
    at = [guidance.combine(*pair(x, 2.0), w) for w in (one, other, share * one + (1 - share) * other)]
    assert np.allclose(at[2], share * at[0] + (1 - share) * at[1], rtol=0, atol=1e-12)


@given(shapes, st.floats(-10, 10))
def test_guiding_x0_is_guiding_the_noise(shape, w):
    """ε_u + w (ε_c - ε_u), as the papers and diffusers have it."""
    x, conditional, unconditional = (latents(i, shape) for i in range(3))
    branches = [guidance.denoiser(lambda x, t, eps=eps: eps, LINEAR) for eps in (conditional, unconditional)]
    got = guidance.guided(w, branches[0], guidance.both(*branches))(x, 600.0)
    guided = unconditional + w * (conditional - unconditional)
    assert_close(got, guidance.denoiser(lambda x, t: guided, LINEAR)(x, 600.0))


@given(st.lists(st.floats(-5, 10), min_size=1, max_size=4))
def test_one_scale_a_sample(scales):
    x = latents(0, (len(scales), 2, 3, 3))
    alone = [guidance.combine(*pair(x[i : i + 1], 1.0), w)[0] for i, w in enumerate(scales)]
    for given_as in (scales, np.array(scales)):
        assert np.array_equal(guidance.combine(*pair(x, 1.0), given_as), alone)
        assert np.array_equal(guide(given_as)(x, 1.0), alone)


def test_another_number_of_scales_is_refused():
    for call in (lambda x: guide([1.0, 2.0, 3.0])(x, 1.0), lambda x: guidance.combine(x, x, [1.0, 2.0, 3.0])):
        with pytest.raises(ValueError, match=r"a number or one for each picture \(2\), got \(3,\)"):
            call(np.zeros((2, 1, 1, 1)))


def test_tensors_are_guided_like_arrays():
    """Also by a scale that is a Tensor, with the right gradient: the scale may be optimised."""
    numpy2.settle()
    ms = pytest.importorskip("mindspore")
    x, outputs = latents(0, (2, 4, 2, 2), np.float32), [latents(i, (2, 8, 2, 2), np.float32) for i in (1, 2)]

    def branches(values):
        return guidance.both(*(guidance.denoiser(lambda x, t, v=v: v, LINEAR) for v in values))

    expected = guide([1.5, 4.5], branches(outputs))(x, 600.0)
    tensors = branches([ms.Tensor(v) for v in outputs])
    for scale in ([1.5, 4.5], np.array([1.5, 4.5]), ms.Tensor([1.5, 4.5], ms.float32)):
        got = guide(scale, tensors)(ms.Tensor(x), 600.0)
        assert got.dtype == ms.float32
        assert_close(got.asnumpy(), expected)

    for number in (4.5, np.float32(4.5), np.float64(4.5), ms.Tensor(4.5)):
        got = guide(number, tensors)(ms.Tensor(x), 600.0)
        assert_close(got.asnumpy(), guide(4.5, branches(outputs))(x, 600.0))

    def total(scale):
        return guide(scale, tensors)(ms.Tensor(x), 600.0).sum()

    conditional, unconditional = branches(outputs)(x, 600.0)
    assert_close(ms.grad(total)(ms.Tensor(4.5)).asnumpy(), (conditional - unconditional).sum(), 1e-5)


# --- schedules of the scale, intervals, composition, rescaling, perturbed attention, clipping


@given(shapes, st.floats(0, 999))
def test_a_scale_may_follow_t(shape, t):
    x = latents(0, shape)
    for scale in (lambda t: 1 + t / 100, lambda t: np.full(shape[0], 1 + t / 100)):
        assert np.array_equal(guide(scale)(x, t), guide(1 + t / 100)(x, t))


def test_outside_an_interval_there_is_no_second_evaluation():
    x, calls = latents(0, (1, 2)), []

    def conditional(x, t):
        calls.append(("conditional", t))
        return pair(x, t)[0]

    def together(x, t):
        calls.append(("both", t))
        return pair(x, t)

    guided = guidance.guided(4.5, conditional, together)
    denoise = guidance.guided(guidance.Guidance(4.5, interval=(200, 600)), conditional, together)
    for t, name in ((100.0, "conditional"), (200.0, "both"), (600.0, "both"), (600.5, "conditional")):
        expected = guide(4.5 if name == "both" else 1.0)(x, t)
        assert np.array_equal(denoise(x, t), expected) and calls[-1] == (name, t)
    assert len(calls) == 4
    assert np.array_equal(guidance.interval(guided, conditional, 200, 600)(x, 200.0), guide(4.5)(x, 200.0))
    with pytest.raises(ValueError, match=r"interval must be \(low, high\) with low at most high, got \(5, 1\)"):
        guidance.interval(guided, conditional, 5, 1)


@given(shapes, st.floats(-5, 5), st.floats(-5, 5))
def test_composition_adds_what_each_prompt_changes(shape, v, w):
    x, parts = latents(0, shape), [lambda x, t: np.sin(x), lambda x, t: x * x, lambda x, t: 0.3 * x]
    got = guidance.compose(parts[0], [(parts[1], v), (parts[2], lambda t: w)])(x, 1.0)
    base = np.sin(x)
    assert_close(got, base + v * (x * x - base) + w * (0.3 * x - base))
    alone = guidance.compose(parts[0], [(parts[1], v)])(x, 1.0)
    assert_close(alone, guidance.combine(parts[1](x, 1.0), base, v), 1e-11)


def test_composition_needs_a_part():
    with pytest.raises(ValueError, match="compose needs at least one denoiser"):
        guidance.compose(lambda x, t: x, [])


@pytest.mark.parametrize("prediction", [None, *schedule.PREDICTIONS])
@given(shape=shapes.filter(lambda s: np.prod(s[1:]) > 1), phi=st.floats(0, 1))
def test_rescaling_meets_the_conditional_deviation(prediction, shape, phi):
    """arXiv:2305.08891, eq. 15 and 16, on what the model predicts; without a schedule on x0."""
    noise, t = LINEAR if prediction is None else schedule.from_betas(schedule.linear(), prediction), 700.0
    alpha, sigma, target = noise.alpha(t), noise.sigma(t), prediction or "x0"
    x = latents(0, shape)

    def output(x0):
        return schedule.convert(x0, x, alpha, sigma, "x0", target)

    guided = output(guide(4.5)(x, t))
    conditional = output(pair(x, t)[0])
    deviations = [v.reshape(shape[0], -1).std(1, ddof=1).reshape(-1, 1, 1, 1) for v in (conditional, guided)]
    expected = phi * guided * deviations[0] / deviations[1] + (1 - phi) * guided
    assert_close(guidance.rescale(guided, conditional, phi), expected, 1e-9)
    how = guidance.Guidance(4.5, rescale=phi)
    got = guide(how, schedule=None if prediction is None else noise)(x, t)
    assert_close(output(got), expected, 1e-9)


def test_rescaling_by_hand():
    """At α = 0.6 and σ = 0.8 with w = 2, φ = 0.5: ε = (1.25, 1), (0.5, 2.5) and so 0.55 · (2, -0.5)."""
    noise = schedule.Schedule(np.array([0.5, 4 / 3]))
    x, pair = np.array([[1.0, 2.0]]), lambda x, t: (np.array([[0.0, 2.0]]), np.array([[1.0, 0.0]]))
    how = guidance.Guidance(2.0, rescale=0.5)
    in_noise = guide(how, pair, schedule=noise)(x, 1.0)
    assert_close(in_noise, np.array([[0.2, 3.7]]))
    in_x0 = np.array([[-0.7, 2.8]])  # (1 - 0.5 + 0.5 · 2/5) · (-1, 4)
    assert_close(guide(how, pair)(x, 1.0), in_x0)
    of_x0 = schedule.Schedule(noise.rhos, "x0")
    assert_close(guide(how, pair, schedule=of_x0)(x, 1.0), in_x0)


def test_thresholds_by_hand():
    x0 = np.array([[0.5, -1.0, 2.0, 4.0], [0.1, 0.2, -0.3, 0.4]])

    def threshold(*options):
        return guidance.threshold(lambda x, t: x0, *options)(x0, 1.0)

    small = [0.1, 0.2, -0.3, 0.4]  # s is never under 1
    assert_close(threshold(0.5, 2.0), np.array([[1 / 3, -2 / 3, 1.0, 1.0], small]))  # s = 1.5, between 1 and 2
    assert_close(threshold(1.0, 2.0), np.array([[0.25, -0.5, 1.0, 1.0], small]))  # s = 4, but at most 2
    assert_close(threshold(1.0, 8.0), np.array([[0.125, -0.25, 0.5, 1.0], small]))
    assert_close(threshold(), np.array([[0.5, -1.0, 1.0, 1.0], small]))
    many = np.arange(1.0, 1001.0)[None]
    assert guidance.threshold(lambda x, t: many, largest=2000.0)(many, 1.0)[0, 0] == pytest.approx(1 / 995.005)
    assert_close(guidance.clip(lambda x, t: x0, 0.3)(x0, 1.0)[1], np.array([0.1, 0.2, -0.3, 0.3]))
    assert_close(guidance.clip(lambda x, t: x0)(x0, 1.0)[0], np.array([0.5, -1.0, 1.0, 1.0]))


def test_the_original_guides_three_channels():
    """forward_with_cfg of PixArt-α: ε[:, :3] is guided, the rest stays the prompt's."""
    x, conditional, unconditional = (latents(i, (2, 4, 3, 3)) for i in range(3))
    branches = guidance.both(*(guidance.denoiser(lambda x, t, v=v: v, LINEAR) for v in (conditional, unconditional)))
    eps = conditional.copy()
    eps[:, :3] = unconditional[:, :3] + 4.5 * (conditional - unconditional)[:, :3]
    got = guide(guidance.Guidance(4.5, compat="original"), branches)(x, 400.0)
    assert np.array_equal(got[:, 3:], branches(x, 400.0)[0][:, 3:])
    assert_close(got, guidance.denoiser(lambda x, t: eps, LINEAR)(x, 400.0))


def test_a_learned_variance_stays_the_conditional_one():
    x, conditional, unconditional = latents(0, (2, 3, 2, 2)), latents(1, (2, 6, 2, 2)), latents(2, (2, 6, 2, 2))
    plain = [guidance.denoiser(lambda x, t, v=v: v, LINEAR) for v in (conditional, unconditional)]
    learned = guidance.variance_denoiser(lambda x, t: conditional, LINEAR)
    how = guidance.Guidance(4.5, interval=(300, 900), rescale=0.5, pag_scale=2.0)
    expected = guidance.guided(how, plain[0], guidance.both(*plain), lambda x, t: 0.5 * x)
    denoise = guidance.guided(how, learned, guidance.both(learned, plain[1]), lambda x, t: 0.5 * x)
    for t in (400.0, 100.0):
        x0, variance = denoise(x, t)
        assert np.array_equal(x0, expected(x, t)) and np.array_equal(variance, conditional[:, 3:])
        for wrap in (lambda d: guidance.clip(d, 0.1), lambda d: guidance.threshold(d, 0.9, 2.0)):
            x0, variance = wrap(denoise)(x, t)
            assert np.array_equal(x0, wrap(expected)(x, t)) and np.array_equal(variance, conditional[:, 3:])


@given(shapes, st.floats(-3, 3))
def test_a_worse_model_is_moved_away_from(shape, s):
    x = latents(0, shape)
    guided, change = guide(4.5)(x, 3.0), pair(x, 3.0)[0] - 0.5 * x
    assert_close(guidance.away(guided, pair(x, 3.0)[0], 0.5 * x, s), guided + s * change)
    for scale in (s, lambda t: s, [s] * shape[0]):
        got = guide(guidance.Guidance(4.5, pag_scale=scale), worse=lambda x, t: 0.5 * x)(x, 3.0)
        assert_close(got, guided + s * change)
    alone = guidance.guided(guidance.Guidance(1.0, pag_scale=s), conditional, None, lambda x, t: 0.5 * x)(x, 3.0)
    assert_close(alone, pair(x, 3.0)[0] + s * change)


def test_branches_that_are_not_needed_are_not_evaluated():
    def never(x, t):
        raise AssertionError("evaluated")

    x = latents(0, (2, 3))
    assert_close(guidance.guided(1.0, conditional, never, never)(x, 3.0), conditional(x, 3.0))
    pag = guidance.guided(guidance.Guidance(1.0, pag_scale=2.0), conditional, never, lambda x, t: 0.5 * x)
    assert_close(pag(x, 3.0), conditional(x, 3.0) + 2.0 * (conditional(x, 3.0) - 0.5 * x))
    assert_close(guidance.guided(4.5, conditional, pair, never)(x, 3.0), guide(4.5)(x, 3.0))


@given(shapes, st.floats(0.5, 1), st.floats(1, 3))
def test_dynamic_thresholding_by_its_definition(shape, ratio, largest):
    x0 = 3 * latents(0, shape)
    got = guidance.threshold(lambda x, t: x0, ratio, largest)(np.zeros(shape), 1.0)
    for picture, result in zip(x0, got, strict=True):
        s = min(max(np.quantile(np.abs(picture), ratio), 1), largest)
        assert_close(result, np.clip(picture, -s, s) / s)
    assert np.abs(got).max() <= 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: guide(lambda t: np.nan)(np.ones((1, 2)), 5.0),
            "the scale of guidance at t = 5 must be finite, got nan",
        ),
        (lambda: guidance.combine(np.ones(2), np.ones(2), [1.0, np.inf]), "^w must be finite"),
        (lambda: guidance.interval(pair, pair, np.nan, 5), r"interval must be \(low, high\) with low at most high"),
        (lambda: guidance.guided(4.5, conditional), r"Guidance\(scale=4.5\) needs pair, which is None"),
        (
            lambda: guidance.guided(guidance.Guidance(pag_scale=2.0), conditional, pair),
            r"Guidance\(scale=4.5, pag_scale=2.0\) needs worse, which is None",
        ),
        (lambda: guidance.threshold(pair, quantile=1.5), r"quantile must be within \(0, 1\], got 1.5"),
        (lambda: guidance.threshold(pair, largest=np.inf), "largest must be a finite number of at least 1, got inf"),
        (lambda: guidance.clip(pair, 0.0), "largest must be a finite number above 0, got 0.0"),
        (lambda: guidance.threshold(pair, quantile=0), r"quantile must be within \(0, 1\]"),
        (lambda: guidance.threshold(pair, largest=0.5), "largest must be a finite number of at least 1, got 0.5"),
    ],
)
def test_options_out_of_range(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("scale", ["4.5", True, None, [1.0, "2"], [[1.0], [2.0, 3.0]], {"cat": 1.0}])
def test_what_is_no_scale(scale):
    x = np.ones((2, 3))
    for make in (
        lambda: guidance.Guidance(scale),
        lambda: guidance.Guidance(pag_scale=scale),
        lambda: guidance.compose(pair, [(pair, 1.0), (pair, scale)]),
        lambda: guidance.combine(x, x, scale),
        lambda: guidance.away(x, x, x, scale),
        lambda: guide(lambda t: scale)(x, 5.0),
    ):
        with pytest.raises(TypeError, match=r"must be a number, (one|or a list of one) for each picture.* got "):
            make()
    with pytest.raises(TypeError, match="w must be a number, one for each picture; Guidance takes functions of t"):
        guidance.combine(x, x, lambda t: 4.5)


@pytest.mark.parametrize("value", ["0.7", True, None])
def test_options_of_another_type(value):
    for make in (
        lambda: guidance.Guidance(rescale=value),
        lambda: guidance.threshold(pair, value),
        lambda: guidance.clip(pair, value),
        lambda: guidance.interval(pair, pair, value, 5),
    ):
        with pytest.raises(TypeError, match=r"must be (a number, got|two numbers)"):
            make()
