"""Solvers by name, and what solvers, steps and states show of themselves."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.strategies import EVERY, latents

from pixart_fn import rng, schedule, solvers
from pixart_fn.sample import iterate, sample
from pixart_fn.solvers import linear
from pixart_fn.solvers.config import CLASSES
from pixart_fn.solvers.linear import CorrectorState, OneStepState
from pixart_fn.types import Solver, StepInfo

pytestmark = pytest.mark.filterwarnings("ignore:.* may draw noise on this grid:UserWarning")

KEY = rng.key(0)


def shrink(x: np.ndarray, t: float) -> np.ndarray:
    """A denoiser in one line."""
    return 0.9 * x


def mine() -> Solver:
    """A maker that is in no table."""
    return solvers.ddim()


def test_the_table_holds_every_solver():
    names = ["SOLVERS", "Sampler", "from_config", "named", *solvers.SOLVERS]
    assert solvers.__all__ == names and dir(solvers) == sorted(names)
    assert len(solvers.SOLVERS) == 23
    for name, make in solvers.SOLVERS.items():
        assert make is getattr(solvers, name) and make.__name__ == name and make.__doc__


def test_one_function_and_one_line_make_a_solver():
    """Every function of the folder that is marked as a maker is in the table, and nothing else is."""
    trees = [ast.parse(path.read_text("utf-8")) for path in Path(solvers.__file__).parent.glob("*.py")]
    functions = [each for tree in trees for each in tree.body if isinstance(each, ast.FunctionDef)]
    made = [f.name for f in functions if "maker" in [ast.unparse(decorator) for decorator in f.decorator_list]]
    assert sorted(made) == list(solvers.SOLVERS)


class Halving(NamedTuple):
    """A state of one's own."""

    x: np.ndarray
    steps: int = 0


def test_a_solver_of_ones_own_needs_no_table():
    """Any NamedTuple whose field x is the sample is a state, to go on from too."""

    def step(key, denoise, grid, i, state):
        x0 = denoise(state.x, float(grid.t[i]))
        x = (state.x + x0) / 2
        return Halving(x, state.steps + 1), StepInfo(x, x0, float(grid.t[i]), grid.alpha[i], grid.sigma[i], 1)

    own, grid = Solver(Halving, step), schedule.grid(schedule.from_betas(schedule.linear()), [900, 600, 300])
    infos = list(iterate(KEY, shrink, own, grid, np.ones((1, 2))))
    np.testing.assert_allclose(infos[-1].x, 0.95**3)
    assert [info.state.steps for info in infos] == [1, 2, 3]
    (last,) = iterate(KEY, shrink, own, grid, infos[1].state, start=2)
    assert last.state.steps == 3 and np.array_equal(last.x, infos[2].x)


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
        ("", ValueError, "or a Solver; got ''$"),
        (
            solvers.heun,
            TypeError,
            r"solver=px.solvers.heun is the function that makes the solver; call it: px.solvers.heun\(\)",
        ),
        (shrink, TypeError, "dpmpp_2m.. makes, or its name, got a function; if it makes a Solver, call it$"),
        (linear.maker(mine), TypeError, r"solver=mine is the function that makes the solver; call it: mine\(\)$"),
        (lambda: solvers.ddim(), TypeError, "got a function; if it makes a Solver, call it$"),
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
    own = Solver(OneStepState, lambda *arguments: arguments)
    assert repr(own).startswith("Solver(init=<class 'pixart_fn.solvers.states.OneStepState'>, step=<function")


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        (
            {"_class_name": "DPMSolverMultistepScheduler"},
            "solver=dpm_multistep(2, 'midpoint', 'dpmsolver++', lower_order_final=True, euler_at_final=False), "
            "wrap=same)",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "thresholding": True},
            "solver=unipc(2, 'bh2', 'x0', lower_order_final=True, disable_corrector=()), wrap=threshold)",
        ),
        (
            {"_class_name": "DPMSolverSinglestepScheduler"},
            "solver=dpm_singlestep(2, 'midpoint', 'dpmsolver++', lower_order_final=False), wrap=same)",
        ),
        ({"_class_name": "DEISMultistepScheduler"}, "solver=deis(2, lower_order_final=True), wrap=same)"),
        ({"_class_name": "PNDMScheduler"}, "solver=pndm(runge_kutta=True), wrap=same)"),
        ({"_class_name": "DDPMScheduler"}, "solver=ddpm('fixed_small'), wrap=clip)"),
        ({"_class_name": "DDIMScheduler"}, "solver=ddim.beside_old_noise(clip), wrap=same)"),
    ],
)
def test_a_sampler_shows_named_options_and_no_addresses(config, shown):
    sampler = solvers.from_config(config)
    start = f"Sampler(schedule={sampler.schedule!r}, make_grid=make_grid, "
    assert repr(sampler) == start + shown


@pytest.mark.parametrize("config", [*CLASSES])
def test_no_sampler_shows_an_address(config):
    assert " at 0x" not in repr(solvers.from_config({"_class_name": config}))


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
