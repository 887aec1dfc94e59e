"""What you can look at while a training runs: sheets of pictures, and curves in TensorBoard."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from .. import rng
from ..checkpoint import lora
from ..checks import check_function, check_number, check_type, check_whole
from ..params import Params
from ..picture import save_picture, sheet
from ..pipeline import generate
from ..public import public
from ..types import Key
from .state import TrainState

Watch: TypeAlias = Callable[[TrainState, Mapping[str, float]], object]
"""What `loop.run` takes as on_step: (state, metrics), called after each step."""


@public
def with_average(params: Params, state: TrainState) -> Params:
    """Put what is trained into a pipeline: the moving average where there is one.

    Args:
        params: the pipeline that the training started from.
        state: whose parameters are a transformer's tree or a `px.lora.Adapter`.
    Returns:
        The pipeline with these weights. They lie in the state's memory, which a donated step overwrites.
    Raises:
        TypeError: an argument has the wrong type.
        RuntimeError: the state was donated.
    """
    check_type("params", params, Params, "a pipeline, as px.load gives")
    check_type("state", state, TrainState, "a TrainState, as train.init makes")
    trained = state.average
    if isinstance(trained, lora.Adapter):
        return params.replace(transformer=lora.merge(params.transformer, trained))
    return params.replace(transformer=trained)


@public
def samples(
    params: Params,
    prompts: Sequence[str],
    folder: str | Path,
    every: int,
    *,
    steps: int = 20,
    guidance: float = 4.5,
    key: Key | None = None,
) -> Watch:
    """Make an `on_step` that draws prompts with the weights of the moment, always from the same noise.

    Args:
        params: the pipeline that the training started from, with all its parts.
        prompts: at least one.
        folder: where the sheets are written, as step-0000100.png.
        every: steps between two sheets, at least 1.
        steps: of the solver.
        guidance: its scale.
        key: of the noise; None takes key(0).
    Returns:
        (state, metrics) → None.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
        OSError: a picture can't be written.
    """
    check_type("params", params, Params, "a pipeline, as px.load gives")
    check_type("folder", folder, (str, Path), "a folder, as a str or a Path")
    check_whole("every", every, 1)
    check_whole("steps", steps, 1)
    check_number("guidance", guidance, 0)
    listed = isinstance(prompts, Sequence) and not isinstance(prompts, str)
    if not listed or not prompts or not all(isinstance(each, str) for each in prompts):
        raise TypeError("prompts must be a list of at least one text")
    noise = rng.key(0) if key is None else rng.check_key(key)

    def watch(state: TrainState, metrics: Mapping[str, float]) -> None:
        if state.step % every:
            return
        pictures = generate(
            with_average(params, state), list(prompts), noise, steps=steps, guidance=guidance, progress=False
        )
        out = Path(os.path.expanduser(folder))
        out.mkdir(parents=True, exist_ok=True)
        save_picture(sheet(pictures), out / f"step-{state.step:07d}.png")

    return watch


@public
def tensorboard(folder: str | Path) -> Watch | None:
    """Make an `on_step` that writes the metrics as TensorBoard's events.

    Args:
        folder: where the events go.
    Returns:
        (state, metrics) → None; or None where TensorBoard isn't installed.
    Raises:
        TypeError: folder isn't a path.
    """
    check_type("folder", folder, (str, Path), "a folder, as a str or a Path")
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from tensorboard.summary import Writer

    writer = Writer(os.path.expanduser(folder))

    def watch(state: TrainState, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, state.step)
        writer.flush()  # it writes in a thread, which the process doesn't wait for at its end

    return watch


@public
def together(*watches: Watch | None) -> Watch:
    """Make one `on_step` of several.

    Args:
        watches: functions of (state, metrics); None is left out.
    Returns:
        (state, metrics) → None, which calls them in turn.
    Raises:
        TypeError: one is neither.
    """
    each = [watch for watch in watches if watch is not None]
    for watch in each:
        check_function("watches", watch, "state, metrics")

    def all_of(state: TrainState, metrics: Mapping[str, float]) -> None:
        for watch in each:
            watch(state, metrics)

    return all_of
