"""Gradients of functions of trees, by MindSpore's eager autodiff."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

import mindspore as ms
from mindspore import Tensor

from .. import tree as tree_
from ..checks import check_switch, kind
from ..process.lock import exclusive
from ..public import public
from ..types import Tree
from .private import RECORDERS, executor

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


def recording() -> bool:
    """Whether eager autodiff is recording.

    MindSpore goes on recording after an error in a function that a user differentiates, and after a Cell with
    `set_grad()` has run alone. Where no function of RECORDERS runs in any thread, that is ended here.
    """
    if not executor.grad_flag():
        return False
    if any(_is_recorded(frame) for frame in sys._current_frames().values()):
        return True
    executor.clear_res()
    return False


def _is_recorded(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_globals.get("__name__") not in RECORDERS:
        frame = frame.f_back
    return frame is not None


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
    """Turn f into a function that gives its value and its gradient with respect to its first argument, a tree.

    Reverse-mode differentiation by MindSpore's eager tape; each compiled block adds one node to it (see `jit`).

    Args:
        f: (tree, *args, **kwargs) → scalar Tensor, or (scalar, aux) where `has_aux` is true; any composition of this
            package's functions and MindSpore's eager ones. The tree's leaves are float Tensors.
        has_aux: whether f gives a second value, which isn't differentiated and comes back as it is.
    Returns:
        A function of f's arguments → (value, gradients), or ((value, aux), gradients). The gradients have the tree's
        structure, and are zero where the value doesn't depend on a leaf.
    Raises:
        TypeError: f isn't a function, has_aux isn't a bool, or, when it is called, a leaf isn't a float Tensor.
        ValueError: when it is called, the tree has no leaf, or the value isn't a scalar Tensor.
    """
    if not callable(f):
        raise TypeError(f"value_and_grad needs a function, got {kind(f)}; call it as value_and_grad(f)(tree)")
    check_switch("has_aux", has_aux)

    @exclusive
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

        def flat(*leaves: Tensor) -> Tensor:
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
            executor.clear_res()  # or MindSpore would go on recording after an error
            raise
        # MindSpore gives the gradient of a single argument without a tuple around it
        gradients = tree_.unflatten(tree, (gradients,) if isinstance(gradients, Tensor) else gradients)
        return ((value, aux[0]), gradients) if has_aux else (value, gradients)

    return value_and_gradient


@public
def grad(f: Callable[Concatenate[T, P], Tensor]) -> Callable[Concatenate[T, P], T]:
    """Turn f into a function that gives only the gradient of `value_and_grad`.

    Args:
        f: (tree, *args, **kwargs) → scalar Tensor.
    Returns:
        A function of f's arguments → gradients, of the tree's structure.
    Raises:
        TypeError, ValueError: when it is called, as `value_and_grad`.
    """

    def gradient(tree: T, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return value_and_grad(f)(tree, *args, **kwargs)[1]

    return gradient


def refuse_recording(what: str, instead: str) -> None:
    """Raise where a result can't be differentiated and autodiff is recording: its gradient would be a silent zero.

    Args:
        what: the result, as the sentence begins.
        instead: what can be differentiated, or what to do.
    Raises:
        RuntimeError: eager autodiff is recording.
    """
    if recording():
        raise RuntimeError(f"{what} can't be differentiated; {instead}")


def _kind(x: object) -> str:
    return f"{x.dtype} {x.shape}" if isinstance(x, Tensor) else type(x).__name__
