"""A small batch, its noise, and samplers of given times, for tests of losses."""

from __future__ import annotations

import math

import numpy as np

import pixart_fn as px
from pixart_fn import rng
from pixart_fn.train import times
from pixart_fn.train.batch import Batch

SCHEDULE = px.schedule.from_betas(px.schedule.linear())
T = np.array([0, 1, 500, 999])
B, C = 4, 2
SHAPE = (B, C, 2, 3)
X0 = ((np.arange(math.prod(SHAPE)).reshape(SHAPE) % 7 - 3) / 2.5).astype(np.float32)
TEXT = px.Text(np.zeros((B, 1, 1), np.float32), np.ones((B, 1), np.int32))
BATCH = Batch(X0, TEXT)
KEY = rng.key(3)
KEYS = rng.split(KEY, B)
EPS = rng.normal(rng.fold_in(KEYS, 1), SHAPE).astype(np.float64)
"""An example's noise is that of its key with 1 folded in."""


def at(t, weight=None) -> times.Times:
    """A sampler that always gives these times."""
    return times.Times(1000, lambda keys, state: (np.asarray(t), np.ones(len(t)) if weight is None else weight))


def half(x, t):
    return 0.5 * x + 0.001 * t.reshape(-1, 1, 1, 1)
