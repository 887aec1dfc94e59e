"""Data to train on: sources of pictures, their encoding before the training, and the batches of each step.

For example:

    source = data.sources.open("my pictures")
    data.prepare.run(source, params, "prepared")
    batches = data.order.Batches(data.prepared.open("prepared"), batch_size=16, seed=0)
    batches(0)
"""

from . import authors, controls, order, prepare, prepared, sources
from .examples import arrays

__all__ = ["arrays", "authors", "controls", "order", "prepare", "prepared", "sources"]
