"""Solvers, which say how to go from one node of a grid to the next. Each family has its file.

Which to take:

- `dpmpp_2m()` with 15 to 25 steps. It is the default of PixArt's checkpoints and evaluates the model once per step.
- `ddim()` with 5 steps or fewer.
- `dpmpp_2s_ancestral()`, which evaluates the model twice per step, if every step should add new noise.
- `dpmpp_2m()` on `schedule.reverse` of a grid that is uniform in λ, to find the noise of a picture.
- `lcm()` for models that were distilled for it, and `ddpm("learned_range")` for the variance that PixArt-α learned.

`dpmpp_3m()`, `deis()`, `unipc()` and `heun()` have a higher order or more evaluations, for many steps. `lms()`,
`pndm()` and `kdpm2_ancestral()` amplify errors of x0 in large steps, and warn where the picture would be noise.

SOLVERS holds all of them by name, and `named` makes a solver from its name.

To write your own, write a function that returns a Solver. `sample` and `generate` take it as they take those here.

If the next x is linear in x, in the predictions so far and in noise, write a function that gives the coefficients;
`multistep`, `singlestep` or `predictor_corrector` of `pixart_fn.solvers.linear` makes the Solver from it. For example,
this is DDIM:

    import pixart_fn as px
    from pixart_fn.solvers import linear


    @linear.maker  # so that the solver shows itself as mine()
    def mine() -> px.Solver:
        def row(grid: px.Grid, i: int, known: int) -> linear.Row:  # x_{i+1} = a · x_i + b[0] · x0_i
            alpha, sigma, alpha_next, sigma_next = linear.span(grid, i)
            a = sigma_next / sigma
            return linear.Row(a, (alpha_next - a * alpha,))

        return linear.multistep(1, row)


    schedule = px.schedule.from_betas(px.schedule.linear())
    grid = px.schedule.grid(schedule, px.schedule.timesteps(schedule, 10))
    noise = px.rng.normal(px.key(0), (1, 4, 8, 8))
    x = px.sample(px.key(0), lambda x, t: 0.9 * x, mine(), grid, noise)

Otherwise write `step(key, denoise, grid, i, state) → (state, StepInfo)`, where state is a NamedTuple whose field `x` is
the sample, and return px.Solver(the NamedTuple, step), as `heun` in `pixart_fn.solvers.euler` does. A method that
remembers nothing can use `linear.OneStepState`, and `linear.report` makes the StepInfo.

To add a solver to this package, write it in a file of this folder under `@maker`, and add one line to the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from ..checks import kind, shown
from ..types import Solver
from .config import Sampler as Sampler
from .config import from_config as from_config

# isort: split
# The table: one line for each solver.
from .adams import lms as lms
from .adams import pndm as pndm
from .adaptive import dpm_adaptive as dpm_adaptive
from .ddim import ddim as ddim
from .ddpm import ddpm as ddpm
from .dpm import deis as deis
from .dpm import dpm_2m as dpm_2m
from .dpm import dpm_multistep as dpm_multistep
from .dpm import dpm_singlestep as dpm_singlestep
from .dpm import dpmpp_2m as dpmpp_2m
from .dpm import dpmpp_2s as dpmpp_2s
from .dpm import dpmpp_3m as dpmpp_3m
from .dpm import sde_dpmpp_2m as sde_dpmpp_2m
from .euler import dpmpp_2s_ancestral as dpmpp_2s_ancestral
from .euler import dpmpp_sde as dpmpp_sde
from .euler import euler as euler
from .euler import euler_ancestral as euler_ancestral
from .euler import heun as heun
from .euler import kdpm2 as kdpm2
from .euler import kdpm2_ancestral as kdpm2_ancestral
from .lcm import lcm as lcm
from .sa import sa_solver as sa_solver
from .unipc import unipc as unipc

SOLVERS: dict[str, Callable[..., Solver]] = {
    name: make for name, make in sorted(globals().items()) if hasattr(make, "makes_solvers")
}

__all__ = ["SOLVERS", "Sampler", "from_config", "named", *SOLVERS]


def named(solver: Solver | str) -> Solver:
    """Return the solver of a name, with its default options; a Solver is returned as it is.

    Args:
        solver: a Solver, or the name of one: a key of SOLVERS.
    Returns:
        The Solver.
    Raises:
        ValueError: no solver has that name.
        TypeError: it is neither, for example a function that makes a solver and was not called.
    Example:
        >>> px.solvers.named("heun")
        heun()
    """
    if isinstance(solver, Solver):
        return solver
    if isinstance(solver, str):
        if solver not in SOLVERS:
            near = difflib.get_close_matches(solver[:40].lower(), SOLVERS, 1)
            nearest = f", the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, or a Solver; got {shown(solver)}{nearest}")
        return SOLVERS[solver]()
    if hasattr(solver, "makes_solvers"):
        own = solver.__name__
        call = f"px.solvers.{own}" if SOLVERS.get(own) is solver else own
        raise TypeError(f"solver={call} is the function that makes the solver; call it: {call}()")
    hint = "; if it makes a Solver, call it" if callable(solver) else ""
    raise TypeError(f"solver must be a Solver, as px.solvers.dpmpp_2m() makes, or its name, got {kind(solver)}{hint}")


def __dir__() -> list[str]:
    return __all__
