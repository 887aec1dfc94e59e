"""MindSpore's eager differentiation, of functions of trees: the one place that knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

import mindspore as ms
from mindspore import Tensor
from mindspore.graph.api import _pynative_executor

from .. import tree as tree_
from ..checks import check_switch, kind
from ..public import public
from ..types import Tree

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


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
