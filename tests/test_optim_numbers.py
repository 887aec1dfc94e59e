"""Optimisers against their papers' loops in float64, and against torch and transformers."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tolerances import assert_close
from helpers.trees import normal, numbers, tensors

from pixart_fn.train import optim

STEPS = 25
START = {
    "matrix": normal(0, 5, 7),
    "kernel": normal(1, 4, 3, 2, 2),
    "bias": normal(2, 7),
    "gain": np.asarray(normal(3)),
}
GRADIENTS = [
    {
        name: np.asarray(np.float32(0.3 + i % 4) * normal(10 + 5 * i + k, *p.shape))
        for k, (name, p) in enumerate(START.items())
    }
    for i in range(STEPS)
]
DECAYED = ("matrix", "kernel")


def trained(optimiser: optim.Transformation, start=START, gradients=GRADIENTS) -> dict[str, np.ndarray]:
    params, state = tensors(start), optimiser.init(tensors(start))
    for gradient in gradients:
        params, state, _ = optim.step(optimiser, params, tensors(gradient), state)
    return numbers(params)


def compare(optimiser: optim.Transformation, paper, start=START, gradients=GRADIENTS) -> None:
    """All updates of a leaf, where `paper` is (name, p, list of gradients) → iterator of p after each, in float64.

    The parameters given are the paper's, so that their rounding, which is larger than the updates', doesn't add up.
    """
    paths = {}
    for name, p in start.items():
        p = p.astype(np.float64)
        paths[name] = [p, *paper(name, p, [gradient[name].astype(np.float64) for gradient in gradients])]
    state, found = optimiser.init(tensors(start)), []
    for i, gradient in enumerate(gradients):
        params = {name: np.asarray(path[i], np.float32) for name, path in paths.items()}
        updates, state = optimiser.update(tensors(gradient), state, tensors(params))
        found.append(updates)
    for name, path in paths.items():
        assert_close(np.stack([updates[name] for updates in found]), np.diff(path, axis=0))


def rms(a: np.ndarray) -> float:
    return np.sqrt(np.mean(a**2))


def rate(step: int) -> float:
    return 0.01 * (1 + step % 3)


# --- the papers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("b1", "b2", "eps"), [(0.9, 0.999, 1e-8), (0.5, 0.8, 1e-2), (0.0, 0.0, 1e-10)])
def test_adamw_is_algorithm_2(b1, b2, eps):
    def paper(name, p, gradients):
        m = v = np.zeros(p.shape)
        for i, g in enumerate(gradients):
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            m_hat, v_hat = m / (1 - b1 ** (i + 1)), v / (1 - b2 ** (i + 1))
            p = p - rate(i) * (m_hat / (np.sqrt(v_hat) + eps) + 0.1 * p * (name in DECAYED))
            yield p

    compare(optim.adamw(rate, b1, b2, eps, weight_decay=0.1), paper)


def test_adamws_defaults_are_those_of_pytorch():
    def paper(name, p, gradients):
        m = v = np.zeros(p.shape)
        for i, g in enumerate(gradients):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            m_hat, v_hat = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.999 ** (i + 1))
            p = p - 0.01 * (m_hat / (np.sqrt(v_hat) + 1e-8) + 0.01 * p * (name in DECAYED))
            yield p

    compare(optim.adamw(0.01), paper)
    small = [{name: np.asarray(g * np.float32(1e-8)) for name, g in gradient.items()} for gradient in GRADIENTS]
    compare(optim.adamw(0.01), paper, gradients=small)


def test_adam_without_correction_takes_the_averages_as_they_are():
    def paper(name, p, gradients):
        m = v = np.zeros(p.shape)
        for g in gradients:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            p = p - 0.01 * m / (np.sqrt(v) + 1e-8)
            yield p

    adam = optim.scale_by_adam(bias_correction=False)
    compare(optim.chain(adam, optim.scale_by_learning_rate(0.01)), paper)


@pytest.mark.parametrize(("settings", "b1", "b2"), [({}, 0.9, 0.99), ({"b1": 0.95, "b2": 0.98}, 0.95, 0.98)])
def test_lion_is_algorithm_2(settings, b1, b2):
    def paper(name, p, gradients):
        m = np.zeros(p.shape)
        for i, g in enumerate(gradients):
            p = p - rate(i) * (np.sign(b1 * m + (1 - b1) * g) + 0.2 * p * (name in DECAYED))
            m = b2 * m + (1 - b2) * g
            yield p

    compare(optim.lion(rate, **settings, weight_decay=0.2), paper)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.7, True)])
def test_sgd_is_heavy_ball_or_nesterov(momentum, nesterov):
    def paper(name, p, gradients):
        m = np.zeros(p.shape)
        for i, g in enumerate(gradients):
            g = g + 0.1 * p * (name in DECAYED)
            m = momentum * m + g
            p = p - rate(i) * (g + momentum * m if nesterov else m)
            yield p

    compare(optim.sgd(rate, momentum, nesterov, weight_decay=0.1), paper)


def factors(squares: np.ndarray, old: tuple, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 4 of Adafactor with means for sums: averages over rows and columns, R and C."""
    return beta * old[0] + (1 - beta) * squares.mean(-1), beta * old[1] + (1 - beta) * squares.mean(-2)


def second_moment(p: np.ndarray, v, squares: np.ndarray, beta: float):
    """The new averages, and V̂ = R C / mean R, or the average itself for a vector."""
    if p.ndim < 2:
        v = beta * v + (1 - beta) * squares
        return v, v
    v = factors(squares, v, beta)
    return v, np.einsum("...r,...c->...rc", v[0], v[1]) / v[0].mean(-1)[..., None, None]


ADAFACTOR = {
    "defaults": {},
    "warm-up": {"warmup_init": True, "scale_parameter": False},
    "a rate": {"lr": rate, "scale_parameter": False, "weight_decay": 0.1},
    "a scaled rate, a first moment": {"lr": 0.1, "b1": 0.9, "weight_decay": 0.3, "eps": (1e-3, 0.5)},
    "other bounds": {"decay": 0.5, "clip_threshold": 0.3},
}


@pytest.mark.parametrize("settings", ADAFACTOR.values(), ids=ADAFACTOR)
def test_adafactor_is_algorithms_4_and_5(settings):
    eps, bound = settings.get("eps", (1e-30, 1e-3)), settings.get("clip_threshold", 1.0)
    b1, lr = settings.get("b1"), settings.get("lr")

    def paper(name, p, gradients):
        v, m = (0, 0) if p.ndim > 1 else 0, np.zeros(p.shape)
        for t, g in enumerate(gradients, 1):
            rho = min(1e-6 * t if settings.get("warmup_init") else 1e-2, t**-0.5)
            rho = rho if lr is None else lr(t - 1) if callable(lr) else lr
            step = rho * (max(eps[1], rms(p)) if settings.get("scale_parameter", True) else 1)
            v, v_hat = second_moment(p, v, g**2 + eps[0], 1 - t ** -settings.get("decay", 0.8))
            u = g / np.sqrt(v_hat)
            u = step * u / max(1, rms(u) / bound)
            m = u if b1 is None else b1 * m + (1 - b1) * u
            p = p - m - step * settings.get("weight_decay", 0) * p * (name in DECAYED)
            yield p

    start = {name: np.asarray(np.float32(0.3) * p) for name, p in START.items()}
    compare(optim.adafactor(**settings), paper, start)


@pytest.mark.parametrize(
    "settings",
    [{}, {"b1": 0.8, "b2": 0.9, "b3": 0.95, "eps": (1e-2, 1e-3), "clip_threshold": 0.5, "weight_decay": 0.1}],
    ids=["PixArt-Σ", "others"],
)
def test_came_is_algorithm_2(settings):
    b1, b2, b3 = (settings.get(name, default) for name, default in (("b1", 0.9), ("b2", 0.999), ("b3", 0.9999)))
    eps, bound = settings.get("eps", (1e-30, 1e-16)), settings.get("clip_threshold", 1.0)

    def paper(name, p, gradients):
        v, s, m = ((0, 0) if p.ndim > 1 else 0), (0, 0), np.zeros(p.shape)
        for i, g in enumerate(gradients):
            v, v_hat = second_moment(p, v, g**2 + eps[0], b2)
            u = g / np.sqrt(v_hat)
            u = u / max(1, rms(u) / bound)
            m = b1 * m + (1 - b1) * u
            change = m
            if p.ndim > 1:
                s, s_hat = second_moment(p, s, (u - m) ** 2 + eps[1], b3)
                change = m / np.sqrt(s_hat)
            p = p - 1e-2 * rate(i) * (change + settings.get("weight_decay", 0) * p * (name in DECAYED))
            yield p

    compare(optim.came(lambda step: 1e-2 * rate(step), **settings), paper)


# --- torch and transformers -------------------------------------------------------------------------------------------

REFERENCES = {
    "AdamW": (
        lambda torch, groups: torch.optim.AdamW(groups, 0.02, (0.8, 0.95), 1e-6, 0.1),
        lambda: optim.adamw(0.02, 0.8, 0.95, 1e-6, 0.1, mask=lambda name, shape: True),
    ),
    "SGD": (
        lambda torch, groups: torch.optim.SGD(groups, 0.02, 0.9, weight_decay=0.1, nesterov=True),
        lambda: optim.sgd(0.02, 0.9, True, 0.1, mask=lambda name, shape: True),
    ),
    "SGD without momentum": (
        lambda torch, groups: torch.optim.SGD(groups, 0.02),
        lambda: optim.sgd(0.02),
    ),
    "Adafactor": (
        lambda torch, groups: torch.optim.Adafactor(groups, lr=1e-2, eps=(1e-30, 1e-3)),
        lambda: optim.adafactor(),
    ),
    "Adafactor of transformers": (
        lambda torch, groups: transformers_adafactor(groups),
        lambda: optim.adafactor(),
    ),
    "Adafactor of transformers with a rate": (
        lambda torch, groups: transformers_adafactor(
            groups, lr=0.02, beta1=0.9, weight_decay=0.1, relative_step=False, scale_parameter=False
        ),
        lambda: optim.adafactor(0.02, 0.9, weight_decay=0.1, scale_parameter=False, mask=lambda name, shape: True),
    ),
    "Adafactor of transformers with a warm-up": (
        lambda torch, groups: transformers_adafactor(groups, warmup_init=True, decay_rate=-0.6, clip_threshold=0.5),
        lambda: optim.adafactor(warmup_init=True, decay=0.6, clip_threshold=0.5),
    ),
}


def transformers_adafactor(groups, **settings):
    return pytest.importorskip("transformers").optimization.Adafactor(groups, **settings)


@pytest.mark.reference
@pytest.mark.parametrize(("theirs", "ours"), REFERENCES.values(), ids=REFERENCES)
def test_a_step_is_that_of_the_reference(theirs, ours):
    torch = pytest.importorskip("torch")
    params = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in START.items()}
    optimiser = theirs(torch, list(params.values()))
    for gradient in GRADIENTS:
        for name, p in params.items():
            p.grad = torch.from_numpy(gradient[name].copy())
        optimiser.step()
    found = trained(ours())
    for name, p in params.items():
        assert_close(found[name], p.detach().numpy())


@pytest.mark.reference
def test_clipping_is_torchs():
    torch = pytest.importorskip("torch")
    for largest in (0.5, 1000.0):
        params = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in START.items()}
        for name, p in params.items():
            p.grad = torch.from_numpy(GRADIENTS[0][name].copy())
        norm = torch.nn.utils.clip_grad_norm_(params.values(), largest)
        assert optim.global_norm(tensors(GRADIENTS[0])) == pytest.approx(float(norm), rel=1e-6)
        transformation = optim.clip_by_global_norm(largest)
        found, _ = transformation.update(GRADIENTS[0], transformation.init(START), START)
        for name, p in params.items():  # torch adds 1e-6 to the norm
            assert_close(found[name], p.grad.numpy(), 2e-6)
