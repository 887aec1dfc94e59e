"""Words, weights and sums of prompts: against encodings made by hand, closed forms, and Compel's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import tiny
from hypothesis import given
from hypothesis import strategies as st

import pixart_fn as px
from pixart_fn import prompts, t5, transformer, tree
from pixart_fn.models import tokenizer
from pixart_fn.prompts import Part, Word

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

PARAMS = tiny.params()
KNOWN = sorted({word for sentence in tiny.SENTENCES for word in sentence.split()})
PROMPT, N = "a cat by a dog", 10
"""Its tokens are ▁a ▁c at ▁b y ▁a ▁ do g </s>."""
CAT, BY, DOG = [1, 2], [3, 4], [6, 7, 8]


def states(text):
    return text.states.asnumpy()


def encoded(prompt, hidden=()):
    """(N, C): the states of a prompt, of which no token sees those at the hidden places."""
    ids, mask = tokenizer.encode(PARAMS.tokenizer, [prompt], 16)
    mask[0, list(hidden)] = 0
    found = t5.encode(PARAMS.text_encoder, PARAMS.config.text_encoder, ms.Tensor(ids), ms.Tensor(mask))
    return found.asnumpy()[0, :N]


def weighted(prompt):
    return states(prompts.weighted(PARAMS, prompt))[0, :N]


def but(*places):
    """The other places."""
    return [place for place in range(N) if place not in {each for listed in places for each in listed}]


@pytest.fixture(scope="module")
def origin():
    return states(px.encode_prompt(PARAMS, ""))[0, 0]


# --- what a prompt says


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("", []),
        ("a cat", [("a cat", 1)]),
        ("a (red:1.5) cat", [("a ", 1), ("red", 1.5), (" cat", 1)]),
        ("a ( red : .5)", [("a  ", 1), ("red", 0.5)]),
        ("((red:2) big:3) cat", [("red", 6), (" big", 3), (" cat", 1)]),
        ("(a:2)(b:0)", [("a", 2), ("b", 0)]),
        ("(a:1) b", [("a b", 1)]),
        ("a (small) cat) (", [("a (small) cat) (", 1)]),
        ("(a (small) cat:2)", [("a (small) cat", 2)]),
        (r"\(scale 1:20\) (a\):2)", [("(scale 1:20) ", 1), ("a)", 2)]),
        ("(ratio 3:4 :2)", [("ratio 3:4", 2)]),
        ("(red:much) (1)", [("(red:much) (1)", 1)]),
    ],
)
def test_weights_are_read(prompt, parts):
    assert prompts.parse(prompt) == [Part(*part) for part in parts]


@given(st.lists(st.tuples(st.sampled_from(KNOWN), st.floats(0, 100)), min_size=1))
def test_weights_that_are_written_are_read(weights):
    parts = prompts.parse(" ".join(f"({word}:{weight:f})" for word, weight in weights))
    read = [weight for part in parts for _ in part.text.split() for weight in [part.weight]]
    assert read == [float(f"{weight:f}") for _, weight in weights]
    assert "".join(part.text for part in parts) == " ".join(word for word, _ in weights)


@given(st.lists(st.sampled_from(KNOWN), max_size=12))
def test_words_lie_one_after_another(chosen):
    """SentencePiece splits at spaces first, so a prompt's tokens are those of its words."""
    counts = [int(tokenizer.encode(PARAMS.tokenizer, [word], 16)[1].sum()) - 1 for word in chosen]
    ends = np.cumsum([0, *counts])
    expected = [Word(*each) for each in zip(chosen, ends.tolist(), ends[1:].tolist(), strict=False)]
    assert prompts.words(PARAMS, " ".join(chosen)) == expected


@given(st.text(st.sampled_from("abc .,;'’-_éﬁ½日𝄞\u3000\u0301\tｃat"), max_size=30), st.booleans())
def test_each_token_is_of_one_word(prompt, clean):
    _, mask = tokenizer.encode(PARAMS.tokenizer, [tokenizer.prepare(prompt, clean)], 120)
    words = prompts.words(PARAMS, prompt, clean=clean)
    places = [place for word in words for place in range(word.start, word.stop)]
    assert places == list(range(int(mask.sum()) - 1))


def test_words_are_cleaned_and_cut_as_the_prompt_is():
    cleaned = prompts.words(PARAMS, "A <b>Red</b> (apple), a cat's")
    assert [word.text for word in cleaned] == ["a", "red", "apple", ",", "a", "cat's"]
    assert prompts.words(PARAMS, PROMPT, tokens=5) == [Word("a", 0, 1), Word("cat", 1, 3), Word("by", 3, 4)]
    assert prompts.words(PARAMS, "") == []
    special = prompts.words(PARAMS, "at </s></s> at", clean=False)  # each is one token
    assert special == [Word("at", 0, 2), Word("</s>", 2, 3), Word("</s>", 3, 4), Word("at", 4, 6)]


# --- weights


def test_weights_of_one_change_nothing():
    found = prompts.weighted(PARAMS, ["a (cat:1) (by a:1.0) dog", ""])
    for part, other in zip(found, px.encode_prompt(PARAMS, [PROMPT, ""]), strict=True):
        np.testing.assert_array_equal(part.asnumpy(), other.asnumpy())


def test_a_weight_above_one_moves_its_own_tokens_away_from_the_empty_prompt(origin):
    z, found = states(px.encode_prompt(PARAMS, PROMPT))[0, :N], weighted("a (cat:2.5) by a dog")
    np.testing.assert_allclose(found[CAT], origin + 2.5 * (z[CAT] - origin), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[but(CAT)], z[but(CAT)])


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_below_one_other_tokens_are_compels(weight, origin):
    """Which blends by a tangent, so that it agrees at these three weights."""
    found = weighted(f"a (cat:{weight}) by a dog")
    z, without, tangent = encoded(PROMPT), encoded(PROMPT, CAT), math.tan((1 - max(weight, 1e-5)) * math.pi / 2)
    np.testing.assert_allclose(found[but(CAT)], ((z + tangent * without) / (1 + tangent))[but(CAT)], rtol=0, atol=2e-4)
    np.testing.assert_allclose(found[CAT], origin + weight * (z[CAT] - origin), rtol=0, atol=1e-5)
    assert weight == 1 or np.abs(found - z)[but(CAT)].max() > 1e-2


def test_several_weights_below_one(origin):
    """At 0 all of them are gone, where Compel keeps half of each; between, the prompt loses one after the other."""
    z, cat, both = (encoded(PROMPT, hidden) for hidden in ((), CAT, [*CAT, *DOG]))
    expected = both.copy()
    expected[[*CAT, *DOG]] = origin
    np.testing.assert_allclose(weighted("a (cat:0) by a (dog:0)"), expected, rtol=0, atol=1e-5)
    expected = 0.2 * z + 0.5 * cat + 0.3 * both
    expected[CAT] = 0.2 * z[CAT] + 0.8 * origin
    expected[DOG] = 0.2 * z[DOG] + 0.5 * cat[DOG] + 0.3 * origin
    expected[BY] = origin + 2 * (expected[BY] - origin)
    np.testing.assert_allclose(weighted("a (cat:0.2) (by:2) a (dog:0.7)"), expected, rtol=0, atol=2e-5)


def test_prompts_are_weighted_alone_or_together():
    several = ["a (cat:0.5) (by:2) a dog", "a (cat:0) by a dog"]
    text = prompts.weighted(PARAMS, several)
    for row, prompt in zip(states(text), several, strict=True):
        np.testing.assert_allclose(row[:N], weighted(prompt), rtol=0, atol=1e-5)
    some, none = prompts.weighted(PARAMS, ["a (cat:2) by a dog", PROMPT]).states.asnumpy()[:, :N]
    np.testing.assert_allclose(some, weighted("a (cat:2) by a dog"), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(none, states(px.encode_prompt(PARAMS, [PROMPT, PROMPT]))[1, :N])


def test_weights_fall_on_whole_tokens_of_the_cleaned_prompt(origin):
    z, found = encoded("a cat, a dog"), weighted("A (<b>CAT</b>:2), a  dog")
    np.testing.assert_allclose(found[CAT], origin + 2 * (z[CAT] - origin), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[but(CAT)], states(px.encode_prompt(PARAMS, "a cat, a dog"))[0, :N][but(CAT)])
    long = 5 * "a cat "
    with pytest.warns(UserWarning, match="'dog' was cut"):  # and the weight with it
        cut = prompts.weighted(PARAMS, f"{long}(dog:0)", tokens=16)
        np.testing.assert_array_equal(states(cut), states(px.encode_prompt(PARAMS, f"{long}dog", tokens=16)))


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("a c(a:2)t", "within 'at', which is one token"),
        ("a cat(©:2)dog", "cleaning leaves 'a cat dog' of prompt"),
        ("a (cat.png:2) dog", "cleaning leaves 'a dog' of prompt"),
        (r"a (\(\):2) dog", "cleaning leaves 'a dog' of prompt"),
        ("a (red:101)", r"must be within \[0, 100\], got 101"),
        ("a ((red:20) cat:20)", "must multiply to at most 100, got 400"),
        ("a ( :2)", "a text before each weight"),
    ],
)
def test_a_weight_that_falls_on_no_token_is_a_sentence(prompt, sentence):
    with pytest.raises(ValueError, match=sentence):
        prompts.weighted(PARAMS, prompt)


# --- sums and successions


@st.composite
def texts(draw, number):
    """Texts of one number of rows, or one row, whose real tokens come first."""
    rng, rows = np.random.default_rng(draw(st.integers(0, 99))), draw(st.integers(1, 3))
    found = []
    for _ in range(number):
        B, L = draw(st.sampled_from([1, rows])), draw(st.integers(1, 5))
        real = rng.integers(1, L + 1, B)
        mask = (np.arange(L) < real[:, None]).astype(np.int32)
        found.append(px.Text(rng.normal(size=(B, L, 2)).astype(np.float32), mask))
    return found


def same(text, other, tolerance=0.0):
    """Whether texts say the same: their masks are the same, and their states where a token is real."""
    (z, mask), (others, own) = ([np.asarray(part) for part in each] for each in (text, other))
    assert z.shape == others.shape and np.array_equal(mask, own)
    return np.abs(z - others)[mask == 1].max() <= tolerance


def added(text, L):
    """A text's states for a sum of L tokens: where it has no token, its last one."""
    return np.stack(
        [z[np.minimum(np.arange(L), real - 1)] for z, real in zip(text.states, text.mask.sum(1), strict=True)]
    )


@given(texts(3), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_a_blend_is_the_sum_of_the_states(given_, weights):
    found = prompts.blend(given_, weights)
    every = list(zip(given_, weights, strict=True))
    acting = [(text, weight) for text, weight in every if weight] or every
    L = max(text.mask.shape[1] for text, _ in acting)
    expected = sum(weight * added(text, L).astype(np.float64) for text, weight in acting)
    B = max(len(text.mask) for text in given_)
    np.testing.assert_allclose(found.states.asnumpy(), np.broadcast_to(expected, (B, L, 2)), rtol=0, atol=1e-5)
    lengths = np.broadcast_to(np.max(np.broadcast_arrays(*(text.mask.sum(1) for text, _ in acting)), 0), B)
    np.testing.assert_array_equal(found.mask.asnumpy().sum(1), lengths)


@given(texts(2), st.floats(-2, 2, width=32))
def test_identities_of_blends(given_, weight):
    text, other = given_
    assert same(prompts.blend([text], [1]), text) and same(prompts.blend([text, text], [0.5, 0.5]), text)
    if len(text.mask) >= len(other.mask):
        assert same(prompts.blend([text, other], [1, 0]), text) and same(prompts.blend([other, text], [0, 1]), text)
    one, swapped = (
        prompts.blend([text, other], [1 - weight, weight]),
        prompts.blend([other, text], [weight, 1 - weight]),
    )
    assert same(one, swapped, 1e-5)
    assert same(prompts.blend([one], [1]), one) and same(prompts.blend([text, text], [1 - weight, weight]), text, 1e-5)


@given(texts(3))
def test_texts_one_after_another(given_):
    found = prompts.concatenate(given_)
    rows = len(found.mask)
    for axis in (0, 1):
        expected = [np.broadcast_to(each[axis], (rows, *each[axis].shape[1:])) for each in given_]
        np.testing.assert_array_equal(found[axis].asnumpy(), np.concatenate(expected, 1))
    nested = prompts.concatenate([prompts.concatenate(given_[:2]), given_[2]])
    assert same(nested, found)


# --- where words act


CONFIG = PARAMS.config.transformer
X = px.noise(PARAMS, px.key(1))


@pytest.fixture(scope="module")
def two():
    """Encoded prompts of as many tokens."""
    return [px.encode_prompt(PARAMS, [prompt]) for prompt in ("a cat by the dog", "the big dog")]


def test_a_succession_of_texts_is_attended_to_in_any_order(two):
    """The transformer's attention to text knows no places."""
    found = [prompts.attention(PARAMS, prompts.concatenate(each), X, 500.0).asnumpy() for each in (two, two[::-1])]
    assert found[0].shape == (1, 4, 4, 32)
    np.testing.assert_allclose(found[0], np.roll(found[1], 16, -1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[0].sum(-1), 1, rtol=1e-5)
    assert found[0].std((1, 2)).max() > 1e-3


def test_without_queries_all_tokens_are_attended_to_alike(two):
    def silent(block):
        return {**block, "attn2": {**block["attn2"], "to_q": tree.map(lambda p: 0 * p, block["attn2"]["to_q"])}}

    blocks = [silent(block) for block in PARAMS.transformer["transformer_blocks"]]
    silenced = PARAMS.replace(transformer={**PARAMS.transformer, "transformer_blocks": blocks})
    text = prompts.concatenate(two)
    found, mask = prompts.attention(silenced, text, X, 10).asnumpy(), text.mask.asnumpy()
    np.testing.assert_allclose(found, np.broadcast_to(mask / mask.sum(), found.shape), rtol=1e-5)


def test_attention_is_the_mean_of_blocks_and_heads(two, monkeypatch):
    maps = np.random.default_rng(0).random((CONFIG.num_layers, 1, 2, 16, 16)).astype(np.float32)
    seen = []

    def apply(p, config, x, t, states, mask, *conditions, collect):
        seen.append((t.asnumpy().tolist(), [each.asnumpy().tolist() for each in conditions]))
        return x, {name: ms.Tensor(maps[int(name[5])]) for name in collect}

    monkeypatch.setattr(transformer, "apply", apply)
    every, last = (prompts.attention(PARAMS, two[0], X, 7, blocks=blocks).asnumpy() for blocks in (None, [1]))
    np.testing.assert_allclose(every, maps.mean((0, 2)).reshape(1, 4, 4, 16), rtol=1e-5)
    np.testing.assert_allclose(last, maps[1].mean(1).reshape(1, 4, 4, 16), rtol=1e-5)
    micro = tiny.params(tiny.MICRO)
    prompts.attention(micro, two[0], np.zeros((1, 4, 8, 4), np.float32), 7)
    assert seen == [([7], []), ([7], []), ([7], [[[16, 8]], [[2]]])]


def test_maps_are_means_of_steps_and_of_the_tokens_of_words():
    steps = np.random.default_rng(0).random((3, 2, 4, 5, 6)).astype(np.float32)
    words = [Word("a", 0, 1), Word("cat", 1, 4)]
    found = prompts.maps([steps[0], steps[1], ms.Tensor(steps[2])], words)
    assert found.shape == (2, 2, 4, 5) and found.dtype == np.float32
    np.testing.assert_allclose(found[1, 0], steps[:, 1, ..., 0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[0, 1, 3, 2], steps[:, 0, 3, 2, 1:4].mean(), rtol=1e-6)


@pytest.mark.slow
def test_words_act_on_what_they_name_and_weights_change_it():
    params, key = px.load(), px.key(0)
    text = prompts.weighted(params, ["a red circle above a blue square", "a (red:0) circle above a blue square"])
    infos = []
    options = {"steps": 6, "on_step": infos.append, "progress": False}
    z = px.sample_latents(params, text, np.stack([key, key]), **options)
    pixels = px.decode_latents(params, z).asnumpy().reshape(2, 8, 16, 8, 16, 3).mean((2, 4))
    red, blue = (pixels[..., c] - pixels[..., 2 - c] > 0.3 for c in (0, 2))
    assert red[0].sum() > 3 and not red[1].any() and min(blue.sum((1, 2))) > 3

    every = range(len(infos) - 1)
    seen = [prompts.attention(params, text, infos[i].x, infos[i + 1].t) for i in every]
    words = prompts.words(params, "a red circle above a blue square")
    maps = dict(zip([word.text for word in words], prompts.maps(seen, words)[0], strict=True))
    share = {word: each[red[0]].mean() / (each[red[0]].mean() + each[blue[0]].mean()) for word, each in maps.items()}
    assert share["red"] > 0.9 and share["circle"] > 0.7 and share["blue"] < 0.1 and share["square"] < 0.3
