"""Solvers: how to go from one node of a grid to the next. One file a family.

The imports are the table: every function here that makes a Solver is in SOLVERS, under its own name.
"""

from __future__ import annotations

from collections.abc import Callable

from ..types import Solver
from .adams import lms, pndm
from .adaptive import dpm_adaptive
from .ddim import ddim
from .ddpm import ddpm
from .dpm import deis, dpm_2m, dpm_multistep, dpm_singlestep, dpmpp_2m, dpmpp_2s, dpmpp_3m, sde_dpmpp_2m
from .euler import dpmpp_2s_ancestral, dpmpp_sde, euler, euler_ancestral, heun, kdpm2, kdpm2_ancestral
from .lcm import lcm
from .sa import sa_solver
from .scheduler import from_config
from .unipc import unipc

SOLVERS: dict[str, Callable[..., Solver]] = {
    name: make
    for name, make in sorted(globals().items())
    if getattr(make, "__annotations__", {}).get("return") == "Solver"
}
