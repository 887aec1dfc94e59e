"""Training: the loop, its optimiser, and the recipe of the embedded checkpoint in modules of their own."""

from . import loop, optim

__all__ = ["loop", "optim"]
