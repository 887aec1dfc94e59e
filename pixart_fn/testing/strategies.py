"""What property tests draw from: keys, shapes, noise schedules, grids and perfect denoisers.

Each shrinks to the simplest there is: the key of seed 0, one number, linear β, one step, a constant x0.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from .. import rng
from ..checks import check_option, check_whole, shown
from ..public import public
from ..schedule import (
    FINALS,
    PREDICTIONS,
    SPACINGS,
    Schedule,
    beta,
    check_schedule,
    from_betas,
    grid,
    karras,
    linear,
    rho_grid,
    scaled_linear,
    squaredcos_cap_v2,
    timesteps,
    uniform_lambda,
)
from ..types import Denoiser, Grid, Key
from .exact import Constant, Gaussian, TwoPoints

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

MOST_STEPS = 100


def need_hypothesis() -> None:
    """Raise an ImportError that says how to install hypothesis, where it isn't."""
    try:
        import_module("hypothesis")
    except ModuleNotFoundError as error:
        raise ImportError("px.testing draws with hypothesis: pip install '.[testing]' in a clone") from error


@public
def keys() -> SearchStrategy[Key]:
    """Draw keys, each from a seed of 64 bits.

    Returns:
        A strategy of keys, uint64 (2,).
    Raises:
        ImportError: hypothesis isn't installed.
    """
    need_hypothesis()
    from hypothesis import strategies as st

    return st.integers(0, 2**64 - 1).map(rng.key)


@public
def shapes() -> SearchStrategy[tuple[int, int, int, int]]:
    """Draw shapes of small latents: 1 to 3 pictures of 1 to 4 channels of 1 to 3 rows and columns.

    Returns:
        A strategy of shapes (B, C, H, W).
    Raises:
        ImportError: hypothesis isn't installed.
    """
    need_hypothesis()
    from hypothesis import strategies as st

    return st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))


@public
def schedules(prediction: str = "epsilon") -> SearchStrategy[Schedule]:
    """Draw noise schedules of 101 to 1000 times: linear, scaled linear and squared cosine β with any usual ends.

    Args:
        prediction: what the model predicts, "epsilon", "x0" or "v".
    Returns:
        A strategy of Schedules.
    Raises:
        ImportError: hypothesis isn't installed.
        ValueError: prediction is none of the three.
    """
    check_option("prediction", prediction, PREDICTIONS)
    need_hypothesis()
    from hypothesis import strategies as st

    return st.composite(any_schedule)(prediction)


def any_schedule(draw: DrawFn, prediction: str) -> Schedule:
    """Draw one of `schedules`."""
    from hypothesis import strategies as st

    betas = draw(st.sampled_from((linear, scaled_linear, None)))
    steps = draw(st.integers(101, 1000))
    if betas is None:
        return from_betas(squaredcos_cap_v2(steps), prediction)
    start = draw(st.floats(1e-5, 1e-3))
    return from_betas(betas(steps, start, draw(st.floats(2e-3, 0.03))), prediction)


@public
def grids(
    finals: Sequence[str] = ("zero",), schedule: Schedule | None = None, steps: int = MOST_STEPS
) -> SearchStrategy[Grid]:
    """Draw grids: a usual spacing in t or in σ/α, or any falling times, whole or fractional.

    Args:
        finals: how a grid may end, "zero" at σ = 0 and "sigma_min" at the schedule's own t = 0.
        schedule: of each grid, with at least 3 times and a finite σ/α above 0 at each; None draws one of `schedules`.
        steps: the most that a grid has, from 1 to 100; each has 1 or more.
    Returns:
        A strategy of Grids.
    Raises:
        ImportError: hypothesis isn't installed.
        TypeError: an argument has the wrong type.
        ValueError: finals is empty or holds something else, steps is outside 1 … 100, or it isn't such a schedule.
    """
    if not isinstance(finals, (tuple, list)) or not finals:
        raise TypeError(f"finals must be a list of {' and '.join(map(repr, FINALS))}, got {shown(finals)}")
    for final in finals:
        check_option("each of finals", final, FINALS)
    if schedule is not None:
        rhos = check_schedule(schedule).rhos
        if not (len(rhos) >= 3 and 0 < rhos[0] < rhos[-1] < np.inf):
            raise ValueError(f"schedule must have at least 3 times and a finite σ/α above 0 at each, got {schedule!r}")
    check_whole("steps", steps, 1, MOST_STEPS)
    need_hypothesis()
    from hypothesis import strategies as st

    return st.composite(any_grid)(tuple(finals), schedule, int(steps))


def any_grid(draw: DrawFn, finals: tuple[str, ...], schedule: Schedule | None, steps: int) -> Grid:
    """Draw one of `grids`."""
    from hypothesis import strategies as st

    noise = any_schedule(draw, "epsilon") if schedule is None else schedule
    final = draw(st.sampled_from(finals))
    kind = draw(st.sampled_from(("timesteps", "sigmas", "any")))
    if kind == "timesteps":
        spacing, whole = draw(st.sampled_from(SPACINGS)), draw(st.booleans())
        count, skip_zero = draw(st.integers(1, min(steps, noise.steps - 1))), draw(st.booleans())
        return grid(noise, timesteps(noise, count, spacing, skip_zero=skip_zero, whole=whole), final=final)
    if kind == "sigmas":
        values = draw(st.sampled_from((karras, uniform_lambda, beta)))
        return rho_grid(noise, values(noise, draw(st.integers(1, steps))), final=final)
    parts = draw(st.sampled_from((1, 64)))  # of a time: distinct ones stay distinct in λ
    t = draw(st.lists(st.integers(1, parts * (noise.steps - 1)), min_size=1, max_size=steps, unique=True))
    return grid(noise, np.array(sorted(t, reverse=True)) / parts, final=final)


@public
def denoisers(schedule: Schedule) -> SearchStrategy[Denoiser]:
    """Draw denoisers that are perfect for some data: one point, normal numbers, or two points.

    Args:
        schedule: gives α and σ at t.
    Returns:
        A strategy of `Constant`, `Gaussian` and `TwoPoints`.
    Raises:
        ImportError: hypothesis isn't installed.
        TypeError: schedule isn't a Schedule.
    """
    check_schedule(schedule)
    need_hypothesis()
    from hypothesis import strategies as st

    point, noise = st.floats(-1, 1), st.just(schedule)
    return st.one_of(
        st.builds(Constant, point),
        st.builds(Gaussian, point, st.floats(0.05, 2), noise),
        st.builds(TwoPoints, st.floats(0.1, 1), noise),
    )
