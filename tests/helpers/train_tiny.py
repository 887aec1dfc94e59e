"""A training so small that a step takes a blink, of all parts that PixArt's has.

As a process, alone or as one of msrun's workers, it trains in each folder up to a step: `FOLDER STEPS …`. It waits
for a minute until the folder is there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pixart_fn import rng, schedule, transformer
from pixart_fn.backend import workers as workers_
from pixart_fn.backend.runtime import settle_on_cpu
from pixart_fn.backend.workers import ALONE, Workers
from pixart_fn.train import loop, losses, objective, optim, state, step
from pixart_fn.train.batch import Batch
from pixart_fn.train.data import order
from pixart_fn.train.data.examples import Arrays, arrays
from pixart_fn.types import Text

from . import tiny

EXAMPLES, BATCH, TOKENS = 12, 4, 6
CONFIG = tiny.TRANSFORMER
SCHEDULE = schedule.from_betas(schedule.linear())
LOSS = losses.diffusion(SCHEDULE, learned_variance=True)
OPTIMISER = optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(2e-3, weight_decay=0.03))
AVERAGE = optim.ema(0.99)


class Training(NamedTuple):
    """What `loop.run` takes."""

    step: step.Step
    state: state.TrainState
    batches: Callable[[int], Batch]


def dataset() -> Arrays:
    draw = np.random.default_rng(0)
    latents = draw.standard_normal((EXAMPLES, 4, 8, 8)).astype(np.float32)
    states = draw.standard_normal((EXAMPLES + 1, TOKENS, CONFIG.caption_channels)).astype(np.float32)
    mask = (np.arange(TOKENS) <= np.arange(EXAMPLES + 1)[:, None] % TOKENS).astype(np.int32)
    return arrays(latents, Text(states[1:], mask[1:]), null=Text(states[:1], mask[:1]))


def begin(workers: Workers = ALONE, **options: object) -> Training:
    """ε and the learned variance, AdamW after clipping, a moving average, and caption dropout."""
    weights = tiny.without_zeros(transformer.init(rng.key(0), CONFIG))
    batches = order.Batches(dataset(), BATCH, 5, rank=workers.rank, workers=workers.size)
    one = step.make(objective.of_transformer(CONFIG, LOSS), OPTIMISER, ema=AVERAGE, workers=workers, **options)
    return Training(one, state.init(weights, OPTIMISER, rng.key(1), ema=AVERAGE), batches)


def train(folder: Path, steps: int, workers: Workers = ALONE) -> state.TrainState:
    """Train in a folder up to a step, saving after every few steps, so that the log is ahead of the state."""
    options = {"save_every_minutes": 0.002, "progress": False}
    return loop.run(*begin(workers), folder, steps=steps, workers=workers, **options)


if __name__ == "__main__":
    settle_on_cpu()
    own = workers_.start()
    for where, last in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        end = time.monotonic() + 60
        while not Path(where).is_dir() and time.monotonic() < end:
            time.sleep(0.1)
        train(Path(where), int(last), own)
