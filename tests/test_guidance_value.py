"""Guidance as a value: what it takes and refuses, and mistakes with branches and formulas."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.branches import conditional, guide, pair
from helpers.strategies import latents

from pixart_fn import guidance, schedule

LINEAR = schedule.from_betas(schedule.linear())


WRONG = {
    "NaN": ({"scale": np.nan}, ValueError, "the scale of guidance must be finite, got nan"),
    "infinity": ({"scale": [1.0, np.inf]}, ValueError, "the scale of guidance must be finite, got "),
    "a table": ({"scale": np.ones((2, 2))}, ValueError, r"a number or one for each picture, got .* shape \(2, 2\)"),
    "PAG": ({"pag_scale": np.inf}, ValueError, "pag_scale must be finite, got inf"),
    "rescale": ({"rescale": 2}, ValueError, r"rescale must be within \[0, 1\], got 2"),
    "NaN rescale": ({"rescale": np.nan}, ValueError, r"rescale must be within \[0, 1\], got nan"),
    "interval": (
        {"interval": (5, 1)},
        ValueError,
        r"interval must be \(low, high\) with low at most high, got \(5, 1\)",
    ),
    "half an interval": ({"interval": 5}, TypeError, r"interval must be two numbers \(low, high\)"),
    "NaN interval": ({"interval": (0, np.nan)}, ValueError, r"interval must be \(low, high\)"),
    "compat": ({"compat": "alpha"}, ValueError, "compat must be one of 'diffusers', 'original', got 'alpha'"),
    "a layer": ({"pag_scale": 1.0, "pag_layers": 1}, TypeError, "pag_layers must be a list of .* blocks, .*, got 1"),
    "a word": ({"pag_scale": 1.0, "pag_layers": "1"}, TypeError, "pag_layers must be a list of .* blocks, .*, got '1'"),
    "a flag": ({"pag_scale": 1.0, "pag_layers": [True]}, TypeError, "pag_layers must be a list of .* got .True."),
    "an array": ({"pag_scale": 1.0, "pag_layers": np.array(1)}, TypeError, "pag_layers must be a list of .* blocks"),
    "no layer": ({"pag_scale": 1.0, "pag_layers": []}, ValueError, r"pag_layers must be at least one block, .* \(\)"),
    "below": (
        {"pag_scale": 1.0, "pag_layers": (-1,)},
        ValueError,
        "pag_layers must be at least one block, counted from 0",
    ),
    "PAG off": ({"pag_layers": [1]}, ValueError, r"pag_layers \(1,\) need a pag_scale, which is 0"),
    "no scale": (
        {"scale": []},
        ValueError,
        r"the scale of guidance must be a number or one for each picture, .* \(0,\)",
    ),
    "no PAG scale": ({"pag_scale": ()}, ValueError, r"^pag_scale must be a number or one for each picture, .* \(0,\)"),
    "beyond floats": (
        {"scale": 10**400},
        ValueError,
        "the scale of guidance must be at most 1.8e308 in size, .* larger",
    ),
    "one beyond": ({"scale": [1.0, -(10**400)]}, ValueError, "the scale of guidance must be at most 1.8e308 in size"),
    "rescaling nothing": (
        {"scale": 1, "rescale": 0.5},
        ValueError,
        "^rescale=0.5 would change nothing with a scale of 1",
    ),
    "an interval of nothing": (
        {"scale": [1, 1.0], "interval": (2, 8)},
        ValueError,
        r"^interval=\(2, 8\) would change nothing with a scale of 1 and a pag_scale of 0$",
    ),
    "all of nothing": (
        {"scale": 1, "interval": (2, 8), "compat": "original"},
        ValueError,
        r"^interval=\(2, 8\), compat=.original. would change nothing",
    ),
    "a layer twice": ({"pag_scale": 1.0, "pag_layers": [0, 0]}, ValueError, r"must be different blocks, got \(0, 0\)"),
    "two lengths": (
        {"scale": [3, 4], "pag_scale": [1, 2, 3]},
        ValueError,
        "the scale of guidance and pag_scale must have one number for each picture, got 2 and 3",
    ),
    "no method": ({"method": "apg"}, TypeError, "method must be a Projected, a ZeroStar or None, got 'apg'"),
    "a method of nothing": (
        {"scale": 1, "method": guidance.ZeroStar()},
        ValueError,
        r"^method=ZeroStar\(\) would change nothing with a scale of 1$",
    ),
    "no branch": ({"worse": 2.0}, TypeError, "worse must be a Perturb, a Skip, a Blur, a Weaker or None, got a float"),
    "two branches": (
        {"pag_scale": 2.0, "worse": guidance.Skip(2.0)},
        ValueError,
        r"pag_scale and pag_layers are short for worse=Perturb\(…\), so give them or worse",
    ),
    "layers of another branch": ({"pag_layers": [1], "worse": guidance.Skip(2.0)}, ValueError, "so give them or worse"),
    "two lengths of worse": (
        {"scale": [3, 4], "worse": guidance.Blur([1, 2, 3])},
        ValueError,
        "the scale of guidance and the scale of worse must have one number for each picture, got 2 and 3",
    ),
    "a table of intervals": ({"interval": np.ones((2, 2))}, TypeError, r"interval must be two numbers \(low, high\)"),
    "an array of no interval": ({"interval": np.array(5)}, TypeError, r"interval must be two numbers \(low, high\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_guidance_is_checked_when_it_is_made(case):
    options, error, sentence = WRONG[case]
    with pytest.raises(error, match=sentence) as raised:
        guidance.Guidance(**options)
    assert "\n" not in str(raised.value)


def test_guidance_is_an_immutable_value():
    scales = np.array([4.5, 3.0])
    value = guidance.Guidance(scales, interval=[200, 800], pag_scale=2, pag_layers=np.array([1, 2]))
    scales[:] = 0.0
    assert value.scale == (4.5, 3.0) and value.interval == (200, 800) and value.pag_layers == (1, 2)
    assert value == guidance.Guidance([4.5, 3], (200, 800), pag_scale=2.0, pag_layers=(1, 2))
    assert len({value, guidance.Guidance(4.5), guidance.Guidance(np.float32(4.5)), guidance.Guidance()}) == 2
    with pytest.raises(AttributeError):
        value.scale = 1.0
    assert eval(repr(value), {"Guidance": guidance.Guidance}) == value
    assert repr(guidance.Guidance(rescale=0.7)) == "Guidance(scale=4.5, rescale=0.7)"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: guidance.Projected(eta=1.5), r"eta must be within \[0, 1\], got 1.5"),
        (lambda: guidance.Projected(threshold=0), "threshold must be a number above 0, got 0"),
        (lambda: guidance.Projected(momentum=-1.5), r"momentum must be within \[-1, 1\], got -1.5"),
        (lambda: guidance.Projected(eta=1), "eta=1 with no threshold and no momentum would change nothing; leave"),
        (lambda: guidance.ZeroStar(-1), "zero_from must be a finite number of at least 0, got -1"),
        (lambda: guidance.Weaker(0), "scale must be other than 0, which would change nothing; leave the worse branch"),
        (lambda: guidance.Skip([0.0, 0], [1]), "scale must be other than 0"),
        (lambda: guidance.Skip(2.0, []), "layers must be at least one block, counted from 0"),
        (lambda: guidance.Perturb(2.0, interval=(5, 1)), r"interval must be \(low, high\) with low at most high"),
        (lambda: guidance.Blur(2.0, sigma=0), "sigma must be a number above 0, got 0"),
        (
            lambda: guidance.Guidance(method=guidance.ZeroStar(900), interval=(0, 500)),
            r"^zero_from=900 would change nothing, since interval=\(0, 500\) ends below$",
        ),
        (
            lambda: guidance.Guidance(worse=guidance.Skip(2.0, interval=(600, 900)), interval=(0, 500)),
            r"^worse=Skip\(.*\) would change nothing, since guidance has interval=\(0, 500\)$",
        ),
        (lambda: guide(guidance.Guidance(method=guidance.ZeroStar())), r"needs schedule, which is None"),
        (lambda: guide(guidance.Guidance(worse=guidance.Weaker(2.0))), r"needs worse, which is None"),
    ],
)
def test_kinds_are_checked_when_they_are_made(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_kinds_are_values():
    value = guidance.Guidance(3.0, method=guidance.Projected(0.5), worse=guidance.Skip(np.ones(2), np.array([7, 8])))
    assert value.worse == guidance.Skip((1.0, 1.0), (7, 8)) and value.branch is value.worse
    assert guidance.Skip(2.0) != guidance.Perturb(2.0) and len({value, guidance.Guidance(3.0), value}) == 2
    assert eval(repr(value), {**vars(guidance)}) == value
    assert guidance.Guidance(pag_scale=2, pag_layers=[1]).branch == guidance.Perturb(2.0, (1,))
    assert guidance.Guidance(1, interval=(2, 8), worse=guidance.Blur(1.0)).interval == (2, 8)
    assert guidance.Guidance(3, (2, 8), method=guidance.ZeroStar(8), worse=guidance.Blur(1.0, interval=(8, 9))).branch


def test_a_part_of_the_pictures_has_its_own_scales():
    scales = [1.0, 2.0, 3.0]
    for how in (
        guidance.Guidance(scales, worse=guidance.Skip(scales, (1,), interval=(0, 500))),
        guidance.Guidance(lambda t: scales, worse=guidance.Skip(lambda t: np.array(scales), (1,), interval=(0, 500))),
    ):
        part = how.part(slice(1, 3))
        assert [*part.scale(5.0)] == [*part.worse.scale(5.0)] == [2.0, 3.0]
        assert part.worse.layers == (1,) and part.worse.interval == (0, 500)
    assert guidance.Guidance(lambda t: 3.0, pag_scale=2.0).part(slice(1, 3)).scale(5.0) == 3.0
    assert guidance.Guidance(3.0, pag_scale=scales).part(slice(2, 3)).pag_scale(5.0) == (3.0,)
    whole = guidance.Guidance(3.0, rescale=0.5, worse=guidance.Blur(2.0))
    assert whole.part(slice(0, 1)) == whole


@pytest.mark.parametrize(
    ("scale", "compares"), [(1, False), (1.0, False), ([1, 1], False), ([1, 2], True), (0.0, True), (lambda t: 1, True)]
)
def test_a_scale_of_1_evaluates_no_negative_text(scale, compares):
    assert guidance.Guidance(scale).compares is compares
    assert (guidance.Guidance(pag_scale=scale).branch is not None) is (scale != 0.0)
    if not compares:
        assert guidance.guided(scale, conditional) is conditional


def test_options_of_guidance_that_change_something_are_taken():
    """The neighbours of what is refused: with perturbed attention alone an interval counts, and arrays are numbers."""
    value = guidance.Guidance(1, interval=np.array([200, 800]), pag_scale=2.0)
    assert value.interval == (200, 800) and repr(value.interval) == "(200, 800)"
    assert guidance.Guidance([3, 4], pag_scale=[1, 2]).branch is not None
    assert guidance.Guidance([3, 4], pag_scale=2).compares and guidance.Guidance(10**6).scale == 1e6
    assert not guidance.Guidance(1, rescale=0, compat="diffusers").compares


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"guidance_scale": 3}, "'guidance_scale'; the argument is 'scale'"),
        ({"guidance_rescale": 0.5}, "'guidance_rescale'; the argument is 'rescale'"),
        ({"w": 3}, "'w'; the argument is 'scale'"),
        ({"w": 3, "guidance_rescale": 0.5}, "'w'; the argument is 'scale'; and no argument 'guidance_rescale'; the "),
        ({"pag_scal": 3}, "'pag_scal'; the argument is 'pag_scale'"),
    ],
)
def test_guidance_names_the_right_argument(options, sentence):
    with pytest.raises(TypeError, match=f"^Guidance has no argument {sentence}"):
        guidance.Guidance(**options)


# --- mistakes with branches and formulas


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, t: pair(x, t)[1],  # a denoiser: its two rows aren't the two branches
        lambda x, t: [*pair(x, t)],
        lambda x, t: (*pair(x, t), x),
        lambda x, t: (x, x[:1]),
        lambda x, t: (x[:, :1], x[:, :1]),
        guidance.both(lambda x, t: x, lambda x, t: (x, x)),
    ],
)
def test_what_is_no_pair_is_refused(wrong):
    denoise = guidance.guided(3.0, conditional, wrong)
    with pytest.raises(
        TypeError, match=r"pair must give a tuple of two values, .* the shape \(2, 4\) of x, got .*guidance.both"
    ):
        denoise(latents(0, (2, 4)), 5.0)


X, ROW = np.ones((2, 4, 3, 3)), np.ones((1, 4, 3, 3))


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda: guidance.combine(X, ROW, 3.0),
            ValueError,
            r"conditional and unconditional must have the same shape, got conditional \(2, 4, 3, 3\), uncond",
        ),
        (lambda: guidance.rescale(X, ROW, 0.5), ValueError, "guided and conditional must have the same shape"),
        (lambda: guidance.rescale(X, X, 1.5), ValueError, r"phi must be within \[0, 1\], got 1.5"),
        (lambda: guidance.rescale(X, X, "0.5"), TypeError, "phi must be a number, got '0.5'"),
        (lambda: guidance.first_channels(X, ROW), ValueError, "guided and conditional must have the same shape"),
        (lambda: guidance.first_channels(X, X, 5), ValueError, "n must be 0 … 4, got 5"),
        (lambda: guidance.first_channels(X, X, -1), ValueError, "n must be 0 … 4, got -1"),
        (lambda: guidance.first_channels(X, X, 1.0), TypeError, "n must be a whole number, got a float"),
        (
            lambda: guidance.first_channels(X[0, 0, 0], X[0, 0, 0]),
            ValueError,
            r"guided must have the shape \(B, C, …\)",
        ),
        (
            lambda: guidance.away(X, X, ROW, 3.0),
            ValueError,
            "guided and conditional and worse must have the same shape",
        ),
    ],
)
def test_formulas_check_their_values(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()


@pytest.mark.parametrize(
    ("value", "sentence"), [(np.inf, "must be finite, got inf"), ([1, 2, 3], "must be .* one for each picture \\(2\\)")]
)
def test_an_error_in_a_function_of_t_names_it(value, sentence):
    x = latents(0, (2, 4))
    how = guidance.Guidance(1.0, pag_scale=lambda t: value)
    for denoise, name in (
        (guide(lambda t: value), "the scale of guidance"),
        (guidance.guided(how, conditional, None, lambda x, t: 0.5 * x), "pag_scale"),
        (guidance.compose(conditional, [(conditional, lambda t: value)]), "a weight"),
    ):
        with pytest.raises(ValueError, match=f"^{name} at t = 5 {sentence}"):
            denoise(x, 5.0)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("classifier_free", r"; it is now guidance.guided\(scale, conditional, pair\)$"),
        ("perturbed", "; it is now guidance.guided"),
        ("perturbed_attention", r"; it is now guidance.away\(guided, conditional, worse, s\)$"),
        ("xyzzy", "has no attribute 'xyzzy'$"),
    ],
)
def test_a_removed_name_says_what_it_is_now(name, sentence):
    with pytest.raises(AttributeError, match=sentence):
        getattr(guidance, name)
