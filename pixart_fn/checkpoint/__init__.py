"""Files ↔ trees: a pipeline in diffusers layout, from a folder or the hub, read strictly and written back."""

from .load import load
from .save import save

__all__ = ["load", "save"]
