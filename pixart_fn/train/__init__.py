"""Training: the loop, its optimiser, and in `emoji` the recipe of the embedded checkpoint."""

from . import loop, optim

__all__ = ["loop", "optim"]
