"""Solvers: how to go from one node of a grid to the next. One file a family; the table below names them all."""

from __future__ import annotations

from collections.abc import Callable

from ..types import Solver
from .ddim import ddim
from .ddpm import ddpm
from .dpmpp import dpmpp_2m
from .scheduler import from_config

__all__ = ["SOLVERS", "ddim", "ddpm", "dpmpp_2m", "from_config"]

SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpmpp_2m": dpmpp_2m,
}
