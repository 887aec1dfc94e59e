"""Layers of small models on a CPU, with NumPy: MindSpore's cost for each operation is more than such a layer's work.

B pictures or prompts, L/M tokens, D width, A heads, K head width, I and O a matrix's inputs and outputs. Weights are
Tensors, all else arrays; everything is float32. Each function but `split` gives memory of its own, which the caller may
change. NumPy makes a product for each of the B, whose last digits depend on its number of rows, but not on the batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from mindspore import Tensor, float32
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ..process import cpus
from ..types import Tree
from . import device
from .precision import precision

Floats = NDArray[np.float32]
T = TypeVar("T")
GELU = math.sqrt(2 / math.pi)


def computes(leaves: Iterable[Any]) -> bool:
    """Whether these layers are for weights: float32 Tensors and nothing more, in float32 arithmetic, on a CPU."""
    exact = device.is_cpu() and precision() == "float32"
    return exact and all(type(leaf) is Tensor and leaf.dtype == float32 for leaf in leaves)


@contextmanager
def threads(tasks: int) -> Iterator[Callable[[Callable[[slice], T], Sequence[slice]], list[T]]]:
    """Give what maps a function over slices, in as many threads as there are CPUs and tasks.

    Products of matrices take one thread each meanwhile, since those that share a product wait for each other by turning
    round, which takes milliseconds where another process uses a CPU. NumPy doesn't warn of what isn't finite, which is
    looked for where the result is used.
    """
    n = min(tasks, len(cpus.allowed() or (0,)))

    def each(f: Callable[[slice], T], parts: Sequence[slice]) -> list[T]:
        return [f(part) for part in parts] if n == 1 else list(pool.map(_quiet(f), parts))

    with _blas().limit(limits=1), np.errstate(all="ignore"), ThreadPoolExecutor(n) as pool:
        yield each


def _quiet(f: Callable[[slice], T]) -> Callable[[slice], T]:
    """f with what NumPy is told not to warn of, which it is told in each thread."""

    def call(part: slice) -> T:
        with np.errstate(all="ignore"):
            return f(part)

    return call


def in_threads(f: Callable[[slice], Floats], n: int) -> Floats:
    """Compute rows 0 … n - 1 in threads, and join them: f(slice of rows) → (rows, …)."""
    parts = min(n, len(cpus.allowed() or (0,)))
    with threads(parts) as each:
        return np.concatenate(each(f, [slice(i * n // parts, (i + 1) * n // parts) for i in range(parts)]))


@functools.cache
def _blas() -> ThreadpoolController:
    """NumPy's library of matrix products, which takes a hundredth of a second to find."""
    return ThreadpoolController().select(user_api="blas")


def linear(p: Tree, x: Floats) -> Floats:
    """x Wᵀ + b: (…, L, I) → (…, L, O), for a weight (O, I) or (O, C, k, k) with C·k·k = I."""
    weight = p["weight"].asnumpy()
    y: Floats = x @ weight.reshape(len(weight), -1).T
    if "bias" in p:
        y += p["bias"].asnumpy()
    return y


def layer_norm(x: Floats, eps: float) -> Floats:
    """(x - mean) / √(variance + ε) over the last axis: (B, L, D)."""
    x = x - x.mean(-1, keepdims=True)
    variance = np.einsum("bld,bld->bl", x, x)[..., None] / np.float32(x.shape[-1])
    x /= np.sqrt(variance + np.float32(eps))
    return x


def rms_norm(p: Tree, x: Floats, eps: float) -> Floats:
    """x / √(mean x² + ε) · weight over the last axis: (B, L, D)."""
    square = np.einsum("bld,bld->bl", x, x)[..., None] / np.float32(x.shape[-1])
    y: Floats = x / np.sqrt(square + np.float32(eps))
    y *= p["weight"].asnumpy()
    return y


def gelu_tanh(x: Floats) -> Floats:
    """x/2 · (1 + tanh u) = x / (1 + exp(-2u)) with u = √(2/π) (x + 0.044715 x³), of any shape."""
    y: Floats = x * x
    y *= np.float32(-2 * 0.044715 * GELU)
    y -= np.float32(2 * GELU)
    y *= x
    np.exp(y, out=y)
    y += np.float32(1)
    np.divide(x, y, out=y)
    return y


def silu(x: Floats) -> Floats:
    """x / (1 + exp(-x)), of any shape."""
    y: Floats = x / (np.float32(1) + np.exp(-x))
    return y


def attend(q: Floats, k: Floats, v: Floats, bias: Floats | None = None) -> Floats:
    """softmax(q kᵀ + bias) v: (B, A, L, K), twice (B, A, M, K), broadcastable to (B, A, L, M) → (B, L, A·K)."""
    scores: Floats = q @ k.swapaxes(2, 3)
    if bias is not None:
        scores += bias
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    joined: Floats = (scores @ v).swapaxes(1, 2).reshape(len(q), q.shape[2], -1)
    return joined


def split(x: Floats, heads: int) -> Floats:
    """(B, L, A·K) → (B, A, L, K), a view."""
    apart: Floats = x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
    return apart
