"""LoRA (arXiv:2106.09685), DoRA (arXiv:2402.09353), rsLoRA (arXiv:2312.03732) and LyCORIS: small changes of weights.

O and I are a matrix's outputs and inputs, r the rank. A convolution (O, C, k, k) counts as a matrix with I = C·k·k.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from .. import rng
from .. import tree as tree_
from ..backend.arrays import as_float
from ..backend.autodiff import refuse_recording
from ..checks import check_number, check_type, first_few, kind, shown
from ..files.safetensors import array
from ..process.lock import exclusive
from ..public import public
from ..types import Key, Tree
from .lora_config import ATTENTION as ATTENTION
from .lora_config import AUTHORS as AUTHORS
from .lora_config import PARTS, check_adaptable, places, weights
from .lora_config import Adapter as Adapter
from .lora_config import Config as Config
from .lora_forms import Change, product

SMALLEST = 1e-30
"""The length by which a row of zeros is divided."""

Adapters: TypeAlias = Adapter | Sequence[Adapter]
Wide: TypeAlias = NDArray[np.float64]


@public
@exclusive
def init(key: Key, tree: Tree, config: Config) -> Adapter:
    """Make an adapter that changes nothing yet, as peft does.

    A is uniform within ±1/√I (He et al.'s initialisation with a = √5) and depends on the key and the module's name
    alone; B is zero; DoRA's magnitudes are the lengths of the rows of W.

    Args:
        key: uint64 (2,), from `px.key`.
        tree: the transformer's tree, the text encoder's, or Params, of which these two are adapted.
        config: the adapter's settings.
    Returns:
        The adapter, of float32 Tensors; for Params, the modules' names begin with "transformer" or "text_encoder".
    Raises:
        TypeError: tree isn't such a tree, config isn't a Config, or key isn't an array.
        ValueError: key isn't one key, the tree has no target, or a target is neither a linear nor a convolution in
            memory.
    """
    if rng.check_key(key).ndim != 1:
        raise ValueError(f"key must be one key of shape (2,), got shape {key.shape}")
    check_type("config", config, Config, "a lora.Config")
    flat = {}
    for path, leaf in weights(tree).items():
        name, _, last = path.rpartition(".")
        # the VAE has attention too, whose parts have the same names
        if last != "weight" or not config.adapts(name) or not (isinstance(tree, dict) or path.startswith(PARTS)):
            continue
        check_adaptable(path, leaf)
        (O, *inner), rank = leaf.shape, config.rank_at(name)
        tail = [1] * (len(inner) - 1) if len(inner) > 1 else []
        flat[f"{name}.lora_A.weight"] = _uniform(rng.fold_in(key, _number(name)), (rank, *inner))
        flat[f"{name}.lora_B.weight"] = np.zeros((O, rank, *tail[:2]), np.float32)
        if config.dora:
            lengths = np.linalg.norm(_matrix(leaf), axis=1)
            flat[f"{name}.lora_magnitude_vector.weight"] = lengths.reshape((1, O, 1, 1) if tail else (O,))
    if not flat:
        raise ValueError(f"targets must name modules of the tree, got {first_few(map(repr, config.targets))}")
    return Adapter(tree_.nest({name: Tensor(value, ms.float32) for name, value in flat.items()}), config)


@public
@exclusive
def apply(tree: Tree, adapter: Adapter, weight: float = 1.0) -> Tree:
    """Add an adapter to a tree by operations that can be differentiated with respect to the adapter.

    W' = W + weight · scale · B A, with scale = alpha/r, or alpha/√r for rsLoRA; LoHa and LoKr (arXiv:2309.14859) have
    other products in place of B A. For DoRA, each row of W' is scaled to the length that was learned, m · W'/‖W'‖, and
    ‖W'‖ counts as a constant for the gradient (arXiv:2402.09353, sec. 4.3). So for DoRA, another weight than 1 changes
    only the direction of a row, as in peft. Nothing is compiled.

    Args:
        tree: Params, or the tree of a transformer or of a text encoder; its leaves are Tensors. A weight in half
            precision stays so: the sum is made in float32 and rounded, where a change below its last bit is lost.
        adapter: from `init` or `load`.
        weight: how much of the adapter is added, any finite number.
    Returns:
        The tree, which shares the leaves that the adapter doesn't change; the tree that was given stays as it was.
    Raises:
        TypeError: tree, adapter or weight has the wrong type, or a weight that is changed isn't a Tensor.
        ValueError: the adapter belongs to another model, or changes weights that are int8 or still in their file.
    """
    check_number("weight", weight)
    changes = places(tree, adapter)
    leaves = weights(tree)
    for name in changes:
        if not isinstance(leaves[name], Tensor):
            hint = "px.tree.map(mindspore.Tensor, tree) makes them"
            raise TypeError(f"tree must hold Tensors, got {kind(leaves[name])} at {name}; {hint}")
    return _changed(tree, {name: _adapted(leaves[name], change, weight) for name, change in changes.items()})


@public
@exclusive
def merge(tree: Tree, adapter: Adapters, weight: float | Sequence[float] = 1.0) -> Tree:
    """Add one or several adapters to a tree, with NumPy in float64: W + Σ (W'ᵢ − W), with W'ᵢ as in `apply`.

    Each of several DoRA adapters is computed from the original weights; peft applies each one to the result of the one
    before. Nothing is compiled.

    Args:
        tree: as in `apply`, or of NumPy arrays; float16 and bfloat16 stay and are rounded once.
        adapter: one adapter, or a list of them; their order doesn't matter.
        weight: how much of it is added, one number for all or one for each.
    Returns:
        The tree, which shares the leaves that no adapter changes; the tree that was given stays as it was.
    Raises:
        TypeError: tree, adapter or weight has the wrong type.
        ValueError: an adapter belongs to another model, or changes weights that are int8 or still in their file; there
            are more or fewer weights than adapters; or a sum is beyond the dtype of its weight.
        RuntimeError: eager autodiff is recording; `apply` can be differentiated.
    """
    return _on_host(tree, adapter, weight, lambda leaf, W, change, weight: _merged(leaf, W, change, weight) - W)


@public
@exclusive
def unmerge(tree: Tree, adapter: Adapters, weight: float | Sequence[float] = 1.0) -> Tree:
    """Take adapters that `merge` added off again; in float32 this restores the weights to about 1e-7 of their size.

    If you still have the tree from before, use that: it is exact, since `merge` doesn't change it.

    Args:
        tree: what `merge` gave.
        adapter: what it was given; DoRA can't be taken off.
        weight: what it was given.
    Returns:
        The tree, which shares the leaves that no adapter changed.
    Raises:
        TypeError, ValueError, RuntimeError: as `merge`.
        ValueError: an adapter is DoRA, after which the length of each row of W is known no more.
    """
    for each in [adapter] if isinstance(adapter, Adapter) else adapter if isinstance(adapter, Sequence) else ():
        if isinstance(each, Adapter) and isinstance(each.config, Config) and each.config.dora:
            raise ValueError(
                "adapter is DoRA, which can't be taken off: it replaces the lengths of a weight's rows or columns, and"
                " the old ones are known no more; keep the tree from before, which merge doesn't change"
            )
    return _on_host(tree, adapter, weight, lambda _, W, change, weight: -weight * change.scale * _product(change))


def _on_host(
    tree: Tree, adapter: Adapters, weight: float | Sequence[float], add: Callable[[Any, Wide, Change, float], Wide]
) -> Tree:
    """Add to each weight what `add` gives for each of the adapters, all for the weight as it was."""
    refuse_recording("merging", "px.lora.apply can be")
    adapters = [adapter] if isinstance(adapter, Adapter) else adapter
    if isinstance(adapters, str):  # which is a sequence too
        raise TypeError(f"adapter must be what px.lora.load gives, got {shown(adapters)}")
    check_type("adapter", adapters, Sequence, "an adapter or a list of them")
    if not adapters:
        raise ValueError("adapter must be at least one adapter, got none")
    each = weight if isinstance(weight, Sequence) else [weight] * len(adapters)
    if len(each) != len(adapters):
        raise ValueError(f"weight must be one number, or one for each adapter, got {len(each)} for {len(adapters)}")
    for number in each:
        check_number("weight", number)
    found = [places(tree, one) for one in adapters]
    leaves, out = weights(tree), {}
    for name in {name: None for changes in found for name in changes}:
        leaf, W = leaves[name], _matrix(leaves[name])
        changes = [(changes[name], number) for changes, number in zip(found, each, strict=True) if name in changes]
        out[name] = _like(leaf, sum((add(leaf, W, *one) for one in changes), W), name)
    return _changed(tree, out)


def _changed(tree: Tree, leaves: dict[str, Any]) -> Tree:
    return tree_.unflatten(tree, [leaves.get(name, leaf) for name, leaf in tree_.items(tree)])


def _adapted(W: Tensor, change: Change, weight: float) -> Tensor:
    parts = {name: as_float(leaf, "the adapter's weights") for name, leaf in change.parts.items()}
    out = W.float().reshape(W.shape[0], -1) + product(parts) * (weight * change.scale)  # (O, I)
    if change.magnitude is not None:
        magnitude = as_float(change.magnitude, "the adapter's weights")
        deep, axes, shape = _lines(W, change.columns)
        lines = ops.stop_gradient(out).reshape(deep)
        lengths = ops.maximum(ops.sqrt((lines * lines).sum(axes)), Tensor(SMALLEST, ms.float32))
        out = out.reshape(deep) * (magnitude.reshape(-1) / lengths).reshape(shape)
    return ops.cast(out.reshape(W.shape), W.dtype)


def _merged(leaf: Any, W: Wide, change: Change, weight: float) -> Wide:
    out = W + weight * change.scale * _product(change)
    if change.magnitude is None:
        return out
    deep, axes, shape = _lines(leaf, change.columns)
    lengths = np.maximum(np.sqrt((out.reshape(deep) ** 2).sum(axes)), SMALLEST)
    stretched: Wide = out.reshape(deep) * (array(change.magnitude).reshape(-1) / lengths).reshape(shape)
    return stretched.reshape(out.shape)


def _lines(leaf: Any, columns: bool) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the shape (O, C, k·k) of a weight, the axes over which DoRA's lengths are, and the shape of these."""
    deep = (leaf.shape[0], leaf.shape[1], math.prod(leaf.shape[2:]))
    return (deep, (0, 2), (1, -1, 1)) if columns else (deep, (1, 2), (-1, 1, 1))


def _product(change: Change) -> Wide:
    found: Wide = product({name: array(leaf).astype(np.float64) for name, leaf in change.parts.items()})
    return found


def _matrix(leaf: Any) -> Wide:
    """Return a weight as float64 (O, I)."""
    return array(leaf).reshape(leaf.shape[0], -1).astype(np.float64)


def _like(leaf: Any, value: Wide, name: str) -> Any:
    """Return numbers as what the leaf is: an array or a Tensor of its shape and dtype."""
    half = str(leaf.dtype).lower() == "float16"
    limit = float(np.finfo(np.float16 if half else np.float32).max)
    largest = np.abs(value).max(initial=0.0)
    if np.isnan(largest):
        raise ValueError(f"the sum at {name} is NaN: the adapter or the tree holds NaN, or a weight is far too large")
    if largest > limit:
        raise ValueError(
            f"the sum at {name} goes beyond {limit:g}, the largest number of its dtype; give a smaller weight"
        )
    value = value.reshape(leaf.shape)
    if not isinstance(leaf, Tensor):
        return value.astype(leaf.dtype)
    tensor = Tensor.from_numpy(value.astype(np.float16 if half else np.float32))
    return tensor if tensor.dtype == leaf.dtype else tensor.astype(leaf.dtype)


def _uniform(key: Key, shape: Sequence[int]) -> NDArray[np.float32]:
    bound = float(np.prod(shape[1:])) ** -0.5
    draw = np.random.Generator(np.random.Philox(key=key)).uniform(-bound, bound, tuple(shape))
    return draw.astype(np.float32)


def _number(name: str) -> int:
    """A module's number, so that its A doesn't depend on which others are adapted."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
