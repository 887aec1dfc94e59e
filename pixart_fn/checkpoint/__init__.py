"""Files ↔ trees: a pipeline in diffusers layout, from a folder or the hub, read strictly and written back."""

from .loading import load
from .params import Configs, Params
from .saving import save

__all__ = ["Configs", "Params", "load", "save"]
