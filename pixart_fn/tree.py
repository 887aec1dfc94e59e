"""Pytrees: nested dicts, lists and tuples with arrays as leaves. Nothing else knows what a pytree is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .types import Tree


def items(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("a.b.0.c", leaf) in the tree's own order: the names that a checkpoint gives its tensors."""
    children: Iterable[tuple[Any, Any]]
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, (list, tuple)):
        children = enumerate(tree)
    else:
        yield prefix, tree
        return
    for name, child in children:
        yield from items(child, f"{prefix}.{name}" if prefix else str(name))


def leaves(tree: Tree) -> list:
    """The leaves in the order of `items`."""
    return [leaf for _, leaf in items(tree)]


def unflatten(like: Tree, leaves) -> Tree:
    """Rebuild a tree of `like`'s structure from an iterable of leaves in the order of `items`."""
    return _build(like, iter(leaves))


def _build(node: Tree, leaves: Iterator) -> Tree:
    # Not a function inside unflatten: one that calls itself is a cycle, which keeps the leaves until it is collected.
    if isinstance(node, dict):
        return {name: _build(child, leaves) for name, child in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_build(child, leaves) for child in node)
    return next(leaves)


def map(f: Callable, tree: Tree, *rest: Tree) -> Tree:
    """Apply f to each leaf, with the leaves of `rest` at the same place as further arguments."""
    columns = [leaves(tree), *(leaves(other) for other in rest)]
    return unflatten(tree, [f(*row) for row in zip(*columns, strict=True)])


def nest(flat: dict[str, Any]) -> Tree:
    """Turn {"a.0.b": leaf} into {"a": [{"b": leaf}]}: the inverse of `dict(items(tree))`.

    A dict whose keys are 0 … n-1 becomes a list.
    """
    root: dict = {}
    for name, leaf in flat.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            node = node.setdefault(part, {})
        node[last] = leaf

    def lists(node):
        if not isinstance(node, dict):
            return node
        if node and set(node) == {str(i) for i in range(len(node))}:
            return [lists(node[str(i)]) for i in range(len(node))]
        return {name: lists(child) for name, child in node.items()}

    return lists(root)


def size(tree: Tree) -> int:
    """The number of numbers in the tree."""
    total = 0
    for leaf in leaves(tree):
        count = 1
        for n in leaf.shape:
            count *= n
        total += count
    return total
