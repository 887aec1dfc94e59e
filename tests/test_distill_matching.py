"""Distribution matching distillation: its gradient is its formula, and a regression agrees with finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.distilled import (
    ALPHA_BAR,
    BATCH,
    KEY,
    KEYS,
    NULL,
    SCHEDULE,
    SHAPE,
    TEACHER,
    WEIGHT,
    X0,
    B,
    N,
    affine,
    alpha_sigma,
    column,
    features,
    x0_of,
)
from helpers.tolerances import assert_close

from pixart_fn import rng
from pixart_fn.backend import autodiff
from pixart_fn.train import distill, losses

import mindspore as ms  # isort: skip - after pixart_fn, which silences it
from mindspore import Tensor, ops  # isort: skip

# --- distribution matching --------------------------------------------------------------------------------------------


def plain_direction(x, t, fake, teacher, null, scale, prediction):
    """(x̂0_fake - x̂0_real) / (mean |x - x̂0_real| + 1e-5) in float64."""
    alpha, sigma = alpha_sigma(t)
    x_t = alpha * x + sigma * rng.normal(rng.fold_in(rng.fold_in(KEYS, 3), 1), SHAPE)
    of_fake, conditional, unconditional = (x0_of(f(x_t, t), x_t, t, prediction) for f in (fake, teacher, null))
    real = unconditional + scale * (conditional - unconditional)
    return (of_fake - real) / (np.abs(x - real).mean((1, 2, 3), keepdims=True) + 1e-5)


def gradient_of_latents(loss, fake, teacher, null, x):
    """The gradient with respect to a student that gives x, as x0, whatever it is asked."""

    def f(p):
        return loss(lambda z, t: p["x"], fake, teacher, null, BATCH, KEY)

    (value, metrics), gradients = autodiff.value_and_grad(f, has_aux=True)({"x": Tensor(x)})
    return float(value), metrics, gradients["x"].asnumpy()


def test_dmd_gradient_is_its_formula():
    x, fake = X0 + np.float32(0.5), affine(0.2, 0.3)
    loss = distill.dmd(SCHEDULE, "x0", scale=2.5)
    value, metrics, gradient = gradient_of_latents(loss, fake, TEACHER, NULL, x)
    away = plain_direction(x.astype(float), metrics["t"].asnumpy(), fake, TEACHER, NULL, 2.5, "x0")
    assert_close(gradient, away / (B * N) * column(WEIGHT), 1e-5)
    assert_close(metrics["losses"], 0.5 * (away**2).mean((1, 2, 3)), 1e-5)
    assert value == pytest.approx((0.5 * (away**2).mean((1, 2, 3)) * WEIGHT).mean(), rel=1e-5)
    assert float(metrics["matching"]) == pytest.approx(0.5 * (away**2).mean(), rel=1e-5)
    assert metrics.keys() == {"losses", "t", "matching"}


def test_dmd_is_still_where_the_scores_agree():
    def fake(x, t):
        return 2.5 * TEACHER(x, t) - 1.5 * NULL(x, t)

    for prediction in ("epsilon", "v"):
        loss = distill.dmd(SCHEDULE, prediction, scale=2.5)

        def value(p, score, loss=loss):
            return loss(affine(p["a"], 0.1), score, TEACHER, NULL, BATCH, KEY)[0]

        slopes = [autodiff.grad(value)({"a": Tensor(0.3)}, score)["a"] for score in (fake, TEACHER)]
        agreeing, differing = (abs(float(each)) for each in slopes)
        assert agreeing < 1e-4 * differing


def test_a_regression_differentiates_the_student_alone():
    """Features with a weight of their own see the target as it is."""

    def gradient(p, weight):
        loss = distill.dmd(SCHEDULE, features=lambda x: x * weight(p), regression_weight=1.0)
        return loss(affine(p["a"], 0.1), NULL, NULL, NULL, BATCH, KEY, X0)[0]

    start = {"a": Tensor(0.5, ms.float32), "w": Tensor(2.0, ms.float32)}
    whole = autodiff.grad(gradient)(start, lambda p: p["w"])
    x = distill.one_step(affine(0.5, 0.1), SCHEDULE, X0).asnumpy()
    slope = (2 * 2.0 * (x - X0) * x).mean((1, 2, 3))  # of mean (w x - 2 x0)²
    assert float(whole["w"]) == pytest.approx((slope * WEIGHT).mean(), rel=1e-4)


def test_dmd_with_a_regression_agrees_with_finite_differences():
    """ε is predicted, at t = 400, from noise that is given."""
    z = np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)
    loss = distill.dmd(SCHEDULE, features=features, regression_weight=0.7, scale=2.0)
    fake, p = affine(0.2, 0.3), {"a": 0.25, "b": 0.125}

    def ours(q):
        return loss(affine(q["a"], q["b"]), fake, TEACHER, NULL, BATCH, KEY, z)

    (value, metrics), gradients = autodiff.value_and_grad(ours, has_aux=True)(
        {name: Tensor(each, ms.float32) for name, each in p.items()}
    )
    start = np.full(B, 400)

    def latents(q):
        exact = z.astype(float)
        return x0_of(affine(q["a"], q["b"])(exact, start), exact, start, "epsilon")

    def regression(x):
        both = zip(features(x), features(X0.astype(float)), strict=True)
        return sum(((one - other) ** 2).reshape(B, -1).mean(1) for one, other in both)

    still = latents(p)
    away = plain_direction(still, metrics["t"].asnumpy(), fake, TEACHER, NULL, 2.0, "epsilon")

    def theirs(q):
        x = latents(q)
        each = 0.5 * ((x - (still - away)) ** 2).mean((1, 2, 3)) + 0.7 * regression(x)
        return (each * WEIGHT).mean()

    assert float(value) == pytest.approx(theirs(p), rel=1e-5)
    assert float(metrics["regression"]) == pytest.approx(regression(still).mean(), rel=1e-5)
    h = 1e-5
    for name in p:
        slope = (theirs({**p, name: p[name] + h}) - theirs({**p, name: p[name] - h})) / (2 * h)
        assert float(gradients[name]) == pytest.approx(slope, rel=1e-4), name


def test_one_step_is_x0_at_400():
    z = np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)
    seen = []

    def student(x, t):
        seen.extend(t.asnumpy())
        return ops.cat([0.3 * x, 9 * x], 1)

    made = distill.one_step(student, SCHEDULE, z)
    assert seen == [400] * B
    a = ALPHA_BAR[400]
    assert_close(made, (z - math.sqrt(1 - a) * 0.3 * z) / math.sqrt(a))


def test_the_fake_score_learns_at_the_times_of_the_comparison():
    loss = distill.dmd(SCHEDULE, "v")
    assert loss.score == losses.diffusion(SCHEDULE, "v", times=loss.times)
    keys = rng.split(rng.key(1), 5000)
    t, _ = loss.times.draw(keys, None)
    assert (t.min(), t.max()) == (1, 998)
    value, metrics = loss.score(lambda x, t: ops.cat([x, x], 1), BATCH, KEY)
    assert metrics["losses"].shape == (B,) and np.isfinite(float(value))
