"""Kinds of guidance: the formulas by their algebra, by hand and against diffusers' guiders; what momentum remembers."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.branches import guide, pair
from helpers.strategies import latents, shapes
from helpers.tolerances import assert_close
from hypothesis import given
from hypothesis import strategies as st

from pixart_fn import guidance, rng, schedule, solvers
from pixart_fn.backend import numpy2
from pixart_fn.guidance import Guidance, Perturb, Projected, Skip, Weaker, ZeroStar
from pixart_fn.sample import iterate, sample

LINEAR = schedule.from_betas(schedule.linear())
NOISY = schedule.grid(LINEAR, [900, 700, 500, 300, 100])
BRANCHES = latents(0, (3, 4, 3, 3), np.float32), latents(1, (3, 4, 3, 3), np.float32)


def dot(a, b):
    return (a * b).sum(axis=(1, 2, 3), keepdims=True)


# --- the formulas


@given(shapes, st.floats(-3, 8), st.floats(0, 1), st.floats(0.1, 5))
def test_projection_by_its_algebra(shape, w, eta, threshold):
    c, u = latents(0, shape), latents(1, shape)
    assert np.array_equal(guidance.adaptive_projected(c, u, 1.0, eta=eta, threshold=threshold)[0], c)
    assert_close(guidance.adaptive_projected(c, u, w, eta=1.0)[0], guidance.combine(c, u, w), 1e-11)
    assert np.array_equal(guidance.adaptive_projected(c, c, w, eta=eta, threshold=threshold)[0], c)
    across, running = guidance.adaptive_projected(c, u, 2.0)
    assert np.abs(dot(across - c, c)).max() < 1e-9 * dot(c, c).max() and np.array_equal(running, c - u)
    assert_close(
        guidance.adaptive_projected(c, u, 2.0, eta=eta)[0], eta * (c - u) + (1 - eta) * (across - c) + c, 1e-11
    )
    size = dot(c - u, c - u) ** 0.5
    short = guidance.adaptive_projected(c, u, 2.0, eta=1.0, threshold=threshold)[0] - c
    assert_close(dot(short, short) ** 0.5, np.minimum(size, threshold), 1e-11)
    wide = guidance.adaptive_projected(c, u, w, threshold=1.001 * float(size.max()))[0]
    assert np.array_equal(wide, guidance.adaptive_projected(c, u, w)[0])


def test_projection_by_hand():
    """Along (1, 0) lies 3 of the difference (3, 4), whose norm is 5; with momentum it is (3, 4) - (2, 0)/2."""
    c, u = np.array([[1.0, 0.0]]), np.array([[-2.0, -4.0]])
    for options, expected in (
        ({}, [1.0, 8.0]),
        ({"eta": 0.5}, [4.0, 8.0]),
        ({"threshold": 2.5}, [1.0, 4.0]),
        ({"threshold": 2.5, "eta": 1.0}, [4.0, 4.0]),
        ({"momentum": -0.5, "running": np.array([[2.0, 0.0]]), "eta": 1.0}, [5.0, 8.0]),
    ):
        assert_close(guidance.adaptive_projected(c, u, 3.0, **options)[0], [expected])
    assert np.array_equal(guidance.adaptive_projected(0 * c, u, 3.0)[0], -2 * u)  # along nothing lies nothing


@given(shapes, st.floats(-3, 8), st.floats(0.1, 10))
def test_zero_star_by_its_algebra(shape, w, length):
    c, u = latents(0, shape), 1 + latents(1, shape)
    assert np.array_equal(guidance.zero_star(c, u, 1.0), c)
    nearest = guidance.zero_star(c, u, 0.0)
    assert np.abs(dot(c - nearest, u)).max() < 1e-7
    assert_close(nearest * dot(u, u), u * dot(c, u), 1e-6)
    assert_close(guidance.zero_star(c, length * u, w), guidance.zero_star(c, u, w), 1e-5)
    assert_close(guidance.zero_star(u, u, w), u, 1e-5)
    assert_close(guidance.zero_star(c, u, w), w * c + (1 - w) * nearest)


@given(shapes, st.floats(-3, 8))
def test_moving_away_is_the_same_of_noise(shape, s):
    x, c, u, p = (latents(i, shape) for i in range(4))
    assert np.array_equal(guidance.away(u, c, p, 0.0), u) and np.array_equal(guidance.away(u, c, c, s), u)
    in_x0 = guidance.away(*(guidance.denoiser(lambda x, t, v=v: v, LINEAR)(x, 500.0) for v in (u, c, p)), s)
    assert_close(in_x0, guidance.denoiser(lambda x, t: guidance.away(u, c, p, s), LINEAR)(x, 500.0))


def test_one_scale_a_picture_and_tensors():
    numpy2.settle()
    ms = pytest.importorskip("mindspore")
    (c, u), w = BRANCHES, [1.5, 3.0, 4.5]
    for f in (
        lambda c, u, w: guidance.adaptive_projected(c, u, w, eta=0.3, threshold=4.0, momentum=0.5, running=u)[0],
        guidance.zero_star,
        lambda c, u, w: guidance.away(c, c, u, w),
    ):
        together = f(c, u, w)
        assert_close(f(ms.Tensor(c), ms.Tensor(u), w).asnumpy(), together)
        assert_close(np.concatenate([f(c[i : i + 1], u[i : i + 1], w[i]) for i in range(3)]), together)
        broken = f(c, np.where(np.arange(3).reshape(3, 1, 1, 1) == 1, np.nan, u), w)
        assert np.isnan(broken[1]).all() and np.array_equal(broken[[0, 2]], together[[0, 2]])


# --- against diffusers


def torch_branches(n=2):
    import torch

    return [torch.from_numpy(latents(i, (3, 4, 3, 3), np.float32)) for i in range(n)]


@pytest.mark.reference
@pytest.mark.parametrize(("eta", "threshold", "momentum"), [(0.0, 0.0, None), (0.4, 3.0, -0.5), (1.0, 5.0, 0.7)])
def test_projection_is_that_of_diffusers(eta, threshold, momentum):
    """By default its guider goes w times from the unconditional value, where the paper goes w - 1 from the other."""
    import torch
    from diffusers.guiders import AdaptiveProjectedGuidance

    w, options = 4.5, {"eta": eta, "threshold": threshold or np.inf, "momentum": momentum or 0.0}
    guiders = [
        AdaptiveProjectedGuidance(scale, momentum, threshold, None, eta, use_original_formulation=original)
        for scale, original in ((w - 1, True), (w, False))
    ]
    running = None
    for step in range(3):
        c, u = (each + 0.1 * step for each in torch_branches())
        theirs = []
        for guider in guiders:
            guider.set_state(step, 10, torch.tensor(900))
            guider.prepare_inputs({})
            theirs.append(guider.forward(c, u).pred.numpy())
        ours, running = guidance.adaptive_projected(c.numpy(), u.numpy(), w, **options, running=running)
        assert_close(ours, theirs[0])
        update = (ours - c.numpy()) / np.float32(w - 1)
        assert_close(u.numpy() + np.float32(w) * update, theirs[1])
    assert eta == 1 or np.abs(theirs[0] - theirs[1]).max() > 0.1


@pytest.mark.reference
def test_zero_star_is_that_of_diffusers():
    import torch
    from diffusers.guiders import ClassifierFreeZeroStarGuidance

    guider, (c, u) = ClassifierFreeZeroStarGuidance(4.5, zero_init_steps=1), torch_branches()
    guider.set_state(1, 10, torch.tensor(900))
    assert_close(guidance.zero_star(c.numpy(), u.numpy(), 4.5), guider.forward(c, u).pred.numpy())
    guider.set_state(0, 10, torch.tensor(999))
    assert not guider.forward(c, u).pred.any()


@pytest.mark.reference
def test_moving_away_is_that_of_diffusers():
    from diffusers import guiders

    c, u, p = torch_branches(3)
    ours = guidance.away(guidance.combine(c.numpy(), u.numpy(), 4.5), c.numpy(), p.numpy(), 2.0)
    for name, own in (("SkipLayer", "skip_layer"), ("SmoothedEnergy", "seg"), ("PerturbedAttention", "perturbed")):
        where = {"scale": 2.0, "start": 0.0, "stop": 1.0, "layers": [1]}
        options = {f"{own}_guidance_{option}": value for option, value in where.items()}
        guider = getattr(guiders, f"{name}Guidance")(4.5, **options)
        assert_close(ours, guider.forward(c, u, p).pred.numpy())
    weaker = guiders.AutoGuidance(3.0, auto_guidance_layers=[1], dropout=0.1).forward(c, p).pred.numpy()
    assert_close(guidance.away(c.numpy(), c.numpy(), p.numpy(), 2.0), weaker)


# --- guided denoisers


def test_each_method_in_its_space():
    """APG on x0, CFG-Zero* on v; elsewhere both are something else."""
    x, t, (c, u) = latents(2, (3, 4, 3, 3), np.float32), 700.0, BRANCHES
    alpha, sigma = LINEAR.alpha(t), LINEAR.sigma(t)

    def there(f, space):
        values = (schedule.convert(each, x, alpha, sigma, "x0", space) for each in (c, u))
        return schedule.convert(f(*values), x, alpha, sigma, space, "x0")

    for method, f, own in (
        (Projected(0.2, 4.0), lambda c, u: guidance.adaptive_projected(c, u, 4.5, eta=0.2, threshold=4.0)[0], "x0"),
        (ZeroStar(), lambda c, u: guidance.zero_star(c, u, 4.5), "v"),
    ):
        got = guide(Guidance(4.5, method=method), lambda x, t: (c, u), schedule=LINEAR)(x, t)
        for space in schedule.PREDICTIONS:
            close = bool(np.abs(there(f, space) - got).max() < 1e-4)
            assert close is (space == own), (method, space)


def test_a_velocity_of_zero_leaves_the_noise_as_it_is():
    """x0 = α x, so that a step of DDIM turns x by the angle and keeps cos of it; the model's variance stays."""
    how = Guidance(4.5, method=ZeroStar(zero_from=900))
    x, denoise = latents(2, (3, 4)), guide(Guidance(4.5, method=ZeroStar(900)), schedule=LINEAR)
    assert_close(denoise(x, 950.0), LINEAR.alpha(950.0) * x) and how.method.zero_from == 900
    assert_close(denoise(x, 899.0), guide(Guidance(4.5, method=ZeroStar()), schedule=LINEAR)(x, 899.0))
    grid = schedule.grid(LINEAR, [990, 900], final="sigma_min")
    turned = np.cos(np.diff(np.arctan2(grid.sigma, grid.alpha))[0])
    first = next(iter(iterate(rng.key(0), denoise, "ddim", grid, x)))
    assert_close(first.x, turned * x) and 0.9 < turned < 1
    learned = guidance.guided(how, lambda x, t: (x, 7 * x), lambda x, t: ((x, 7 * x), x), schedule=LINEAR)
    assert np.array_equal(learned(x, 950.0)[1], 7 * x)


def test_a_worse_branch_is_evaluated_within_its_interval():
    x, times = latents(0, (2, 4)), []

    def worse(x, t):
        times.append(t)
        return 0.5 * x

    for branch in (Weaker(2.0, interval=(200, 600)), Skip([2.0, 2.0], (1,), interval=(200, 600))):
        for scale in (1.0, 4.5):
            denoise = guide(Guidance(scale, worse=branch), worse=worse)
            for t in (600.0, 601.0, 200.0, 100.0):
                moved = 2.0 * (pair(x, t)[0] - 0.5 * x) if 200 <= t <= 600 else 0.0
                assert_close(denoise(x, t), guide(scale)(x, t) + moved)
    assert times == [600.0, 200.0] * 4
    same = guide(Guidance(4.5, worse=Perturb(2.0, (1,))), worse=worse)(x, 300.0)
    assert np.array_equal(same, guide(Guidance(4.5, pag_scale=2.0, pag_layers=(1,)), worse=worse)(x, 300.0))


# --- what momentum remembers


def momentum(beta=-0.5):
    return guide(Guidance(4.5, method=Projected(momentum=beta)), lambda x, t: (np.sin(3 * x + t), np.cos(2 * x)))


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "kdpm2", solvers.heun(churn=10.0), solvers.dpmpp_2s()])
def test_one_denoiser_gives_two_samplings_alike(solver):
    """Nothing is left of a sampling in the next, on the same grid or on the rest of it from its third node."""
    x, rest, denoise = latents(0, (2, 4)), schedule.truncate(NOISY, 0.6), momentum()
    runs = [sample(rng.key(1), denoise, solver, grid, x) for grid in (NOISY, NOISY, rest, NOISY, rest)]
    alone = [sample(rng.key(1), momentum(), solver, grid, x) for grid in (NOISY, rest)]
    for got, expected in zip(runs, (alone[0], alone[0], alone[1], alone[0], alone[1]), strict=True):
        assert np.array_equal(got, expected)
    assert np.abs(alone[0] - sample(rng.key(1), momentum(0.0), solver, NOISY, x)).max() > 1e-3


def test_momentum_by_its_definition():
    """d_i + β d_(i-1) + β² d_(i-2) …, where a time counts once and a step back leaves what is above it."""
    x, beta, denoise = latents(0, (2, 4)), -0.5, momentum()

    def expected(*times):
        c, u = np.sin(3 * x + times[-1]), np.cos(2 * x)
        before = sum(beta**i * (np.sin(3 * x + t) - u) for i, t in enumerate(times[-2::-1]))
        return guidance.adaptive_projected(c, u, 4.5, momentum=beta, running=before + 0 * x)[0]

    for t, times in (
        (900.0, (900,)),
        (700.0, (900, 700)),
        (700.0 + 1e-9, (900, 700)),
        (700.0 - 1e-9, (900, 700)),
        (740.0, (900, 740)),
        (500.0, (900, 740, 500)),
        (300.0, (900, 740, 500, 300)),
        (500.0, (500,)),
        (400.0, (500, 400)),
        (999.0, (999,)),
    ):
        assert_close(denoise(x, t), expected(*times), 1e-8)
    assert_close(denoise(x[:1], 950.0), momentum()(x[:1], 950.0))  # other pictures
