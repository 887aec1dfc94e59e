"""`check_solver`: the properties that this package's solvers have, on a solver of the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..checks import check_number, check_option, check_switch, check_whole, shown
from ..public import public
from ..solvers import named
from ..types import Solver
from . import properties
from .exact import lambda_grid
from .order import LENGTHS, Convergence, convergence
from .properties import Case, Subject
from .strategies import need_hypothesis

_CHECKS: tuple[Callable[[Subject, Case], None], ...] = (
    properties.protocol,
    properties.pure,
    properties.dtype,
    properties.exact,
    properties.batch,
    properties.key,
)
PROPERTIES = (*(check.__name__ for check in _CHECKS), "order")
"""The names of the properties, in the order in which they are checked."""
SLACK = 0.3
"""How far below the claim an order may be measured: the steps aren't infinitely short."""


class SolverReport(NamedTuple):
    """What `check_solver` found of a solver that has all the properties.

    Args:
        solver: its repr.
        properties: the names of the properties that it has.
        convergence: how its error falls; None where "order" was skipped.
    """

    solver: str
    properties: tuple[str, ...]
    convergence: Convergence | None

    def __repr__(self) -> str:
        """Show the properties, and the measured order with its errors, in at most two lines."""
        first = f"{self.solver} has the properties {', '.join(self.properties)}"
        if self.convergence is None:
            return first
        return f"{first}\nmeasured order {self.convergence.order:.2f}, from {_errors(self.convergence)}"


@public
def check_solver(
    solver: Solver | str,
    order: float = 1.0,
    *,
    stochastic: bool = False,
    skip: Sequence[str] = (),
    examples: int = 25,
    lengths: Sequence[float] = LENGTHS,
) -> SolverReport:
    """Check that a solver has the properties that the solvers of this package have.

    - "protocol": init and step return what they should, and a StepInfo says what the step did.
    - "pure": nothing is changed in place, and a state is all that a step goes on from.
    - "dtype": float32 stays float32, and float64 stays float64.
    - "exact": where denoise always gives the same x0, the end is x0.
    - "batch": a picture is the same whatever is in the batch beside it.
    - "key": the same key gives the same end, and another key gives another where the solver is stochastic alone.
    - "order": errors fall with the claimed order at least, as `convergence` measures it against the exact solution.

    Each but the last is tried on a grid of one step, on grids, schedules, denoisers and keys that hypothesis draws, the
    same ones each time, and on a usual grid of six steps. What hypothesis finds is made as small as it gets.

    Args:
        solver: a Solver, or the name of one in `px.solvers`.
        order: the order that the solver claims, from 0 to 10; of a stochastic one the weak order.
        stochastic: whether the solver draws noise.
        skip: the names of properties that the solver doesn't claim.
        examples: how many cases each property is tried on, from 1 to 10 000.
        lengths: of the steps that the order is measured with, as `lambda_grid` takes them; (1,) for a method that
            claims its order for even steps alone.
    Returns:
        The SolverReport.
    Raises:
        AssertionError: the solver lacks a property; there is one line for each, which starts with its name. Where the
            solver lacks "protocol", the others aren't tried.
        ImportError: hypothesis isn't installed.
        TypeError: an argument has the wrong type.
        ValueError: no solver has that name, a number is outside its range, or no property has a name in skip.
    Example:
        >>> px.testing.check_solver("heun", order=2, examples=5).properties
        ('protocol', 'pure', 'dtype', 'exact', 'batch', 'key', 'order')
    """
    solver = named(solver)
    check_number("order", order, 0, 10)
    check_switch("stochastic", stochastic)
    if not isinstance(skip, (tuple, list)):
        raise TypeError(f"skip must be a list of names of properties, got {shown(skip)}")
    for name in skip:
        check_option("each of skip", name, PROPERTIES)
    check_whole("examples", examples, 1, 10_000)
    lambda_grid(1, lengths)
    need_hypothesis()
    subject, broken = Subject(solver, bool(stochastic)), list[str]()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* may draw noise on this grid", UserWarning)
        for check in (each for each in _CHECKS if each.__name__ not in skip):
            sentence = _broken(check, subject, int(examples))
            broken += [f"{check.__name__}: {sentence}"] if sentence else []
            if sentence and check is properties.protocol:
                break
        else:
            found = None if "order" in skip else _measured(subject, order, lengths, broken)
    if broken:
        raise AssertionError("\n".join(broken))
    return SolverReport(repr(solver), tuple(name for name in PROPERTIES if name not in skip), found)


def _broken(check: Callable[[Subject, Case], None], subject: Subject, examples: int) -> str:
    """The sentence with which a solver fails a property on the simplest case that was found, or "" where it doesn't."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from hypothesis.errors import Flaky

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.composite(properties.any_case)())
    def search(case: Case) -> None:
        check(subject, case)

    try:
        check(subject, properties.ONE_STEP)
        search()
        check(subject, properties.USUAL)
    except Flaky:
        return "it fails on a case and passes on the same case later, so the solver keeps something between its calls"
    except AssertionError as error:
        return str(error)
    except Exception as error:  # of whatever strange things a solver gives
        return f"what the solver gives can't be compared: {properties.said(error)}"
    return ""


def _measured(subject: Subject, order: float, lengths: Sequence[float], broken: list[str]) -> Convergence | None:
    """The order of convergence; what is wrong with it is put into `broken`."""
    try:
        found = convergence(subject.solver, stochastic=subject.stochastic, lengths=lengths)
    except Exception as error:
        broken.append(f"order: the solver raises {properties.said(error)}, on {lambda_grid(30, lengths)!r}")
        return None
    if not found.order >= order - SLACK:
        broken.append(f"order: {order:g} is claimed and {found.order:.2f} is measured, from {_errors(found)}")
    return found


def _errors(found: Convergence) -> str:
    each = (f"{error:.2g} after {steps}" for steps, error in zip(found.steps, found.errors, strict=True))
    return f"errors of {', '.join(each)} steps"
