"""Layers on a CPU, with NumPy: MindSpore's cost for each operation is more than a small model's work.

One picture or prompt at a time, since a product's last digits depend on its number of rows. L/M tokens, D width, A
heads, K head width, I and O a matrix's inputs and outputs. Everything is float32; weights are what `arrays` gives. Each
function but `split` gives memory of its own, which the caller may change.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
from mindspore import Tensor, float32
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from .. import tree
from ..process import cpus
from ..process.threads import shared
from ..types import Tree
from . import device
from .precision import precision

Floats = NDArray[np.float32]
P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
GELU = math.sqrt(2 / math.pi)


def computes(leaves: Iterable[Any]) -> bool:
    """Whether these layers are for weights: float32 Tensors and nothing more, in float32 arithmetic, on a CPU."""
    exact = device.is_cpu() and precision() == "float32"
    return exact and all(type(leaf) is Tensor and leaf.dtype == float32 for leaf in leaves)


def arrays(p: Tree) -> Tree:
    """A tree's weights as NumPy sees them, in the same memory. Asking a Tensor for them takes 15 µs, so ask once."""
    return tree.map(lambda leaf: leaf.asnumpy(), p)


@contextmanager
def threads(tasks: int) -> Iterator[Callable[[Callable[[S], T], Sequence[S]], list[T]]]:
    """Give what maps a function over a sequence in as many threads as there are CPUs and tasks, the caller among them.

    Products of matrices take one thread each meanwhile, since those that share a product wait for each other by turning
    round, which takes milliseconds where another process uses a CPU. NumPy doesn't warn of what isn't finite, which is
    looked for where the result is used.
    """
    n = min(tasks, len(cpus.allowed() or (0,)))
    with _blas().limit(limits=1), np.errstate(all="ignore"), shared(n) as each:
        yield lambda f, parts: each(quiet(f), parts)  # each thread is told for itself


def quiet(f: Callable[P, T]) -> Callable[P, T]:
    """f without NumPy's warnings of what isn't finite."""

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with np.errstate(all="ignore"):  # as a decorator, NumPy 1's mixes up threads
            return f(*args, **kwargs)

    return call


def in_threads(f: Callable[[int], Floats], n: int) -> Floats:
    """Compute rows 0 … n - 1 in threads, and stack them: f(row) → (…)."""
    with threads(n) as each:
        return np.stack(each(f, range(n)))


@functools.cache
def _blas() -> ThreadpoolController:
    """NumPy's library of matrix products, which takes a hundredth of a second to find."""
    return ThreadpoolController().select(user_api="blas")


def linear(p: Tree, x: Floats) -> Floats:
    """x Wᵀ + b: (L, I) → (L, O), for a weight (O, I) or (O, C, k, k) with C·k·k = I."""
    weight = p["weight"]
    y: Floats = x @ weight.reshape(len(weight), -1).T
    if "bias" in p:
        y += p["bias"]
    return y


def layer_norm(x: Floats, eps: float) -> Floats:
    """(x - mean) / √(variance + ε) over the last axis: (L, D)."""
    x = x - x.mean(-1, keepdims=True)
    x *= _over_root(x, eps)
    return x


def rms_norm(p: Tree, x: Floats, eps: float) -> Floats:
    """x / √(mean x² + ε) · weight over the last axis: (L, D)."""
    y: Floats = x * _over_root(x, eps)
    y *= p["weight"]
    return y


def _over_root(x: Floats, eps: float) -> Floats:
    """1 / √(mean x² + ε) over the last axis: (L, D) → (L, 1)."""
    square = np.einsum("ld,ld->l", x, x)[:, None] / np.float32(x.shape[-1])
    inverse: Floats = np.float32(1) / np.sqrt(square + np.float32(eps))
    return inverse


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


def softmax(x: Floats) -> Floats:
    """exp(x) / Σ exp(x) over the last axis, of any shape; this changes x."""
    x -= x.max(-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(-1, keepdims=True)
    return x


def attend(q: Floats, k: Floats, v: Floats, bias: Floats | None = None) -> Floats:
    """softmax(q kᵀ + bias) v: (A, L, K), twice (A, M, K), and (A, L, M) → (L, A·K)."""
    scores: Floats = q @ k.swapaxes(1, 2)
    if bias is not None:
        scores += bias
    joined: Floats = (softmax(scores) @ v).swapaxes(0, 1).reshape(q.shape[1], -1)
    return joined


def split(x: Floats, heads: int) -> Floats:
    """(L, A·K) → (A, L, K), a view."""
    apart: Floats = x.reshape(len(x), heads, -1).swapaxes(0, 1)
    return apart
