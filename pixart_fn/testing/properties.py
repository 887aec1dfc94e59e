"""The properties that a solver must have, each a function that raises an AssertionError on a case that breaks it."""

from __future__ import annotations

import copy
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from .. import rng, tree
from ..checks import kind, shown
from ..sample import iterate
from ..schedule import FINALS, Schedule, from_betas, grid, linear, timesteps
from ..types import Denoiser, Grid, Key, NumPyArray, Solver, SolverState, StepInfo
from .exact import Constant, Gaussian
from .order import taken_by
from .strategies import any_grid, any_schedule, denoisers, keys, shapes

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

CLOSE = 1e-6
"""Relative: wide enough for the rounding of float64 that a solver multiplies by σ/α, and far below any mistake."""
LONGEST = 500
"""Letters of what an exception says that are shown."""
LINEAR = from_betas(linear())


class Subject(NamedTuple):
    """The solver that is checked, and whether it draws noise."""

    solver: Solver
    stochastic: bool


class Case(NamedTuple):
    """What a property is tried on: x is one picture, float64."""

    grid: Grid
    schedule: Schedule
    denoise: Denoiser
    x: NumPyArray
    key: Key


ONE_STEP = Case(grid(LINEAR, [500.0]), LINEAR, Constant(0.5), np.ones((1, 1, 1, 1)), rng.key(0))
"""Every property is tried on it first: many a method forgets that a grid may have one step."""
USUAL = Case(grid(LINEAR, timesteps(LINEAR, 6)), LINEAR, Gaussian(0.3, 0.6, LINEAR), np.ones((1, 1, 1, 2)), rng.key(0))
"""And on it last, for where what was drawn found nothing."""


def any_case(draw: DrawFn) -> Case:
    """Draw a grid of up to 20 steps with the rest."""
    noise = any_schedule(draw, "epsilon")
    channels_rows_columns, key = draw(shapes())[1:], draw(keys())
    x = np.random.default_rng(int(key[0])).standard_normal((1, *channels_rows_columns))
    return Case(any_grid(draw, FINALS, noise, 20), noise, draw(denoisers(noise)), x, key)


def fail(sentence: str, case: Case) -> NoReturn:
    """Raise the AssertionError of a property, with what it fails on."""
    raise AssertionError(f"{sentence}, on {case.grid!r} with {case.denoise!r}")


def run(
    subject: Subject, case: Case, state: SolverState | None = None, start: int = 0, steps: int | None = None
) -> list[StepInfo]:
    """Take every step from a copy of x, or so many from a state; an exception of the solver's is a failure too."""
    t, alpha, sigma = map(_fixed, case.grid[:3])
    grid, x = case.grid._replace(t=t, alpha=alpha, sigma=sigma), case.x.copy() if state is None else state
    denoise = taken_by(subject.solver, lambda x, t: _fixed(case.denoise(x, t)))
    try:
        return list(islice(iterate(_fixed(case.key), denoise, subject.solver, grid, x, start=start), steps))
    except Exception as error:
        why = ", since it changes the grid, the key or x0 in place" if "is read-only" in (text := said(error)) else ""
        raise AssertionError(f"the solver raises {text}{why}, on {case.grid!r}") from error


def _fixed(array: NumPyArray) -> NumPyArray:
    """A copy that can't be changed in place, so that a solver which tries to raises."""
    fixed = np.array(array)
    fixed.flags.writeable = False
    return fixed


def said(error: Exception) -> str:
    """What an exception says, in one line that isn't long."""
    try:
        text = str(error)
    except Exception:  # it may be anybody's
        text = ""
    text = " ".join(f"{type(error).__name__}: {text}".split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def distance(ours: NumPyArray, theirs: NumPyArray) -> float:
    """The largest difference relative to the largest number; inf where something isn't finite."""
    error = float(np.abs(ours - theirs).max() / max(1e-300, float(np.abs(theirs).max())))
    return error if np.isfinite(error) else np.inf


def protocol(subject: Subject, case: Case) -> None:
    """A step says what it did: x, x0, the old node, and how often it called the denoiser, at times that there are."""
    calls: list[tuple[object, NumPyArray]] = []

    def denoise(x: NumPyArray, t: float) -> NumPyArray:
        x0: NumPyArray = case.denoise(x, t)
        calls.append((t, x0))
        return x0

    infos = run(subject, case._replace(denoise=denoise))
    start = subject.solver.init(case.x.copy())
    if not np.array_equal(start.x, case.x):
        fail("the field x of the state that init returns must be the x that it is given", case)
    done = 0
    for i, info in enumerate(infos):
        if not isinstance(info.evaluations, (int, np.integer)) or info.evaluations < 0:
            got = shown(info.evaluations)
            fail(f"evaluations of the StepInfo of step {i} must be a whole number of calls, got {got}", case)
        own, done = calls[done : done + info.evaluations], done + info.evaluations
        _check_info(info, i, own, case)
    if done != len(calls):
        fail(f"the steps say that they call the denoiser {done} times, and they call it {len(calls)} times", case)
    last = case.schedule.steps - 1
    strange = [t for t, _ in calls if type(t) is not float or not 0 <= t <= last]
    if strange:
        fail(f"denoise must be called with a float within [0, {last}] as t, got {strange[0]!r}", case)


def _check_info(info: StepInfo, i: int, calls: list[tuple[object, NumPyArray]], case: Case) -> None:
    if not isinstance(info.x, np.ndarray) or info.x.dtype.kind not in "fiuc":
        other = f"an array of {info.x.dtype}" if isinstance(info.x, np.ndarray) else kind(info.x)
        fail(f"x after step {i} must be an array of NumPy that holds numbers, as x is, got {other}", case)
    if info.x.shape != case.x.shape or not np.isfinite(info.x).all():
        fail(f"x after step {i} must be finite and of the shape {case.x.shape}", case)
    node = tuple(float(nodes[i]) for nodes in case.grid[:3])
    if info.state is None or not np.array_equal(info.x, info.state.x):
        fail(f"x of the StepInfo of step {i} isn't x of the state", case)
    if (info.t, info.alpha, info.sigma) != node:
        got = (info.t, info.alpha, info.sigma)
        fail(f"(t, alpha, sigma) of the StepInfo of step {i} must be {node}, got {got}", case)
    if not calls or not np.array_equal(info.x0, calls[0][1]):
        fail(f"x0 of step {i} isn't what the denoiser gave at the first of its {len(calls)} calls", case)


def pure(subject: Subject, case: Case) -> None:
    """Nothing is changed in place, and a state is all that a step goes on from."""
    given = case.x.copy()
    state: SolverState | None = subject.solver.init(given)
    for i in range(min(4, len(case.grid.t) - 1)):
        kept = _copied(state, i, case)
        ends = [run(subject, case, state, i, 1)[0] for _ in range(2)]
        if not all(map(np.array_equal, tree.leaves(state), tree.leaves(kept))):
            fail(f"step {i} changes an array of the state that it is given in place", case)
        if not np.array_equal(given, case.x):
            fail(f"by step {i} the x that init is given is changed in place", case)
        if not np.array_equal(ends[0].x, ends[1].x):
            off = distance(ends[1].x, ends[0].x)
            fail(f"step {i} taken twice from one state ends {off:.2g} apart, so something else is kept", case)
        state = ends[0].state


def _copied(state: SolverState | None, i: int, case: Case) -> SolverState | None:
    try:
        tree.leaves(state)
        return copy.deepcopy(state)
    except Exception as error:
        fail(f"the state before step {i} must hold arrays and numbers, and can't be copied: {said(error)}", case)


def dtype(subject: Subject, case: Case) -> None:
    """float32 stays float32, and float64 stays float64."""
    for each in (np.float32, np.float64):
        for i, info in enumerate(run(subject, case._replace(x=case.x.astype(each)))):
            if info.x.dtype != each:
                fail(f"step {i} makes {info.x.dtype} of {np.dtype(each)}", case)


def exact(subject: Subject, case: Case) -> None:
    """Where x0 is known the end is x0, and a deterministic solver stays on the straight line to it."""
    x0 = np.random.default_rng(100).standard_normal(case.x.shape)
    nodes, eps = case.grid, (case.x - case.grid.alpha[0] * x0) / case.grid.sigma[0]
    end = run(subject, case._replace(denoise=lambda x, t: x0))[-1].x
    if nodes.sigma[-1] > 0 and subject.stochastic:
        return
    off = distance(end, nodes.alpha[-1] * x0 + nodes.sigma[-1] * eps)
    if off > CLOSE:
        sentence = f"where denoise always gives the same x0, x must end as α x0 + σ ε, and it ends {off:.2g} off"
        raise AssertionError(f"{sentence}, on {case.grid!r}")


def batch(subject: Subject, case: Case) -> None:
    """A picture is the same whatever is in the batch beside it."""
    x = case.x + np.arange(3.0).reshape(-1, 1, 1, 1)
    key = rng.split(case.key, 3)
    together = run(subject, case._replace(x=x, key=key))[-1].x
    for i in range(3):
        alone = run(subject, case._replace(x=x[i : i + 1], key=key[i : i + 1]))[-1].x
        off = distance(together[i : i + 1], alone)
        if off > CLOSE:
            fail(f"picture {i} of 3 ends {off:.2g} away from where it ends alone", case)


def key(subject: Subject, case: Case) -> None:
    """The same key gives the same end; another key gives another where the solver is stochastic, and only there."""
    # of times at which every solver of the package that draws noise does so, and short of σ = 0, which forgets it
    nodes = grid(LINEAR, np.linspace(900.0, 100.0, 5))
    first = case._replace(grid=nodes, schedule=LINEAR, denoise=Gaussian(0.3, 0.6, LINEAR))
    others = (first, first, first._replace(key=rng.fold_in(case.key, 1)))
    one, same, another = (run(subject, each)[-2].x for each in others)
    if not np.array_equal(one, same):
        fail(f"the same key gives ends that are {distance(same, one):.2g} apart", first)
    if np.array_equal(one, another) == subject.stochastic:
        fail(
            "another key gives the same end, so the solver draws no noise; leave out stochastic=True"
            if subject.stochastic
            else "another key gives another end, so the solver draws noise; say stochastic=True",
            first,
        )
