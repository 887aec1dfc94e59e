"""Training: the loop, its optimiser, and in `emoji` the recipe of the embedded checkpoint."""

from . import adapt, distill, evaluate, loop, losses, optim, times
from .batch import Batch

__all__ = ["Batch", "adapt", "distill", "evaluate", "loop", "losses", "optim", "times"]
