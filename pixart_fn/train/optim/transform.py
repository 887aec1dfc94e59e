"""Transformations of gradients: pairs of pure functions over trees, joined by `chain`, as in optax.

They run on the host in NumPy, with one thread for each leaf. A leaf goes through all transformations that allow it in
pieces that fit into the cache, where NumPy needs a third of the time of MindSpore's CPU operations, and NumPy releases
Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...checks import check_function, check_number, check_switch, check_type, kind
from ...public import public
from ...types import Tree
from . import leaves
from .leaves import Leaf, LeafwiseState, Rule

__all__ = ["Transformation", "apply_updates", "chain", "leafwise", "step"]


class Transformation(NamedTuple):
    """A pair of pure functions that turn gradients into updates, which are added to the parameters.

    One of your own needs `init` and `update` alone, and is called without `donate` within a chain.

    Args:
        init: params → state, a tree of NumPy arrays and whole numbers, which `px.tree.items` names.
        update: (updates, state, params, donate=False) → (updates, state). The leaves of `updates` are Tensors or arrays
            of the parameters' names and shapes, and the new ones float32 arrays. Nothing given is changed, unless
            `donate` is True: then the arrays of `updates` and `state` may be overwritten, with the same numbers.
        rule: how it treats one leaf, where it was made by `leafwise`.
        parts: what it is a chain of, where it was made by `chain`.
    """

    init: Callable[[Tree], Tree]
    update: Callable[..., tuple[Tree, Tree]]
    rule: Rule | None = None
    parts: tuple[Transformation, ...] = ()


@public
def leafwise(
    init_leaf: Callable[[Leaf, NDArray[np.float32]], Tree] | None,
    update_leaf: Callable[..., tuple[NDArray[np.float32], Tree]],
    prepare: Callable[[Tree], object] | None = None,
    elementwise: bool = False,
) -> Transformation:
    """Make a transformation from functions of one leaf.

    Args:
        init_leaf: (leaf, p) → the state of a leaf, a NamedTuple or dict of new arrays, or one; None for no state.
            `leaf` is a `Leaf`, the name and the shape.
        update_leaf: (leaf, g, state, p, step, shared) → (u, state), called in a thread for each leaf. It owns `g` and
            the arrays of `state`, float32, and may write u and the new state into them; it mustn't change `p`. `step`
            is the number of steps before this one.
        prepare: updates → shared, for what depends on the whole tree, such as its norm; None gives None.
        elementwise: whether each number of u and of the state depends on the numbers at the same place alone. Then a
            large leaf comes in pieces, and each array of the state must have the leaf's shape; `leaf.shape` is that of
            the whole.
    Returns:
        The transformation. Its state is LeafwiseState(step, leaves), where the parameters' tree has the state of each
        leaf in its place.
    Raises:
        TypeError: an argument isn't as described above.
    """
    if init_leaf is not None:
        check_function("init_leaf", init_leaf, "leaf, p")
    check_function("update_leaf", update_leaf, "leaf, g, state, p, step, shared")
    if prepare is not None:
        check_function("prepare", prepare, "updates")
    check_switch("elementwise", elementwise)
    rule = Rule(init_leaf, update_leaf, prepare, bool(elementwise))

    def update(updates: Tree, state: Tree, params: Tree, donate: bool = False) -> tuple[Tree, Tree]:
        check_switch("donate", donate)
        changed, (new,) = leaves.transform([rule], updates, [state], params, donate)
        return changed, new

    return Transformation(lambda params: leaves.start(rule, params), update, rule)


@public
def chain(*transformations: Transformation) -> Transformation:
    """Make the transformation that applies several in turn: the updates of one are the gradients of the next.

    Neighbours that treat one leaf at a time are done in one pass over the leaves. The chain of a chain and others is
    the chain of its parts.

    Args:
        transformations: at least one.
    Returns:
        The transformation. Its state is a tuple of the states of its parts.
    Raises:
        TypeError: one isn't a Transformation.
        ValueError: there is none.
    Example:
        >>> optim = px.train.optim
        >>> optimiser = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-4))
    """
    for i, each in enumerate(transformations):
        check_type(f"transformations[{i}]", each, Transformation, "a Transformation")
    if not transformations:
        raise ValueError("transformations must be at least one Transformation, got none")
    parts = tuple(part for each in transformations for part in _parts(each))

    def update(updates: Tree, state: Tree, params: Tree, donate: bool = False) -> tuple[Tree, Tree]:
        check_switch("donate", donate)
        states, done = _states(parts, state), list[Tree]()
        for segment in _segments(parts):
            updates, new = _updated(segment, updates, states[len(done) :], params, donate)
            done += new
        return updates, tuple(done)

    return Transformation(lambda params: tuple(part.init(params) for part in parts), update, None, parts)


@public
def apply_updates(params: Tree, updates: Tree, donate: bool = False) -> Tree:
    """Add updates to parameters.

    Args:
        params: a tree of float32 Tensors or arrays.
        updates: a tree of the same names and shapes, from a transformation.
        donate: whether the memory of `params` may be overwritten, which mustn't be used afterwards then.
    Returns:
        The new parameters, Tensors where they were Tensors.
    Raises:
        TypeError: a leaf isn't a Tensor or array of such numbers.
        ValueError: the trees differ in names or shapes.
    """
    check_switch("donate", donate)
    return leaves.step([], updates, [], params, leaves.Tail(), donate)[0]


@public
def step(
    transformation: Transformation,
    params: Tree,
    gradients: Tree,
    state: Tree,
    ema: Transformation | None = None,
    ema_state: Tree = None,
    donate: bool = False,
    norm: float | None = None,
) -> tuple[Tree, Tree, Tree]:
    """Take one step: params + update(gradients), and the parameters' moving average.

    The result is that of `update`, `apply_updates` and the `update` of `ema`, but it takes less memory: the last pass
    of the transformation, the sum and the average are computed leaf by leaf. With `donate`, and if the transformation
    has only one pass, it takes no memory beside its arguments except one leaf for each thread.

    Args:
        transformation: from gradients to updates.
        params: a tree of float32 Tensors or arrays.
        gradients: a tree of the same names and shapes.
        state: of the transformation, from its `init` or the step before.
        ema: of the parameters, such as `ema(0.9999)`; None for none.
        ema_state: its state.
        donate: whether the memory of params, gradients and states may be overwritten, which mustn't be used afterwards
            then. The numbers are the same. What isn't writeable, as a file's mapped weights aren't, is copied.
        norm: the gradients' `global_norm`, where it is known already: a chain that begins with `clip_by_global_norm`
            doesn't compute it again then.
    Returns:
        The new parameters, Tensors where they were Tensors, the new state, and the new state of `ema`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the trees differ in names or shapes.
    """
    check_type("transformation", transformation, Transformation, "a Transformation")
    check_switch("donate", donate)
    check_type("ema", ema, (Transformation, type(None)), "a Transformation or None")
    if ema is None and ema_state is not None:
        raise ValueError(f"ema_state must be None where ema is None, got {kind(ema_state)}")
    if ema and ema.rule:
        check_type("ema_state", ema_state, LeafwiseState, "what the init of ema or the step before gave")
    if norm is not None:
        check_number("norm", norm, 0)
    parts = _parts(transformation)
    states, done = _states(parts, state if transformation.parts else (state,)), list[Tree]()
    segments = _segments(parts)
    last = segments.pop() if segments[-1][0].rule else ()
    updates: Tree = gradients
    for segment in segments:
        updates, new = _updated(segment, updates, states[len(done) :], params, donate, norm)
        done, norm = [*done, *new], None
    fused = ema.rule if ema and ema.rule and not ema.rule.prepare else None
    rules, tail = [part.rule for part in last if part.rule], leaves.Tail(fused, ema_state)
    params, new, averaged = leaves.step(rules, updates, states[len(done) :], params, tail, donate, norm)
    if ema and not fused:
        _, averaged = ema.update(params, ema_state, params)
    done += new
    return params, tuple(done) if transformation.parts else done[0], averaged


def _parts(transformation: Transformation) -> tuple[Transformation, ...]:
    return transformation.parts or (transformation,)


def _states(parts: tuple[Transformation, ...], state: Tree) -> list[Tree]:
    """The states of a chain's parts, checked."""
    if not isinstance(state, (tuple, list)) or len(state) != len(parts):
        got = f"{len(state)} states" if isinstance(state, (tuple, list)) else kind(state)
        raise TypeError(f"state must be a tuple of the states of the chain's {len(parts)} parts, got {got}")
    return list(state)


def _segments(parts: tuple[Transformation, ...]) -> list[tuple[Transformation, ...]]:
    """Group neighbours that can go through a leaf together: none but the first may need the whole tree."""
    segments: list[tuple[Transformation, ...]] = []
    for part in parts:
        if segments and part.rule and not part.rule.prepare and segments[-1][0].rule:
            segments[-1] = (*segments[-1], part)
        else:
            segments.append((part,))
    return segments


def _updated(
    segment: tuple[Transformation, ...],
    updates: Tree,
    states: list[Tree],
    params: Tree,
    donate: bool,
    norm: float | None = None,
) -> tuple[Tree, list[Tree]]:
    """Apply the parts of a segment, whose states come first in `states`."""
    rules = [part.rule for part in segment if part.rule]
    if rules:
        return leaves.transform(rules, updates, states[: len(rules)], params, donate, norm)
    updates, state = segment[0].update(updates, states[0], params)  # without donate, which a user's may not know
    return updates, [state]
