"""What the server answers to each control of the page."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from ..edges import canny
from . import words
from .drawing import Cancelled, Done, Model, steps
from .gallery import Keeper, Kept
from .jobs import Busy, Jobs
from .limits import Limits
from .preview import as_url
from .wish import Wish, attached, check_wish, fitted, painted, random_seed, settings_of

MISTAKES = (ValueError, TypeError, OSError, MemoryError)
"""What the library raises with a sentence for whoever asked."""
_FREE, _BUSY = ((gr.update(interactive=idle), gr.update(interactive=not idle)) for idle in (True, False))
"""What becomes of the buttons that draw and cancel."""


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
        """Take a drawing on, and choose its seed."""
        try:
            ahead = self._jobs.begin(_visitor(request))
        except Busy as error:
            raise _error(error) from None
        seed = random_seed() if randomise or seed is None else seed
        text = f"Waiting for {ahead} other drawing{'s' * (ahead > 1)}" if ahead else "Starting"
        return seed, words.said(text), *_BUSY

    def drawer(self, names: Sequence[str]) -> Callable[..., Iterator[tuple[Any, ...]]]:
        """Return the function that draws, for gradio, which gives it the values of controls with these names."""

        def draw(kept: list[Kept], request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
            skip, visitor = (gr.skip(),) * 6, _visitor(request)
            try:
                yield from self._draw(kept, dict(zip(names, values, strict=True)), visitor)
            except Cancelled:
                yield words.said("Cancelled. The next drawing can begin."), *skip, *_FREE
            except MISTAKES as error:
                yield words.said(_sentence(error), wrong=True), *skip, *_FREE
                raise _error(error) from None
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                text = "The drawing failed, and the terminal in which the page runs says why."
                yield words.said(text, wrong=True), *skip, *_FREE
                raise gr.Error(text, print_exception=False) from error
            finally:
                self._jobs.end(visitor)

        return draw

    def _draw(self, kept: list[Kept], values: Mapping[str, Any], visitor: str) -> Iterator[tuple[Any, ...]]:
        stop = self._jobs.event(visitor)
        wish = wish_of(values)
        check_wish(wish, self._limits)
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

    def end(self, request: gr.Request) -> tuple[Any, Any]:
        """Make room for the visitor's next drawing."""
        self._jobs.end(_visitor(request))
        return _FREE

    def cancel(self, request: gr.Request) -> Any:
        """Stop the visitor's drawing."""
        return words.said("Cancelling after this step") if self._jobs.stop(_visitor(request)) else gr.skip()

    def select(self, kept: list[Kept], event: gr.SelectData) -> tuple[Any, ...]:
        """Show how the chosen picture was drawn."""
        if not 0 <= event.index < len(kept):
            return (gr.skip(),) * 4
        with Image.open(kept[event.index].file) as picture:
            return words.finished(as_url([picture])), *_about(kept[event.index])

    def paintable(self, picture: Any) -> Any:
        """Show a picture that was uploaded where it can be painted over, without what was painted before."""
        return None if picture is None else {"background": picture, "layers": [], "composite": None}

    def edges(self, picture: Any, size: str) -> Any:
        """Show the edges of a picture that was uploaded."""
        if picture is None:
            return gr.update(value=None, visible=False)
        try:
            return gr.update(value=canny(fitted(picture, _size(size))), visible=True)
        except MISTAKES as error:
            raise _error(error) from None

    def forget(self, kept: list[Kept]) -> None:
        """Remove the files of a visitor who has left."""
        self._keeper.drop(kept)

    def leave(self, request: gr.Request) -> None:
        """Stop the drawing of a visitor who has left."""
        self._jobs.end(_visitor(request))


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
    found = {name: values[name] for name in ("prompt", "negative", "style", "solver", "guidance", "strength")}
    found |= {"size": size, "lora": values["lora"], "weight": values["weight"]}
    found |= {"seed": _whole(values["seed"]), "n": _whole(values["n"]), "steps": _whole(values["steps"])}
    if values.get("source") is not None:
        found["source"] = fitted(values["source"], size)
        found["mask"] = painted(editor.get("layers") or [], size)
    if values.get("control") is not None:
        found |= {"control": fitted(values["control"], size), "control_scale": values["control_scale"]}
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


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "there is too little memory for this; draw smaller or fewer pictures"
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _error(error: BaseException) -> gr.Error:
    return gr.Error(_sentence(error), duration=12, print_exception=False, title="Nothing was drawn")
