"""Training: losses, optimisers, data, the step and the loop; `emoji` is the recipe of the embedded checkpoint.

For example:

    state = train.init(params.transformer, optimiser, px.key(0))
    step = train.make_step(train.objective.of_transformer(params.config.transformer, loss), optimiser)
    state, metrics = step(state, batch)
"""

from . import adapt, data, distill, evaluate, job, loop, losses, objective, optim, recipe, reparameterise, times, watch
from .batch import Batch
from .state import LossScale, TrainState, init
from .step import NotFinite
from .step import make as make_step

__all__ = [
    "Batch",
    "LossScale",
    "NotFinite",
    "TrainState",
    "adapt",
    "data",
    "distill",
    "evaluate",
    "init",
    "job",
    "loop",
    "losses",
    "make_step",
    "objective",
    "optim",
    "recipe",
    "reparameterise",
    "times",
    "watch",
]
