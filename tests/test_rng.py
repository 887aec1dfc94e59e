"""Keys: known answers of the cipher, independence, and the statistics of the numbers."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from helpers.strategies import keys
from hypothesis import given
from hypothesis import strategies as st

from pixart_fn import rng

MASK = 2**64 - 1


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Philox 4x64-10 as its paper defines it (Salmon et al. 2011, sec. 3.3), in Python integers."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (high >> 64) ^ b ^ k0, high & MASK, (low >> 64) ^ d ^ k1, low & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return a, b, c, d


def test_philox_gives_the_known_answers_of_its_authors():
    zero = (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)
    ones = (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0)
    assert philox((0, 0), (0, 0, 0, 0)) == zero
    assert philox((MASK, MASK), (MASK,) * 4) == ones


@given(keys, st.integers(0, MASK))
def test_children_are_philox_of_disjoint_counters(key, i):
    pair = tuple(int(word) for word in key)
    # NumPy's stream starts one after the counter that it is given.
    assert rng.split(key, 3).tolist() == [list(philox(pair, (j, 0, 0, 1))[:2]) for j in (1, 2, 3)]
    assert rng.fold_in(key, i).tolist() == list(philox(pair, (1, i, 0, 2))[:2])


def test_frozen_numbers():
    """What a seed means must never change: pictures are remembered by it."""
    key = rng.key(7)
    assert key.dtype == np.uint64 and key.tolist() == [7, 0]
    assert rng.split(key, 2).tolist() == [
        [15357568266549655283, 6523984625352291713],
        [13167310555487258626, 3013225943754064985],
    ]
    assert rng.fold_in(key, 5).tolist() == [8588159297425565756, 753972472022611456]
    frozen = [-1.7496944665908813, 0.5745441317558289, 0.6142833828926086, 0.29785972833633423]
    assert rng.normal(key, (2, 2)).ravel().tolist() == frozen


def test_another_process_draws_the_same():
    code = "from pixart_fn import rng; print(rng.normal(rng.fold_in(rng.key(3), 1), (4,)).tobytes().hex())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split()[-1] == rng.normal(rng.fold_in(rng.key(3), 1), (4,)).tobytes().hex()


@given(keys, st.integers(0, 5), st.integers(0, 5))
def test_split_does_not_depend_on_n(key, n, more):
    assert np.array_equal(rng.split(key, n), rng.split(key, n + more)[:n])
    assert rng.split(key, n).shape == (n, 2)
    assert np.array_equal(rng.split(key), rng.split(key, 2))


@given(keys, st.integers(1, 4), st.integers(0, 2**64 - 1))
def test_rows_of_a_batch_are_drawn_alone(key, n, i):
    batch = rng.split(key, n)
    assert np.array_equal(rng.fold_in(batch, i), [rng.fold_in(row, i) for row in batch])
    drawn = rng.normal(batch, (n, 3, 2))
    assert drawn.dtype == np.float32
    assert np.array_equal(drawn, [rng.normal(row, (3, 2)) for row in batch])


@given(keys)
def test_a_shape_is_only_a_shape(key):
    flat = rng.normal(key, (24,))
    assert np.array_equal(rng.normal(key, (2, 3, 4)).ravel(), flat)
    assert np.array_equal(rng.normal(key, (12,)), flat[:12])
    assert rng.normal(key, ()).shape == ()
    like = rng.normal_like(key, np.zeros((4, 6), np.float64))
    assert like.dtype == np.float32 and np.array_equal(like.ravel(), flat)


def test_normal_numbers_are_normal():
    n = 1_000_000
    x = rng.normal(rng.key(0), (n,)).astype(np.float64)
    deviations = 5  # standard errors of each moment of n numbers
    assert abs(x.mean()) < deviations / n**0.5
    assert abs(x.var() - 1) < deviations * (2 / n) ** 0.5
    assert abs((x**3).mean()) < deviations * (15 / n) ** 0.5
    assert abs((x**4).mean() - 3) < deviations * (96 / n) ** 0.5
    cdf = np.array([0.5 * math.erfc(-v / 2**0.5) for v in np.sort(x)[:: n // 1000]])
    assert np.abs(cdf - np.arange(len(cdf)) / len(cdf)).max() < 2 / n**0.5  # Kolmogorov-Smirnov: p = 7e-4
    assert abs((np.abs(x) > 3).mean() - 0.0026998) < deviations * (0.0027 / n) ** 0.5


def test_streams_are_independent():
    key, n = rng.key(1), 20_000
    children = [key, *rng.split(key, 4), *(rng.fold_in(key, i) for i in range(4)), rng.key(2), rng.fold_in(key, 2**63)]
    correlation = np.corrcoef([rng.normal(child, (n,)) for child in children])
    assert np.abs(correlation - np.eye(len(children))).max() < 5 / n**0.5


def test_no_two_folds_or_splits_meet():
    key, n = rng.key(0), 100_000
    children = np.concatenate([rng.split(key, n), [rng.fold_in(key, i) for i in range(n)]])
    assert len(np.unique(children, axis=0)) == 2 * n
    for column in children.T:  # 64 bits each: a birthday at 2e5 has a chance of 1e-9
        assert len(np.unique(column)) == 2 * n


def test_split_fold_and_normal_never_share_a_block():
    """The counter's highest word tells them apart, and nothing counts up to it."""
    key = rng.key(9)
    words = np.random.Philox(key=key, counter=0).random_raw(4 * 1000)
    children = np.concatenate([rng.split(key, 100).ravel(), *(rng.fold_in(key, i) for i in range(100))])
    assert not np.isin(children, words).any()


@pytest.mark.parametrize("seed", [-1, 2**64, 10**30])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match=rf"seed must be an integer with 0 ≤ seed < 2\*\*64, got {seed}"):
        rng.key(seed)


@pytest.mark.parametrize("seed", [0.5, "1", None, 1.0])
def test_seed_of_another_type(seed):
    with pytest.raises(TypeError, match="seed must be an integer"):
        rng.key(seed)


def test_numpy_integers_are_seeds():
    assert np.array_equal(rng.key(np.int64(5)), rng.key(5))


@pytest.mark.parametrize("key", [0, np.zeros(2), np.zeros((3, 3), np.uint64), np.zeros((1, 1, 2), np.uint64), None])
def test_what_is_not_a_key(key):
    for use in (lambda: rng.split(key), lambda: rng.fold_in(key, 0), lambda: rng.normal(key, (2,))):
        wanted = ValueError if isinstance(key, np.ndarray) else TypeError
        with pytest.raises(wanted, match=r"make one with key\(seed\)"):
            use()


def test_other_misuse_gets_a_sentence():
    batch = rng.split(rng.key(0), 3)
    with pytest.raises(ValueError, match="split takes one key"):
        rng.split(batch)
    with pytest.raises(ValueError, match="3 keys draw a shape that starts with 3"):
        rng.normal(batch, (2, 4))
    with pytest.raises(ValueError, match="i must be an integer"):
        rng.fold_in(batch, -1)
    with pytest.raises(ValueError, match=r"n must be 0 … 4294967296, got -1"):
        rng.split(batch[0], -1)
