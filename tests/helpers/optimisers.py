"""Every optimiser, three gradients, and what follows from them step by step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from helpers.trees import normal, tensors

from pixart_fn import tree
from pixart_fn.train import optim

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


class Pair(NamedTuple):
    weight: np.ndarray
    bias: np.ndarray


def array(seed: int, *shape: int) -> np.ndarray:
    return np.asarray(normal(seed, *shape))


START = {"blocks": [Pair(array(0, 6, 4), array(1, 6)), Pair(array(2, 3, 2, 2, 2), array(3, 3))], "gain": array(4)}
GRADIENTS = [
    tree.map(lambda p, i=i: np.asarray(p[::-1] * 2 + i if p.ndim else p + i, np.float32), START) for i in range(3)
]


def rate(step: int) -> float:
    return 0.01 / (1 + step)


OPTIMISERS = {
    "adamw": lambda: optim.adamw(rate),
    "adam without correction": lambda: optim.scale_by_adam(bias_correction=False),
    "lion": lambda: optim.lion(rate, weight_decay=0.1),
    "sgd": lambda: optim.sgd(rate),
    "sgd with momentum": lambda: optim.sgd(rate, 0.9, True, 0.1),
    "came": lambda: optim.came(rate),
    "adafactor": lambda: optim.adafactor(),
    "adafactor with a first moment": lambda: optim.adafactor(rate, 0.9, weight_decay=0.1),
    "a long chain": lambda: optim.chain(
        optim.clip(1.0), optim.adamw(rate), optim.clip_by_global_norm(0.01), optim.scale_by_name([("weight", 0.5)])
    ),
    "nothing that depends on the rest of a leaf": lambda: optim.chain(
        optim.clip_by_global_norm(1.0), optim.adamw(rate), optim.scale_by_name([("weight", 0.5)])
    ),
}


def copied(t):
    return tree.map(np.array, t)


def separate(transformation: optim.Transformation) -> optim.Transformation:
    """The same, as a user would write it: nothing is known of its leaves or parts."""
    return optim.Transformation(transformation.init, lambda u, s, p: transformation.update(u, s, p))


def followed(optimiser, average, *, donate=False, fused=True, kind=tensors):
    """The parameters, the state and the average's state after each step."""
    params = kind(copied(START))
    state, ema_state, path = optimiser.init(params), average.init(params), []
    for gradient in GRADIENTS:
        gradient = kind(copied(gradient))
        if fused:
            params, state, ema_state = optim.step(optimiser, params, gradient, state, average, ema_state, donate)
        else:
            updates, state = optimiser.update(gradient, state, params, donate)
            params = optim.apply_updates(params, updates, donate)
            _, ema_state = average.update(tree.map(np.array, numbers_of(params)), ema_state, params, donate)
        path.append((copied(numbers_of(params)), copied(state), copied(ema_state)))
    return path


def numbers_of(t):
    return tree.map(lambda leaf: leaf.asnumpy() if isinstance(leaf, ms.Tensor) else leaf, t)


def address(leaf) -> int:
    return (leaf.asnumpy() if isinstance(leaf, ms.Tensor) else leaf).ctypes.data
