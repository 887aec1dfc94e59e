"""Solvers by name, and what solvers, steps and states show of themselves."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.strategies import EVERY, latents

from pixart_fn import rng, schedule, solvers
from pixart_fn.sample import iterate, sample
from pixart_fn.solvers.linear import CorrectorState, OneStepState
from pixart_fn.types import Solver

pytestmark = pytest.mark.filterwarnings("ignore:.* may draw noise on this grid:UserWarning")

KEY = rng.key(0)


def shrink(x: np.ndarray, t: float) -> np.ndarray:
    """A denoiser in one line."""
    return 0.9 * x


def test_the_table_holds_every_solver():
    names = ["SOLVERS", "Sampler", "from_config", "named", *solvers.SOLVERS]
    assert solvers.__all__ == names and dir(solvers) == sorted(names)
    assert len(solvers.SOLVERS) == 23
    for name, make in solvers.SOLVERS.items():
        assert make is getattr(solvers, name) and make.__name__ == name and make.__doc__


def test_a_solver_by_name_is_the_one_of_the_table():
    grid, x = schedule.grid(schedule.from_betas(schedule.linear()), [900, 600, 300]), latents(0, (1, 3))
    for name, make in solvers.SOLVERS.items():
        assert solvers.named(name).name == f"{name}()"
        one, other = (sample(KEY, shrink, solver, grid, x) for solver in (name, make()))
        assert np.array_equal(one, other)
    solver = solvers.heun()
    assert solvers.named(solver) is solver


@pytest.mark.parametrize(
    ("solver", "error", "sentence"),
    [
        (
            "heum",
            ValueError,
            "must be one of ddim, ddpm, .*, unipc, or a Solver; got 'heum', the nearest is 'heun'",
        ),
        ("", ValueError, "got '', the nearest is "),
        (
            solvers.heun,
            TypeError,
            r"solver=px.solvers.heun is the function that makes the solver; call it: px.solvers.heun\(\)",
        ),
        (shrink, TypeError, "solver must be a Solver, as px.solvers.dpmpp_2m.. makes, or its name, got a function"),
        (None, TypeError, "or its name, got None"),
        ([], TypeError, "or its name, got a list"),
    ],
)
def test_what_is_no_solver(solver, error, sentence):
    grid = schedule.grid(schedule.from_betas(schedule.linear()), [900])
    with pytest.raises(error, match=sentence):
        solvers.named(solver)
    with pytest.raises(error, match=sentence):
        iterate(KEY, shrink, solver, grid, latents(0, (1, 3)))  # before the first step is asked for


def test_a_solver_shows_the_call_that_made_it():
    assert repr(solvers.dpmpp_2m()) == "dpmpp_2m()"
    assert repr(solvers.heun(40, s_noise=1.003)) == "heun(40, s_noise=1.003)"
    assert repr(solvers.dpm_multistep(3, algorithm="dpmsolver")) == "dpm_multistep(3, algorithm='dpmsolver')"
    mine = Solver(OneStepState, lambda *arguments: arguments)
    assert repr(mine).startswith("Solver(init=<class 'pixart_fn.solvers.linear.OneStepState'>, step=<function")


@pytest.mark.parametrize("name", sorted(EVERY))
def test_what_a_step_saw_fits_a_few_lines(name):
    grid = schedule.grid(schedule.from_betas(schedule.linear()), [999, 600, 300])
    info = next(iterate(KEY, shrink, EVERY[name](), grid, latents(0, (1, 4, 64, 64), np.float32)))
    assert repr(info).startswith(
        "StepInfo(x=float32 (1, 4, 64, 64), x0=float32 (1, 4, 64, 64), t=999, alpha=0.00635282, sigma=0.99998, "
    )
    assert repr(info).endswith(f"state={info.state!r})") and len(repr(info)) < 400
    assert repr(CorrectorState(np.ones(2), None, (np.ones((1, 2)), np.ones(3)))) == (
        "CorrectorState(x=float64 (2,), corrected=None, past=(float64 (1, 2), float64 (3,)))"
    )
