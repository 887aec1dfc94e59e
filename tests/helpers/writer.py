"""What a process writes again and again until it is ended, each time with another version in every place of it.

As a process, it reads lines. For "write KIND FOLDER VERSION" it starts a process that writes this version, the next
one, … and says its number; for "wait NUMBER" it says with which status that process ended.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from helpers.pipelines import CONFIGS, MODULES, SCHEDULER, flat
from PIL import Image

import pixart_fn as px
from pixart_fn import checkpoint, tree
from pixart_fn.checkpoint.text import load_text, save_text
from pixart_fn.params import Configs, Params
from pixart_fn.picture import read_settings, save_picture
from pixart_fn.train import state
from pixart_fn.types import Text

INTERRUPTED, STOPPED = 130, 143
"""The status of a process after a SIGINT and after a SIGTERM."""
STATE = {"a": (64, 64), "b": (7,)}


def full(shapes: dict[str, tuple[int, ...]], version: int) -> dict[str, np.ndarray]:
    return {name: np.full(shape, version, np.float32) for name, shape in shapes.items()}


def write_pipeline(folder: Path, version: int) -> None:
    configs = {name: module.read_config(CONFIGS[name]) for name, module in MODULES.items()}
    trees = {name: tree.nest(full(module.shapes(configs[name]), version)) for name, module in MODULES.items()}
    scheduler = {**SCHEDULER, "beta_start": version / 2**20}
    px.save(Params(**trees, config=Configs(**configs, scheduler=scheduler), tokenizer=None), folder / "model")


def write_from_inside(folder: Path, version: int) -> None:
    """The current folder isn't exchanged."""
    (folder / "model").mkdir(exist_ok=True)
    os.chdir(folder / "model")
    write_pipeline(folder, version)


def read_pipeline(folder: Path) -> set[float]:
    params = checkpoint.load(folder / "model", text_encoder=None)
    leaves = [*flat(params.transformer).values(), *flat(params.vae).values()]
    return {float(value) for leaf in leaves for value in np.unique(leaf)} | {
        params.config.scheduler["beta_start"] * 2**20
    }


def write_picture(folder: Path, version: int) -> None:
    save_picture(np.full((256, 256, 3), version % 2**8 / 255, np.float32), folder / "cat.png", version=version)


def read_picture(folder: Path) -> set[float]:
    version = None
    while version != (version := read_settings(folder / "cat.png")["version"]):  # until both are of one file
        with Image.open(folder / "cat.png") as picture:
            values = np.unique(np.asarray(picture))
    return {version} if values.tolist() == [version % 2**8] else {version, *values.tolist()}


def write_state(folder: Path, version: int) -> None:
    state.save(folder / "state.safetensors", _state(version))


def read_state(folder: Path) -> set[float]:
    found = state.restore(folder / "state.safetensors", _state(0))
    values = [np.unique(leaf) for part in (found.params, *found.optimiser) for leaf in tree.leaves(part)]
    return {float(value) for each in values for value in each} | {found.step}


def _state(version: int) -> state.TrainState:
    arrays = full(STATE, version)
    return state.TrainState(arrays, (arrays, arrays), None, np.zeros(2, np.uint64), version)


def write_text(folder: Path, version: int) -> None:
    save_text(Text(np.full((1, 64, 64), version, np.float32), np.ones((1, 64), np.int32)), folder / "a.safetensors")


def read_text(folder: Path) -> set[float]:
    return {float(value) for value in np.unique(load_text(folder / "a.safetensors").states.asnumpy())}


KINDS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], set[float]]]] = {
    "pipeline": (write_pipeline, read_pipeline),
    "pipeline from inside": (write_from_inside, read_pipeline),
    "picture": (write_picture, read_picture),
    "state": (write_state, read_state),
    "text": (write_text, read_text),
}
"""How each kind is written, and which versions are in it when it is read."""


def stop(*_: Any) -> NoReturn:
    sys.exit(STOPPED)


def write(kind: str, folder: Path, first: int) -> NoReturn:
    """Write until a signal comes, and end this process."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(os.getpid(), flush=True)
        for number in itertools.count(first):
            KINDS[kind][0](folder, number)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def serve() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        match line.rstrip("\n").split("\t"):
            case "write", kind, folder, first:
                if os.fork() == 0:
                    write(kind, Path(folder), int(first))
            case "wait", number:
                print(os.waitstatus_to_exitcode(os.waitpid(int(number), 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
