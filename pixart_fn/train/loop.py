"""The training loop: it can be resumed at any step, with the same result as without an interruption."""

from __future__ import annotations

import fcntl
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..backend import workers as workers_
from ..backend.workers import ALONE, Workers
from ..checks import check_function, check_number, check_switch, check_type, check_whole
from ..files import atomic
from ..files.folder import check, link
from ..process.signals import deferred, stoppable
from ..public import public
from ..types import Json
from . import record
from . import state as state_
from .batch import size
from .data.controls import Controlled
from .data.order import Batches, Mixed, prefetch
from .state import TrainState
from .step import NotFinite, Step

STATE = "state.safetensors"
"""The file in a run's folder that holds its newest state."""
PREVIOUS = "state.previous.safetensors"
"""The one before it, where the newest ended in NaN."""


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
    identity: Json | None = None,
    on_step: Callable[[TrainState, Mapping[str, float]], object] | None = None,
    workers: Workers = ALONE,
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
        identity: what must be the same when the run goes on, by names; the state keeps it.
        on_step: called after each step with the state and the metrics, by the first worker. What it keeps of the
            parameters must be copied, since the next step takes their memory. A step that Ctrl-C ends is left out.
        workers: which part of the job this process is; all read the same folder, and the first writes it.
        progress: whether to show a bar, with the loss and the examples per second.
    Returns:
        The last state.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, or the folder holds the state of another run.
        NotFinite: a loss or a gradient is NaN or infinite; the sentence names the step, the batch and the file with the
            state before it. The file that was saved before that one is kept as state.previous.safetensors.
        OSError: the folder or a file in it can't be written.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the step has ended and its state is saved.
    """
    _check(step, state, batches, folder, steps, (minutes, save_every_minutes), settings)
    _check_more(on_step, workers, progress, identity)
    folder = Path(os.path.expanduser(folder))
    check(folder).mkdir(parents=True, exist_ok=True)
    file, first = _File(atomic.target(folder / STATE), identity or {}), workers.rank == 0
    with stoppable(), _alone(folder, first), _together(workers):
        state = _begun(file, state, workers)
        ends = time.monotonic() + 60 * minutes
        newest = [state]
        with _showing(folder, state, steps, settings, progress, first) as shown:
            batch_of = _read(batches, state.step)

            def go_on() -> bool:
                if newest[0].step >= steps or workers_.agree(workers, time.monotonic() >= ends):
                    return False
                metrics = _taken(step, newest, batch_of, shown, workers)
                if first and on_step is not None:
                    on_step(newest[0], metrics)
                if first and time.monotonic() - file.saved > 60 * save_every_minutes:
                    file.save(newest[0])
                return True

            _saved_in_the_end(file, first, newest, go_on)
        workers_.barrier(workers)
    return newest[0]


class _File:
    """The file of the newest state."""

    def __init__(self, path: Path, identity: Json) -> None:
        self.path, self.identity, self.saved = path, identity, time.monotonic()
        self.step: int | None = None

    def restore(self, state: TrainState) -> TrainState:
        found = state_.restore(self.path, state, self.identity)
        self.step = found.step
        return found

    def save(self, state: TrainState) -> None:
        state_.save(self.path, state, self.identity)
        self.saved, self.step = time.monotonic(), state.step

    def keep(self, newest: TrainState) -> None:
        """Keep what is there under another name, for when what comes is no good, unless that is there already."""
        if self.step not in (None, newest.step):
            atomic.temporarily(self.path.parent, self._keep_by, folder=True)

    def _keep_by(self, folder: Path) -> None:
        link(self.path, folder / PREVIOUS)
        os.replace(folder / PREVIOUS, self.path.with_name(PREVIOUS))


@contextmanager
def _alone(folder: Path, first: bool) -> Iterator[None]:
    """Hold the folder, so that a second run in it is an error."""
    if not first:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process trains in {folder} at the moment") from None
        yield
    finally:
        os.close(held)


@contextmanager
def _together(workers: Workers) -> Iterator[None]:
    """Let all workers wait for the last save, since msrun kills the others when one ends."""
    try:
        yield
    except NotFinite:
        workers_.barrier(workers)
        raise


def _begun(file: _File, state: TrainState, workers: Workers) -> TrainState:
    """The state that the run goes on from, the same for all workers."""
    if file.path.exists():
        start, state = state, file.restore(state)
        state_.donated(start)  # it would take memory as long as the caller keeps it
    if workers.size > 1:
        mine = np.array([[state.step, state_.digest(state)]], np.int64)
        if len(np.unique(workers_.gather_rows(workers, mine), axis=0)) > 1:
            raise ValueError("the workers begin with different states; all must read the same folder and start alike")
    return state


def _read(batches: Callable[[int], Any], start: int) -> Callable[[], Any]:
    """The batches of all steps, one at each call; a dataset's are read ahead."""
    ahead = isinstance(batches, (Batches, Controlled, Mixed))
    return partial(next, prefetch(batches, start) if ahead else map(batches, itertools.count(start)))


def _taken(
    step: Step, newest: list[TrainState], batch_of: Callable[[], Any], shown: _Shown | None, workers: Workers
) -> Mapping[str, float]:
    """Take a step from the newest state to the next, and give its metrics."""
    began = time.monotonic()
    batch = batch_of()
    with deferred():  # a donated state is gone, so the new one must be kept
        newest[0], metrics = step(newest[0], batch, donate=True)
        if shown is not None:
            shown.add(newest[0].step, metrics, workers.size * size(batch), time.monotonic() - began)
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


def _saved_in_the_end(file: _File, first: bool, newest: list[TrainState], go_on: Callable[[], bool]) -> None:
    """Go on until there is no more to do, and save the newest state, also after an error, which so loses nothing."""
    with deferred() as waiting:
        try:
            waiting.off()
            while go_on():
                waiting.off()
        except NotFinite as error:
            if first:
                with suppress(OSError):  # on a full disk; it must not hide the error
                    file.keep(newest[0])
            raise NotFinite(f"{error}; {file.path} holds the state before this step") from error
        finally:
            waiting.on = True
            if first and not newest[0].is_donated():
                file.save(newest[0])


@contextmanager
def _showing(
    folder: Path, state: TrainState, steps: int, settings: Json | None, progress: bool, first: bool
) -> Iterator[_Shown | None]:
    shown = _Shown(folder, state, steps, settings, progress) if first else None
    try:
        yield shown
    finally:
        if shown is not None:
            shown.bar.close()
            shown.log.close()


def _check_more(on_step: object, workers: object, progress: bool, identity: object) -> None:
    check_type("identity", identity, (Mapping, type(None)), "a dict or None")
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
