"""What marks a function as one that makes solvers, and lets these be shown, compared and pickled as its call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

from ..types import Solver

Options = ParamSpec("Options")


def maker(make: Callable[Options, Solver]) -> Callable[Options, Solver]:
    """Mark a function as one that makes solvers, which then show the call that made them: `heun(churn=40)`.

    They are also compared and pickled as that call, so that a spawned process can take them.

    Args:
        make: options → Solver.
    Returns:
        The same function, whose solvers have a name, and which `solvers.SOLVERS` lists once it is imported there.
    """

    @functools.wraps(make)
    def call(*args: Options.args, **options: Options.kwargs) -> Solver:
        solver = make(*args, **options)
        given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in options.items())])
        if "<locals>" in getattr(
            solver.step, "__qualname__", ""
        ):  # this call's own function, which no other solver has
            vars(solver.step)["made"] = call, args, options
        return solver._replace(name=f"{make.__name__}({given})")

    vars(call)["makes_solvers"] = True
    return call
