"""Arrays where they come in from the user: NumPy's and MindSpore's alike."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from .checks import kind
from .types import Array


def as_tensor(x: Array, name: str) -> Tensor:
    """x as a Tensor of its own dtype; an array's memory is shared where it is contiguous.

    Raises:
        TypeError: it is neither a Tensor nor an array; the sentence calls it `name`.
    """
    if isinstance(x, Tensor):
        return x
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} must be a Tensor or an array, got {kind(x)}")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold numbers, got {x.dtype}")
    return Tensor.from_numpy(np.ascontiguousarray(x))


def as_float(x: Array, name: str) -> Tensor:
    """x as a float32 Tensor, whatever its floating-point dtype.

    Raises:
        TypeError: it is neither a Tensor nor an array, or holds no floating-point numbers.
    """
    tensor = as_tensor(x, name)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {str(tensor.dtype).lower()}")
    return tensor if tensor.dtype == ms.float32 else tensor.float()


def as_numpy(x: Array) -> np.ndarray:
    """x as an array, which shares a Tensor's memory."""
    return x.asnumpy() if isinstance(x, Tensor) else x


def check_finite(x: Array, what: str) -> None:
    """Raise ValueError where a number in x is NaN or infinite; the sentence begins with `what`."""
    values = as_numpy(x)
    finite = np.isfinite(values)
    if finite.all():
        return
    rows = sorted({int(i) for i in np.argwhere(~finite)[:, 0]}) if len(values) > 1 else []
    where = f" in row {', '.join(map(str, rows[:8]))} of {len(values)}" if rows else ""
    raise ValueError(f"{what} isn't finite{where}: it holds NaN or infinity; check=False goes on nevertheless")
