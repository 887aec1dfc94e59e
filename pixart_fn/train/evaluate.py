"""How good pictures are, from features of any network: FID, KID, CLIP score, precision and recall.

The functions take arrays of NumPy and don't need MindSpore. Give them Inception's features for FID and KID, CLIP's for
the CLIP score, and VGG's or DINOv2's for precision and recall; this package doesn't compute these features.
N pictures, D features of each.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import rng
from ..backend.arrays import as_numpy
from ..checkpoint.sources import written
from ..checks import check_type, check_whole, kind
from ..files import atomic, reading
from ..public import public
from ..types import Array, Key, summary

__all__ = [
    "KID",
    "PrecisionRecall",
    "Statistics",
    "clip_score",
    "fid",
    "kid",
    "precision_recall",
    "read_statistics",
    "statistics",
    "write_statistics",
]

Floats = NDArray[np.float64]

CHUNK = 256
"""Rows of distances that are computed at once."""
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, MemoryError, NotImplementedError, TypeError, ValueError)
MOST = 2**31
"""Bytes of the largest file of statistics that is read: those of 11,585 features."""


class Statistics(NamedTuple):
    """Mean and covariance of features, as files of pytorch-fid and clean-fid hold them.

    Args:
        mu: float64 (D,).
        sigma: float64 (D, D), with the divisor N - 1.
    """

    mu: Floats
    sigma: Floats

    def __repr__(self) -> str:
        """Show arrays by dtype and shape."""
        return summary(self)


class KID(NamedTuple):
    """The mean of KID over random subsets, and its standard deviation between them."""

    mean: float
    std: float


class PrecisionRecall(NamedTuple):
    """The share of generated pictures that could be real, and of real ones that could be generated."""

    precision: float
    recall: float


@public
def statistics(features: Array | Iterable[Array]) -> Statistics:
    """Compute mean and covariance, in one pass and in float64 (Chan, Golub and LeVeque 1979).

    Args:
        features: (N, D), or chunks (n, D) one after another, such as a generator gives them; two rows at least.
    Returns:
        The statistics, which `fid` compares and `write_statistics` stores.
    Raises:
        TypeError: features aren't arrays of numbers.
        ValueError: a chunk isn't (n, D), isn't finite or has another D, or there is only one row.
    """
    n, mu, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for chunk in _chunks(features):
        x = _features("features", chunk)
        if not n:
            mu, scatter = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        if x.shape[1] != len(mu):
            raise ValueError(f"features must have {len(mu)} columns in all chunks, got {x.shape[1]}")
        total, mean = n + len(x), x.mean(0)
        centred, away = x - mean, mean - mu
        scatter += centred.T @ centred + np.outer(away, away) * (n * len(x) / total)
        mu, n = mu + away * (len(x) / total), total
    if n < 2:
        raise ValueError(f"features must have two rows at least, got {n}")
    return Statistics(mu, scatter / (n - 1))


@public
def read_statistics(file: str | os.PathLike[str]) -> Statistics:
    """Read a .npz file with `mu` and `sigma`, as pytorch-fid and clean-fid write it.

    Args:
        file: the name of the file.
    Returns:
        The statistics, in float64.
    Raises:
        TypeError: file is no path.
        OSError: there is no such file, or it can't be read.
        ValueError: the file holds something else, or is damaged.
    """
    path = _path(file)
    try:
        with os.fdopen(reading.descriptor(path), "rb") as opened, zipfile.ZipFile(opened) as archive:
            size = sum(each.file_size for each in archive.infolist())
            if size > MOST:
                raise ValueError(f"its arrays take {size} bytes")
            mu, sigma = (np.load(io.BytesIO(archive.read(f"{name}.npy"))) for name in Statistics._fields)
        return _checked(Statistics(mu, sigma), "it")
    except _DAMAGED as error:
        said = " ".join(str(error).strip("'\"").split())
        raise ValueError(f"{path} holds no mu and sigma, as write_statistics writes them: {said}") from error


@public
def write_statistics(values: Statistics, file: str | os.PathLike[str]) -> None:
    """Write a .npz file that pytorch-fid and clean-fid read.

    Args:
        values: what `statistics` gives.
        file: the name of the file, which must end in .npz; an existing file is replaced in one step.
    Raises:
        TypeError: values aren't Statistics, or file is no path.
        ValueError: values have other shapes or aren't finite, or the name doesn't end in .npz.
        OSError: the file can't be written.
    """
    check_type("values", values, Statistics, "Statistics, as statistics(features) makes")
    checked, path = _checked(values, "values"), _path(file)

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as opened:
            np.savez(opened, mu=checked.mu, sigma=checked.sigma)

    atomic.write(path, save)


@public
def fid(real: Statistics | Array, generated: Statistics | Array) -> float:
    """Compute the Fréchet distance of two Gaussians (FID, arXiv:1706.08500, eq. 6).

    ‖μ_r - μ_g‖² + tr Σ_r + tr Σ_g - 2 tr (Σ_r Σ_g)^½. The last trace is the sum of the singular values of Σ_r^½ Σ_g^½,
    which keeps the digits that a root of the product loses. It falls with N, so compare FIDs of equally many pictures.

    Args:
        real: statistics, or features (N, D).
        generated: likewise, with the same D.
    Returns:
        The distance, at least 0 but for rounding.
    Raises:
        TypeError: one of them is neither.
        ValueError: a shape is wrong, or a number isn't finite.
    """
    a, b = (
        _checked(each, name) if isinstance(each, Statistics) else statistics(_features(name, each))
        for name, each in (("real", real), ("generated", generated))
    )
    if len(a.mu) != len(b.mu):
        raise ValueError(f"real and generated must have equally many features, got {len(a.mu)} and {len(b.mu)}")
    mixed = np.linalg.svd(_half(a.sigma).T @ _half(b.sigma), compute_uv=False).sum()
    return float(np.square(a.mu - b.mu).sum() + np.trace(a.sigma) + np.trace(b.sigma) - 2 * mixed)


@public
def kid(real: Array, generated: Array, key: Key, subsets: int = 100, size: int = 1000) -> KID:
    """Compute the kernel distance (KID, arXiv:1801.01401, sec. 4): the unbiased MMD² with k(x, y) = (x·y/D + 1)³.

    Args:
        real: features (N, D).
        generated: features (M, D).
        key: which rows each subset has; subset i is drawn by `fold_in(key, i)`.
        subsets: how many are drawn, at least 1.
        size: of each, without repetition, 2 … min(N, M).
    Returns:
        Mean and standard deviation over the subsets; the mean may be a little below 0.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a shape is wrong, a number isn't finite, or there are fewer rows than `size`.
    """
    x, y = _features("real", real), _features("generated", generated, real)
    if rng.check_key(key).ndim != 1:
        raise ValueError(f"key must be one key, got the shape {key.shape}")
    check_whole("subsets", subsets, 1, 10**6)
    check_whole("size", size, 2, min(len(x), len(y)))
    values = []
    for i in range(subsets):
        draws = np.random.default_rng(rng.fold_in(key, i))
        parts = (each[draws.choice(len(each), size, replace=False)] for each in (x, y))
        values.append(_mmd2(*parts))
    return KID(float(np.mean(values)), float(np.std(values)))


@public
def clip_score(images: Array, texts: Array) -> float:
    """Compute the mean of max(100 cos(image, text), 0) over pairs (CLIPScore, arXiv:2104.08718, with w = 100).

    torchmetrics takes max(…, 0) of the mean, which is the same unless a picture is the opposite of its text.

    Args:
        images: CLIP's features of pictures, (N, D), of any length.
        texts: CLIP's features of their prompts, (N, D), of any length.
    Returns:
        The score, 0 … 100.
    Raises:
        TypeError: one of them is no array of numbers.
        ValueError: the shapes differ, a number isn't finite, or a row is zero.
    """
    x, y = _features("images", images), _features("texts", texts, images)
    if len(x) != len(y):
        raise ValueError(f"images and texts must have equally many rows, got {len(x)} and {len(y)}")
    lengths = [np.linalg.norm(each, axis=1) for each in (x, y)]
    for name, length in zip(("images", "texts"), lengths, strict=True):
        if not length.all():
            raise ValueError(f"{name} must have no row of zeros, got one at {int(np.argmin(length))}")
    cosine = (x * y).sum(1) / (lengths[0] * lengths[1])
    return float(100 * np.maximum(cosine, 0).mean())


@public
def precision_recall(real: Array, generated: Array, k: int = 3) -> PrecisionRecall:
    """Compute improved precision and recall (arXiv:1904.06991, eq. 1 and 2).

    A picture counts where it lies within the ball around one of the other kind that reaches to that one's k-th nearest
    neighbour of its own kind.

    Args:
        real: features (N, D).
        generated: features (M, D).
        k: which neighbour, 1 … min(N, M) - 1.
    Returns:
        Precision, of the generated pictures, and recall, of the real ones, each within [0, 1].
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: a shape is wrong, a number isn't finite, or there are too few rows.
    """
    x, y = _features("real", real), _features("generated", generated, real)
    check_whole("k", k, 1, max(1, min(len(x), len(y)) - 1))
    if min(len(x), len(y)) < 2:
        raise ValueError(f"real and generated must have two rows at least, got {len(x)} and {len(y)}")
    return PrecisionRecall(_covered(y, x, k), _covered(x, y, k))


def _chunks(features: Array | Iterable[Array]) -> Iterator[Array]:
    if hasattr(features, "shape"):
        yield features
    elif isinstance(features, Iterable) and not isinstance(features, (str, bytes, dict)):
        yield from features
    else:
        raise TypeError(f"features must be an array (N, D), or chunks of it, got {kind(features)}")


def _features(name: str, x: object, like: Array | None = None) -> Floats:
    """Features as float64 (N, D), with as many columns as `like`."""
    values = as_numpy(x)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        got = values.dtype if isinstance(values, np.ndarray) else kind(values)
        raise TypeError(f"{name} must be an array of numbers, got {got}")
    columns = "D" if like is None else str(like.shape[-1])
    if values.ndim != 2 or not values.size or (like is not None and values.shape[1] != like.shape[-1]):
        raise ValueError(f"{name} must have the shape (N, {columns}), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, but NaN or infinity is among them")
    return values.astype(np.float64)


def _checked(values: Statistics, name: str) -> Statistics:
    for field, each in values._asdict().items():
        if not isinstance(each, np.ndarray) or each.dtype.kind != "f":
            got = each.dtype if isinstance(each, np.ndarray) else kind(each)
            raise TypeError(f"{name} must hold floating-point arrays, got {got} for {field}")
    mu, sigma = values
    if mu.ndim != 1 or not mu.size or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"{name} must hold mu (D,) and sigma (D, D), got {mu.shape} and {sigma.shape}")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError(f"{name} must hold finite numbers, but NaN or infinity is among them")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if np.abs(sigma - sigma.T).max() > 1e-5 * np.abs(sigma).max() or (np.diagonal(sigma) < 0).any():
        raise ValueError(f"{name} must hold a covariance as sigma, which is symmetric and has no variance below 0")
    return Statistics(mu, (sigma + sigma.T) / 2)


def _path(file: str | os.PathLike[str]) -> Path:
    path = Path(os.path.expanduser(written(file, "file", "a .npz file")))
    if path.suffix != ".npz":
        raise ValueError(f"statistics are stored in a .npz file, got {str(file)!r}")
    return path


def _half(sigma: Floats) -> Floats:
    """L with L Lᵀ = Σ, from its eigenvectors; a rounded Σ may have eigenvalues just below 0."""
    values, vectors = np.linalg.eigh(sigma)
    half: Floats = vectors * np.sqrt(np.maximum(values, 0))
    return half


def _mmd2(x: Floats, y: Floats) -> float:
    """The unbiased estimate of MMD² (arXiv:1801.01401, eq. 4) of as many x as y."""
    m, D = x.shape
    xx, yy, xy = ((a @ b.T / D + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    own = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(own - 2 * xy.mean())


def _covered(points: Floats, centres: Floats, k: int) -> float:
    """The share of points in a ball around a centre that reaches to the centre's k-th neighbour among the centres."""
    radii = np.concatenate([np.partition(near, k, axis=1)[:, k] for near in _distances(centres, centres)])
    inside = [(near <= radii).any(1) for near in _distances(points, centres)]
    return float(np.concatenate(inside).mean())


def _distances(x: Floats, y: Floats) -> Iterator[Floats]:
    """Squared distances of x to y, (n, M) at a time."""
    lengths = np.square(y).sum(1)
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        yield np.maximum(np.square(part).sum(1)[:, None] + lengths - 2 * part @ y.T, 0)
