"""Figures of schedules, grids, trajectories, and error against work. They need matplotlib (extra `notebooks`).

Each function draws on the axes that it is given, or on new ones, and returns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .schedule import Schedule
from .types import Array, Grid, NumPyArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def schedules(named: Mapping[str, Schedule], axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Draw α, σ and λ of schedules over t/(T - 1).

    Args:
        named: schedules, by their names in the legend.
        axes: three axes of matplotlib; None makes them.
    Returns:
        The three axes.
    Raises:
        ImportError: matplotlib is missing.
    """
    axes = _subplots(1, 3) if axes is None else axes
    for name, schedule in named.items():
        t = np.arange(schedule.steps)
        with np.errstate(divide="ignore"):
            curves = (("α", schedule.alpha(t)), ("σ", schedule.sigma(t)), ("λ", schedule.lam(t)))
        for ax, (letter, curve) in zip(axes, curves, strict=True):
            ax.plot(t / (schedule.steps - 1), np.where(np.isfinite(curve), curve, np.nan), label=name)
            ax.set(xlabel="t / (T - 1)", title=f"{letter}(t)")
    axes[0].legend()
    return axes


def grids(named: Mapping[str, Grid], axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Draw the nodes of grids: one row of marks for each grid, over t and over λ.

    Args:
        named: grids, by their names at the left.
        axes: two axes of matplotlib; None makes them.
    Returns:
        The two axes.
    Raises:
        ImportError: matplotlib is missing.
    """
    axes = _subplots(1, 2) if axes is None else axes
    for row, grid in enumerate(named.values()):
        with np.errstate(divide="ignore"):
            lam = np.log(grid.alpha) - np.log(grid.sigma)
        for ax, values in zip(axes, (grid.t, lam), strict=True):
            values = values[np.isfinite(values)]
            ax.plot(values, np.full(len(values), row), "|", markersize=12)
    for ax, letter in zip(axes, "tλ", strict=True):
        ax.set(xlabel=letter, yticks=range(len(named)), yticklabels=list(named) if letter == "t" else [])
    axes[0].invert_xaxis()
    return axes


def strip(rows: Mapping[str, Array], titles: Sequence[str] = ()) -> Sequence[Sequence[Axes]]:
    """Draw trajectories: rows of pictures, with one column for each step.

    Args:
        rows: Tensors or arrays (S, H, W, 3) in [0, 1], by their names at the left.
        titles: the titles of the columns.
    Returns:
        The axes, row by row.
    Raises:
        ImportError: matplotlib is missing.
    """
    arrays = {name: _numpy(pictures) for name, pictures in rows.items()}
    columns = max(len(pictures) for pictures in arrays.values())
    axes: Sequence[Sequence[Axes]] = _subplots(len(arrays), columns, size=(1.3, 1.3), squeeze=False)
    for row, (name, pictures) in zip(axes, arrays.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=False):
            ax.imshow(picture.clip(0, 1))
        for ax in row:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        row[0].set_ylabel(name)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, fontsize=8)
    return axes


def work(
    curves: Mapping[str, Sequence[tuple[float, float]]], ylabel: str = "relative error", ax: Axes | None = None
) -> Axes:
    """Draw error or quality against evaluations of the model: one line for each solver.

    Args:
        curves: lists of (evaluations, error or quality), by their names in the legend.
        ylabel: the label of the vertical axis, which is logarithmic if the label contains "error", and else linear.
        ax: axes of matplotlib; None makes them.
    Returns:
        The axes.
    Raises:
        ImportError: matplotlib is missing.
    """
    ax = _subplots(1, 1, size=(7, 4.5)) if ax is None else ax
    for i, (name, points) in enumerate(curves.items()):
        x, y = np.array(sorted(points)).T
        ax.plot(x, y, marker="os^Dv*P"[i % 7], markersize=4, label=name)
    ax.set(xlabel="evaluations of the model", ylabel=ylabel, xscale="log")
    if "error" in ylabel:
        ax.set_yscale("log")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _subplots(rows: int, columns: int, size: tuple[float, float] = (4, 3), **options: Any) -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("px.plots needs matplotlib: pip install 'pixart_fn[notebooks]'") from error
    figsize = (size[0] * columns, size[1] * rows)
    return pyplot.subplots(rows, columns, figsize=figsize, layout="constrained", **options)[1]


def _numpy(x: Array) -> NumPyArray:
    return x if isinstance(x, np.ndarray) else x.asnumpy()
