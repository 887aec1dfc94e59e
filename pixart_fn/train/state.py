"""All that training carries from one step to the next, as one value, and the file that holds it."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from mindspore import Tensor

from .. import rng, tree
from ..backend.arrays import as_numpy
from ..checks import check_type, kind
from ..files import atomic
from ..files.safetensors import Stored, open_with_metadata, write_file
from ..public import public, public_class
from ..types import Json, Key, Tree
from .optim import Transformation
from .times import Times

NUMBERS = re.compile(r"-?[0-9]{1,18}|-?[0-9.]+(e[-+]?[0-9]+)?")


class LossScale(NamedTuple):
    """The factor of the loss that keeps half-precision gradients from vanishing.

    Args:
        value: the factor.
        steady: steps since it last changed.
    """

    value: float = 65536.0
    steady: int = 0


def _none() -> None:
    return None


@public_class
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrainState:
    """What a step of training reads and gives anew.

    Args:
        params: what is trained, a tree of float32 Tensors.
        optimiser: the optimiser's state.
        ema: the state of the parameters' moving average; None without one.
        key: of the run; step i draws from `rng.fold_in(key, i)`.
        step: steps taken.
        times: the state of the loss's sampler of times, for a sampler that has one.
        scale: of the loss, for training in halves.
    """

    params: Tree
    optimiser: Any
    ema: Any
    key: Key
    # defaults without a class attribute, which would answer for a field that is gone
    step: int = dataclasses.field(default_factory=int)
    times: Any = dataclasses.field(default_factory=_none)
    scale: LossScale | None = dataclasses.field(default_factory=_none)

    TREES: ClassVar[tuple[str, ...]] = ("params", "optimiser", "ema", "times", "scale")
    """The fields that are trees; for `px.tree`, a TrainState is a tree of these."""

    def replace(self, **changes: Any) -> TrainState:
        """Return a copy in which these fields are replaced."""
        return dataclasses.replace(self, **changes)

    @property
    def average(self) -> Tree:
        """What to use: the moving average, as Tensors in the state's own memory, or without one the parameters."""
        if self.ema is None:
            return self.params
        return tree.map(lambda _, leaf: Tensor.from_numpy(leaf), self.params, self.ema.leaves)

    def __getattr__(self, name: str) -> Any:
        """Answer only where a field is gone, as after a donation."""
        if name in type(self).__dataclass_fields__:
            raise RuntimeError("this TrainState was donated to a step, which gave a new one; go on from that")
        raise AttributeError(f"a TrainState has no attribute {name!r}")

    def is_donated(self) -> bool:
        """Return whether a step has taken this state's memory."""
        return not vars(self)

    def __repr__(self) -> str:
        if self.is_donated():
            return "TrainState(donated to a step)"
        return f"TrainState(step {self.step}, {tree.size(self.params) / 1e6:.1f}M parameters)"


class Donated:
    """What stands in a tree in the place of a Tensor whose memory a later step has taken."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError("these parameters were donated to a step of training, which gave new ones; go on from those")

    def __repr__(self) -> str:
        return "Donated()"


def donated(state: TrainState) -> None:
    """Mark a state as used up: what is asked of it, or of its parameters, from now on is an error.

    Args:
        state: whose Tensors live on in another state.
    """
    _clear(state.params)
    vars(state).clear()


def _clear(node: Any) -> None:
    for name in getattr(type(node), "TREES", ()):  # as an adapter has
        _clear(getattr(node, name))
    places = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, child in list(places):
        if isinstance(child, Tensor) and not isinstance(node, tuple):
            node[name] = Donated()
        else:
            _clear(child)


@public
def init(
    params: Tree,
    optimiser: Transformation,
    key: Key,
    *,
    ema: Transformation | None = None,
    times: Times | None = None,
    scale: LossScale | None = None,
) -> TrainState:
    """Begin a training.

    Args:
        params: what is to be trained, a tree of float Tensors, which is copied as float32.
        optimiser: from `optim`, such as `optim.adamw(1e-4)`.
        key: uint64 (2,), of the whole run.
        ema: the parameters' moving average, such as `optim.ema(0.9999)`; None keeps none.
        times: the loss's sampler of times, `loss.times`, where it has a state.
        scale: where the loss is computed in halves, `LossScale()`.
    Returns:
        The state before the first step.
    Raises:
        TypeError: an argument has the wrong type, or a leaf of params isn't a float Tensor.
        ValueError: key isn't a key, or params has no leaf.
    """
    check_type("optimiser", optimiser, Transformation, "an optimiser, such as optim.adamw(1e-4)")
    check_type("ema", ema, (Transformation, type(None)), "None or a moving average, such as optim.ema(0.9999)")
    check_type("scale", scale, (LossScale, type(None)), "None or a LossScale")
    check_type("times", times, (Times, type(None)), "None or a sampler of times, such as times.importance()")
    if rng.check_key(key).ndim != 1:
        raise ValueError(f"key must be one key of shape (2,), got shape {key.shape}")
    own = tree.map_with_path(_owned, params)
    if not tree.leaves(own):
        raise ValueError("params must have at least one leaf, got none")
    average = None if ema is None else ema.init(own)
    return TrainState(own, optimiser.init(own), average, key.copy(), 0, times and times.init(), scale)


def _owned(name: str, leaf: Any) -> Tensor:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        raise TypeError(f"params must hold float Tensors, got {kind(leaf)} at {name or 'the root'!r}")
    return Tensor.from_numpy(np.array(as_numpy(leaf.float()), np.float32, copy=True))


def digest(state: TrainState) -> int:
    """A number that tells a state's parameters from others: their CRC-32."""
    value = 0
    for leaf in tree.leaves(state.params):
        value = zlib.crc32(np.ascontiguousarray(as_numpy(leaf)).data, value)
    return value


def save(file: Path, state: TrainState, identity: Json | None = None) -> None:
    """Write a state, so that the file is either the old one or the whole new one.

    Args:
        file: to write.
        state: to write into it.
        identity: of the run, which `restore` compares.
    Raises:
        OSError: the file can't be written; it holds what it held before then.
    """
    flat = dict(tree.items(state))
    arrays = {name: _plain(leaf) for name, leaf in flat.items() if not isinstance(leaf, (int, float))}
    rest = {name: leaf for name, leaf in flat.items() if name not in arrays}
    numbers = {name: repr(float(leaf) if isinstance(leaf, float) else int(leaf)) for name, leaf in rest.items()}
    key = " ".join(map(str, state.key.tolist()))
    metadata = {"step": str(state.step), "key": key, **{f"number {name}": text for name, text in numbers.items()}}
    metadata |= {f"identity {name}": json.dumps(value) for name, value in (identity or {}).items()}
    kinds = dict.fromkeys(arrays, "F32")
    atomic.write(file, lambda temporary: write_file(temporary, arrays, kinds, metadata))


def restore(file: Path, like: TrainState, identity: Json | None = None) -> TrainState:
    """Read what `save` wrote.

    Args:
        file: to read.
        like: a state of the same run, such as `init` makes, which gives the structure, the shapes and the key.
        identity: of the run, by names; what the file says of one of them must be the same.
    Returns:
        The state.
    Raises:
        OSError: there is no such file, or it is no regular one.
        ValueError: the file is damaged, is of another run, or holds other tensors than the state's.
    """
    stored, metadata = open_with_metadata(file)
    for name, value in (identity or {}).items():
        was, now = metadata.get(f"identity {name}"), json.dumps(value)
        if was not in (None, now):
            raise ValueError(
                f"{file} is of a run with {name} = {was}, not {now}; go on as it began, or name another folder"
            )
    flat = dict(tree.items(like))
    arrays = {name: _plain(leaf) for name, leaf in flat.items() if not isinstance(leaf, (int, float))}
    expected = {name: tuple(leaf.shape) for name, leaf in arrays.items()}
    tree.check_names({name: leaf.shape for name, leaf in stored.items()}, expected, str(file))
    if not re.fullmatch("[0-9]{1,15}", metadata.get("step", "")):
        raise ValueError(f"{file} doesn't say at which step it was written, as the training loop does")
    if metadata.get("key") != " ".join(map(str, like.key.tolist())):
        raise ValueError(f"{file} is of a run with another key; go on with the same seed, or choose another folder")

    def read(name: str, leaf: Any) -> Any:
        if name in arrays:
            return _like(stored[name], leaf)
        text = metadata.get(f"number {name}", "")
        if not NUMBERS.fullmatch(text):
            raise ValueError(f"{file} doesn't hold the number {name}")
        return type(leaf)(float(text) if isinstance(leaf, float) else int(text))

    restored: TrainState = tree.map_with_path(read, like)
    return restored.replace(step=int(metadata["step"]))


def _plain(leaf: Any) -> Any:
    """A leaf as float32 numbers, which are its bytes where it is of another type: a file rounds nothing."""
    if isinstance(leaf, Tensor) or leaf.dtype == np.float32:
        return leaf
    return np.ascontiguousarray(leaf).reshape(*leaf.shape, 1).view(np.uint8).astype(np.float32)


def _like(stored: Stored, leaf: Any) -> Any:
    """The inverse of `_plain`."""
    values = stored.copy()
    if isinstance(leaf, Tensor):
        return Tensor.from_numpy(values)
    return values if leaf.dtype == np.float32 else values.astype(np.uint8).view(leaf.dtype).reshape(leaf.shape)
