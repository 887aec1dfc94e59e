"""Property-based tests of a solver of your own, with the strategies and the properties of this package's own tests.

`check_solver` runs all of it. For example, in a test file:

    import pixart_fn as px
    from mine import my_heun


    def test_my_heun():
        px.testing.check_solver(my_heun(), order=2)

It raises an AssertionError with one sentence for each property that the solver lacks, on the smallest case that shows
it. For properties of your own there are strategies, which `hypothesis.given` takes:

    @given(px.testing.grids(), px.testing.keys(), px.testing.shapes())
    def test_mine(grid, key, shape):
        ...

- `keys`, `shapes`, `schedules`, `grids` and `denoisers` are strategies.
- `Constant`, `Gaussian` and `TwoPoints` are the perfect denoisers of one data point, of normal data and of two points.
- `exact_gaussian` says where the ODE of normal data leads, and `convergence` measures a solver's order against it, on
  grids of `lambda_grid`.

All of it runs on NumPy arrays and needs no MindSpore. Strategies and `check_solver` need hypothesis, which
is in the extra `testing`.
"""

from __future__ import annotations

from .check import PROPERTIES, SolverReport, check_solver
from .exact import Constant, Gaussian, TwoPoints, exact_gaussian, lambda_grid
from .order import Convergence, convergence
from .strategies import denoisers, grids, keys, schedules, shapes

__all__ = [
    "PROPERTIES",
    "Constant",
    "Convergence",
    "Gaussian",
    "SolverReport",
    "TwoPoints",
    "check_solver",
    "convergence",
    "denoisers",
    "exact_gaussian",
    "grids",
    "keys",
    "lambda_grid",
    "schedules",
    "shapes",
]
