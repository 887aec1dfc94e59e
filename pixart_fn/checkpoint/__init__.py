"""Reading a pipeline in diffusers layout from a folder or the hub, with strict checks, and writing it back."""

from .load import load
from .save import save

__all__ = ["load", "save"]
