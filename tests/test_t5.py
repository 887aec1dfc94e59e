"""The text encoder's buckets, as tabulated by hand and in transformers, and its initial weights."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.initial import assert_different, assert_normal

from pixart_fn import rng, t5, tree

RELEASED = t5.Config(vocab_size=8)


def by_distance(config: t5.Config, far: int) -> dict[int, int]:
    """Bucket of each distance key − query from -far to far."""
    table = t5.buckets(config, far + 1)
    return {d: int(table[max(-d, 0), max(d, 0)]) for d in range(-far, far + 1)}


def expand(edges: list[int], last: int) -> list[int]:
    """Buckets of the distances 0 … last, of which the n-th bucket begins at the n-th edge."""
    return [sum(edge <= distance for edge in edges) - 1 for distance in range(last + 1)]


@pytest.mark.parametrize(
    ("config", "edges"),
    [
        # 8 single distances, then 8 · 16^(n/8) for n = 0 … 7, rounded up; the last has no end
        (RELEASED, [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]),
        # 2 single distances, then 2 · 8^(n/2) for n = 0, 1
        (t5.Config(relative_attention_num_buckets=8, relative_attention_max_distance=16), [0, 1, 2, 6]),
    ],
    ids=["released", "narrow"],
)
def test_a_bucket_is_a_distance_or_a_range_of_them(config, edges):
    """Keys after the query have buckets of their own, in the second half."""
    expected, half = expand(edges, 200), config.relative_attention_num_buckets // 2
    for distance, bucket in by_distance(config, 200).items():
        assert bucket == expected[abs(distance)] + half * (distance > 0), distance


def test_a_bucket_depends_on_the_distance_alone():
    with np.errstate(all="raise"):  # the logarithm of no distance would be -∞, and a warning
        table = t5.buckets(RELEASED, 40)
    assert table.shape == (40, 40)
    assert (table[1:, 1:] == table[:-1, :-1]).all()


def test_one_hot_rows_pick_the_bucket():
    rows = t5.one_hot_buckets(RELEASED, 20).asnumpy()
    assert rows.dtype == np.float32 and rows.shape == (400, 32)
    np.testing.assert_array_equal(rows @ np.arange(32), t5.buckets(RELEASED, 20).ravel())
    np.testing.assert_array_equal(rows.sum(1), 1)


def test_initial_weights_have_t5s_scales():
    """`T5EncoderModel._init_weights` of transformers: N(0, 1) embeddings, 1/√fan-in, q another 1/√K."""
    D, K, ff, heads = 40, 16, 96, 3
    config = t5.Config(vocab_size=150, d_model=D, d_kv=K, d_ff=ff, num_layers=2, num_heads=heads)
    stds = {"q": (D * K) ** -0.5, "k": D**-0.5, "v": D**-0.5, "o": (heads * K) ** -0.5}
    stds |= {"wi_0": D**-0.5, "wi_1": D**-0.5, "wo": ff**-0.5, "shared": 1.0, "relative_attention_bias": D**-0.5}
    leaves = {name: leaf.asnumpy() for name, leaf in tree.items(t5.init(rng.key(0), config))}
    assert {name: leaf.shape for name, leaf in leaves.items()} == t5.shapes(config)
    for name, leaf in leaves.items():
        part = name.split(".")[-2]
        assert leaf.dtype == np.float32
        if part.endswith("layer_norm"):
            assert (leaf == 1).all(), name
        else:
            assert_normal(name, leaf, stds[part])
    assert_different(leaves)


@pytest.mark.reference
@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (8, 16), (16, 100), (64, 128)])
def test_buckets_live(buckets, far):
    torch = pytest.importorskip("torch")
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(600)[None] - torch.arange(600)[:, None]
    theirs = T5Attention._relative_position_bucket(distance, num_buckets=buckets, max_distance=far).numpy()
    config = t5.Config(relative_attention_num_buckets=buckets, relative_attention_max_distance=far)
    np.testing.assert_array_equal(t5.buckets(config, 600), theirs)
