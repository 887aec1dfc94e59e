"""The readers by their names: for each its valid files, how they are damaged, and what reads them."""

from __future__ import annotations

from . import arrays, configs, folders, pictures
from .target import Target

TARGETS: dict[str, Target] = {**configs.TARGETS, **arrays.TARGETS, **folders.TARGETS, **pictures.TARGETS}
