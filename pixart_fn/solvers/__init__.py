"""Solvers: how to go from one node of a grid to the next. One file a family.

Which to take:

- `dpmpp_2m()` is the default and what PixArt's checkpoints name: one evaluation a step, 15 to 25 steps.
- `dpmpp_2s()` or `ddim()` for 10 steps and fewer, where the differences that second order takes are too rough.
- `dpmpp_2s_ancestral()` (two evaluations a step) or `ddpm()` for fresh noise at each step, `sa_solver()` from 20 steps.
- `dpmpp_2m()` on `schedule.reverse` of a grid that is even in λ finds the noise of a picture, and leads back from it.
- `lcm()` is for models that were distilled to it, `ddpm("learned_range")` for the variance that PixArt-α learned.
- `dpmpp_3m()`, `deis()`, `unipc()` and `heun()` are for many steps, where their order pays.
- `lms()`, `pndm()` and `kdpm2_ancestral()` multiply errors of x0 in large steps, and warn where that draws noise.

All are in SOLVERS under their names, and `named` makes one of its name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from ..checks import kind
from ..types import Solver
from .adams import lms, pndm
from .adaptive import dpm_adaptive
from .config import from_config
from .ddim import ddim
from .ddpm import ddpm
from .dpm import deis, dpm_2m, dpm_multistep, dpm_singlestep, dpmpp_2m, dpmpp_2s, dpmpp_3m, sde_dpmpp_2m
from .euler import dpmpp_2s_ancestral, dpmpp_sde, euler, euler_ancestral, heun, kdpm2, kdpm2_ancestral
from .lcm import lcm
from .sa import sa_solver
from .unipc import unipc

__all__ = [
    "SOLVERS",
    "ddim",
    "ddpm",
    "deis",
    "dpm_2m",
    "dpm_adaptive",
    "dpm_multistep",
    "dpm_singlestep",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_2s_ancestral",
    "dpmpp_3m",
    "dpmpp_sde",
    "euler",
    "euler_ancestral",
    "from_config",
    "heun",
    "kdpm2",
    "kdpm2_ancestral",
    "lcm",
    "lms",
    "named",
    "pndm",
    "sa_solver",
    "sde_dpmpp_2m",
    "unipc",
]

SOLVERS: dict[str, Callable[..., Solver]] = {
    name: globals()[name] for name in __all__ if name not in ("SOLVERS", "from_config", "named")
}


def named(solver: Solver | str) -> Solver:
    """Return the solver of a name, with its default options; a Solver is returned as it is.

    Args:
        solver: a Solver, or the name of one: a key of SOLVERS.
    Raises:
        ValueError: no solver has that name.
        TypeError: it is neither, for example a function that makes a solver and was not called.
    """
    if isinstance(solver, Solver):
        return solver
    if isinstance(solver, str):
        if solver not in SOLVERS:
            nearest = difflib.get_close_matches(solver.lower(), SOLVERS, 1, cutoff=0.0)[0]
            raise ValueError(
                f"solver must be one of {', '.join(SOLVERS)}, or a Solver; got {solver!r}, the nearest is {nearest!r}"
            )
        return SOLVERS[solver]()
    for name, make in SOLVERS.items():
        if solver is make:
            call = f"px.solvers.{name}"
            raise TypeError(f"solver={call} is the function that makes the solver; call it: {call}()")
    raise TypeError(f"solver must be a Solver, as px.solvers.dpmpp_2m() makes, or its name, got {kind(solver)}")


def __dir__() -> list[str]:
    return __all__
