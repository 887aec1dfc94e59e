"""One step of training: pure, donated, in parts, in halves; and what a state answers after it was donated."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tiny import without_zeros
from helpers.tolerances import assert_close
from helpers.trees import assert_same, normal, numbers, tensors

import pixart_fn as px
from pixart_fn import rng, schedule, transformer, tree
from pixart_fn.backend import jit
from pixart_fn.train import losses, objective, optim, state, step, times
from pixart_fn.train.batch import Batch, rows_of, size

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

OPTIMISER = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-2))
AVERAGE = optim.ema(0.99)
START = {"weight": normal(0, 3, 4), "bias": normal(1, 4)}
X = normal(2, 8, 3)
KEY = rng.key(5)


def loss(p, x, key):
    """A mean over examples, each with noise of its own key; what is NaN in x makes it NaN."""
    noise = Tensor(rng.normal(key, (len(x), 4)))
    error = ((x if isinstance(x, Tensor) else Tensor(x)).matmul(p["weight"]) + p["bias"] - noise) ** 2
    each = error.mean(1)
    return each.mean(), {"losses": each, "largest": error.max()}


def begin(**options):
    return state.init(tensors(START), OPTIMISER, rng.key(3), ema=AVERAGE, **options)


def walked(n: int = 3, donate: bool = False, x=X, **options):
    one, now, seen = step.make(loss, OPTIMISER, ema=AVERAGE, **options), begin(), []
    for _ in range(n):
        now, metrics = one(now, x, donate=donate)
        seen.append(metrics)
    return now, seen


def test_a_step_is_the_optimisers_on_the_gradient_of_the_loss():
    now, (metrics,) = walked(1)
    keys = rng.split(rng.fold_in(rng.key(3), 0), len(X))
    value, gradients = px.value_and_grad(lambda p: loss(p, X, keys)[0])(tensors(START))
    expected, _, average = optim.step(
        OPTIMISER, tensors(START), gradients, OPTIMISER.init(tensors(START)), AVERAGE, AVERAGE.init(tensors(START))
    )
    assert_same(now.params, expected)
    assert_same(now.average, average.leaves)
    assert metrics["loss"] == float(value) and metrics["norm"] == pytest.approx(optim.global_norm(gradients))
    assert set(metrics) == {"loss", "norm", "largest"}


def test_a_donated_step_gives_the_same_bits():
    pure, donated = walked(), walked(donate=True)
    assert pure[1] == donated[1]
    for (name, a), (_, b) in zip(tree.items(pure[0]), tree.items(donated[0]), strict=True):
        np.testing.assert_array_equal(*(x.asnumpy() if isinstance(x, Tensor) else x for x in (a, b)), err_msg=name)


def test_a_pure_step_leaves_its_state_as_it_was():
    one, first = step.make(loss, OPTIMISER, ema=AVERAGE), begin()
    once, _ = one(first, X)
    again, _ = one(first, X)
    assert_same(first.params, tensors(START))
    assert_same(once.params, again.params)


def test_a_donated_state_answers_nothing_any_more():
    one, first = step.make(loss, OPTIMISER, ema=AVERAGE), begin()
    params = first.params
    second, _ = one(first, X, donate=True)
    for use in (lambda: one(first, X), lambda: first.params, lambda: first.step, lambda: first.replace(step=0)):
        with pytest.raises(RuntimeError, match="this TrainState was donated to a step, which gave a new one"):
            use()
    with pytest.raises(RuntimeError, match="these parameters were donated to a step of training"):
        tree.size(params)
    assert repr(first) == "TrainState(donated to a step)"
    one(second, X, donate=True)


def test_what_a_training_starts_from_is_not_donated():
    given = tensors(START)
    one = step.make(loss, OPTIMISER)
    one(state.init(given, OPTIMISER, rng.key(0)), X, donate=True)
    assert_same(given, tensors(START))


def test_many_donated_steps_keep_no_chain_of_old_arrays():
    """Each Tensor over the array of a Tensor would keep its predecessor, until Python's stack overflows."""
    one, now = step.make(loss, OPTIMISER), state.init(tensors(START), OPTIMISER, rng.key(0))
    now, _ = one(now, X, donate=True)
    first = now.params["weight"]
    for _ in range(3):
        now, _ = one(now, X, donate=True)
    assert now.params["weight"] is first


def test_parts_add_up_to_the_whole():
    whole, parts = walked(), walked(accumulate=4)
    for name, value in numbers(whole[0].params).items():
        assert_close(numbers(parts[0].params)[name], value)
    for a, b in zip(whole[1], parts[1], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["norm"] == pytest.approx(b["norm"], rel=1e-5)
    with pytest.raises(ValueError, match="a batch of 8 examples can't be taken in 3 equal parts"):
        walked(accumulate=3)


def test_a_nan_names_step_and_files_and_leaves_the_state():
    batch = Batch(normal(0, 2, 4, 8, 8) * np.nan, px.Text(normal(1, 2, 3, 4), np.ones((2, 3), np.int32)))
    one = step.make(lambda p, b, key: loss(p, b.x0[:, 0, 0, :3], key), OPTIMISER)
    now = state.init(tensors(START), OPTIMISER, rng.key(3))
    with pytest.raises(step.NotFinite, match=r"step 0 gives the loss nan .*; the batch is a\.png, b\.png"):
        one(now, batch._replace(names=("a.png", "b.png")), donate=True)
    assert_same(now.params, tensors(START))


def test_a_scaled_loss_is_the_same_and_an_overflow_halves_the_scale():
    one = step.make(loss, OPTIMISER)
    plain, _ = one(state.init(tensors(START), OPTIMISER, rng.key(3)), X)
    scaled = state.init(tensors(START), OPTIMISER, rng.key(3), scale=state.LossScale(1024.0))
    once, metrics = one(scaled, X)
    for name, value in numbers(plain.params).items():
        assert_close(numbers(once.params)[name], value)
    assert once.scale == state.LossScale(1024.0, 1)
    skipped, metrics = one(once, X * np.float32(np.inf))
    assert skipped.scale == state.LossScale(512.0, 0) and metrics["scale"] == 512 and skipped.step == 2
    assert_same(skipped.params, once.params)
    grown, _ = one(once.replace(scale=state.LossScale(1024.0, step.GROW_AFTER - 1)), X)
    assert grown.scale == state.LossScale(2048.0, 0)


def test_a_sampler_of_times_remembers():
    sampler = times.importance(history=2)
    linear = schedule.from_betas(schedule.linear())
    aim = losses.diffusion(linear, times=sampler)
    config = transformer.Config(
        num_attention_heads=1, attention_head_dim=8, num_layers=1, cross_attention_dim=8, sample_size=4,
        caption_channels=6, out_channels=4,
    )  # fmt: skip
    tree_ = transformer.init(rng.key(0), config)
    one = step.make(objective.of_transformer(config, aim), OPTIMISER, times=sampler)
    now = state.init(tree_, OPTIMISER, rng.key(1), times=sampler)
    batch = Batch(normal(0, 4, 4, 4, 4), px.Text(normal(1, 4, 3, 6), np.ones((4, 3), np.int32)))
    now, metrics = one(now, batch)
    assert now.times.counts.sum() == 4 and set(metrics) == {"loss", "norm", "mse"}
    before = jit.compilations()
    now, _ = one(now, batch, donate=True)
    assert now.times.counts.sum() == 8 and jit.compilations() == before


def test_rows_of_any_batch():
    batch = Batch(normal(0, 4, 1, 2, 2), px.Text(normal(1, 4, 3, 2), np.ones((4, 3))), names=tuple("abcd"))
    part = rows_of(batch, slice(1, 3))
    assert size(batch) == 4 and size(part) == 2 and part.names == ("b", "c")
    np.testing.assert_array_equal(part.text.states, batch.text.states[1:3])
    assert rows_of(batch, slice(0, 4)) is batch
    with pytest.raises(ValueError, match="a batch must hold arrays"):
        size({})


@pytest.mark.parametrize("recompute", [True, False])
def test_halves_have_the_gradient_of_float32_weights(recompute, eagerly):
    """To the three digits of float16, and as float32; in bfloat16 a CPU has no products."""
    config = transformer.Config(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, cross_attention_dim=16, sample_size=4,
        caption_channels=6,
    )  # fmt: skip
    tree_ = without_zeros(transformer.init(rng.key(0), config))
    batch = Batch(normal(0, 4, 4, 4, 4), px.Text(normal(1, 4, 3, 6), np.ones((4, 3), np.int32)))
    aim = losses.diffusion(schedule.from_betas(schedule.linear()), learned_variance=True)
    found = []
    for dtype in ("float32", "float16"):
        f = objective.of_transformer(config, aim, dtype=dtype, recompute=recompute)
        found.append(px.value_and_grad(f, has_aux=True)(tree_, batch, KEY)[1])
    for name, a, b in tree.rows(*found):
        scale = np.abs(a.asnumpy()).max()
        if not name.endswith("to_k.bias"):  # whose gradient is zero but for rounding
            np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), atol=2e-2 * scale, err_msg=name)
    with pytest.raises(ValueError, match="dtype can't be 'bfloat16' here"):
        objective.of_transformer(config, aim, dtype="bfloat16")


def test_a_sampler_of_times_needs_the_metrics_before_anything_moves():
    sampler = times.importance(history=2)
    now = state.init(tensors(START), OPTIMISER, KEY, times=sampler)
    one = step.make(lambda p, x, key, times_state=None: loss(p, x, key), OPTIMISER, times=sampler)
    with pytest.raises(ValueError, match='must give the metrics "t" and "losses"'):
        one(now, X, donate=True)
    assert_same(now.params, tensors(START))
