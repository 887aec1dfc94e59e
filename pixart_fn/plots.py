"""Figures of schedules, grids, trajectories, words, trainings, and error against work; they need matplotlib.

Each function draws on the axes that it is given, or on new ones, and returns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .checks import check_type, is_number, kind, shown
from .schedule import Schedule, check_grid
from .types import Array, Grid, NumPyArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 2000
"""Pictures in one figure at most."""
LARGEST = 1e100
"""Of what is drawn; matplotlib computes with a few times as much."""
CURVES = {
    "loss": ("loss", "linear"),
    "norm": ("gradient norm", "log"),
    "examples_per_second": ("examples / s", "linear"),
}
"""What `training` draws of a record: its name, its title, and the scale of its axis."""


def schedules(named: Mapping[str, Schedule], axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Draw α, σ and λ of schedules over t/(T - 1).

    Args:
        named: schedules, by their names in the legend.
        axes: three axes of matplotlib; None makes them.
    Returns:
        The three axes.
    Raises:
        ImportError: matplotlib is missing.
        TypeError: named isn't a dict of schedules, or axes isn't three axes.
    """
    for name, schedule in _named("named", named).items():
        check_type(f"{name!r} of named", schedule, Schedule, "a Schedule, as schedule.from_betas makes")
    _check_axes(axes, 3)
    axes = _subplots(1, 3) if axes is None else axes
    for name, schedule in named.items():
        t = np.arange(schedule.steps)
        with np.errstate(divide="ignore"):
            curves = (("α", schedule.alpha(t)), ("σ", schedule.sigma(t)), ("λ", schedule.lam(t)))
        for ax, (letter, curve) in zip(axes, curves, strict=True):
            ax.plot(t / (schedule.steps - 1), np.where(np.isfinite(curve), curve, np.nan), label=_plain(name))
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
        TypeError: named isn't a dict of grids, or axes isn't two axes.
        ValueError: one of them is no grid to sample on.
    """
    for grid in _named("named", named).values():
        check_grid(grid)
    _check_axes(axes, 2)
    axes = _subplots(1, 2) if axes is None else axes
    for row, grid in enumerate(named.values()):
        with np.errstate(divide="ignore"):
            lam = np.log(grid.alpha) - np.log(grid.sigma)
        for ax, values in zip(axes, (grid.t, lam), strict=True):
            values = values[np.isfinite(values)]
            ax.plot(values, np.full(len(values), row), "|", markersize=12)
    for ax, letter in zip(axes, "tλ", strict=True):
        ax.set(xlabel=letter, yticks=range(len(named)), yticklabels=[*map(_plain, named)] if letter == "t" else [])
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
        TypeError: rows isn't a dict of arrays, or titles no list of strings.
        ValueError: a row hasn't such a shape, or there are more than MOST pictures.
    """
    arrays = {name: _pictures(name, pictures) for name, pictures in _named("rows", rows).items()}
    _titles(titles)
    if not 0 < (count := sum(map(len, arrays.values()))) <= MOST:
        raise ValueError(f"rows must hold 1 to {MOST} pictures, got {count}")
    columns = max(len(pictures) for pictures in arrays.values())
    axes: Sequence[Sequence[Axes]] = _subplots(len(arrays), columns, size=(1.3, 1.3), squeeze=False)
    for row, (name, pictures) in zip(axes, arrays.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=False):
            ax.imshow(picture.clip(0, 1))
        for ax in row:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        row[0].set_ylabel(_plain(name))
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(_plain(title), fontsize=8)
    return axes


def training(named: Mapping[str, Sequence[Mapping[str, object]]], axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Draw the curves of trainings: the loss, the gradient's norm and the examples per second, over the steps.

    The pale line is what was recorded, and the strong one its moving average over a thirtieth of the steps.

    Args:
        named: records of steps, as `train.loop.run` writes them to metrics.jsonl, by the names of the runs: dicts of
            numbers by name, of which "step" must be there; None stands for what wasn't finite.
        axes: three axes of matplotlib; None makes them.
    Returns:
        The three axes.
    Raises:
        ImportError: matplotlib is missing.
        TypeError: named isn't a dict of lists of such records, or axes isn't three axes.
    """
    curves = {name: _curves(name, records) for name, records in _named("named", named).items()}
    _check_axes(axes, len(CURVES))
    axes = _subplots(1, len(CURVES), size=(4.6, 3.2)) if axes is None else axes
    for i, (ax, (title, scale)) in enumerate(zip(axes, CURVES.values(), strict=True), 1):
        above = any((curve[i] > 0).any() for curve in curves.values())  # or a logarithmic axis would hold nothing
        ax.set(title=title, xlabel="step", yscale=scale if above else "linear")
        ax.grid(alpha=0.25)
    for i, (name, curve) in enumerate(curves.items()):
        for ax, values in zip(axes, curve[1:], strict=True):
            ax.plot(curve[0], values, color=f"C{i % 10}", alpha=0.3, linewidth=0.8, zorder=2)
            strong = {"color": f"C{i % 10}", "linewidth": 1.8, "zorder": 3, "label": _plain(name)}
            ax.plot(curve[0], _smoothed(values), marker="." if len(values) == 1 else None, **strong)
    for ax in axes:
        _leave_out_spikes(ax)
    if len(curves) > 1:
        axes[0].legend(fontsize=8)
    return axes


def words(
    titles: Sequence[str], maps: Array, picture: Array | None = None, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw where in a picture each word acts: a heat map for each word, over the picture in grey.

    A map's darkest colour stands for no attention, and its brightest for the most that any patch gives that word; so
    brightness compares the places of one word, and not the words.

    Args:
        titles: the words.
        maps: (W, rows, columns) of numbers of at least 0, as `prompts.maps` gives them for one picture.
        picture: (H, W, 3) in [0, 1], which is drawn first; None for the maps alone.
        axes: W axes of matplotlib; None makes them in rows of seven at most.
    Returns:
        The W axes.
    Raises:
        ImportError: matplotlib is missing.
        TypeError: titles isn't a list of strings, maps or picture no array, or axes isn't W axes.
        ValueError: maps or picture hasn't such a shape, or a number of maps is negative or not finite.
    """
    count, heat = len(_titles(titles)), _numbers("maps", maps)
    if heat.ndim != 3 or len(heat) != count or count > MOST or 0 in heat.shape:
        raise ValueError(f"maps must be (W, rows, columns), one for each of the titles ({count}), got {heat.shape}")
    if not (np.isfinite(heat).all() and heat.min() >= 0):
        raise ValueError("maps must be finite numbers of at least 0")
    grey = None if picture is None else _one_picture(picture).mean(2)
    _check_axes(axes, count)
    axes = _rows_of_axes(count) if axes is None else axes
    height, width = heat.shape[1:] if grey is None else grey.shape
    extent, alpha = (0, width, height, 0), 1 if grey is None else 0.65
    for ax, title, each in zip(axes, titles, heat, strict=True):
        if grey is not None:
            ax.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=extent)
        most = each.max() or 1
        ax.imshow(each, "inferno", vmin=0, vmax=most, interpolation="bicubic", alpha=alpha, extent=extent)
        ax.set(xticks=[], yticks=[], title=_plain(title))
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
        TypeError: curves isn't a dict of lists of pairs of numbers, ylabel no string, or ax no axes.
        ValueError: no point can be drawn on logarithmic axes.
    Example:
        >>> ax = px.plots.work({"ddim": [(5, 0.1), (10, 0.05)], "dpmpp_2m": [(5, 0.04), (10, 0.01)]})
        >>> ax.get_ylabel()
        'relative error'
    """
    for name, points in _named("curves", curves).items():
        listed = isinstance(points, Sequence) and not isinstance(points, (str, range)) and len(points) > 0
        if not listed or not all(
            isinstance(p, (tuple, list)) and len(p) == 2 and all(map(_is_drawn, p)) for p in points
        ):
            raise TypeError(f"{name!r} of curves must be a list of (evaluations, value), got {shown(points)}")
    check_type("ylabel", ylabel, str, "a string")
    every = [(x, y if "error" in ylabel else 1) for points in curves.values() for x, y in points]
    if every and not any(0 < x < np.inf and 0 < y < np.inf for x, y in every):
        raise ValueError("curves must hold a point whose numbers are finite and above 0, as logarithmic axes need")
    if ax is not None and not hasattr(ax, "plot"):
        raise TypeError(f"ax must be axes of matplotlib, got {kind(ax)}")
    ax = _subplots(1, 1, size=(7, 4.5)) if ax is None else ax
    for i, (name, points) in enumerate(curves.items()):
        x, y = np.array(sorted(points)).T
        ax.plot(x, y, marker="os^Dv*P"[i % 7], markersize=4, label=_plain(name))
    ax.set(xlabel="evaluations of the model", ylabel=ylabel, xscale="log")
    if "error" in ylabel:
        ax.set_yscale("log")
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def _plain(name: str) -> str:
    """Keep matplotlib from taking a name for a formula, and from leaving it out of a legend."""
    text = name.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def _is_drawn(value: object) -> bool:
    """Whether it is a number, and no finite one that is too large for the limits of an axis."""
    own = value.item() if isinstance(value, np.generic) else value  # NumPy would compare in the value's own precision
    return is_number(own) and not LARGEST < abs(own) < np.inf


def _named(argument: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a dict of values by strings."""
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise TypeError(f"{argument} must be a dict whose keys are strings, got {shown(values)}")
    return values


def _check_axes(axes: Sequence[Axes] | None, n: int) -> None:
    listed = axes is None or isinstance(axes, (Sequence, np.ndarray))
    if not listed or (axes is not None and (len(axes) != n or not all(hasattr(ax, "plot") for ax in axes))):
        raise TypeError(f"axes must be {n} axes of matplotlib, got {shown(axes)}")


def _curves(name: str, records: object) -> NDArray[np.float64]:
    """Return the steps of a run and its CURVES, NaN where a number is missing: (4, S)."""
    keys = ("step", *CURVES)
    rows = list(records) if isinstance(records, Sequence) and not isinstance(records, (str, range)) else []
    if not rows or not all(isinstance(each, Mapping) and _is_drawn(each.get("step")) for each in rows):
        raise TypeError(f"{name!r} of named must be a list of records of steps, got {shown(records)}")
    values = [[each.get(key) for each in rows] for key in keys]
    return np.array([[v if _is_drawn(v) else np.nan for v in row] for row in values], np.float64)


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average exponentially over a thirtieth of the values; the first is its own average."""
    keep = 1 - 1 / max(1, len(values) / 30)
    out, total, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        out[i] = total / weight if weight else np.nan
    return out


def _leave_out_spikes(ax: Axes) -> None:
    """Bound the vertical axis to where the averages are and 99 of 100 recorded values."""
    low = 0.0 if ax.get_yscale() == "log" else -np.inf
    lines = [np.asarray(line.get_ydata(), np.float64) for line in ax.get_lines()]
    spans = [np.percentile(y[(y > low) & (y < np.inf)], (0.5, 99.5)) for y in lines if ((y > low) & (y < np.inf)).any()]
    seen = np.concatenate(spans) if spans else np.zeros(1)
    if seen.max() > seen.min():
        low, high = seen.min(), seen.max()
        margin = 0.05 * (high - low)
        ax.set_ylim((low / 1.2, high * 1.2) if ax.get_yscale() == "log" else (low - margin, high + margin))


def _titles(titles: Sequence[str]) -> Sequence[str]:
    if isinstance(titles, str) or not isinstance(titles, Sequence) or not all(isinstance(t, str) for t in titles):
        raise TypeError(f"titles must be a list of strings, got {shown(titles)}")
    return titles


def _numbers(name: str, array: Array) -> NumPyArray:
    if not hasattr(array, "shape") or not isinstance(array := _numpy(array), np.ndarray):
        raise TypeError(f"{name} must be an array or a Tensor, got {kind(array)}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold numbers, got {array.dtype}")
    return array


def _pictures(name: str, pictures: Array) -> NumPyArray:
    array = _numbers(f"{name!r} of rows", pictures)
    if array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        raise ValueError(f"{name!r} of rows must be pictures (S, H, W, 3) in [0, 1], got {array.shape}")
    return array


def _one_picture(picture: Array) -> NumPyArray:
    array = _numbers("picture", picture)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"picture must be (H, W, 3) in [0, 1], got {array.shape}")
    return array


def _rows_of_axes(count: int) -> Sequence[Axes]:
    """Make so many axes, seven in a row at most."""
    columns = min(count, 7)
    every = list(_subplots(-(-count // columns), columns, size=(1.5, 1.7), squeeze=False).ravel())
    for ax in every[count:]:
        ax.remove()
    return every[:count]


def _subplots(rows: int, columns: int, size: tuple[float, float] = (4, 3), **options: Any) -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("px.plots needs matplotlib: pip install '.[notebooks]' in a clone") from error
    figsize = (size[0] * columns, size[1] * rows)
    return pyplot.subplots(rows, columns, figsize=figsize, layout="constrained", **options)[1]


def _numpy(x: Array) -> NumPyArray:
    return x.asnumpy() if hasattr(x, "asnumpy") else x
