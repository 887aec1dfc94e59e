"""Solvers: how to go from one node of a grid to the next. One file a family; the table below names them all."""

from __future__ import annotations

from collections.abc import Callable

from ..types import Solver
from .adams import lms, pndm
from .adaptive import dpm_adaptive
from .ddim import ddim
from .ddpm import ddpm
from .dpm import deis, dpm_2m, dpm_multistep, dpm_singlestep, dpmpp_2m, dpmpp_2s, dpmpp_3m, sde_dpmpp_2m
from .euler import dpmpp_sde, euler, euler_ancestral, heun, kdpm2, kdpm2_ancestral
from .lcm import lcm
from .sa import sa_solver
from .scheduler import from_config as from_config
from .unipc import unipc

SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "deis": deis,
    "dpm_2m": dpm_2m,
    "dpm_adaptive": dpm_adaptive,
    "dpm_multistep": dpm_multistep,
    "dpm_singlestep": dpm_singlestep,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_sde": dpmpp_sde,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "kdpm2": kdpm2,
    "kdpm2_ancestral": kdpm2_ancestral,
    "lcm": lcm,
    "lms": lms,
    "pndm": pndm,
    "sa_solver": sa_solver,
    "sde_dpmpp_2m": sde_dpmpp_2m,
    "unipc": unipc,
}
