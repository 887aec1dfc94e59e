"""The options of `generate` that the functions of this package take too, said once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypedDict, TypeVar

from ..control import Control
from ..guidance import Guidance, Scale
from ..pipeline import generate
from ..types import Grid, Solver, StepInfo

P = ParamSpec("P")
R = TypeVar("R")


class Sampled(TypedDict, total=False):
    """The options of `generate` about sampling and what comes after, for a type checker."""

    negative_prompt: str | Sequence[str]
    steps: int | None
    guidance: Guidance | Scale | None
    solver: Solver | str | None
    grid: Grid | None
    output: str
    clean: bool
    tokens: int | None
    tile: int | None
    check: bool
    memory: float | None
    on_step: Callable[[StepInfo], object] | None
    progress: bool


class Windowed(Sampled, total=False):
    """The options of `generate` for a picture in windows, whose size is given otherwise."""

    images_per_prompt: int


class Options(Windowed, total=False):
    """The options of `generate` where the size follows from a picture."""

    controls: Control | Sequence[Control] | None


class Sized(Sampled, total=False):
    """The options of `generate` where the number of pictures is given otherwise."""

    controls: Control | Sequence[Control] | None
    height: int | None
    width: int | None
    binning: bool


_OWN = inspect.signature(generate).parameters


def takes(options: type[Sampled]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make the signature of a function name each option behind its `**options`, with the default of `generate`.

    `public` then refuses a wrong name in the words that it has for `generate`, and help() shows every option.

    Args:
        options: the TypedDict of the options.
    Returns:
        A decorator, which gives back the function that it gets.
    """

    def mark(f: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(f)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        added = [_OWN[name] for name in options.__annotations__]
        vars(f)["__signature__"] = signature.replace(parameters=[*own, *added])
        function: Any = f
        function.__annotations__.update({option.name: option.annotation for option in added})
        return f

    return mark


def filled(options: type[Sampled], given: Sampled) -> dict[str, Any]:
    """Return every option with the value that was given, or the default of `generate`."""
    return {name: given.get(name, _OWN[name].default) for name in options.__annotations__}
