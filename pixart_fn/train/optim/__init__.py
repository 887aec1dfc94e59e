"""Optimisers as pairs of pure functions over trees, as in optax.

`step(chain(clip_by_global_norm(1.0), adamw(1e-4)), params, gradients, state)` is one step of training.
"""

from __future__ import annotations

from collections.abc import Callable

from .adam import adamw as adamw
from .adam import lion as lion
from .adam import scale_by_adam as scale_by_adam
from .adam import scale_by_lion as scale_by_lion
from .adam import sgd as sgd
from .adam import trace as trace
from .common import add_decayed_weights as add_decayed_weights
from .common import clip as clip
from .common import clip_by_global_norm as clip_by_global_norm
from .common import ema as ema
from .common import matrices as matrices
from .common import scale_by_learning_rate as scale_by_learning_rate
from .common import scale_by_name as scale_by_name
from .factored import adafactor as adafactor
from .factored import came as came
from .factored import scale_by_came as scale_by_came
from .leaves import Leaf as Leaf
from .leaves import LeafwiseState as LeafwiseState
from .leaves import global_norm as global_norm
from .schedules import constant as constant
from .schedules import warmup_constant as warmup_constant
from .schedules import warmup_cosine as warmup_cosine
from .schedules import warmup_linear as warmup_linear
from .schedules import warmup_stable_decay as warmup_stable_decay
from .transform import Transformation as Transformation
from .transform import apply_updates as apply_updates
from .transform import chain as chain
from .transform import leafwise as leafwise
from .transform import step as step

OPTIMISERS: dict[str, Callable[..., Transformation]] = {
    "adafactor": adafactor,
    "adamw": adamw,
    "came": came,
    "lion": lion,
    "sgd": sgd,
}
"""Makers of optimisers by the names that recipes give them."""
