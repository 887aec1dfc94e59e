"""What the server answers to each control of the page."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from ..edges import canny
from ..picture import read_picture
from . import words
from .drawing import Cancelled, Done, Model, steps
from .gallery import Keeper, Kept
from .jobs import Jobs
from .limits import Limits
from .preview import as_url
from .wish import Wish, attached, check_wish, painted, random_seed, settings_of

MISTAKES = (ValueError, TypeError, OSError, MemoryError)
"""What the library raises with a sentence for whoever asked."""
_FREE, _BUSY = ((gr.update(interactive=idle), gr.update(interactive=not idle)) for idle in (True, False))
"""What becomes of the buttons that draw and cancel."""
FILES = ("source", "control", "lora")
"""The controls whose values are files that a visitor sent."""
PAINTED = 1024
"""The most pixels along the sides of a picture that is painted over."""


class Answers:
    """The functions behind the page, with what they share.

    Args:
        model: what to draw with.
        limits: what a visitor may take.
        loaded: the settings of what is loaded.
    """

    def __init__(self, model: Model, limits: Limits, loaded: Mapping[str, Any]) -> None:
        self._model, self._limits, self._loaded = model, limits, loaded
        self._jobs, self._keeper = Jobs(limits.waiting), Keeper()

    def begin(self, seed: float | None, randomise: bool, request: gr.Request) -> tuple[Any, ...]:
        """Choose the seed of a drawing, unless the visitor draws already."""
        if self._jobs.draws(_visitor(request)):
            return (gr.skip(),) * 4
        return random_seed() if randomise or seed is None else seed, words.STARTING, *_BUSY

    def drawer(self, names: Sequence[str]) -> Callable[..., Iterator[tuple[Any, ...]]]:
        """Return the function that draws, for gradio, which gives it the values of controls with these names."""

        def draw(kept: list[Kept], request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
            skip, visitor, given = (gr.skip(),) * 6, _visitor(request), dict(zip(names, values, strict=True))
            try:
                yield from self._in_turn(kept, given, visitor)
            except Cancelled:
                yield words.said("Cancelled. The next drawing can begin."), *skip, *_FREE
            except MISTAKES as error:
                text = _sentence(error, *(given.get(name) for name in FILES))
                yield words.said(text, wrong=True), *skip, *_FREE
            except Exception:  # a fault of ours, after which the page must still draw for others
                traceback.print_exc(file=sys.stderr)
                text = "The drawing failed, and the terminal in which the page runs says why."
                yield words.said(text, wrong=True), *skip, *_FREE

        return draw

    def _in_turn(self, kept: list[Kept], values: Mapping[str, Any], visitor: str) -> Iterator[tuple[Any, ...]]:
        """Draw once the drawings that began before have ended."""
        wish = wish_of(values)
        check_wish(wish, self._limits)
        stop = self._jobs.begin(visitor)
        try:
            for ahead in self._jobs.ahead(visitor):
                text = f"Waiting for {ahead} other drawing{'s' * (ahead > 1)}"
                yield words.said(text), *(gr.skip(),) * 8
            yield from self._draw(kept, wish, stop)
        finally:
            self._jobs.end(visitor)

    def _draw(self, kept: list[Kept], wish: Wish, stop: threading.Event) -> Iterator[tuple[Any, ...]]:
        files, done = attached(wish), None
        for each in steps(self._model, wish, stop):
            if isinstance(each, Done):
                done = each
            else:
                yield words.drawing(each.number, wish.steps, as_url([*each.pixels])), *(gr.skip(),) * 8
        assert done is not None
        settings = [settings_of(wish, files, self._loaded, i) for i in range(wish.n)]
        new = self._keeper.keep(list(zip(done.pictures, settings, strict=True)), files)
        every = [*new, *kept]
        now, old = every[: self._limits.kept], every[self._limits.kept :]
        self._keeper.drop(old, now)
        shown = [(each.file, words.caption(each.settings)) for each in now]
        gallery = gr.update(value=shown, selected_index=None)
        picture = words.finished(as_url([*done.pictures]), " ".join(done.notes))
        yield picture, gr.update(visible=True), gallery, *_about(now[0]), now, *_FREE

    def free(self, stage: str) -> tuple[Any, ...]:
        """Let the visitor begin another drawing, where the last one was refused, by gradio if nothing says why."""
        text = "Nothing was drawn, since a setting is empty or lies outside of what the page offers."
        return words.said(text, wrong=True) if stage == words.STARTING else gr.skip(), *_FREE

    def cancel(self, request: gr.Request) -> Any:
        """Stop the visitor's drawing."""
        return words.said("Cancelling after this step") if self._jobs.stop(_visitor(request)) else gr.skip()

    def select(self, kept: list[Kept], event: gr.SelectData) -> tuple[Any, ...]:
        """Show how the chosen picture was drawn."""
        if not 0 <= event.index < len(kept):
            return (gr.skip(),) * 4
        with Image.open(kept[event.index].file) as picture:
            return words.finished(as_url([picture])), *_about(kept[event.index])

    def paintable(self, file: str | None) -> Any:
        """Show a picture that was uploaded where it can be painted over, without what was painted before."""
        if file is None:
            return gr.update(value=None, visible=False)
        picture = _read(file)
        picture.thumbnail((PAINTED, PAINTED))
        return gr.update(value={"background": picture, "layers": [], "composite": None}, visible=True)

    def edges(self, file: str | None, size: str) -> Any:
        """Show the edges of a picture that was uploaded."""
        if file is None:
            return gr.update(value=None, visible=False)
        return gr.update(value=canny(_read(file, *_size(size))), visible=True)

    def forget(self, kept: list[Kept]) -> None:
        """Remove the files of a visitor who has left."""
        self._keeper.drop(kept)

    def leave(self, request: gr.Request) -> None:
        """Stop the drawing of a visitor who has left."""
        self._jobs.stop(_visitor(request))


def wish_of(values: Mapping[str, Any]) -> Wish:
    """Make a wish of the controls' values.

    Args:
        values: by the names of the fields of Wish, with the size as "HxW", and "editor" in place of the mask.
    Returns:
        The wish, of which only the pictures are checked.
    Raises:
        ValueError: the size is none, or the mask lies outside of what is drawn.
    """
    size, editor = _size(values["size"]), values.get("editor") or {}
    found = {name: values[name] for name in ("style", "solver", "guidance", "strength")}
    found |= {name: values[name] or "" for name in ("prompt", "negative")}
    found |= {"size": size, "lora": values["lora"], "weight": values["weight"]}
    found |= {"seed": _whole(values["seed"]), "n": _whole(values["n"]), "steps": _whole(values["steps"])}
    if values.get("source") is not None:
        found["source"] = read_picture(values["source"], *size)
        found["mask"] = painted(editor.get("layers") or [], size)
    if values.get("control") is not None:
        found |= {"control": read_picture(values["control"], *size), "control_scale": values["control_scale"]}
    return Wish(**found)


def _whole(value: Any) -> Any:
    """Return a number of a browser, where all are floats, as a whole one if it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _size(text: Any) -> tuple[int, int]:
    sides = str(text).split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and len(side) <= 5 for side in sides):
        raise ValueError("the size must be one of those that the page offers")
    return int(sides[0]), int(sides[1])


def _about(kept: Kept) -> tuple[Any, Any, Any]:
    beside = gr.update(value=list(kept.beside) or None, visible=bool(kept.beside))
    return words.details(kept.settings), gr.update(value=kept.file), beside


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)


def _read(file: str, *size: int) -> Image.Image:
    """Read a picture that was uploaded, fitted to (height, width) if these are given, or say why that can't be."""
    try:
        return read_picture(file, *size)
    except MISTAKES as error:
        raise gr.Error(_sentence(error, file), duration=12, print_exception=False) from None


def _sentence(error: BaseException, *files: str | None) -> str:
    """Return what an error says, with the names of files in place of where they lie on the server."""
    text = " ".join(str(error).split()) or "there is too little memory for this; draw smaller or fewer pictures"
    text = text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
    for file in filter(None, files):
        text = text.replace(file, os.path.basename(file))
    return text
