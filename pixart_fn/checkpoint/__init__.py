"""Reading a pipeline in diffusers layout from a folder or the hub, with strict checks, and writing it back."""

from typing import TYPE_CHECKING

from .load import load
from .save import save

__all__ = ["load", "save"]

if not TYPE_CHECKING:  # a type checker would take any name for one that is here

    def __getattr__(name: str) -> object:
        now = f"; it is now pixart_fn.params.{name}" if name in ("Params", "Configs") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{now}")
