"""Edge maps of pictures, white on black, which a ControlNet follows; all but HED's need only NumPy and Pillow.

H/W pixel size.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import tree
from .checks import check_number, kind
from .public import public
from .types import NumPyArray, Tree

__all__ = ["canny", "hed", "load_hed", "sobel"]

Floats = NDArray[np.float64]

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in a pixel's brightness (ITU-R BT.601)."""
DIGITS = 9
"""To which gradients' lengths are rounded, or rounding errors would decide which of two equal ones counts."""


@public
def sobel(picture: Image.Image | NumPyArray) -> Image.Image:
    """Draw how fast the brightness changes at each pixel: the length of Sobel's gradient.

    Args:
        picture: a PIL picture (RGB or grey), or an array (H, W) or (H, W, 3) of uint8 or of floats in [0, 1].
    Returns:
        A grey picture of the same size, on which a step from black to white along a row or a column is white.
    Raises:
        TypeError: it is neither a picture nor such an array.
        ValueError: it has another mode or shape, or values outside its range.
    Example:
        >>> px.edges.sobel(np.zeros((64, 64, 3), np.uint8)).mode
        'L'
    """
    length = np.hypot(*_gradient(_brightness(picture)))
    return Image.fromarray(np.rint(255 * length.clip(0, 1)).astype(np.uint8))


@public
def canny(picture: Image.Image | NumPyArray, low: float = 0.1, high: float = 0.2, sigma: float = 1.0) -> Image.Image:
    """Draw edges one pixel wide (J. Canny, A Computational Approach to Edge Detection, 1986).

    The brightness is blurred, and an edge is where its gradient is longer than at both neighbours along it, and longer
    than `high`, or longer than `low` and connected with such a place. Of two equally long ones the brighter side's
    counts, so a turned or mirrored picture has the turned or mirrored edges.

    Args:
        picture: as in `sobel`.
        low: the least length of a gradient, at least 0; 1 is a step from black to white that isn't blurred.
        high: the least length of a gradient with which an edge begins, at least `low`.
        sigma: the standard deviation of the blur in pixels, 0 … 100; 0 blurs nothing.
    Returns:
        A grey picture of the same size, white on edges and black elsewhere.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above.
    Example:
        >>> px.edges.canny(np.zeros((64, 64, 3), np.uint8)).size
        (64, 64)
    """
    check_number("sigma", sigma, 0, 100)
    check_number("low", low, 0)
    check_number("high", high, low)
    dy, dx = _gradient(_blurred(_brightness(picture), sigma))
    length = np.hypot(dy, dx).round(DIGITS)
    thin = _is_longest(length, dy, dx) & (length > 0) & (length >= low)
    return Image.fromarray(np.where(_connected(thin, length >= high), np.uint8(255), np.uint8(0)))


@public
def load_hed(file: str | os.PathLike[str]) -> Tree:
    """Read the network of `hed` from ControlNetHED.pth, which PixArt's authors offer.

    Args:
        file: a .pth file. Nothing in it is run: it is read by an interpreter that imports and calls nothing.
    Returns:
        The tree, of float32 Tensors.
    Raises:
        TypeError: file isn't a path.
        OSError: it can't be read.
        ValueError: it is damaged, or holds another network.
    """
    from mindspore import Tensor

    from .checkpoint.sources import written
    from .files import pth
    from .models.hed import shapes

    path = Path(os.path.expanduser(written(file, "file", "a .pth file")))
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; file must be ControlNetHED.pth or one like it")
    held = pth.open_file(path)
    found = {name: tuple(getattr(leaf, "shape", ())) for name, leaf in held.items()}
    tree.check_names(found, shapes(), str(path))
    return tree.nest({name: Tensor.from_numpy(held[name].read()) for name in shapes()})


@public
def hed(picture: Image.Image | NumPyArray, net: Tree) -> Image.Image:
    """Draw edges as HED sees them (arXiv:1504.06375): soft ones, as PixArt's own ControlNets were trained with.

    The maps of the network's stages are enlarged to the picture's size; the sigmoid of their mean is drawn.

    Args:
        picture: as in `sobel`, 16 pixels high and wide at least.
        net: from `load_hed`.
    Returns:
        A grey picture of the same size.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above.
    """
    from mindspore import Tensor

    from .backend.arrays import check_weights
    from .models import hed as model
    from .process.lock import exclusive

    values = _values(picture)
    if min(values.shape[:2]) < 16:
        raise ValueError(f"picture must be 16 pixels high and wide at least, got {values.shape[:2]}")
    check_weights(net, model.shapes(), "net")
    colour = np.broadcast_to(values.reshape(*values.shape[:2], -1), (*values.shape[:2], 3))
    x = Tensor.from_numpy((255 * colour.transpose(2, 0, 1)[None]).astype(np.float32))
    maps = exclusive(lambda: [each.asnumpy()[0] for each in model.apply(net, x)])()
    mean = np.mean([_enlarged(each, *values.shape[:2]) for each in maps], 0, dtype=np.float64)
    return Image.fromarray(np.rint(255 / (1 + np.exp(-mean))).astype(np.uint8))


def _enlarged(x: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BILINEAR))


def _brightness(picture: Image.Image | NumPyArray) -> Floats:
    """Return a picture's brightness in [0, 1], (H, W)."""
    values = _values(picture)
    return values if values.ndim == 2 else (values * LUMA).sum(-1).round(15)


def _values(picture: Image.Image | NumPyArray) -> Floats:
    """Return a picture's values in [0, 1], (H, W) or (H, W, 3)."""
    if isinstance(picture, Image.Image):
        if picture.mode not in ("RGB", "L"):
            raise ValueError(f"picture must be RGB or grey (L), got {picture.mode}; picture.convert('RGB') makes it so")
        picture = np.asarray(picture)
    if not isinstance(picture, np.ndarray) or not (picture.dtype == np.uint8 or picture.dtype.kind == "f"):
        got = picture.dtype if isinstance(picture, np.ndarray) else kind(picture)
        raise TypeError(f"picture must be a PIL picture or an array of uint8 or floating-point numbers, got {got}")
    if picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)) or not picture.size:
        raise ValueError(f"picture must have the shape (H, W) or (H, W, 3), got {picture.shape}")
    values: Floats = picture.astype(np.float64) / (255 if picture.dtype == np.uint8 else 1)
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"picture must be within [0, 1], or uint8, got {values.min():g} … {values.max():g}")
    return values


def _filtered(x: Floats, weights: Floats, axis: int) -> Floats:
    """Correlate with weights along an axis; beyond its border a picture goes on as its last pixel."""
    half, n = len(weights) // 2, x.shape[axis]
    padded = np.pad(x, [(half, half) if k == axis else (0, 0) for k in (0, 1)], mode="edge")
    parts = (weight * np.take(padded, range(i, i + n), axis) for i, weight in enumerate(weights))
    return np.asarray(sum(parts), np.float64)


def _blurred(x: Floats, sigma: float) -> Floats:
    """Blur by a Gaussian that is cut at four standard deviations, as SciPy's is."""
    half = math.floor(4 * sigma + 0.5)
    if half == 0:
        return x
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    weights /= weights.sum()
    return _filtered(_filtered(x, weights, 0), weights, 1)


def _gradient(x: Floats) -> tuple[Floats, Floats]:
    """Return Sobel's gradient down and to the right, in which a step from 0 to 1 has the length 1."""
    smooth, difference = np.array([0.25, 0.5, 0.25]), np.array([-1.0, 0.0, 1.0])
    return _filtered(_filtered(x, smooth, 1), difference, 0), _filtered(_filtered(x, smooth, 0), difference, 1)


def _is_longest(length: Floats, dy: Floats, dx: Floats) -> NDArray[np.bool_]:
    """Whether a gradient is longer than its neighbours along it, which lie between two pixels and are interpolated."""
    H, W = length.shape
    padded = np.pad(length, 1)
    rows, columns = np.mgrid[1 : H + 1, 1 : W + 1]
    down, right = (np.where(each < 0, -1, 1) for each in (dy, dx))
    steep = np.abs(dy) > np.abs(dx)
    longer, shorter = np.where(steep, np.abs(dy), np.abs(dx)), np.where(steep, np.abs(dx), np.abs(dy))
    share = np.divide(shorter, longer, out=np.zeros_like(longer), where=longer > 0)

    def neighbour(side: int) -> Floats:
        y, x = rows + side * down, columns + side * right
        straight = padded[np.where(steep, y, rows), np.where(steep, columns, x)]
        mixed: Floats = (share * padded[y, x] + (1 - share) * straight).round(DIGITS)
        return mixed

    return np.asarray((length > neighbour(1)) & (length >= neighbour(-1)))


def _connected(thin: NDArray[np.bool_], strong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The edges that hold a strong pixel, each with all pixels that touch it, at corners too."""
    H, W = thin.shape
    place = np.full((H + 2, W + 2), -1)
    n = int(thin.sum())
    place[1:-1, 1:-1][thin] = np.arange(n)
    here = place[1:-1, 1:-1][thin]
    following = ((0, 1), (1, -1), (1, 0), (1, 1))
    links = [(here, place[1 + y : 1 + y + H, 1 + x : 1 + x + W][thin]) for y, x in following]
    a, b = np.concatenate([np.stack(each) for each in links], 1)
    a, b = a[b >= 0], b[b >= 0]
    label = _labels(n, a, b)
    kept = np.zeros(n, bool)
    kept[label[strong[thin]]] = True
    out = np.zeros_like(thin)
    out[thin] = kept[label]
    return out


def _labels(n: int, a: NDArray[np.int_], b: NDArray[np.int_]) -> NDArray[np.int_]:
    """Give n points the least number among those that links a - b connect, in about log n rounds."""
    label = np.arange(n)
    while True:
        least = np.minimum(label[a], label[b])
        new = label.copy()
        np.minimum.at(new, label[a], least)
        np.minimum.at(new, label[b], least)
        while not np.array_equal(new, further := new[new]):
            new = further
        if np.array_equal(new, label):
            return label
        label = new
