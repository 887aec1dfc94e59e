"""A tiny model that sees eight pictures again and again draws each of them for its caption."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import tiny

import pixart_fn as px
from pixart_fn import rng, solvers, transformer
from pixart_fn.train import losses, objective, optim, state, step
from pixart_fn.train.data import examples, order

pytestmark = pytest.mark.slow

CAPTIONS = (
    "a cute cat",
    "the big dog",
    "a red apple",
    "a yellow banana",
    "an old guitar",
    "a small house",
    "two birds",
    "a tall tree",
)
CONFIG = transformer.Config(
    num_attention_heads=4, attention_head_dim=16, num_layers=1, cross_attention_dim=64, sample_size=8,
    caption_channels=32,
)  # fmt: skip
STEPS = 200


def pictures() -> np.ndarray:
    """Eight pictures as latents, each channel with stripes of its own direction, width and place."""
    y, x = np.mgrid[:8, :8] / 3.5 - 1
    draw = np.random.default_rng(0).standard_normal((len(CAPTIONS), 4, 3, 1, 1))
    return np.sign(np.sin(3 * (draw[:, :, 0] * x + draw[:, :, 1] * y + draw[:, :, 2]))).astype(np.float32)


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Root of the mean square of the difference of each of x and each of y."""
    return np.sqrt(((x[:, None] - y) ** 2).mean((2, 3, 4)))


def test_eight_pictures_are_drawn_for_their_captions():
    params = tiny.params()
    scheduler = {**params.config.scheduler, "prediction_type": "v_prediction"}  # ε takes three times as many steps
    params = params.replace(config=dataclasses.replace(params.config, transformer=CONFIG, scheduler=scheduler))
    params = params.replace(transformer=transformer.init(rng.key(0), CONFIG))
    text, null, x0 = px.encode_prompt(params, list(CAPTIONS)), px.encode_prompt(params, ""), pictures()
    batches = order.Batches(examples.arrays(x0, text, null=null), 64, 3)
    loss = losses.diffusion(solvers.from_config(scheduler).schedule, learned_variance=True)
    rate = optim.warmup_cosine(1e-2, STEPS, warmup=20)
    optimiser, average = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(rate)), optim.ema(0.98)
    one = step.make(objective.of_transformer(CONFIG, loss), optimiser, ema=average)
    now = state.init(params.transformer, optimiser, rng.key(1), ema=average)
    for i in range(STEPS):
        now, _ = one(now, batches(i), donate=True)
    drawn = px.sample_latents(
        params.replace(transformer=now.average), text, rng.key(9), steps=12, guidance=2, progress=False
    )
    far, apart = distances(drawn.asnumpy(), x0), distances(x0, x0)
    own, nearest = np.diag(far), far.argmin(1)
    between = apart[~np.eye(len(apart), dtype=bool)].min()
    print("errors", own.round(3), "between two pictures", between.round(3))
    assert nearest.tolist() == list(range(len(CAPTIONS)))
    assert own.max() < between / 3
