"""Wrong options and wrong calls of the losses of training: one sentence each."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.losses import BATCH, KEY, SCHEDULE, X0, at, half

import pixart_fn as px
from pixart_fn import rng
from pixart_fn.train import losses, times

ZERO = px.schedule.zero_terminal_snr(SCHEDULE)
MAKERS = {
    "ε at pure noise": (lambda: losses.diffusion(ZERO), 'prediction must be "x0" or "v" where α is 0'),
    "a weighting that isn't finite": (
        lambda: losses.diffusion(SCHEDULE, weighting=lambda snr: 1 / (snr - snr)),
        "weighting must give a finite weight",
    ),
    "a weighting of one number": (
        lambda: losses.diffusion(SCHEDULE, weighting=lambda snr: 1.0),
        "weighting must give 1000 numbers",
    ),
    "times of another schedule": (
        lambda: losses.diffusion(SCHEDULE, times=times.uniform(10)),
        "times must be a sampler of the schedule's 1000 times, got one of 10",
    ),
    "one time": (
        lambda: losses.diffusion(px.schedule.from_betas([0.1]), learned_variance=True, times=times.uniform(1)),
        "learned_variance needs a schedule of two times",
    ),
    "another distance": (lambda: losses.diffusion(SCHEDULE, distance="l1"), 'distance must be "l2" or a function'),
}


@pytest.mark.parametrize("case", MAKERS)
def test_a_wrong_option_is_one_sentence(case):
    make, sentence = MAKERS[case]
    with pytest.raises(ValueError, match=sentence):
        make()


CALLS = {
    "one key too many": ((half, BATCH, rng.split(KEY, 5)), {}, "key must be one key, or one for each example \\(4\\)"),
    "weights of another shape": (
        (half, BATCH._replace(weight=np.ones(3, np.float32)), KEY),
        {},
        "batch.weight must be 4 finite numbers",
    ),
    "a weight below 0": (
        (half, BATCH._replace(weight=-np.ones(4, np.float32)), KEY),
        {},
        "batch.weight must be 4 finite numbers",
    ),
    "latents of three axes": (
        (half, BATCH._replace(x0=X0[0]), KEY),
        {},
        r"batch.x0 must have the shape \(B, C, h, w\)",
    ),
    "one channel": ((lambda x, t: x[:, :1], BATCH, KEY), {}, r"predict must give \(B, C, h, w\) or \(B, 2C, h, w\)"),
    "no variance": ((half, BATCH, KEY), {"learned_variance": True}, "predict must give 2C channels"),
    "a mean for a distance": ((half, BATCH, KEY), {"distance": lambda e: e.mean()}, "distance must give a Tensor of"),
    "times out of range": ((half, BATCH, KEY), {"times": at([0, 1, 2, 1000])}, "times.draw must give 4 whole numbers"),
    "times that are too few": ((half, BATCH, KEY), {"times": at([0, 1])}, "times.draw must give 4 whole numbers"),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_wrong_call_is_one_sentence(case):
    arguments, options, sentence = CALLS[case]
    with pytest.raises(ValueError, match=sentence):
        losses.diffusion(SCHEDULE, **options)(*arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((half, X0, KEY), "batch must be a Batch"),
        ((None, BATCH, KEY), r"predict must be a function of \(x, t\)"),
        ((lambda x, t: 3, BATCH, KEY), "predict must give a Tensor"),
        ((half, BATCH._replace(x0=X0.astype(int)), KEY), "batch.x0 must hold floating-point numbers"),
    ],
)
def test_a_wrong_type_is_one_sentence(arguments, sentence):
    with pytest.raises(TypeError, match=sentence):
        losses.diffusion(SCHEDULE)(*arguments)
