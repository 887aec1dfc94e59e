"""Optimisers as pairs of pure functions over trees, as in optax.

For example:

    optimiser = chain(clip_by_global_norm(1.0), adamw(1e-4))
    state = optimiser.init(params)
    params, state, _ = step(optimiser, params, gradients, state)
"""

from __future__ import annotations

from collections.abc import Callable

from .adam import adamw, lion, scale_by_adam, scale_by_lion, sgd, trace
from .common import add_decayed_weights, clip, clip_by_global_norm, ema, matrices, scale_by_learning_rate, scale_by_name
from .factored import adafactor, came, scale_by_came
from .leaves import Leaf, LeafwiseState, global_norm
from .schedules import constant, warmup_constant, warmup_cosine, warmup_linear, warmup_stable_decay
from .transform import Transformation, apply_updates, chain, leafwise, step

__all__ = [
    "OPTIMISERS",
    "Leaf",
    "LeafwiseState",
    "Transformation",
    "adafactor",
    "adamw",
    "add_decayed_weights",
    "apply_updates",
    "came",
    "chain",
    "clip",
    "clip_by_global_norm",
    "constant",
    "ema",
    "global_norm",
    "leafwise",
    "lion",
    "matrices",
    "scale_by_adam",
    "scale_by_came",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_name",
    "sgd",
    "step",
    "trace",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "warmup_stable_decay",
]

OPTIMISERS: dict[str, Callable[..., Transformation]] = {
    "adafactor": adafactor,
    "adamw": adamw,
    "came": came,
    "lion": lion,
    "sgd": sgd,
}
"""Makers of optimisers by the names that recipes give them."""
