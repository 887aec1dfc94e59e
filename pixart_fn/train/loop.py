"""The training loop: resumable at any step, and the same whether it was interrupted or not."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindspore import Tensor
from tqdm import tqdm

from .. import tree
from ..backend import autodiff
from ..backend.runtime import settle_on_cpu
from ..checks import check_function, check_number, check_type, check_whole
from ..files import atomic
from ..files.folder import check
from ..files.safetensors import open_with_metadata, write_file
from ..public import public
from ..types import Tree
from . import optim

PARTS = ("params", "m", "v", "ema")


def warmup_stable_decay(peak: float, steps: int, warmup: int = 100, decay: float = 0.25) -> Callable[[int], float]:
    """Make a learning rate that rises linearly, stays, and falls linearly to 1 % (arXiv:2404.06395, sec. 4.2).

    Longer runs share the flat part, so a run can be stopped early or prolonged.

    Args:
        peak: the rate of the flat part, at least 0.
        steps: of the whole run, at least 0.
        warmup: steps of the rise, at least 1.
        decay: the share of the steps over which the rate falls, within (0, 1].
    Returns:
        step, from 0 → learning rate.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_number("peak", peak, 0)
    check_whole("steps", steps, 0)
    check_whole("warmup", warmup, 1)
    check_number("decay", decay, 0, 1, above=True)

    def lr(step: int) -> float:
        up = min(1.0, (step + 1) / warmup)
        down = min(1.0, max(0.01, (steps - step) / max(1.0, decay * steps)))
        return peak * up * down

    return lr


def prepare() -> None:
    """Set up the process of a training command: eager operations run faster, and a stop saves.

    MindSpore answers Ctrl-C with a SIGTERM to its own process, which would end it without the last save.
    """
    settle_on_cpu()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on from here"))


@public
def run(
    loss: Callable[[Tree, Any], Tensor],
    params: Tree,
    batch: Callable[[int], Any],
    folder: str | Path,
    *,
    steps: int,
    lr: float | Callable[[int], float],
    minutes: float = float("inf"),
    hyper: optim.AdamW = optim.AdamW(),  # noqa: B008 - a NamedTuple, immutable
    decay: float = 0.999,
    save_every_minutes: float = 5.0,
) -> tuple[Tree, optim.State]:
    """Train from where `folder` stands until `steps` are done or `minutes` have passed, saving as it goes.

    Args:
        loss: (params, batch) → scalar Tensor.
        params: a tree of float32 Tensors, the start where the folder holds no state yet.
        batch: step → batch, a function of the step alone, so that a resumed run sees the same data.
        folder: keeps state.safetensors and log.csv (step, loss, gradient norm, seconds).
        steps: of the whole run, those before a resumption included.
        lr: the learning rate, a number of at least 0 or a function of the step such as `warmup_stable_decay` makes.
        minutes: how long to train at most, in this call.
        hyper: of the optimiser.
        decay: of the weights' moving average, within [0, 1); shorter at the start, as (1 + step) / (10 + step).
        save_every_minutes: how often to save; the end of the call always does.
    Returns:
        The parameters and the optimiser's state, whose `ema` is what to use.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of its range, the folder holds the state of other parameters, or a gradient isn't
            finite.
        OSError: the folder or a file in it can't be written.
    """
    _check(loss, batch, folder, steps, lr, (minutes, save_every_minutes), decay)
    optim.check_hyper(hyper)
    optim.check_leaves("params", params)
    folder = Path(os.path.expanduser(folder))
    check(folder).mkdir(parents=True, exist_ok=True)
    file, table = (atomic.target(folder / name) for name in ("state.safetensors", "log.csv"))
    params, state = restore(file, params) if file.exists() else (params, optim.init(params))
    value_and_grad = autodiff.value_and_grad(loss)
    start = saved = time.monotonic()
    try:
        with tqdm(total=steps, initial=state.step, unit="step", mininterval=5) as bar, table.open("a") as log:
            while state.step < steps and time.monotonic() - start < 60 * minutes:
                step, began = state.step, time.monotonic()
                value, gradients = value_and_grad(params, batch(step))
                rate, average = lr(step) if callable(lr) else lr, min(decay, (1 + step) / (10 + step))
                params, state, norm = optim.update(hyper, params, gradients, state, rate, average)
                log.write(f"{step},{float(value.asnumpy()):.6f},{norm:.4f},{time.monotonic() - began:.2f}\n")
                log.flush()
                bar.update()
                if time.monotonic() - saved > 60 * save_every_minutes:
                    save(file, params, state)
                    saved = time.monotonic()
    finally:  # an error in a batch loses nothing
        save(file, params, state)
    return params, state


def _check(
    loss: object, batch: object, folder: object, steps: int, lr: Any, minutes: tuple[float, float], decay: float
) -> None:
    """Raise where an argument of `run` isn't as it says."""
    if callable(lr):
        check_function("lr", lr, "step")
    else:
        check_number("lr, which may also be a function of the step,", lr, 0)
    check_function("loss", loss, "params, batch")
    check_function("batch", batch, "step")
    check_type("folder", folder, (str, Path), "a folder, as a str or a Path")
    check_whole("steps", steps, 0)
    for name, value in zip(("minutes", "save_every_minutes"), minutes, strict=True):
        check_number(name, value, 0, math.inf)
    check_number("decay", decay, 0, 1)


def save(file: Path, params: Tree, state: optim.State) -> None:
    """Write parameters and optimiser state, so that the file is either the old one or the whole new one.

    Args:
        file: to write.
        params: a tree of Tensors.
        state: of the optimiser, with trees of the same structure.
    Raises:
        OSError: the file can't be written; it holds what it held before then.
    """
    trees = dict(zip(PARTS, (tree.map(lambda p: p.asnumpy(), params), state.m, state.v, state.ema), strict=True))
    flat = {f"{part}/{name}": leaf for part, t in trees.items() for name, leaf in tree.items(t)}
    kinds, metadata = dict.fromkeys(flat, "F32"), {"step": str(state.step)}
    atomic.write(file, lambda temporary: write_file(temporary, flat, kinds, metadata))


def restore(file: Path, like: Tree) -> tuple[Tree, optim.State]:
    """Read what `save` wrote.

    Args:
        file: to read.
        like: a tree of the parameters' structure and shapes.
    Returns:
        The parameters as Tensors, and the optimiser's state.
    Raises:
        OSError: there is no such file, or it is no regular one.
        ValueError: the file is damaged, or holds other tensors than the parameters' names and shapes ask for.
    """
    stored, metadata = open_with_metadata(file)
    expected = {f"{part}/{name}": tuple(leaf.shape) for part in PARTS for name, leaf in tree.items(like)}
    tree.check_names({name: leaf.shape for name, leaf in stored.items()}, expected, str(file))
    if not re.fullmatch("[0-9]{1,15}", metadata.get("step", "")):
        raise ValueError(f"{file} doesn't say at which step it was written, as the training loop does")

    def part(name: str) -> Tree:
        return tree.map_with_path(lambda key, _: stored[f"{name}/{key}"].copy(), like)

    params, m, v, ema = (part(name) for name in PARTS)
    return tree.map(Tensor.from_numpy, params), optim.State(int(metadata["step"]), m, v, ema)
