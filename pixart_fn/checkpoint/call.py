"""What a call of a checkpoint takes where it doesn't say otherwise, as the checkpoint or the manifest says it."""

from __future__ import annotations

import itertools
from typing import Any

from ..checks import as_numbers, check_number, check_whole, shown
from ..guidance.value import as_interval
from ..params import Call
from ..types import Json
from . import manifest

KEY = "_pixart_fn"
"""The field of model_index.json that `save` writes; diffusers reads none that begins with an underscore."""
LCM = Call(steps=4, guidance=1.0)
"""Latent consistency models (arXiv:2310.04378) are distilled with their guidance."""


def find(index: Json, scheduler: Json, id: str | None, where: object) -> Call:
    """Find the defaults of a call.

    The scheduler decides where it is that of latent consistency models. Else it is what the pipeline itself says, and
    else what the manifest says of a released checkpoint.

    Args:
        index: the content of the pipeline's model_index.json; empty where the transformer is another's.
        scheduler: the content of the scheduler_config.json.
        id: the hub id that the transformer is from, or None.
        where: what an error calls the index.
    Returns:
        The Call.
    Raises:
        ValueError: the index says what can't be used.
    """
    own = read(index[KEY], where) if KEY in index else None
    found = own or (None if id is None else manifest.call(id)) or Call()
    if scheduler.get("_class_name") == "LCMScheduler" and found.guidance > 1:
        return found._replace(steps=LCM.steps, guidance=LCM.guidance, times=None, interval=None)
    return found


def read(content: Any, where: object) -> Call:
    """Read what `to_json` writes.

    Args:
        content: of the field.
        where: what an error calls the file.
    Returns:
        The Call.
    Raises:
        ValueError: it isn't such a content.
    """
    if not isinstance(content, dict) or not set(content) <= set(Call._fields):
        raise ValueError(f"{where}: {KEY} must be an object of {', '.join(Call._fields)}, got {shown(content)}")
    call = Call(**content)
    try:
        check_whole("steps", call.steps, 1)
        check_number("guidance", call.guidance)
        if call.tokens is not None:
            check_whole("tokens", call.tokens, 1)
        if call.interval is not None:
            call = call._replace(interval=as_interval(call.interval))
        if call.times is None:
            return call
        times = tuple(as_numbers("times", call.times).tolist())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {KEY}: {error}") from error
    if len(times) != call.steps or times[-1] < 0 or any(b >= a for a, b in itertools.pairwise(times)):
        raise ValueError(
            f"{where}: {KEY}: times must be as many numbers as steps, {call.steps}, and fall to no less than 0, got"
            f" {shown([*times])}"
        )
    return call._replace(times=times)


def to_json(call: Call) -> Json:
    """Write a Call without what isn't said."""
    said = {name: value for name, value in call._asdict().items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}
