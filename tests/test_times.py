"""Samplers of training times: their distributions against closed forms, and the resampler against a plain one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pixart_fn import rng
from pixart_fn.train import times

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

KEYS = rng.split(rng.key(5), 4000)


def chi_square(t, p) -> float:
    """Pearson's statistic in standard deviations from its mean, of draws against probabilities."""
    counts, expected = np.bincount(t, minlength=len(p)), len(t) * np.asarray(p)
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(p) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def test_uniform_draws_every_time_equally_often():
    t, weight = times.uniform(steps=10).draw(KEYS, None)
    assert t.dtype == np.int64 and (weight == 1).all()
    assert abs(chi_square(t, np.full(10, 0.1))) < 4
    assert abs(np.corrcoef(t[:-1], t[1:])[0, 1]) < 4 / math.sqrt(len(t))


def test_uniform_within_bounds():
    t, _ = times.uniform(low=1, high=4).draw(KEYS, None)
    assert abs(chi_square(t - 1, np.full(4, 0.25))) < 4
    t, _ = times.uniform().draw(KEYS, None)
    assert t.min() < 5 and t.max() > 994 and t.min() >= 0 and t.max() <= 999


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.4)])
def test_logit_normal_draws_what_the_normal_distribution_says(mean, std):
    """P(t < k) = Φ((logit(k/T) - mean)/std)."""
    T = 8
    t, weight = times.logit_normal(mean, std, steps=T).draw(KEYS, None)
    for k in range(1, T):
        z = (math.log(k / (T - k)) - mean) / std
        p = 0.5 * (1 + math.erf(z / math.sqrt(2)))
        assert abs((t < k).mean() - p) < 4 * math.sqrt(p * (1 - p) / len(t)) + 1 / len(t), k
    assert (weight == 1).all()


def test_logit_normal_has_no_time_out_of_range():
    for mean in (-1e6, 1e6):
        t, _ = times.logit_normal(mean).draw(KEYS[:3], None)
        assert (t == (0 if mean < 0 else 999)).all()


def plain_probabilities(history, n, T, uniform_prob):
    """IDDPM's, from a list of losses for each time."""
    if any(len(each) < n for each in history):
        return np.full(T, 1 / T)
    root = np.array([math.sqrt(sum(x * x for x in each[-n:]) / n) for each in history])
    return (1 - uniform_prob) * root / root.sum() + uniform_prob / T


def test_importance_follows_the_history_of_losses():
    T, n, random = 5, 3, np.random.default_rng(0)
    sampler = times.importance(n, 0.1, steps=T)
    state, history = sampler.init(), [[] for _ in range(T)]
    keys = rng.split(rng.key(6), 7)
    for step in range(12):
        p = plain_probabilities(history, n, T, 0.1)
        t, weight = sampler.draw(keys, state)
        np.testing.assert_allclose(weight, 1 / (T * p[t]), rtol=1e-12)
        t = random.integers(T, size=7)
        losses = random.exponential(t + 1.0).astype(np.float32)
        before = [each.copy() for each in state]
        new = sampler.update(state, ms.Tensor(t.astype(np.float32)), ms.Tensor(losses))
        assert all((a == b).all() for a, b in zip(state, before, strict=True)), "the old state changed"
        for time, loss in zip(t, losses, strict=True):
            history[time].append(float(loss))
        state = new
        assert step or (state.counts < n).any()
    assert (state.counts == n).all() and len(set(p)) == T
    for time in range(T):
        np.testing.assert_array_equal(state.losses[time], history[time][-n:])
    t, _ = sampler.draw(KEYS, state)
    assert abs(chi_square(t, plain_probabilities(history, n, T, 0.1))) < 4


def test_importance_keeps_the_expected_loss():
    """Σ p(t) w(t) L(t) = mean L(t), whatever L is."""
    sampler = times.importance(1, 0.02, steps=4)
    losses = np.array([0.1, 3.0, 0.5, 7.0])
    state = sampler.update(sampler.init(), np.arange(4), losses)
    t, weight = sampler.draw(KEYS, state)
    assert (weight * losses[t]).mean() == pytest.approx(losses.mean(), rel=0.02)
    uniform, _ = times.uniform(4).draw(KEYS, None)
    assert (weight * losses[t]).std() < 0.3 * losses[uniform].std()


def test_losses_of_zero_draw_uniformly():
    sampler = times.importance(1, steps=3)
    t, weight = sampler.draw(KEYS[:300], sampler.update(sampler.init(), np.arange(3), np.zeros(3)))
    assert set(t) == {0, 1, 2} and np.allclose(weight, 1)


@pytest.mark.parametrize("sampler", [times.uniform(), times.logit_normal(), times.importance()])
def test_an_example_keeps_its_time_in_every_batch(sampler):
    whole, weight = sampler.draw(KEYS[:6], sampler.init())
    one, w = sampler.draw(KEYS[3:4], sampler.init())
    assert one[0] == whole[3] and w[0] == weight[3]


def test_a_stateless_sampler_remembers_nothing():
    sampler = times.uniform()
    assert sampler.init() is None and sampler.update(None, np.zeros(2), np.ones(2)) is None


UPDATES = {
    "not losses of one shape": ((np.arange(2), np.ones(3)), "t and losses must be numbers of one shape"),
    "words": ((np.array(["a"]), np.ones(1)), "t and losses must be numbers of one shape"),
    "a time out of range": ((np.array([5]), np.ones(1)), r"t must be whole numbers within \[0, 4\]"),
    "half a time": ((np.array([0.5]), np.ones(1)), r"t must be whole numbers within \[0, 4\]"),
    "a loss that isn't finite": ((np.array([1]), np.array([np.nan])), "losses must be finite"),
}


@pytest.mark.parametrize("case", UPDATES)
def test_a_wrong_update_is_one_sentence(case):
    arguments, sentence = UPDATES[case]
    sampler = times.importance(steps=5)
    with pytest.raises(ValueError, match=sentence):
        sampler.update(sampler.init(), *arguments)


def test_a_wrong_draw_is_one_sentence():
    sampler = times.importance(steps=5)
    with pytest.raises(TypeError, match="state must be a History"):
        sampler.draw(KEYS[:2], None)
    with pytest.raises(ValueError, match="state must hold 10 losses of each of 5 times"):
        sampler.draw(KEYS[:2], times.importance(steps=6).init())
    with pytest.raises(ValueError, match="keys must have the shape"):
        sampler.draw(rng.key(0), sampler.init())
    with pytest.raises(TypeError, match="update must be a function of"):
        times.Times(5, lambda keys, state: None, update=lambda: None)
    with pytest.raises(TypeError, match="init must be a function without arguments"):
        times.Times(5, lambda keys, state: None, init=3)
