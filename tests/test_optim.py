"""AdamW against closed forms of its first steps, its paper in float64, and torch."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tolerances import assert_close

from pixart_fn import tree
from pixart_fn.train import optim

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

HYPER = optim.AdamW(weight_decay=0.1, clip=1.0)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


START = {"weight": normal(0, 3, 4), "bias": normal(1, 4)}
GRADIENTS = [
    {"weight": scale * normal(2 + i, 3, 4), "bias": scale * normal(9 + i, 4)} for i, scale in enumerate((3, 0.1, 1))
]
RATES, DECAYS = (0.1, 0.05, 0.02), (0.1, 0.5, 0.9)


def tensors(arrays):
    return tree.map(ms.Tensor, arrays)


def numbers(t) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf.asnumpy() if isinstance(leaf, ms.Tensor) else leaf) for name, leaf in tree.items(t)}


def stepped(hyper: optim.AdamW, start: dict, gradients: list[dict], rates=RATES, decays=DECAYS):
    """Numbers of the parameters after each step; the last state and the norms."""
    params, state, path, norms = tensors(start), optim.init(tensors(start)), [], []
    for gradient, lr, decay in zip(gradients, rates, decays, strict=True):
        params, state, norm = optim.update(hyper, params, tensors(gradient), state, lr, decay)
        path.append(numbers(params))
        norms.append(norm)
    return path, state, norms


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_the_first_step_is_lr_times_the_sign_softened_by_eps():
    """m̂ = g and v̂ = g²: lr · g / (|g| + ε), with gradients as small as the default ε = 1e-8 is."""
    start = {"bias": floats(0, 0, 0, 0)}
    gradients = [{"bias": floats(1e-8, -3e-8, 1e-2, 0)}]
    (params,), state, _ = stepped(optim.AdamW(), start, gradients, [0.1], [0.5])
    assert params["bias"] == pytest.approx([-0.1 / 2, 0.1 * 3 / 4, -0.1 / (1 + 1e-6), 0], rel=1e-6)
    assert numbers(state.m)["bias"] == pytest.approx([1e-9, -3e-9, 1e-3, 0], rel=1e-6)  # β₁ = 0.9
    assert numbers(state.v)["bias"] == pytest.approx([1e-18, 9e-18, 1e-6, 0], rel=1e-6)  # β₂ = 0.99
    assert numbers(state.ema)["bias"] == pytest.approx(params["bias"] / 2, rel=1e-6)
    assert state.step == 1


def test_the_second_step_weighs_both_gradients_without_bias():
    """m̂ = (β₁g₁ + g₂) / (1 + β₁) and v̂ = (β₂g₁² + g₂²) / (1 + β₂), with β₁ = 0.9 and β₂ = 0.99."""
    g1, g2, eps = np.array([1e-8, -0.02, 0.03, 2e-8]), np.array([3e-8, 0.01, 0.0, -4e-8]), 1e-8
    gradients = [{"bias": g.astype(np.float32)} for g in (g1, g2)]
    path, _, _ = stepped(optim.AdamW(), {"bias": floats(0, 0, 0, 0)}, gradients, [0.0, 0.2], [0.9, 0.9])
    assert not path[0]["bias"].any()
    m_hat, v_hat = (0.9 * g1 + g2) / 1.9, (0.99 * g1**2 + g2**2) / 1.99
    assert_close(path[1]["bias"], -0.2 * m_hat / (np.sqrt(v_hat) + eps))


def test_only_leaves_of_two_axes_and_more_decay():
    """Without a gradient nothing else moves: p (1 − lr · weight_decay), by the default 0.01 each step."""
    start = {"conv": np.full((2, 1, 1, 1), 4, np.float32), "linear": np.full((1, 2), 4, np.float32)}
    start["norm"] = floats(4, 4)
    still = tree.map(np.zeros_like, start)
    path, state, norms = stepped(optim.AdamW(), start, [still, still], [0.5, 0.5], [0.25, 0.25])
    assert norms == [0, 0]
    for name in start:
        factor = 0.995 if name in ("conv", "linear") else 1
        first, second = 4 * factor, 4 * factor**2
        assert path[0][name] == pytest.approx(np.full(start[name].shape, first), rel=1e-6)
        assert path[1][name] == pytest.approx(np.full(start[name].shape, second), rel=1e-6)
        ema = 0.25 * (0.25 * 4 + 0.75 * first) + 0.75 * second
        assert numbers(state.ema)[name] == pytest.approx(np.full(start[name].shape, ema), rel=1e-6)


@pytest.mark.parametrize(("clip", "factor"), [(1.0, 1 / 13), (6.5, 1 / 2), (13.5, 1), (100.0, 1)])
def test_gradients_are_clipped_to_their_global_norm(clip, factor):
    """3² + 4² + 12² = 13²; what is divided by the norm shows in the moments."""
    start = {"weight": np.zeros((1, 2), np.float32), "bias": floats(0)}
    gradient = {"weight": floats(3, -4).reshape(1, 2), "bias": floats(12)}
    _, state, norms = stepped(optim.AdamW(clip=clip), start, [gradient], [0.1], [0.5])
    assert norms == pytest.approx([13.0])
    for name, g in gradient.items():
        assert numbers(state.m)[name] == pytest.approx(0.1 * g * factor, rel=1e-6)
        assert numbers(state.v)[name] == pytest.approx(0.01 * (g * factor) ** 2, rel=1e-6)


@pytest.mark.parametrize(("gradient", "clipped"), [(40, 1), (1e-13, 1e-13)])
def test_gradients_are_clipped_to_one_by_default_however_small_they_are(gradient, clipped):
    _, state, _ = stepped(optim.AdamW(), {"bias": floats(0)}, [{"bias": floats(gradient)}], [0.1], [0.5])
    assert numbers(state.m)["bias"] == pytest.approx([0.1 * clipped], rel=1e-6)


def test_a_leafs_rate_is_that_of_the_first_name_within_its_own():
    start = {"a": {"weight": floats(0)}, "b": {"weight": floats(0)}, "c": {"bias": floats(0)}}
    gradient = tree.map(np.ones_like, start)
    hyper = optim.AdamW(clip=100.0, rates=(("b.w", 0.5), ("weight", 3.0)))
    (params,), _, _ = stepped(hyper, start, [gradient], [0.01], [0.5])
    assert [params[name][0] for name in ("a.weight", "b.weight", "c.bias")] == pytest.approx([-0.03, -0.005, -0.01])


def test_a_rate_multiplies_the_decay_too():
    start = {"fast": np.ones((1, 1), np.float32), "plain": np.ones((1, 1), np.float32)}
    hyper = optim.AdamW(weight_decay=0.1, rates=(("fast", 5.0),))
    (params,), _, _ = stepped(hyper, start, [tree.map(np.zeros_like, start)], [0.5], [0.5])
    assert [params["fast"].item(), params["plain"].item()] == pytest.approx([0.75, 0.95])


def test_gradients_and_state_pair_with_weights_by_name():
    path, state, _ = stepped(HYPER, START, GRADIENTS)
    turned = [dict(reversed(gradient.items())) for gradient in GRADIENTS]
    other, other_state, _ = stepped(HYPER, START, turned)
    for ours, theirs in ((other[-1], path[-1]), *zip(other_state[1:], state[1:], strict=True)):
        ours, theirs = numbers(ours), numbers(theirs)
        for name in START:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_the_first_state_is_zero_moments_and_the_weights():
    state = optim.init(tensors(START))
    assert state.step == 0
    for name, start in START.items():
        for moment in (state.m, state.v):
            assert moment[name].dtype == np.float32 and moment[name].shape == start.shape
            assert not moment[name].any()
        np.testing.assert_array_equal(state.ema[name], start)


# --- the paper, and torch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [(), (("weig", 0.5), ("weight", 3.0))], ids=["one rate", "rates"])
def test_adamw_is_algorithm_2_of_the_paper(rates):
    """arXiv:1711.05101 in float64, after clipping to the global norm; a bias isn't decayed, the first rate counts."""
    total = [np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradient.values())) for gradient in GRADIENTS]
    assert min(total) < HYPER.clip < max(total)
    path, state, norms = stepped(HYPER._replace(rates=rates), START, GRADIENTS)
    assert norms == pytest.approx(total, rel=1e-6) and state.step == 3
    for name, start in START.items():
        p = ema = start.astype(float)
        m = v = np.zeros(p.shape)
        for i, (gradient, lr, decay) in enumerate(zip(GRADIENTS, RATES, DECAYS, strict=True)):
            g = gradient[name] * min(1.0, HYPER.clip / total[i])
            m, v = HYPER.b1 * m + (1 - HYPER.b1) * g, HYPER.b2 * v + (1 - HYPER.b2) * g**2
            m_hat, v_hat = m / (1 - HYPER.b1 ** (i + 1)), v / (1 - HYPER.b2 ** (i + 1))
            lr = lr * (0.5 if rates and name == "weight" else 1.0)
            p = p - lr * (m_hat / (np.sqrt(v_hat) + HYPER.eps) + HYPER.weight_decay * p * (name == "weight"))
            ema = decay * ema + (1 - decay) * p
            assert_close(path[i][name], p)
        for ours, theirs in ((state.m, m), (state.v, v), (state.ema, ema)):
            assert_close(numbers(ours)[name], theirs)


@pytest.mark.reference
@pytest.mark.parametrize("size", [1.0, 1e-3])
@pytest.mark.parametrize(
    "hyper",
    [HYPER, HYPER._replace(eps=1e-2), HYPER._replace(b1=0.5, b2=0.8), HYPER._replace(weight_decay=0.5, clip=1e-2)],
    ids=["usual", "eps", "betas", "decay and clip"],
)
def test_adamw_is_torchs(hyper, size):
    torch = pytest.importorskip("torch")
    theirs = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in START.items()}
    groups = [{"params": [theirs["weight"]], "weight_decay": hyper.weight_decay}, {"params": [theirs["bias"]]}]
    optimiser = torch.optim.AdamW(groups, betas=(hyper.b1, hyper.b2), eps=hyper.eps, weight_decay=0.0)
    average = torch.optim.swa_utils.AveragedModel(
        torch.nn.ParameterDict(theirs), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    average.update_parameters(torch.nn.ParameterDict(theirs))  # the first call copies
    gradients = [{name: np.float32(size) * g for name, g in gradient.items()} for gradient in GRADIENTS]
    for gradient, lr in zip(gradients, RATES, strict=True):
        for name, p in theirs.items():
            p.grad = torch.from_numpy(gradient[name].copy())
        torch.nn.utils.clip_grad_norm_(theirs.values(), hyper.clip)
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.step()
        average.update_parameters(torch.nn.ParameterDict(theirs))
    path, state, _ = stepped(hyper, START, gradients, decays=(0.5,) * 3)
    # torch adds 1e-6 to the norm that it clips to
    tolerance = 1e-5
    for name in START:
        assert_close(path[-1][name], theirs[name].detach().numpy(), tolerance)
        assert_close(state.ema[name], average.module[name].detach().numpy(), tolerance)


def test_an_update_changes_nothing_in_place():
    start, gradient = tensors(START), tensors(GRADIENTS[0])
    first = optim.init(start)
    optim.update(HYPER, start, gradient, first, 0.1, 0.5)
    zeros = tree.map(np.zeros_like, START)
    for ours, theirs in (
        (start, START),
        (gradient, GRADIENTS[0]),
        (first.m, zeros),
        (first.v, zeros),
        (first.ema, START),
    ):
        for name, value in numbers(ours).items():
            np.testing.assert_array_equal(value, theirs[name])
