"""Arrays where they come in from the user: NumPy's and MindSpore's alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from .. import tree
from ..checks import kind
from ..types import Array, NumPyArray, Tree
from . import device, stream

_FLOATS = (ms.float32, ms.float16, ms.bfloat16, ms.float64)


def as_tensor(x: Array, name: str) -> Tensor:
    """Take an array or a Tensor as a Tensor of its own dtype.

    Args:
        x: of any shape, with numbers of any dtype.
        name: what an error calls it.
    Returns:
        A Tensor, which shares the memory of an array that is contiguous.
    Raises:
        TypeError: x is neither a Tensor nor an array, or an array of something else than numbers.
    """
    if isinstance(x, Tensor):
        return x
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} must be a Tensor or an array, got {kind(x)}")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold numbers, got {x.dtype}")
    return Tensor.from_numpy(np.ascontiguousarray(x, x.dtype.newbyteorder("=")))


def as_float(x: Array, name: str) -> Tensor:
    """Take an array or a Tensor of any floating-point dtype as a float32 Tensor.

    Args:
        x: of any shape.
        name: what an error calls it.
    Returns:
        A float32 Tensor.
    Raises:
        TypeError: x is neither a Tensor nor an array, or holds no floating-point numbers.
    """
    tensor = as_tensor(x, name)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {str(tensor.dtype).lower()}")
    return tensor if tensor.dtype == ms.float32 else tensor.float()


def clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp to [low, high], where NaN stays NaN: MindSpore's own clamp turns it into a number.

    Args:
        x: of any shape, floating-point.
        low: the least value.
        high: the greatest value.
    Returns:
        A Tensor like x.
    """
    return ops.clamp(x, low, high) + 0.0 * x


def check_mask(mask: Tensor, name: str) -> None:
    """Raise where a mask isn't one of real tokens.

    Args:
        mask: (B, L).
        name: what an error calls it.
    Raises:
        ValueError: an entry is neither 1 nor 0, or a row hides all tokens.
    """
    real = mask.asnumpy()
    if not np.isin(real, (0, 1)).all() or not real.any(1).all():
        raise ValueError(f"{name} must be 1 where a token is real and 0 elsewhere, with a real token in each row")


def check_weights(
    p: Tree, shapes: Mapping[str, tuple[int, ...]], where: str, stored: bool = False, wide: str | None = None
) -> None:
    """Raise where a tree doesn't hold the tensors that a configuration asks for, all of one floating-point type.

    Args:
        p: the tree.
        shapes: what it must hold, by name.
        where: what the sentence calls it.
        stored: whether a leaf may also be one that is read when it is its turn (see `stream`).
        wide: how the names end of those that may be float32 where the others are in half precision.
    Raises:
        TypeError: a leaf is neither, or of another type than the first, or of one that the device can't multiply.
        ValueError: leaves are missing, unexpected or of another shape.
    """
    leaves = dict(tree.items(p))
    tree.check_names({path: tuple(getattr(leaf, "shape", ())) for path, leaf in leaves.items()}, shapes, where)
    for path, leaf in leaves.items():
        if not (isinstance(leaf, Tensor) or (stored and stream.is_stored(leaf))):
            hint = "px.tree.map(mindspore.Tensor, tree) makes them"
            raise TypeError(f"{where} must hold Tensors, got {kind(leaf)} at {path}; {hint}")
    _check_types({path: leaf.dtype for path, leaf in leaves.items() if isinstance(leaf, Tensor)}, where, wide)


def _check_types(types: Mapping[str, Any], where: str, wide: str | None) -> None:
    usual = next(iter(types.values()), ms.float32)
    other = {path: dtype for path, dtype in types.items() if dtype != usual}
    other = {path: dtype for path, dtype in other.items() if not (wide and path.endswith(wide) and dtype == ms.float32)}
    path, dtype = next(iter({**other, **types}.items()), ("", usual))
    here, hint = f"{str(dtype).lower()} at {path}", "px.tree.map(lambda x: x.float(), tree) makes all float32"
    if dtype not in _FLOATS:
        raise TypeError(f"{where} must hold floating-point Tensors, got {here}; {hint}")
    if other:
        raise TypeError(f"{where} must hold Tensors of one type, got {str(usual).lower()} and {here}; {hint}")
    if usual == ms.bfloat16 and not device.traits().bfloat16:
        raise TypeError(f"{where} holds bfloat16, of which MindSpore has no products on a {device.in_use()}; {hint}")


def as_numpy(x: Array) -> NumPyArray:
    """Take an array or a Tensor as an array, which shares a Tensor's memory."""
    return x.asnumpy() if isinstance(x, Tensor) else x


def check_finite(x: Array, what: str) -> None:
    """Raise where a number is NaN or infinite.

    Args:
        x: (B, …).
        what: what the sentence begins with, such as "latents".
    Raises:
        ValueError: a number is NaN or infinite; the sentence names the rows.
    """
    values = as_numpy(x)
    finite = np.isfinite(values)
    if finite.all():
        return
    rows = sorted({int(i) for i in np.argwhere(~finite)[:, 0]}) if len(values) > 1 else []
    where = f" in row {', '.join(map(str, rows[:8]))} of {len(values)}" if rows else ""
    raise ValueError(f"{what} must be finite, but NaN or infinity is among them{where}; check=False goes on")
