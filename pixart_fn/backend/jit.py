"""Compilation: pure functions become graphs of MindSpore's that gradients go through.

A model is a Python loop over *blocks*: pure functions f(p, *inputs, config) → Tensor or tuple, where p is a tree of
weights. Each is compiled once for a (config, shapes) and serves every layer, so 28 layers cost the compilation of one.

MindSpore returns zeros, silently, when a compiled function that takes a tree is differentiated eagerly. A block
therefore carries its own backward: a second compiled function that recomputes the block and pulls the cotangents
back, which eager autodiff calls. Only the block's inputs are kept in between, as in activation checkpointing.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar, overload

import mindspore as ms
from mindspore import Tensor

from .. import tree as tree_
from ..process.signals import deferred
from ..types import Tree
from . import device
from .autodiff import recording, refuse_recording
from .precision import precision
from .private import Function, compile_cache, executor, no_grad

T = TypeVar("T")
FIRST_CALLS = 96
"""How often a small block runs on a CPU before it is compiled. Its operations are the same ones then, and so are all
bits, but each is called from Python, which takes a few milliseconds a block where a compilation takes some tenths of a
second: a process that draws one picture needs few graphs."""
GRADIENT = 1 / 4
"""The share of them after which a gradient is compiled, whose operations gain more by it."""
SMALL = 2**22
"""The most numbers in the weights and the inputs of a small block."""


@overload
def block(f: Callable[..., T]) -> Callable[..., T]: ...
@overload
def block(f: Callable[..., Any], pull: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]: ...
def block(f: Callable[..., Any], pull: Callable[..., tuple[Any, ...]] | None = None) -> Callable[..., Any]:
    """Make f(p, *inputs, config, *tables) a compiled block that eager autodiff goes through correctly.

    Args:
        f: a function in MindSpore's compiled subset of Python, from these to a Tensor or a tuple of Tensors:
            p, a tree of float Tensors;
            inputs, each a float Tensor or a tuple of float Tensors;
            config, a frozen dataclass or None, which is a constant of the compilation;
            tables, Tensors without a gradient.
        pull: f's gradient, where it is written by hand: (p, inputs, kept, cotangent, config, *tables) → (gradients of p
            as a tree like p, gradients of each input). f then gives (Tensor, kept), where `kept` is a tuple of Tensors
            that the gradient needs.
    Returns:
        call(p, *inputs, config=None, tables=(), recompute=True). With a gradient by hand, recompute=False keeps what it
        needs until then, where the block is otherwise computed once more.
    """

    @functools.wraps(f)
    def call(
        p: Tree,
        *inputs: Tensor | tuple[Tensor, ...],
        config: Hashable = None,
        tables: tuple[Tensor, ...] = (),
        recompute: bool = True,
    ) -> Any:
        graphs = _compiled(f, pull, config, len(inputs), precision())
        if not recording():
            return graphs.run(p, *inputs, *tables)
        # numbers in place of the inputs, which would otherwise stay in memory as long as the tape does
        like = (p, *(tuple(range(len(each))) if isinstance(each, tuple) else 0 for each in inputs))
        keep = pull is not None and not recompute
        return _Block.apply((graphs, keep, like, tables), *tree_.leaves((p, *inputs)))

    return call


class _Compiled(NamedTuple):
    """The graphs of a block; each is compiled when it is first called."""

    run: _Graphs
    pull: _Graphs
    """(p, cotangents, *inputs, *tables) → gradients."""
    keep: _Graphs | None = None
    """(p, *inputs, *tables) → (output, *kept)."""
    pull_kept: _Graphs | None = None
    """(p, cotangents, kept, *inputs, *tables) → gradients."""


@functools.cache
def _compiled(
    f: Callable[..., Any], own: Callable[..., tuple[Any, ...]] | None, config: Hashable, n: int, mode: str
) -> _Compiled:
    """f of n inputs and its pullback, jitted for a precision. The closures hold functions and constants, no Tensors."""
    # MindSpore warns of a recompilation where two functions share a name
    name = f"{f.__module__}.{f.__qualname__}({config}, {n}, {mode})"
    if own is not None:
        return _by_hand(f, own, config, n, name)

    def run(p: Tree, *tensors: Any) -> Any:
        return f(p, *tensors[:n], config, *tensors[n:])

    def inner(p: Tree, cotangents: tuple[Tensor, ...], *tensors: Any) -> Tensor:
        outputs = f(p, *tensors[:n], config, *tensors[n:])
        if not isinstance(outputs, tuple):
            outputs = (outputs,)
        total = (outputs[0] * cotangents[0]).sum()
        for i in range(1, len(outputs)):
            total = total + (outputs[i] * cotangents[i]).sum()
        return total

    gradient = ms.grad(inner, grad_position=(0, *range(2, 2 + n)))

    def pull(p: Tree, cotangents: tuple[Tensor, ...], *tensors: Any) -> tuple[Tensor, ...]:
        return _flat(gradient(p, cotangents, *tensors))

    return _Compiled(_Graphs(run, name), _Graphs(pull, f"gradient of {name}", early=0))


def _by_hand(
    f: Callable[..., Any], own: Callable[..., tuple[Any, ...]], config: Hashable, n: int, name: str
) -> _Compiled:
    """The same where the gradient is written by hand."""

    def run(p: Tree, *tensors: Any) -> Any:
        return f(p, *tensors[:n], config, *tensors[n:])[0]

    def keep(p: Tree, *tensors: Any) -> tuple[Tensor, ...]:
        y, kept = f(p, *tensors[:n], config, *tensors[n:])
        return (y, *kept)

    def pull(p: Tree, cotangents: tuple[Tensor, ...], *tensors: Any) -> tuple[Tensor, ...]:
        _, kept = f(p, *tensors[:n], config, *tensors[n:])
        return pull_kept(p, cotangents, kept, *tensors)

    def pull_kept(
        p: Tree, cotangents: tuple[Tensor, ...], kept: tuple[Tensor, ...], *tensors: Any
    ) -> tuple[Tensor, ...]:
        inputs = tensors[:n]
        return _flat_like((p, *inputs), own(p, inputs, kept, cotangents[0], config, *tensors[n:]))

    return _Compiled(
        _Graphs(run, name),
        _Graphs(pull, f"gradient of {name}", GRADIENT),
        _Graphs(keep, f"keeping {name}"),
        _Graphs(pull_kept, f"kept gradient of {name}", GRADIENT),
    )


class _Graphs:
    """A jitted function that knows its graphs by their inputs' shapes.

    MindSpore looks a graph up by describing all inputs anew, which on a CPU takes a third of a small block's time.

    Args:
        f: the function.
        name: what MindSpore calls it.
        early: the share of FIRST_CALLS that runs as Python; 0 where MindSpore derives a gradient, for which it needs a
            graph within a backward pass.
    """

    def __init__(self, f: Callable[..., Any], name: str, early: float = 1.0) -> None:
        f.__name__ = name
        self.f, self.jitted, self.early = f, ms.jit(f), early
        self.phases: dict[tuple[object, ...], str] = {}
        self.calls: Counter[tuple[object, ...]] = Counter()

    def __call__(self, *inputs: Tree) -> Any:
        """inputs: Tensors, and trees of Tensors in place of any. The first calls of a small block don't compile it."""
        signature: list[object] = [executor.requires_grad()]
        usual = all(_describe(each, signature) for each in inputs)
        key = tuple(signature)
        if usual and key in self.phases:
            executor.set_jit_compile_phase(self.phases[key])
            return executor.grad_jit(*inputs)
        if usual and self.calls[key] < self.early * FIRST_CALLS and _is_small(key) and device.is_cpu():
            self.calls[key] += 1
            return self.f(*inputs)
        known = set(compile_cache)
        with deferred():  # MindSpore would print pages about an interrupted compilation
            result = self.jitted(*(each if isinstance(each, Tensor) else ms.mutable(each) for each in inputs))
        if usual and len(new := compile_cache - known) == 1:
            self.phases[key] = new.pop()
        return result


def _is_small(signature: tuple[object, ...]) -> bool:
    return sum(math.prod(each) for each in signature if isinstance(each, tuple)) <= SMALL


def _describe(node: Tree, signature: list[object]) -> bool:
    """Add all that a compilation depends on; False for a leaf that is more than a Tensor, as a Parameter is."""
    if type(node) is Tensor:
        signature += (node.shape, node.dtype)
        return True
    if not isinstance(node, (dict, list, tuple)):
        return False
    signature += ("dict" if isinstance(node, dict) else "tuple" if isinstance(node, tuple) else "list", len(node))
    if isinstance(node, dict):
        signature += node
        node = node.values()
    return all(_describe(child, signature) for child in node)


def _flat(node: Tree) -> tuple[Tensor, ...]:
    """`tree.leaves` as MindSpore compiles it: a dict that leaves a graph would be made by calls of Python."""
    if isinstance(node, Tensor):
        return (node,)
    leaves: tuple[Tensor, ...] = ()
    for child in node.values() if isinstance(node, dict) else node:
        leaves = leaves + _flat(child)
    return leaves


def _flat_like(like: Tree, node: Tree) -> tuple[Tensor, ...]:
    """`_flat`, in the order of another tree of the same names."""
    if isinstance(like, Tensor):
        return (node,)
    leaves: tuple[Tensor, ...] = ()
    if isinstance(like, dict):
        for name, child in like.items():
            leaves = leaves + _flat_like(child, node[name])
    else:
        for i in range(len(like)):
            leaves = leaves + _flat_like(like[i], node[i])
    return leaves


class _Block(Function):
    """The node that a block leaves on the eager tape."""

    @staticmethod
    def forward(ctx: Any, compiled: tuple[Any, ...], *tensors: Tensor) -> Any:
        graphs, keep, like, tables = compiled
        ctx.compiled = compiled
        p, *inputs = tree_.unflatten(like, tensors)
        with no_grad():  # or MindSpore builds a gradient graph of its own
            if not keep:
                ctx.save_for_backward(*tensors)
                return graphs.run(p, *inputs, *tables)
            output, *kept = graphs.keep(p, *inputs, *tables)
        ctx.save_for_backward(*tensors, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        refuse_recording("the gradient of a compiled block", "second derivatives would be silent zeros")
        graphs, keep, like, tables = ctx.compiled
        n = len(tree_.paths(like))
        p, *inputs = tree_.unflatten(like, ctx.saved_tensors[:n])
        with no_grad():
            if not keep:
                return None, *graphs.pull(p, cotangents, *inputs, *tables)
            return None, *graphs.pull_kept(p, cotangents, tuple(ctx.saved_tensors[n:]), *inputs, *tables)


def compilations() -> int:
    """How many graphs this process has compiled."""
    return len(compile_cache)
