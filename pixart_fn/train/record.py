"""metrics.jsonl: a header that says what is trained, then one record for each step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import tree
from ..files import atomic, reading
from ..public import public
from ..types import Json
from .state import TrainState

METRICS = "metrics.jsonl"
LARGEST = 2**31
"""Bytes that are read at most: some ten million steps."""


class Records(NamedTuple):
    """What metrics.jsonl holds.

    Args:
        header: its first record, with the run's settings.
        steps: one record for each step, in their order.
    """

    header: dict[str, Any]
    steps: list[dict[str, Any]]


class Log:
    """An open metrics.jsonl; each record is in the file when `write` returns."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the record of a step."""
        self.file.write(_line({"step": step, **metrics}))
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def open_log(folder: Path, state: TrainState, settings: Json | None) -> Log:
    """Open the log of a run that goes on from a state; records of later steps, which are done again, are removed.

    Args:
        folder: of the run.
        state: that it goes on from.
        settings: for the header.
    Returns:
        The log.
    Raises:
        OSError: the file can't be read or written.
    """
    path = atomic.target(folder / METRICS)
    header = {"header": {"parameters": tree.size(state.params), **(settings or {})}}
    kept = [each for each in (read(folder).steps if path.exists() else []) if each["step"] <= state.step]
    text = "".join(map(_line, [header, *kept]))
    atomic.write(path, lambda temporary: temporary.write_text(text, "utf-8"))
    return Log(path)


@public
def read(folder: str | os.PathLike[str]) -> Records:
    """Read the metrics of a run.

    Args:
        folder: of the run.
    Returns:
        The header and the records; a line that a kill cut off is left out.
    Raises:
        OSError: there is no such file.
        ValueError: it isn't what the training loop wrote.
    """
    path = Path(os.path.expanduser(folder)) / METRICS
    lines = reading.content(path, LARGEST).decode("utf-8", "replace").split("\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # the last is empty, or cut off
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            raise ValueError(f"line {number} of {path} isn't JSON") from None
    if not records or not isinstance(records[0], dict) or "header" not in records[0]:
        raise ValueError(f"{path} must begin with a header, as the training loop writes it")
    for number, each in enumerate(records[1:], 2):
        if not isinstance(each, dict) or not isinstance(each.get("step"), int):
            raise ValueError(f"line {number} of {path} must be the record of a step")
    return Records(records[0]["header"], records[1:])


def _line(record: Json) -> str:
    """A record as JSON, which has no infinity: null stands for what isn't finite."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(plain, default=str) + "\n"
