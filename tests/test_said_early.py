"""What can be known from the arguments is said before the text encoder runs; and solvers and grids are values."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import KEY, counted, draw
from helpers.strategies import EVERY, latents

import pixart_fn as px
from pixart_fn import guidance, schedule, solvers
from pixart_fn.backend import jit
from pixart_fn.models import t5
from pixart_fn.solvers import linear

pytestmark = pytest.mark.filterwarnings("ignore:.* may draw noise on this grid:UserWarning")
NOISE = schedule.from_betas(schedule.linear())
GRID = schedule.grid(NOISE, [900, 600, 300])
BACK = schedule.reverse(GRID)
PURE = schedule.grid(schedule.zero_terminal_snr(NOISE), [999, 500])


def negative_late(t: float) -> float:
    return -1.0 if t < 500 else 1.0


# --- before any work --------------------------------------------------------------------------------------------------

EARLY = {
    "two prompts for dpm_adaptive": ({"prompt": ["a", "b"], "solver": "dpm_adaptive"}, "draws one picture at a time"),
    "noise on a reversed grid": ({"solver": "ddpm", "grid": BACK}, "can't go back from clean to noisy"),
    "an SDE on a reversed grid": ({"solver": "sde_dpmpp_2m", "grid": BACK}, "can't go back from clean to noisy"),
    "churn on a reversed grid": ({"solver": solvers.heun(9), "grid": BACK}, "can't go back from clean to noisy"),
    "tau below 0": ({"solver": solvers.sa_solver(tau=negative_late)}, "tau at t = .* must be within .* got -1"),
    "a grid without its schedule": ({"solver": "kdpm2", "grid": GRID._replace(schedule=None)}, "needs its schedule"),
    "a scale that is NaN late": ({"guidance": lambda t: math.nan if t < 500 else 2.0}, "the scale .* must be finite"),
    "a scale that is huge": ({"guidance": 1e38}, r"the scale of guidance must be within ±1e\+06, got 1e\+38"),
    "on_step of two": (
        {"on_step": lambda a, b: None},
        r"on_step must be a function of \(StepInfo\), got one of \(a, b\)",
    ),
    "a prompt that goes on": ({"prompt": range(10**12)}, "prompt must be a string or a list"),
}


@pytest.mark.parametrize("case", EARLY)
def test_it_is_said_before_the_text_is_encoded(case, monkeypatch):
    options, sentence = EARLY[case]
    calls = counted(monkeypatch, t5, "encode")
    steps = {"steps": None if "grid" in options else 5}
    with pytest.raises((TypeError, ValueError), match=sentence):
        draw(tiny.params(), **{**steps, **options})
    assert not calls


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_solvers_checks_let_through_what_it_can_follow(name):
    """They raise on a grid where and only where the first step, or the whole way, does."""
    solver, x = EVERY[name](), latents(0, (1, 2, 2, 2))
    for grid in (GRID, BACK, schedule.grid(NOISE, [999], final="sigma_min"), GRID._replace(schedule=None)):
        try:
            px.sample(KEY, lambda x, t: 0.5 * x, solver, grid, x)
            failed = ""
        except ValueError as error:
            failed = str(error)
        said = ""
        try:
            for check in solver.checks:
                check(grid, x)
        except ValueError as error:
            said = str(error)
        assert bool(said) == bool(failed), (said, failed)


@pytest.mark.parametrize(
    "maker", [solvers.dpm_2m, solvers.deis, solvers.lms, solvers.pndm, solvers.heun, solvers.kdpm2]
)
def test_pure_noise_has_no_epsilon(maker):
    with pytest.raises(ValueError, match="at α = 0"):
        for check in maker().checks:
            check(PURE, np.zeros((1, 2)))


def test_nan_in_a_text_is_its_own():
    text = px.Text(np.full((1, 4, 32), np.nan, np.float32), np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"text.states must be finite, got NaN or infinity among them"):
        px.sample_latents(tiny.params(), text, KEY, progress=False)


@pytest.mark.parametrize("t", ["5", None, True, math.nan, -1.0, 1000, 1e38, [5.0]])
def test_a_time_that_is_none_is_refused_by_a_denoiser(t):
    text, x = px.Text(np.zeros((1, 4, 32), np.float32), np.ones((1, 4))), np.zeros((1, 4, 8, 8), np.float32)
    for options in ({"guidance": 1}, {"guidance": 2.0}, {"guidance": px.Guidance(2.0, interval=(1, 2))}):
        denoise = px.text_denoiser(tiny.params(), text, text, **options)
        graphs = jit.compilations()
        with pytest.raises((TypeError, ValueError), match=r"^t must be "):
            denoise(x, t)
        assert jit.compilations() == graphs


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_solver_is_compared_and_pickled_as_its_call(name):
    one, other = EVERY[name](), EVERY[name]()
    assert one == other and hash(one) == hash(other) and (one != other) is False
    back = pickle.loads(pickle.dumps(one))
    assert back == one and type(back) is type(one) and repr(back) == repr(one) and copy.deepcopy(one) == one
    x = latents(0, (1, 2, 2, 2))
    assert np.array_equal(*(px.sample(KEY, lambda x, t: 0.5 * x, each, GRID, x) for each in (one, back)))


def test_solvers_of_other_calls_differ():
    assert solvers.ddim() != solvers.ddim(0.5) and solvers.ddim() != solvers.ddpm() and solvers.ddim() != "ddim"
    changed = solvers.ddim()._replace(step=lambda *arguments: arguments)
    assert changed != solvers.ddim()
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(changed)


def test_schedules_and_grids_are_compared_by_their_numbers():
    again = schedule.grid(schedule.from_betas(schedule.linear()), [900, 600, 300])
    assert again == GRID and hash(again) == hash(GRID) and (again != GRID) is False
    assert GRID != BACK and schedule.truncate(GRID, 0.5) != GRID and GRID._replace(schedule=None) != GRID and GRID != 1
    assert schedule.from_betas(schedule.scaled_linear()) != NOISE and NOISE != 1
    assert pickle.loads(pickle.dumps(GRID)) == GRID


@pytest.mark.parametrize(("first", "second"), [("dpmpp_2m", "dpm_2m"), ("lms", "ddim"), ("dpmpp_2s", "dpm_2m")])
def test_a_state_goes_on_with_its_own_kind_of_prediction(first, second):
    info = next(px.iterate(KEY, lambda x, t: 0.5 * x, first, GRID, latents(0, (1, 2))))
    with pytest.raises(TypeError, match=r"x is a \w+State, the state of another method"):
        px.iterate(KEY, lambda x, t: 0.5 * x, second, GRID, info.state, start=1)


def test_a_scale_of_0_or_1_takes_one_branch_alone():
    x, bad = np.ones((2, 4, 2, 2)), np.full((2, 4, 2, 2), np.inf)
    assert np.array_equal(guidance.combine(x, bad, 1.0), x) and np.array_equal(guidance.combine(bad, x, 0), x)
    assert not np.isfinite(guidance.combine(x, bad, 2.0)).any()


def test_what_a_helper_of_ones_own_solver_needs():
    with pytest.raises(TypeError, match=r"row must be a function of \(grid, i, known\), got one of \(grid\)"):
        linear.multistep(1, lambda grid: None)
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        linear.multistep(0, lambda grid, i, known: None)


def test_a_nearest_name_is_given_only_where_one_is_near():
    with pytest.raises(ValueError, match=r"the nearest is 'heun'$"):
        solvers.named("heunn")
    with pytest.raises(ValueError, match=r"got 'xyzzy'$"):
        solvers.named("xyzzy")
