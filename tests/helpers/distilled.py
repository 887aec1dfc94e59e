"""A small batch, and networks that are straight lines, for tests of distillation."""

from __future__ import annotations

import numpy as np

import pixart_fn as px
from pixart_fn import rng
from pixart_fn.train.batch import Batch

SCHEDULE = px.schedule.from_betas(px.schedule.linear())
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
SHAPE = (B, C, H, W) = (3, 2, 2, 3)
N = C * H * W
X0 = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
WEIGHT = np.array([1.0, 0.5, 2.0], np.float32)
BATCH = Batch(X0, px.Text(np.zeros((B, 1, 1), np.float32), np.ones((B, 1), np.int32)), weight=WEIGHT)
KEY = rng.key(11)
KEYS = rng.split(KEY, B)


def column(values):
    return np.asarray(values, np.float64).reshape(-1, 1, 1, 1)


def alpha_sigma(t):
    """α and σ at times, (B, 1, 1, 1), from β."""
    a = ALPHA_BAR[np.asarray(t, int)]
    return column(np.sqrt(a)), column(np.sqrt(1 - a))


def x0_of(output, x, t, prediction):
    alpha, sigma = alpha_sigma(t)
    return {"epsilon": (x - sigma * output) / alpha, "x0": output, "v": alpha * x - sigma * output}[prediction]


def epsilon_of(output, x, t, prediction):
    alpha, sigma = alpha_sigma(t)
    return {"epsilon": output, "x0": (x - alpha * output) / sigma, "v": sigma * x + alpha * output}[prediction]


def affine(a, b):
    """A network of NumPy arrays and of Tensors alike."""
    return lambda x, t: a * x + b * (1 + t.reshape(-1, 1, 1, 1) / 700)


def features(x):
    """A matrix and a square, of Tensors and of arrays."""
    return [x.reshape(-1, N) * 2.0, (x * x)[:, :1]]


TARGET, TEACHER, NULL = affine(0.3, 0.1), affine(0.5, -0.2), affine(0.45, 0.05)
