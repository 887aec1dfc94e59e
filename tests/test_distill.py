"""Distillation: consistency on Gaussian data, where the teacher is exact; DMD's gradient against its formula."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from helpers.distilled import (
    BATCH,
    KEY,
    KEYS,
    NULL,
    SCHEDULE,
    SHAPE,
    TARGET,
    TEACHER,
    WEIGHT,
    X0,
    affine,
    alpha_sigma,
    column,
    epsilon_of,
    features,
    x0_of,
)
from helpers.tolerances import assert_close

from pixart_fn import rng
from pixart_fn.backend import autodiff, jit
from pixart_fn.train import distill, times

import mindspore as ms  # isort: skip - after pixart_fn, which silences it
from mindspore import Tensor  # isort: skip

# --- latent consistency -----------------------------------------------------------------------------------------------


def scalings(t, unit=0.1, std=0.5):
    """c_skip and c_out as the authors' script has them: t / 0.1 and σ_data 0.5."""
    tau = column(t) / unit
    return std**2 / (tau**2 + std**2), tau / np.sqrt(tau**2 + std**2)


def plain_lcm(student, target, teacher, null, prediction, k, *scaling):
    """The authors' loss in float64: w = 4.5 in teacher + w (teacher - null), and 50 steps of DDIM."""
    t = np.arange(1, 51)[k] * 20 - 1
    before = np.maximum(t - 20, 0)
    alpha, sigma = alpha_sigma(t)
    x = alpha * X0 + sigma * rng.normal(rng.fold_in(KEYS, 1), SHAPE)
    outputs = teacher(x, t), null(x, t)
    x0, eps = (
        (lambda c, u: c + 4.5 * (c - u))(*(f(out, x, t, prediction) for out in outputs)) for f in (x0_of, epsilon_of)
    )
    alpha, sigma = alpha_sigma(before)
    x_before = alpha * x0 + sigma * eps
    skip, out = scalings(before, *scaling)
    wanted = skip * x_before + out * x0_of(target(x_before, before), x_before, before, prediction)
    skip, out = scalings(t, *scaling)
    made = skip * x + out * x0_of(student(x, t), x, t, prediction)
    each = (np.sqrt((made - wanted) ** 2 + 0.001**2) - 0.001).mean((1, 2, 3))
    return each, (each * WEIGHT).mean()


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_lcm_agrees_with_the_authors_and_its_gradient_with_finite_differences(prediction):
    loss = distill.lcm(SCHEDULE, prediction)
    p = {"a": 0.25, "b": 0.125}

    def ours(q):
        return loss(affine(q["a"], q["b"]), TARGET, TEACHER, NULL, BATCH, KEY)

    (value, metrics), gradients = autodiff.value_and_grad(ours, has_aux=True)(
        {name: Tensor(x, ms.float32) for name, x in p.items()}
    )
    k = (metrics["t"].asnumpy().astype(int) + 1) // 20 - 1

    def theirs(**q):
        return plain_lcm(affine(q["a"], q["b"]), TARGET, TEACHER, NULL, prediction, k)

    each, mean = theirs(**p)
    assert_close(metrics["losses"], each, 1e-5)
    assert float(value) == pytest.approx(mean, rel=1e-5)
    h = 1e-5
    for name in p:
        slope = (theirs(**{**p, name: p[name] + h})[1] - theirs(**{**p, name: p[name] - h})[1]) / (2 * h)
        assert float(gradients[name]) == pytest.approx(slope, rel=1e-5), name


def test_the_scalings_count():
    """With the authors' c_out is nearly 1 at all times but 0."""
    loss = distill.lcm(SCHEDULE, "v", timestep_scaling=0.01, sigma_data=2.0)
    _, metrics = loss(NULL, TARGET, TEACHER, NULL, BATCH, KEY)
    k = (metrics["t"].asnumpy().astype(int) + 1) // 20 - 1
    assert_close(metrics["losses"], plain_lcm(NULL, TARGET, TEACHER, NULL, "v", k, 100, 2.0)[0], 1e-5)


MEAN, NULL_MEAN, STD = 0.4, -0.3, 0.5


def gaussian(mean):
    """ε of data of one mean: E[ε | x] = σ (x - α m)/(α² s² + σ²)."""

    def predict(x, t):
        alpha, sigma = alpha_sigma(t.asnumpy())
        variance = alpha**2 * STD**2 + sigma**2
        return Tensor((sigma * (x.asnumpy() - alpha * mean) / variance).astype(np.float32))

    return predict


def consistency(scale):
    """Where DDIM leads from t_k to 0, as factors (a, b) of a x + b for k = -1 (t = 0), 0 … 49; the guided teacher is
    that of data of one mean too."""
    mean = scale * MEAN + (1 - scale) * NULL_MEAN
    factors = [(1.0, 0.0)]
    for k in range(50):
        t, before = 20 * k + 19, max(20 * k - 1, 0)
        (alpha, sigma), (alpha1, sigma1) = ((x.item() for x in alpha_sigma([each])) for each in (t, before))
        score = sigma / (alpha**2 * STD**2 + sigma**2)  # ε = score (x - α m)
        a = alpha1 * (1 - sigma * score) / alpha + sigma1 * score
        b = (alpha1 * sigma - alpha * sigma1) * score * mean
        a_rest, b_rest = factors[-1]
        factors.append((a_rest * a, a_rest * b + b_rest))
        exact = STD / math.sqrt(alpha**2 * STD**2 + sigma**2)  # the probability flow's solution
        assert factors[-1][0] == pytest.approx(exact, rel=0.1)
        assert factors[-1][1] == pytest.approx(mean * (1 - alpha * exact), abs=0.1 * abs(mean))
    return factors


def exact_student(scale):
    """A network whose f is where the teacher's DDIM leads."""
    factors = consistency(scale)

    def predict(x, t):
        at, x = t.asnumpy().astype(int), x.asnumpy().astype(np.float64)
        a, b = (column([factors[(each + 1) // 20][i] for each in at]) for i in (0, 1))
        alpha, sigma = alpha_sigma(at)
        skip, out = scalings(at)
        x0 = (a * x + b - skip * x) / np.where(out > 0, out, 1.0)
        return Tensor(((x - alpha * x0) / sigma).astype(np.float32))

    return predict


def test_lcm_vanishes_where_the_student_is_consistent():
    keys = rng.split(rng.key(4), 24)
    x0 = (MEAN + STD * rng.normal(rng.key(5), (24, 1, 2, 2))).astype(np.float32)
    batch = BATCH._replace(x0=x0, weight=None)

    def value(student, target, scale=5.5):
        networks = student, target, gaussian(MEAN), gaussian(NULL_MEAN)
        return float(distill.lcm(SCHEDULE, scale=scale)(*networks, batch, keys)[0])

    fixed, other = exact_student(5.5), exact_student(4.5)
    assert value(fixed, fixed) < 1e-6
    assert value(other, other, 4.5) < 1e-6
    assert value(other, other) > 1e-3  # another scale of guidance
    assert value(fixed, gaussian(MEAN)) > 1e-2
    assert value(gaussian(MEAN), fixed) > 1e-2


def test_lcm_asks_for_the_times_of_fifty_ddim_steps():
    seen: dict[str, list[float]] = {"student": [], "target": [], "teacher": [], "null": []}

    def watch(name):
        def predict(x, t):
            seen[name] += t.asnumpy().tolist()
            return x

        return predict

    x0 = np.zeros((300, 1, 1, 1), np.float32)
    distill.lcm(SCHEDULE)(*map(watch, seen), BATCH._replace(x0=x0, weight=None), rng.key(0))
    assert seen["student"] == seen["teacher"] == seen["null"]
    assert set(seen["student"]) == set(range(19, 1000, 20))
    assert seen["target"] == [max(t - 20, 0) for t in seen["student"]]


def test_the_consistency_function_at_the_last_time_is_the_identity():
    """With one step of DDIM the target is at t = 0, whatever the target network says."""
    loss = distill.lcm(SCHEDULE, steps=1)
    one, other = (float(loss(TEACHER, f, TEACHER, NULL, BATCH, KEY)[0]) for f in (affine(9.0, 3.0), affine(0.0, 0.0)))
    assert one == other > 0


@jit.block
def compiled(p, x, t, config):
    return affine(p["a"], p["b"])(x, t)


def shared(loss):
    """The gradient with respect to a weight that all four networks have, and to the student's alone."""

    def network(a, b):
        return lambda x, t: compiled({"a": a, "b": Tensor(b, ms.float32)}, x, t)

    def f(p, *weights):
        return loss(*(network(a, b) for a, b in zip(weights, (0.1, 0.2, 0.3, 0.4), strict=True)), BATCH, KEY)[0]

    one, others = Tensor(0.5, ms.float32), [Tensor(0.5, ms.float32)] * 3
    together = autodiff.grad(lambda p: f(p, p["a"], p["a"], p["a"], p["a"]))({"a": one})
    alone = autodiff.grad(lambda p: f(p, p["a"], *others))({"a": one})
    return float(together["a"]), float(alone["a"])


def test_only_the_student_is_differentiated():
    for loss in (distill.lcm(SCHEDULE), distill.dmd(SCHEDULE)):
        together, alone = shared(loss)
        assert together == alone != 0


def test_an_example_sees_the_same_alone_and_in_a_batch():
    for loss in (distill.lcm(SCHEDULE), distill.dmd(SCHEDULE)):
        networks = affine(0.2, 0.1), TARGET, TEACHER, NULL
        _, metrics = loss(*networks, BATCH, KEY)
        _, one = loss(*networks, BATCH._replace(x0=X0[1:2], weight=None), KEYS[1:2])
        assert one["t"].asnumpy()[0] == metrics["t"].asnumpy()[1]
        assert_close(one["losses"], metrics["losses"][1:2])


def test_the_authors_options():
    lcm, dmd = distill.lcm(SCHEDULE), distill.dmd(SCHEDULE)
    assert (lcm.steps, lcm.scale, lcm.timestep_scaling, lcm.sigma_data) == (50, 5.5, 10.0, 0.5)
    assert (dmd.start, dmd.scale, dmd.regression_weight) == (400, 3.0, 0.25)


def test_a_distillation_is_a_value():
    assert distill.lcm(SCHEDULE) == distill.LCM(SCHEDULE, "epsilon")
    assert hash(distill.dmd(SCHEDULE)) == hash(distill.DMD(SCHEDULE))
    with pytest.raises(dataclasses.FrozenInstanceError):
        distill.lcm(SCHEDULE).steps = 3


LOSS = distill.dmd(SCHEDULE, features=features)
NETWORKS = (NULL, NULL, NULL, NULL)
WRONG = {
    "too many steps": (ValueError, lambda: distill.lcm(SCHEDULE, steps=1001), "steps must be 1 … 1000"),
    "no scale": (TypeError, lambda: distill.lcm(SCHEDULE, scale="4.5"), "scale must be a number"),
    "a start too late": (ValueError, lambda: distill.dmd(SCHEDULE, start=1000), "start must be 0 … 999"),
    "times of another schedule": (
        ValueError,
        lambda: distill.dmd(SCHEDULE, times=times.uniform(10)),
        "times must be a sampler of the schedule's 1000 times",
    ),
    "no noise": (ValueError, lambda: LOSS(*NETWORKS, BATCH, KEY), "noise must be what the teacher made batch.x0 of"),
    "other noise": (
        ValueError,
        lambda: LOSS(*NETWORKS, BATCH, KEY, X0[:2]),
        r"noise must have the shape \(3, 2, 2, 3\)",
    ),
    "features that are none": (
        TypeError,
        lambda: distill.dmd(SCHEDULE, features=lambda x: 3)(*NETWORKS, BATCH, KEY, X0),
        "features must give a Tensor or a list",
    ),
    "features of the batch": (
        ValueError,
        lambda: distill.dmd(SCHEDULE, features=lambda x: x.mean())(*NETWORKS, BATCH, KEY, X0),
        r"features must give the shape \(B, …\)",
    ),
    "a teacher of another shape": (
        ValueError,
        lambda: distill.lcm(SCHEDULE)(NULL, NULL, lambda x, t: x[:, :1], NULL, BATCH, KEY),
        r"teacher must give \(B, C, h, w\)",
    ),
    "no null": (
        TypeError,
        lambda: distill.lcm(SCHEDULE)(NULL, NULL, NULL, None, BATCH, KEY),
        r"null must be a function of \(x, t\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence(case):
    error, call, sentence = WRONG[case]
    with pytest.raises(error, match=sentence):
        call()
