"""The parts of the page that are HTML: what happens now, and how a picture was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .. import picture

START = '<div class="nothing"><p>Your pictures will appear here.</p></div>'
_NAMES = {
    "prompt": "Prompt",
    "negative": "Negative prompt",
    "seed": "Seed",
    "steps": "Steps",
    "guidance": "Guidance",
    "solver": "Solver",
    "strength": "Strength",
    "lora": "LoRA",
    "lora_weight": "Weight of the LoRA",
    "control": "Edges of",
    "control_scale": "Scale of the edges",
    "init": "Drawn from",
    "mask": "Mask",
    "controlnet": "ControlNet",
    "model": "Model",
}


def said(text: str, wrong: bool = False) -> str:
    """Return one sentence."""
    return f'<p class="{"wrong" if wrong else "said"}" role="status">{escape(text)}</p>' if text else ""


STARTING = said("Starting")


def drawing(number: int, total: int, url: str) -> str:
    """Return how far a drawing is, with what it looks like."""
    text = f"Step {number} of {total}"
    return f'<p>{text}</p><progress max="{total}" value="{number}" aria-label="{text}"></progress>' + (
        f'<img src="{url}" alt="What the picture looks like at step {number}">'
    )


def finished(url: str, note: str = "") -> str:
    """Return a picture that is done, after what the library warned of."""
    return said(note) + f'<img src="{url}" alt="The picture that was drawn">'


def details(settings: Mapping[str, Any]) -> str:
    """Return the settings of a picture as a table, and the call that draws it again."""
    shown = {title: settings[name] for name, title in _NAMES.items() if settings.get(name) not in (None, "")}
    shown["Size"] = f"{settings['width']} × {settings['height']}"
    if settings.get("n", 1) > 1:
        shown["Which"] = f"{settings['index'] + 1} of {settings['n']} with this seed"
    rows = "".join(f"<tr><th scope='row'>{title}</th><td>{_value(value)}</td></tr>" for title, value in shown.items())
    call = escape(picture.call(settings))
    again = f"<details><summary>The same picture in Python</summary><pre>{call}</pre></details>"
    return f"<table>{rows}</table>{again}"


def _value(value: Any) -> str:
    return escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def caption(settings: Mapping[str, Any]) -> str:
    """Return what stands under a picture in the gallery."""
    which = f", {settings['index'] + 1} of {settings['n']}" if settings.get("n", 1) > 1 else ""
    return f"seed {settings['seed']}{which} · {settings['steps']} steps"
