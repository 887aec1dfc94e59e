"""The losses of training: against the authors' numbers, a plain float64 loss and its finite differences, and torch."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from helpers import compare
from helpers.losses import BATCH, EPS, KEY, KEYS, SCHEDULE, TEXT, X0, B, C, T, at, half
from helpers.tolerances import assert_close

import pixart_fn as px
from pixart_fn import rng, tree
from pixart_fn.backend import autodiff
from pixart_fn.train import losses, times
from pixart_fn.train.batch import Batch

import mindspore as ms  # isort: skip - after pixart_fn, which silences it
from mindspore import Tensor, ops  # isort: skip


def test_the_authors_numbers():
    """GaussianDiffusion.training_losses of PixArt-alpha in float64: LEARNED_RANGE, LossType.MSE, linear β."""
    loss = losses.diffusion(SCHEDULE, learned_variance=True, times=at(T))
    _, metrics = loss(lambda x, t: ops.cat([0.9 * x + 0.05, 0.3 * x - 0.2], 1), BATCH, KEY)
    mse = np.array([1.9336086445693692, 1.050610259625123, 0.06280640453253977, 0.011818417536012885])
    vb = np.array([3.2715693507456653, 0.7160280275427194, 0.0004995647034797867, 0.0001739904766535097])
    assert_close(metrics["losses"], mse + vb)
    assert_close(metrics["mse"], mse.mean())
    assert_close(metrics["vb"], vb.mean())
    # float32 holds the bound to its own size beside 1
    np.testing.assert_allclose(metrics["losses"].asnumpy() - mse, vb, rtol=1e-6, atol=2e-7)
    assert (metrics["t"].asnumpy() == T).all()


def test_the_bound_of_a_hopeless_guess_is_finite():
    """At t = 0 a probability counts as 1e-12 at least, which is 39.86 bits."""
    loss = losses.diffusion(SCHEDULE, "x0", learned_variance=True, times=at([0] * B))
    _, metrics = loss(lambda x, t: ops.cat([0 * x + 50, 0 * x], 1), BATCH._replace(x0=0 * X0), KEY)
    assert float(metrics["vb"]) == pytest.approx(12 / math.log10(2))


def test_huber_keeps_its_digits():
    for x, expected in ((0.0, 0.0), (1e-6, 5e-10), (1e-3, (math.sqrt(2) - 1) * 1e-3), (3.0, 3 - 1e-3)):
        value, slope = autodiff.value_and_grad(lambda p: losses.huber(0.001)(p["x"]))({"x": Tensor(x, ms.float32)})
        assert float(value) == pytest.approx(expected, rel=1e-6)
        assert float(slope["x"]) == pytest.approx(x / math.hypot(x, 1e-3), rel=1e-5)


# --- a plain loss in float64 ------------------------------------------------------------------------------------------

ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def network(p, x, t):
    """A network of one layer, of NumPy arrays or of Tensors: (B, C, h, w) → (B, K, h, w)."""
    a, b = p["a"].reshape(1, -1, C, 1, 1), p["b"].reshape(1, -1, 1, 1)
    y = (a * x.reshape(B, 1, C, 2, 3)).sum(2) + b
    return y + 0.002 * y * y * (1 + t.reshape(-1, 1, 1, 1) / 500)


def column(values):
    return np.asarray(values, np.float64).reshape(-1, 1, 1, 1)


def cdf(x):
    return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def bound(x0, x, mean_x0, variance, t):
    """IDDPM's L_vlb of one example in bits, from β: means and log-variances of both Gaussians, and the likelihood."""
    beta = np.linspace(1e-4, 0.02, 1000)
    before = np.append(1.0, ALPHA_BAR[:-1])
    posterior = beta * (1 - before) / (1 - ALPHA_BAR)
    log_posterior = math.log(posterior[max(t, 1)])
    log_variance = (variance + 1) / 2 * math.log(beta[t]) + (1 - variance) / 2 * log_posterior
    of_x0 = beta[t] * math.sqrt(before[t]) / (1 - ALPHA_BAR[t])
    of_x = (1 - before[t]) * math.sqrt(1 - beta[t]) / (1 - ALPHA_BAR[t])
    true, mean = of_x0 * x0 + of_x * x, of_x0 * mean_x0 + of_x * x
    if t:
        nats = log_variance - log_posterior - 1 + (np.exp(log_posterior) + (true - mean) ** 2) / np.exp(log_variance)
        return (nats / 2).mean() / math.log(2)
    upper, lower = (cdf((x0 - mean + edge) / np.exp(log_variance / 2)) for edge in (1 / 255, -1 / 255))
    p = np.where(x0 < -0.999, upper, np.where(x0 > 0.999, 1 - lower, upper - lower))
    return -np.log(np.maximum(p, 1e-12)).mean() / math.log(2)


def plain(p, frozen, prediction, learned, weight_of, distance, offset, extra):
    """Σ of the examples' losses times `extra`, over B; the variance bound sees the mean of the network `frozen`."""
    alpha, sigma = column(np.sqrt(ALPHA_BAR[T])), column(np.sqrt(1 - ALPHA_BAR[T]))
    eps = EPS + offset * rng.normal(rng.fold_in(KEYS, 2), (B, C, 1, 1))
    x = alpha * X0 + sigma * eps
    target = {"epsilon": eps, "x0": X0, "v": alpha * eps - sigma * X0}[prediction]
    out = network(p, x, T)
    each = distance(out[:, :C] - target).mean((1, 2, 3)) * weight_of(ALPHA_BAR[T] / (1 - ALPHA_BAR[T]))
    if learned:
        mean = network(frozen, x, T)[:, :C]
        x0 = {"epsilon": (x - sigma * mean) / alpha, "x0": mean, "v": alpha * x - sigma * mean}[prediction]
        each = each + [bound(*row) for row in zip(X0, x, x0, out[:, C:], T, strict=True)]
    return (each * extra).sum() / B


def square(error):
    return error**2


CASES = {
    "epsilon": (("epsilon", False, lambda snr: snr**0, square, 0.0), {}),
    "x0": (("x0", False, lambda snr: snr**0, square, 0.0), {}),
    "v": (("v", False, lambda snr: snr**0, square, 0.0), {}),
    "epsilon, min-SNR": (
        ("epsilon", False, lambda snr: np.minimum(snr, 5) / snr, square, 0.0),
        {"weighting": losses.min_snr(5.0)},
    ),
    "x0, min-SNR": (("x0", False, lambda snr: np.minimum(snr, 3), square, 0.0), {"weighting": losses.min_snr(3.0)}),
    "v, min-SNR": (
        ("v", False, lambda snr: np.minimum(snr, 5) / (snr + 1), square, 0.0),
        {"weighting": losses.min_snr(5.0)},
    ),
    "v, SNR between bounds": (
        ("v", False, lambda snr: np.clip(snr, 0.5, 20) / (snr + 1), square, 0.0),
        {"weighting": losses.snr(0.5, 20)},
    ),
    "x0, a weighting of one's own": (
        ("x0", False, lambda snr: 1 / (1 + snr), square, 0.0),
        {"weighting": lambda snr: 1 / (1 + snr)},
    ),
    "epsilon, Huber and an offset": (
        ("epsilon", False, lambda snr: snr**0, lambda e: np.sqrt(e**2 + 0.3**2) - 0.3, 0.7),
        {"distance": losses.huber(0.3), "noise_offset": 0.7},
    ),
    "epsilon, variance": (("epsilon", True, lambda snr: snr**0, square, 0.0), {}),
    "x0, variance": (("x0", True, lambda snr: snr**0, square, 0.0), {}),
    "v, variance, min-SNR": (
        ("v", True, lambda snr: np.minimum(snr, 5) / (snr + 1), square, 0.0),
        {"weighting": losses.min_snr(5.0)},
    ),
}


def start(prediction, channels):
    """Weights near the truth at t = 0, where the bound is blind to what is far from it."""
    random = np.random.default_rng(7)
    a = 0.3 * random.standard_normal((channels, C))
    if prediction == "x0":
        a[:C] = np.eye(C) - 0.003 * a[:C]
        return {"a": a, "b": 0.003 * random.standard_normal(channels)}
    return {"a": a, "b": 0.1 * random.standard_normal(channels)}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_agree_with_finite_differences_in_float64(name):
    (prediction, learned, *rest), options = CASES[name]
    drawn, weight = np.array([0.5, 2.0, 1.0, 3.0]), np.array([1.0, 0.25, 2.0, 0.0], np.float32)
    loss = losses.diffusion(SCHEDULE, prediction, learned, times=at(T, drawn), **options)
    p = {key: x.astype(np.float32).astype(np.float64) for key, x in start(prediction, (1 + learned) * C).items()}

    def ours(params):
        return loss(lambda x, t: network(params, x, t), BATCH._replace(weight=weight), KEY)

    tensors = {key: Tensor(x.astype(np.float32)) for key, x in p.items()}
    (value, _), gradients = autodiff.value_and_grad(ours, has_aux=True)(tensors)

    def theirs(params):
        return plain(params, p, prediction, learned, *rest, extra=drawn * weight)

    assert float(value) == pytest.approx(theirs(p), rel=2e-5)
    h = 1e-5
    for key, x in p.items():
        slopes = np.zeros_like(x)
        for i in np.ndindex(*x.shape):
            step = np.zeros_like(x)
            step[i] = h
            slopes[i] = (theirs({**p, key: x + step}) - theirs({**p, key: x - step})) / (2 * h)
        # float32 against float64, where x0 from ε is 157 times as far off at the last time
        assert_close(gradients[key], slopes, 1e-4)


def test_one_weighting_means_the_same_for_every_prediction():
    """Networks that say the same of x0 have the same loss."""
    alpha, sigma = (column(f(T)).astype(np.float32) for f in (SCHEDULE.alpha, SCHEDULE.sigma))

    def x0_of(x):
        return 0.3 * x + 0.1

    said = {
        "x0": lambda x, t: x0_of(x),
        "epsilon": lambda x, t: (x - Tensor(alpha) * x0_of(x)) / Tensor(sigma),
        "v": lambda x, t: (Tensor(alpha) * x - x0_of(x)) / Tensor(sigma),
    }
    later = at(T[1:])  # at t = 0 the cancellation of ε's prediction is large
    batch = Batch(X0[1:], TEXT)
    alpha, sigma = alpha[1:], sigma[1:]
    values = [
        float(losses.diffusion(SCHEDULE, name, weighting=losses.min_snr(2.0), times=later)(predict, batch, KEY)[0])
        for name, predict in said.items()
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-4)
    ratio = SCHEDULE.rhos**-2
    assert (losses.snr()(ratio) == ratio).all() and (losses.snr(1)(ratio) == np.maximum(ratio, 1)).all()
    assert (losses.min_snr(5)(ratio) == losses.snr(high=5)(ratio)).all()


def test_an_example_sees_the_same_alone_and_in_a_batch():
    loss = losses.diffusion(SCHEDULE, noise_offset=0.1)
    value, metrics = loss(half, BATCH, KEY)
    assert float(value) == pytest.approx(metrics["losses"].asnumpy().mean(), rel=1e-6)
    for i in range(B):
        _, one = loss(half, BATCH._replace(x0=X0[i : i + 1]), KEYS[i : i + 1])
        assert one["t"].asnumpy()[0] == metrics["t"].asnumpy()[i]
        assert_close(one["losses"], metrics["losses"][i : i + 1])
    assert len(set(metrics["t"].asnumpy())) == B


def test_weights_multiply():
    loss = losses.diffusion(SCHEDULE, weighting=losses.min_snr(1.0), times=at(T))
    _, metrics = loss(half, BATCH, KEY)
    weight = np.array([0.0, 1.0, 2.0, 0.5], np.float32)
    value, weighted = loss(half, BATCH._replace(weight=Tensor(weight)), KEY)
    assert_close(weighted["losses"], metrics["losses"])
    by_snr = np.minimum(SCHEDULE.rhos[T] ** 2, 1)
    assert float(value) == pytest.approx((metrics["losses"].asnumpy() * weight * by_snr).mean(), rel=1e-5)


def test_a_sampler_of_times_learns_from_the_metrics():
    """Where one time loses much more, importance sampling finds it."""
    loss = losses.diffusion(SCHEDULE, times=times.importance(1, 0.1, steps=1000))
    state = times.History(np.where(np.arange(1000) == 7, 1e6, 1.0)[:, None], np.ones(1000, np.int64))
    _, metrics = loss(half, BATCH, KEY, state)
    assert (metrics["t"].asnumpy() == 7).sum() >= 3
    new = loss.times.update(state, metrics["t"], metrics["losses"])
    assert new.losses[7, 0] == metrics["losses"].asnumpy()[np.flatnonzero(metrics["t"].asnumpy() == 7)[-1]]
    with pytest.raises(TypeError, match="state must be a History"):
        loss(half, BATCH, KEY)


def test_the_network_is_given_the_schedules_time_for_it():
    seen = []

    def watch(x, t):
        seen.extend(t.asnumpy().tolist())
        return x

    schedule = dataclasses.replace(SCHEDULE, model_time=lambda t: t / 1000)
    losses.diffusion(schedule, times=at(T))(watch, BATCH, KEY)
    assert seen == pytest.approx([0, 0.001, 0.5, 0.999])


def test_a_variance_that_isnt_trained_is_left_out():
    loss = losses.diffusion(SCHEDULE, times=at(T))
    value, _ = loss(half, BATCH, KEY)
    both, metrics = loss(lambda x, t: ops.cat([half(x, t), 1e3 * x], 1), BATCH, KEY)
    assert float(value) == float(both) and metrics.keys() == {"losses", "t", "mse"}
    assert losses.diffusion(SCHEDULE, distance=losses.huber(1.0))(half, BATCH, KEY)[1].keys() == {"losses", "t"}


def test_a_loss_is_a_value():
    loss = losses.diffusion(SCHEDULE)
    assert loss == losses.Diffusion(SCHEDULE, "epsilon") and hash(loss) == hash(losses.Diffusion(SCHEDULE))
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.prediction = "v"
    with pytest.raises(ValueError, match="prediction must be one of"):
        dataclasses.replace(loss, prediction="score")


def test_zero_terminal_snr_trains_v():
    loss = losses.diffusion(px.schedule.zero_terminal_snr(SCHEDULE), "v", True, losses.min_snr(), times=at(T))
    assert np.isfinite(float(loss(lambda x, t: ops.cat([x, x], 1), BATCH, KEY)[0]))


@pytest.mark.reference
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_gradients_agree_with_torchs_of_the_same_loss(prediction):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from reference.make_forward import apply_transformer
    from reference.make_models import normal, prefix_mask, transformer, weights_of

    model = transformer(91, attention_head_dim=8, num_layers=2, caption_channels=24, interpolation_scale=1)
    config, p = compare.transformer.read_config(dict(model.config)), compare.tensors(weights_of(model))
    t, mask = np.array([0, 700, 31]), prefix_mask([7, 3, 5], 7)
    text, x0 = normal(1, 3, 7, 24), normal(2, 3, 4, 8, 6)
    keys = rng.split(rng.key(8), 3)
    loss = losses.diffusion(SCHEDULE, prediction, True, losses.min_snr(), times=at(t))
    given = [ms.Tensor(each.numpy()) for each in (text, mask)]

    def ours(params):

        def predict(x, t):
            return compare.transformer.apply(params, config, x, t, *given)

        return loss(predict, Batch(x0.numpy(), px.Text(*given)), keys)

    (value, _), gradients = autodiff.value_and_grad(ours, has_aux=True)(p)

    model = model.double()
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    total, before = torch.cumprod(1 - beta, 0), torch.cat([torch.ones(1).double(), torch.cumprod(1 - beta, 0)[:-1]])
    posterior = beta * (1 - before) / (1 - total)
    posterior[0] = posterior[1]
    at_t = [each[torch.tensor(t)].reshape(-1, 1, 1, 1) for each in (beta, total, before, posterior)]
    b, a, a1, v = at_t
    eps = torch.tensor(rng.normal(rng.fold_in(keys, 1), tuple(x0.shape))).double()
    x0 = x0.double()
    x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    out = apply_transformer(model, x, torch.tensor(t), text.double(), mask)
    mean, raw = out.chunk(2, 1)
    target = {"epsilon": eps, "x0": x0, "v": a.sqrt() * eps - (1 - a).sqrt() * x0}[prediction]
    snr = (a / (1 - a)).flatten()
    divisor = {"epsilon": snr, "x0": 1, "v": snr + 1}[prediction]
    mse = ((mean - target) ** 2).mean((1, 2, 3)) * snr.clamp(max=5) / divisor
    frozen = mean.detach()
    guess = {
        "epsilon": (x - (1 - a).sqrt() * frozen) / a.sqrt(),
        "x0": frozen,
        "v": a.sqrt() * x - (1 - a).sqrt() * frozen,
    }[prediction]
    log_variance = (raw + 1) / 2 * b.log() + (1 - raw) / 2 * v.log()
    off = b * a1.sqrt() / (1 - a) * (x0 - guess)
    kl = 0.5 * (log_variance - v.log() - 1 + (v + off**2) / log_variance.exp())
    upper, lower = ((x0 - guess + edge) / (log_variance / 2).exp() for edge in (1 / 255, -1 / 255))
    upper, lower = (0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3))) for z in (upper, lower))
    p_bin = torch.where(x0 < -0.999, upper, torch.where(x0 > 0.999, 1 - lower, upper - lower))
    first = (torch.tensor(t) == 0).reshape(-1, 1, 1, 1)
    vb = torch.where(first, -p_bin.clamp(min=1e-12).log(), kl).mean((1, 2, 3)) / np.log(2)
    theirs = (mse + vb).mean()
    theirs.backward()
    assert compare.rel(value, theirs.detach().numpy()) < 1e-5
    grads = {name: each.grad.numpy() for name, each in model.named_parameters()}
    assert not compare.too_far(compare.leaf_errors(dict(tree.items(gradients)), grads), 1e-5)
