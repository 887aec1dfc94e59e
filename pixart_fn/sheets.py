"""Contact sheets: pictures that differ in one or two settings, in labelled rows and columns.

The settings of such a sheet hold `axes`: a name and a list of values of what varies along the rows and of what varies
along the columns, or of the columns alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .checks import check_whole, kind, shown
from .files import reading
from .settings import PICTURES, call, check_settings

AXES = ("solver", "seed", "guidance", "steps")
"""What can vary; of two, the one that comes first here varies along the rows."""
GAP = 4
"""Pixels between pictures, and around a label."""
INK = (64, 64, 64)


def check_axes(axes: Mapping[str, Sequence[Any]]) -> None:
    """Raise a TypeError or ValueError where settings can't vary so."""
    if not isinstance(axes, Mapping):
        raise TypeError(f"axes must be a dict of what varies, got {kind(axes)}")
    for name, values in axes.items():
        if name not in AXES:
            raise ValueError(f"only {', '.join(AXES)} can vary in a sheet, got {shown(name)}")
        if not isinstance(values, (list, tuple)) or not values:
            raise TypeError(f"{name} of a sheet must be a list of values, got {kind(values)}")
        if other := [value for value in values if not isinstance(value, (str, int, float))]:
            raise TypeError(f"{name} of a sheet must be a list of texts or numbers, got {kind(other[0])} in it")
        if len({*values}) < len(values):
            raise ValueError(f"{name} of a sheet names {shown(Counter(values).most_common(1)[0][0])} twice")
    if not 1 <= len(axes) <= 2:
        got = f"got {len(axes)}: {', '.join(axes)}" if axes else "got none"
        raise ValueError(f"one or two of {', '.join(AXES)} can vary in a sheet, {got}")
    check_whole("the number of pictures", counts(axes)[0] * counts(axes)[1], 1, PICTURES)


def counts(axes: Mapping[str, Sequence[Any]]) -> tuple[int, int]:
    """Return how many rows and columns a sheet has."""
    lengths = [len(values) for values in axes.values()]
    return (1, lengths[0]) if len(lengths) == 1 else (lengths[0], lengths[1])


def cells(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the settings of each picture, row by row; those of a file without `axes` are its own.

    Args:
        settings: as the command stores them; nothing but `axes` and its values is checked.
    Returns:
        One dict for each picture, without `axes`.
    Raises:
        TypeError: axes isn't a dict of lists.
        ValueError: something else varies, or too much, or a value is there twice.
    """
    if not isinstance(settings, Mapping):
        return [dict(settings)]
    axes, parts = settings.get("axes"), [{name: value for name, value in settings.items() if name != "axes"}]
    if axes is None:
        return parts
    check_axes(axes)
    if counts(axes)[0] * counts(axes)[1] * len(str(parts)) > reading.MOST:
        raise ValueError(f"the settings of a sheet's pictures take more than {reading.MOST >> 20} MiB together")
    for name, values in axes.items():
        parts = [{**part, name: value} for part in parts for value in values]
    return parts


def check(settings: Mapping[str, Any]) -> None:
    """Raise a TypeError or ValueError that names the first setting, of any picture, that can't be used."""
    for each in cells(settings):
        check_settings(each)


def calls(settings: Mapping[str, Any]) -> list[str]:
    """Write the Python calls that draw the pictures of a file again, each alone, row by row.

    Args:
        settings: what `read_settings` gives.
    Returns:
        One expression for each picture, as `call` writes it; a sheet without `axes` has one for all.
    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is missing, unknown or out of its range.
    """
    return [call(each) for each in cells(settings)]


def labels(axes: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[str]]:
    """Return the labels of the rows and of the columns: names with values; a row alone has none."""
    each = [[f"{name} {_short(value)}" for value in values] for name, values in axes.items()]
    return ([""], each[0]) if len(each) == 1 else (each[0], each[1])


def _short(value: object) -> str:
    """A float without zeros at its end, and without any digit less than tells it from others."""
    return str(value) if not isinstance(value, float) or float(f"{value:g}") != value else f"{value:g}"


def size(axes: Mapping[str, Sequence[Any]], width: int, height: int) -> tuple[int, int]:
    """Return the width and the height of the sheet of pictures of one size."""
    layout = _Layout(axes, width, height)
    rows, columns = counts(axes)
    return layout.left + columns * layout.across, layout.top + rows * layout.down


def labelled(pictures: Sequence[Image.Image], axes: Mapping[str, Sequence[Any]]) -> Image.Image:
    """Put pictures into rows and columns on white, with what varies beside the rows and above the columns.

    Args:
        pictures: row by row, all of one size.
        axes: as in the settings of a sheet.
    Returns:
        An RGB picture of PIL.
    Raises:
        ValueError: there are more or fewer pictures than places.
    """
    rows, columns = counts(axes)
    if len(pictures) != rows * columns:
        raise ValueError(f"pictures must be {rows * columns}, {rows} x {columns}, got {len(pictures)}")
    layout = _Layout(axes, *pictures[0].size)
    together = Image.new("RGB", size(axes, *pictures[0].size), "white")
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        space = (layout.across - GAP - picture.width) // 2
        together.paste(picture, (layout.left + column * layout.across + space, layout.top + row * layout.down))
    draw = ImageDraw.Draw(together)
    beside, above = labels(axes)
    for column, text in enumerate(above):
        x = layout.left + column * layout.across + (layout.across - GAP) / 2
        draw.text((x, layout.top / 2), text, INK, layout.font, anchor="mm")
    for row, text in enumerate(beside):
        y = layout.top + row * layout.down + (layout.down - GAP) / 2
        draw.text((layout.left - 2 * GAP, y), text, INK, layout.font, anchor="rm")
    return together


class _Layout:
    """Where pictures of one size and their labels go: the labels' font, the margins, and from one place to the next."""

    def __init__(self, axes: Mapping[str, Sequence[Any]], width: int, height: int) -> None:
        self.font = ImageFont.load_default(min(max(height // 16, 11), 40))
        beside, above = ([self.font.getlength(text) for text in texts] for texts in labels(axes))
        line = sum(self.font.getbbox("Ag")[3:]) + 2 * GAP
        self.left = GAP + (round(max(beside)) + 3 * GAP if max(beside) else 0)
        self.top = round(line) + GAP
        self.across = max(width, round(max(above)) + 2 * GAP) + GAP
        self.down = max(height, round(line)) + GAP
