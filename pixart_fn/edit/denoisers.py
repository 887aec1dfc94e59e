"""Denoisers that wrap another: what lies outside a mask is given, and a large x_t is seen through windows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from mindspore import Tensor

from .. import tree
from ..backend import autodiff
from ..backend.arrays import as_float, as_numpy
from ..checks import check_function, check_whole, kind, shown
from ..guidance import Result
from ..guidance.formulas import shape_of
from ..process.lock import exclusive
from ..public import public
from ..types import Array, NumPyArray


@public
def masked(denoise: Callable[[Array, float], Result], z: Array, mask: Array) -> Callable[[Array, float], Result]:
    """Make a denoiser that gives known latents outside a mask: x0 = m · x0 + (1 - m) · z.

    If x starts as α z + σ ε outside the mask, a deterministic solver keeps it so at every node, with the same ε, since
    every solver is exact for an x0 that stays the same. A stochastic solver mixes its own noise into ε. If the grid
    ends at σ = 0, the result outside the mask is z up to rounding, except with the stochastic `sa_solver` of ε. If it
    ends above that (`final="sigma_min"`), a little noise is left there. m · x + (1 - m) · z after the last step gives z
    exactly.

    Args:
        denoise: (x_t, t) → x0; or (x_t, t) → (x0, variance), of which the variance is kept as it is.
        z: the latents to keep, floats (B, C, h, w) or (1, C, h, w).
        mask: 1 where the picture is drawn anew, 0 where z is kept, and between them a mixture: numbers or truth values
            (B, 1, h, w) or (1, 1, h, w).
    Returns:
        A denoiser of the same kind, for arrays and for Tensors.
    Raises:
        TypeError: an argument has the wrong type; or what `denoise` gives isn't of the shape of x_t.
        ValueError: the shapes of z and mask don't fit together, z isn't finite, or the mask isn't within [0, 1]; or x_t
            has another shape when the denoiser is called.
    """
    check_function("denoise", denoise, "x, t")
    kept, m = _latents(z), _mask(mask)
    if m.shape[2:] != kept.shape[2:] or (len(m) != len(kept) and 1 not in (len(m), len(kept))):
        raise ValueError(f"mask must have the rows, or one, and the size of z, {kept.shape}, got {m.shape}")
    arrays = (1 - m) * kept, m
    tensors = tuple(Tensor.from_numpy(each.astype(np.float32)) for each in arrays)

    @exclusive
    def denoise_masked(x: Array, t: float) -> Result:
        shape = shape_of(x)
        if shape[1:] != kept.shape[1:] or max(len(m), len(kept)) not in (1, len(x)):
            raise ValueError(f"x_t must have the shape of z, {kept.shape}, got {shape or kind(x)}")
        array = isinstance(x, np.ndarray)
        outside, inside = (each.astype(x.dtype) for each in arrays) if array else tensors
        result = _checked(denoise(x, t), shape)
        if isinstance(result, tuple):
            return inside * result[0] + outside, result[1]
        return inside * result + outside

    return denoise_masked


@public
def windows(
    denoise: Callable[[Array, float], Result],
    window: int | tuple[int, int],
    stride: int | tuple[int, int],
    *,
    weights: NumPyArray | None = None,
    at_once: int = 1,
) -> Callable[[Array, float], Result]:
    """Make a denoiser of a large x_t from the denoiser of a window: where windows overlap, their results are averaged.

    x0 = Σ w_i x0_i / Σ w_i (MultiDiffusion, arXiv:2302.08113, eq. 5), which is the same as the mean of ε, since the
    windows see the same x_t. They begin at multiples of the stride, and the last one in each direction ends at the
    edge.

    Args:
        denoise: (x_t, t) → x0 for x_t of the window's size; or (x_t, t) → (x0, variance). It mustn't remember what it
            saw, as one that is guided with momentum does, since it sees one window after another.
        window: (height, width) in latents, or one number for both; where x_t is smaller, so is the window.
        stride: from one window to the next, at least 1 and at most the window, likewise.
        weights: w, positive numbers (height, width) of the window; None takes 1 everywhere.
        at_once: how many windows are evaluated in one batch: `denoise` then gets x_t of that many times B rows, all
            rows of the first window first, and fewer in the last batch.
    Returns:
        A denoiser of the same kind, for arrays and for Tensors. It has no gradient.
    Raises:
        TypeError: an argument has the wrong type; or what `denoise` gives isn't of the shape of its x_t.
        ValueError: an argument isn't as described above; or x_t isn't (B, C, h, w), or weights don't fit the window,
            when the denoiser is called.
    """
    check_function("denoise", denoise, "x, t")
    high, wide = pair("window", window, None)
    steps = pair("stride", stride, (high, wide))
    check_whole("at_once", at_once, 1)
    w = None if weights is None else _weights(weights, (high, wide))

    @exclusive
    def denoise_windows(x: Array, t: float) -> Result:
        autodiff.refuse_recording("px.edit.windows", "differentiate the denoiser of one window instead")
        if len(shape_of(x)) != 4:
            raise ValueError(f"x_t must have the shape (B, C, h, w), got {shape_of(x) or kind(x)}")
        size = min(high, x.shape[2]), min(wide, x.shape[3])
        if w is not None and w.shape != size:
            raise ValueError(f"weights must have the shape {size} of the window in x_t, got {w.shape}")
        places = window_places(tuple(x.shape[2:]), size, steps)
        parts = [_seen(denoise, x, t, places[i : i + at_once], size) for i in range(0, len(places), at_once)]
        each = [one for part in parts for one in part]
        mean: Result = tree.map(lambda *values: _mean(x, values, places, w), *each)
        return mean

    return denoise_windows


def window_places(canvas: tuple[int, ...], window: tuple[int, int], stride: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the upper left corner of every window: at multiples of the stride, and at the end of the canvas."""
    sides = zip(canvas, window, stride, strict=True)
    return list(product(*(sorted({*range(0, side - w, step), side - w}) for side, w, step in sides)))


def _seen(
    denoise: Callable[[Array, float], Result],
    x: Array,
    t: float,
    places: list[tuple[int, int]],
    size: tuple[int, int],
) -> list[Result]:
    """Return what the denoiser gives for some windows, evaluated in one batch."""
    values, B = as_numpy(x), len(x)
    h, w = size
    seen = np.concatenate([values[:, :, i : i + h, j : j + w] for i, j in places])
    result = _checked(denoise(seen if isinstance(x, np.ndarray) else Tensor.from_numpy(seen), t), seen.shape)
    rows = [slice(k * B, (k + 1) * B) for k in range(len(places))]
    return [_of_rows(result, one) for one in rows]


def _checked(result: Result, shape: tuple[int, ...]) -> Result:
    """Return what a denoiser gives; raise a TypeError where that isn't x0 or (x0, variance) of the shape of x_t."""
    parts = result if isinstance(result, tuple) and len(result) == 2 else (result,)
    if any(shape_of(part) != shape for part in parts):
        got = shape_of(result) or kind(result)
        raise TypeError(f"denoise must give x0, or (x0, variance), of the shape {shape} of x_t, got {got}")
    return result


def _of_rows(result: Result, rows: slice) -> Result:
    """Return some rows of what a denoiser gives, as arrays."""
    part: Result = tree.map(lambda value: as_numpy(value)[rows], result)
    return part


def _mean(x: Array, values: tuple[NumPyArray, ...], places: list[tuple[int, int]], weights: NumPyArray | None) -> Array:
    h, w = values[0].shape[2:]
    total = np.zeros((*values[0].shape[:2], *x.shape[2:]))
    covered = np.zeros(tuple(x.shape[2:]))
    for value, (i, j) in zip(values, places, strict=True):
        own = 1.0 if weights is None else weights
        total[:, :, i : i + h, j : j + w] += own * value
        covered[i : i + h, j : j + w] += own
    mean: NumPyArray = (total / covered).astype(values[0].dtype)
    return mean if isinstance(x, np.ndarray) else Tensor.from_numpy(mean)


def pair(name: str, value: int | tuple[int, int], most: tuple[int, int] | None) -> tuple[int, int]:
    """Return (height, width), checked."""
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2:
        raise TypeError(f"{name} must be a whole number or (height, width), got {shown(value)}")
    for i, side in enumerate(pair):
        check_whole(name, side, 1, None if most is None else most[i])
    return int(pair[0]), int(pair[1])


def _weights(weights: NumPyArray, window: tuple[int, int]) -> NumPyArray:
    if not isinstance(weights, np.ndarray) or weights.dtype.kind not in "fiu":
        raise TypeError(f"weights must be an array of numbers, got {shown(weights)}")
    if weights.shape != window or not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError(f"weights must be positive numbers of shape {window}, got {shown(weights)}")
    return np.asarray(weights, np.float64)


def _latents(z: Array) -> NumPyArray:
    kept: NumPyArray = z if isinstance(z, np.ndarray) and z.dtype.kind == "f" else as_float(z, "z").asnumpy()
    if kept.ndim != 4 or not np.isfinite(kept).all():
        raise ValueError(f"z must be finite latents (B, C, h, w), got shape {kept.shape}")
    return kept


def _mask(mask: Array) -> NumPyArray:
    if not isinstance(mask, (Tensor, np.ndarray)) or (isinstance(mask, np.ndarray) and mask.dtype.kind not in "fiub"):
        raise TypeError(f"mask must be a Tensor or an array of numbers, got {shown(mask)}")
    m = as_numpy(mask)
    if m.ndim != 4 or m.shape[1] != 1 or not ((m >= 0) & (m <= 1)).all():
        raise ValueError(f"mask must be numbers within [0, 1] of shape (B, 1, h, w), got shape {m.shape}")
    return m.astype(np.float32)
