"""MindSpore's compilation and differentiation: the one place that knows them.

A model is a Python loop over *blocks*: pure functions f(p, *inputs, config) → Tensor or tuple, where p is a tree of
weights. Each is compiled once for a (config, shapes) and serves every layer, so 28 layers cost the compilation of one.

MindSpore returns zeros, silently, when a compiled function that takes a tree is differentiated eagerly. A block
therefore carries its own backward: a second compiled function that recomputes the block and pulls the cotangents
back, which eager autodiff calls. Only the block's inputs are kept in between, as in activation checkpointing.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

import mindspore as ms
from mindspore import Tensor
from mindspore.common._grad_function import _Function
from mindspore.graph.api import _no_grad, _pynative_executor, ms_compile_cache

from . import tree as tree_
from .arithmetic import precision
from .checks import check_switch, kind
from .public import public
from .types import Tree

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


def block(f: Callable) -> Callable:
    """Make f(p, *inputs, config, *tables) a compiled block that eager autodiff goes through correctly.

    Args:
        f: a function in MindSpore's compiled subset of Python. p: a tree of float Tensors; inputs: float Tensors;
           config: a frozen dataclass or None, a constant of the compilation; tables: Tensors that have no gradient.
    Returns: call(p, *inputs, config=None, tables=()).
    """

    @functools.wraps(f)
    def call(p: Tree, *inputs: Tensor, config=None, tables: tuple[Tensor, ...] = ()):
        run, pull = _compiled(f, config, len(inputs), precision())
        if not recording():
            result = run(p, *inputs, *tables)
            _pin_threads()
            return result
        return _Block.apply((run, pull, p, tables), *tree_.leaves(p), *inputs)

    return call


@functools.cache
def _compiled(f: Callable, config, n: int, mode: str) -> tuple[Callable, Callable]:
    """f of n inputs and its pullback, jitted for a precision. The closures hold functions and constants, no Tensors."""

    def run(p, *tensors):
        return f(p, *tensors[:n], config, *tensors[n:])

    def inner(p, cotangents, *tensors):
        outputs = f(p, *tensors[:n], config, *tensors[n:])
        if not isinstance(outputs, tuple):
            outputs = (outputs,)
        total = (outputs[0] * cotangents[0]).sum()
        for i in range(1, len(outputs)):
            total = total + (outputs[i] * cotangents[i]).sum()
        return total

    # MindSpore warns of a recompilation where two functions share a name
    run.__name__ = f"{f.__module__}.{f.__qualname__}({config}, {n}, {mode})"
    gradient = ms.grad(inner, grad_position=(0, *range(2, 2 + n)))

    def pull(p, cotangents, *tensors):
        bars = gradient(p, cotangents, *tensors)
        return _flat(bars)

    pull.__name__ = f"gradient of {run.__name__}"
    return _Graphs(run), _Graphs(pull)


class _Graphs:
    """A jitted function that knows its graphs by their inputs' shapes.

    MindSpore looks a graph up by describing all inputs anew, which on a CPU takes a third of a small block's time.
    """

    def __init__(self, f: Callable):
        self.jitted = ms.jit(f)
        self.phases: dict[tuple, str] = {}

    def __call__(self, *inputs: Tree) -> Any:
        """inputs: Tensors, and trees of Tensors in place of any."""
        signature = [_pynative_executor.requires_grad()]
        usual = all(_describe(each, signature) for each in inputs)
        key = tuple(signature)
        if usual and key in self.phases:
            _pynative_executor.set_jit_compile_phase(self.phases[key])
            return _pynative_executor.grad_jit(*inputs)
        known = set(ms_compile_cache)
        result = self.jitted(*(each if isinstance(each, Tensor) else ms.mutable(each) for each in inputs))
        if usual and len(new := ms_compile_cache - known) == 1:
            self.phases[key] = new.pop()
        return result


def _describe(node: Tree, signature: list) -> bool:
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


def _flat(node):
    """`tree.leaves` as MindSpore compiles it: a dict that leaves a graph would be made by calls of Python."""
    if isinstance(node, Tensor):
        return (node,)
    leaves = ()
    for child in node.values() if isinstance(node, dict) else node:
        leaves = leaves + _flat(child)
    return leaves


class _Block(_Function):
    """The node that a block leaves on the eager tape."""

    @staticmethod
    def forward(ctx, compiled, *tensors):
        run, _, like, tables = compiled
        ctx.compiled = compiled
        ctx.save_for_backward(*tensors)
        p, inputs = _split(like, tensors)
        with _no_grad():  # or MindSpore builds a gradient graph of its own
            outputs = run(p, *inputs, *tables)
        _pin_threads()
        return outputs

    @staticmethod
    def backward(ctx, *cotangents):
        refuse_recording("the gradient of a compiled block", "second derivatives would be silent zeros")
        _, pull, like, tables = ctx.compiled
        p, inputs = _split(like, ctx.saved_tensors)
        with _no_grad():
            return None, *pull(p, cotangents, *inputs, *tables)


def _split(like: Tree, tensors: tuple) -> tuple[Tree, tuple]:
    n = len(tree_.leaves(like))
    return tree_.unflatten(like, tensors[:n]), tensors[n:]


def function(f: Callable) -> Callable:
    """Compile f(*Tensors) → tuple of Tensors, for work that nobody differentiates: an optimiser's step."""
    run = ms.jit(f)

    @functools.wraps(f)
    def call(*tensors: Tensor):
        refuse_recording(f.__name__, "call it outside value_and_grad")
        return run(*tensors)

    return call


@functools.cache
def _pin_threads() -> None:
    """Give each of MindSpore's worker threads a CPU of its own, once they run.

    Linux wakes the second worker on the CPU of the first, where both share it for milliseconds: on two cores a quarter
    of all kernels ran at half speed. Where there are more CPUs than workers, nothing is done.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cpus, tasks = sorted(os.sched_getaffinity(0)), Path("/proc/self/task")
    with contextlib.suppress(OSError):  # a thread of the user's that ends meanwhile
        names = {int(task.name): (task / "comm").read_text() for task in tasks.iterdir()}
        workers = sorted(task for task, name in names.items() if name.startswith(("ActorThread", "KernelThread")))
        if len(workers) == len(cpus):
            for task, cpu in zip(workers, cpus, strict=True):
                os.sched_setaffinity(task, {cpu})


def compilations() -> int:
    """How many graphs this process has compiled."""
    return len(ms_compile_cache)


def recording() -> bool:
    """Whether eager autodiff is recording."""
    return _pynative_executor.grad_flag()


@overload
def value_and_grad(
    f: Callable[Concatenate[T, P], Tensor], has_aux: Literal[False] = False
) -> Callable[Concatenate[T, P], tuple[Tensor, T]]: ...
@overload
def value_and_grad(
    f: Callable[Concatenate[T, P], tuple[Tensor, A]], has_aux: Literal[True]
) -> Callable[Concatenate[T, P], tuple[tuple[Tensor, A], T]]: ...
@public
def value_and_grad(
    f: Callable[..., Tensor | tuple[Tensor, A]], has_aux: bool = False
) -> Callable[..., tuple[Tensor | tuple[Tensor, A], Tree]]:
    """The value of f and its gradient with respect to its first argument, a tree.

    Args:
        f: (tree, *args, **kwargs) → scalar Tensor, or (scalar, aux) where `has_aux`; any composition of this
           package's functions and MindSpore's eager ones. The tree's leaves are float Tensors.
    Returns: a function of f's signature → (value, gradients), or ((value, aux), gradients); the gradients have the
        tree's structure, and zeros where the value doesn't depend on a leaf.
    Raises:
        TypeError: f isn't a function, or a leaf isn't a float Tensor. ValueError: the value isn't a scalar.
    """
    if not callable(f):
        raise TypeError(f"value_and_grad needs a function, got {kind(f)}; call it as value_and_grad(f)(tree)")

    check_switch("has_aux", has_aux)

    def value_and_gradient(tree: Tree, *args: Any, **kwargs: Any) -> Any:
        leaves = tree_.leaves(tree)
        if not leaves:
            raise ValueError("value_and_grad needs a tree with at least one leaf, got none")
        for name, leaf in tree_.items(tree):
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                raise TypeError(
                    f"value_and_grad needs float Tensors as leaves, got {_kind(leaf)} at {name or 'the root'!r}"
                )
        aux = []

        def flat(*leaves):
            value = f(tree_.unflatten(tree, leaves), *args, **kwargs)
            if has_aux:
                value, extra = value
                aux.append(extra)
            if not isinstance(value, Tensor) or value.size != 1:
                raise ValueError(
                    f"value_and_grad needs a function with a scalar Tensor as its value, got {_kind(value)}"
                )
            return value

        try:
            value, gradients = ms.value_and_grad(flat, tuple(range(len(leaves))))(*leaves)
        except BaseException:
            _pynative_executor.clear_res()  # or MindSpore would go on recording after an error
            raise
        # MindSpore gives the gradient of a single argument without a tuple around it
        gradients = tree_.unflatten(tree, (gradients,) if isinstance(gradients, Tensor) else gradients)
        return ((value, aux[0]), gradients) if has_aux else (value, gradients)

    return value_and_gradient


@public
def grad(f: Callable[Concatenate[T, P], Tensor]) -> Callable[Concatenate[T, P], T]:
    """The gradient alone of `value_and_grad`."""

    def gradient(tree: T, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return value_and_grad(f)(tree, *args, **kwargs)[1]

    return gradient


def refuse_recording(what: str, instead: str) -> None:
    """Raise where a result leaves the differentiable world, instead of letting the gradient be a silent zero."""
    if recording():
        raise RuntimeError(f"{what} can't be differentiated; {instead}")


def _kind(x) -> str:
    return f"{x.dtype} {x.shape}" if isinstance(x, Tensor) else type(x).__name__
