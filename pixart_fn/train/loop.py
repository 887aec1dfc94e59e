"""The training loop: resumable at any step, and the same whether it was interrupted or not."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..backend import workers as workers_
from ..backend.workers import Workers
from ..checks import check_function, check_number, check_switch, check_type, check_whole
from ..files import atomic
from ..files.folder import check
from ..process.signals import deferred, stoppable
from ..public import public
from ..types import Json
from . import record
from . import state as state_
from .batch import size
from .state import TrainState
from .step import NotFinite, Step

STATE = "state.safetensors"
"""The file in a run's folder that holds its newest state."""


@public
def run(
    step: Step,
    state: TrainState,
    batches: Callable[[int], Any],
    folder: str | Path,
    *,
    steps: int,
    minutes: float = math.inf,
    save_every_minutes: float = 5.0,
    settings: Json | None = None,
    on_step: Callable[[TrainState, Mapping[str, float]], object] | None = None,
    workers: Workers = Workers(0, 1),  # noqa: B008 - a NamedTuple, immutable
    progress: bool = True,
) -> TrainState:
    """Train from where `folder` stands until `steps` are done or `minutes` have passed, saving as it goes.

    Args:
        step: from `make_step`.
        state: from `init`: the start where the folder holds no state yet. Either way it is donated.
        batches: step → batch, a function of the step alone, so that a resumed run sees the same data.
        folder: keeps state.safetensors, and metrics.jsonl with one record for each step.
        steps: of the whole run, those before a resumption included.
        minutes: how long to train at most, in this call.
        save_every_minutes: how often to save; the end of the call always does. A killed run loses no more than that.
        settings: what the header of metrics.jsonl says about the run.
        on_step: called after each step with the state and the metrics, by the first worker. What it keeps of the
            parameters must be copied, since the next step takes their memory.
        workers: which part of the job this process is; all read the same folder, and the first writes it.
        progress: whether to show a bar, with the loss and the examples a second.
    Returns:
        The last state.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the folder holds the state of another run.
        NotFinite: a loss or a gradient is NaN or infinite; the sentence names the step, the batch and the file with the
            state before it.
        OSError: the folder or a file in it can't be written.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the step has ended and its state is saved.
    """
    _check(step, state, batches, folder, steps, (minutes, save_every_minutes), settings)
    _check_more(on_step, workers, progress)
    folder = Path(os.path.expanduser(folder))
    check(folder).mkdir(parents=True, exist_ok=True)
    file = atomic.target(folder / STATE)
    if file.exists():
        start, state = state, state_.restore(file, state)
        state_.donated(start)  # it would take memory as long as the caller keeps it
    first, ends = workers.rank == 0, time.monotonic() + 60 * minutes
    shown = _Shown(folder, state, steps, settings, progress) if first else None
    saved = time.monotonic()
    with stoppable(), _closing(shown), _saving(file, first) as newest:
        newest.append(state)
        while state.step < steps and not workers_.agree(workers, time.monotonic() >= ends):
            batch, began = batches(state.step), time.monotonic()
            metrics = _taken(step, newest, batch, file)
            state = newest[0]
            if shown is not None:
                shown.add(state.step, metrics, workers.size * size(batch), time.monotonic() - began)
            if first and on_step is not None:
                on_step(state, metrics)
            if first and time.monotonic() - saved > 60 * save_every_minutes:
                state_.save(file, state)
                saved = time.monotonic()
    workers_.barrier(workers)
    return state


def _taken(step: Step, newest: list[TrainState], batch: Any, file: Path) -> Mapping[str, float]:
    """Take a step from the newest state to the next, and give its metrics."""
    try:
        with deferred():  # a donated state is gone, so the new one must be kept
            newest[0], metrics = step(newest[0], batch, donate=True)
    except NotFinite as error:
        raise NotFinite(f"{error}; {file} holds the state before this step") from error
    return metrics


class _Shown:
    """The bar and the log of a run."""

    def __init__(self, folder: Path, state: TrainState, steps: int, settings: Json | None, progress: bool) -> None:
        self.log = record.open_log(folder, state, settings)
        done = min(state.step, steps)
        self.bar = tqdm(total=steps, initial=done, unit="step", mininterval=2, disable=not progress)

    def add(self, step: int, metrics: Mapping[str, float], examples: int, seconds: float) -> None:
        rate = examples / seconds
        self.log.write(step, {**metrics, "seconds": seconds, "examples_per_second": rate})
        self.bar.set_postfix(loss=f"{metrics['loss']:.4f}", rate=f"{rate:.3g}/s", refresh=False)
        self.bar.update()


@contextmanager
def _saving(file: Path, first: bool) -> Iterator[list[TrainState]]:
    """Save the newest state at the end, also after an error, which so loses nothing."""
    newest: list[TrainState] = []
    try:
        yield newest
    finally:
        if newest and first:
            with deferred():
                state_.save(file, newest[0])


@contextmanager
def _closing(shown: _Shown | None) -> Iterator[None]:
    try:
        yield
    finally:
        if shown is not None:
            shown.bar.close()
            shown.log.close()


def _check_more(on_step: object, workers: object, progress: bool) -> None:
    if on_step is not None:
        check_function("on_step", on_step, "state, metrics")
    check_type("workers", workers, Workers, "a Workers, as workers.start() gives")
    check_switch("progress", progress)


def _check(
    step: object,
    state: object,
    batches: object,
    folder: object,
    steps: int,
    minutes: tuple[float, float],
    settings: object,
) -> None:
    """Raise where an argument of `run` isn't as it says."""
    check_function("step", step, "state, batch, donate")
    check_type("state", state, TrainState, "a TrainState, as train.init makes")
    check_function("batches", batches, "step")
    check_type("folder", folder, (str, Path), "a folder, as a str or a Path")
    check_whole("steps", steps, 0)
    for name, value in zip(("minutes", "save_every_minutes"), minutes, strict=True):
        check_number(name, value, 0, math.inf)
    check_type("settings", settings, (Mapping, type(None)), "a dict or None")
