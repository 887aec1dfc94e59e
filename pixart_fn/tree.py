"""Pytrees: nested dicts, lists, tuples and NamedTuples with arrays as leaves.

The children of a dict and of a NamedTuple have names, and their order doesn't matter. An object whose class lists
subtrees in `TREES` and has a method `replace`, as `px.Params` does, is a tree too. None is a tree without leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from .checks import check_function, check_type, first_few
from .types import Tree

T = TypeVar("T")

DEEPEST = 200
"""Levels of a tree at most, so that a list that holds itself is a sentence."""


class Weights(dict[str, Any]):
    """A dict with a short repr: what `nest` makes, so that a model's weights can be looked at in a notebook."""

    def __repr__(self) -> str:
        shown = [f"{name}: {_summary(child)}" for name, child in self.items()]
        return f"Weights({size(self):,} numbers; {first_few(shown)})"


class Layers(list[Any]):
    """A list with a short repr, which `nest` makes too."""

    def __repr__(self) -> str:
        return f"Layers({size(self):,} numbers; {first_few([_summary(child) for child in self], 2)})"


def items(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Tree]]:
    """Yield ("a.b.0.c", leaf) in the tree's own order: the names that a checkpoint gives its tensors.

    Args:
        tree: of any leaves.
        prefix: goes before each name, with a dot.
    Yields:
        (name, leaf).
    Raises:
        ValueError: two keys of a dict have the same name, or one is empty or holds a dot; or the tree has more than
            DEEPEST levels.
    Example:
        >>> list(px.tree.items({"x": 1, "y": [2, 3]}))
        [('x', 1), ('y.0', 2), ('y.1', 3)]
    """
    check_type("prefix", prefix, str, "a string")
    found: list[tuple[str, Tree]] = []
    _collect(tree, prefix, 0, found)
    yield from found


def _collect(node: Tree, path: str, level: int, found: list[tuple[str, Tree]]) -> None:
    children = _children(node, path, level)
    if children is None:
        found.append((path, node))
        return
    for name, child in children.items():
        _collect(child, _joined(path, name), level + 1, found)


def leaves(tree: Tree) -> list[Tree]:
    """List the leaves in the order of `items`.

    Args:
        tree: of any leaves.
    Returns:
        The leaves.
    """
    return [leaf for _, leaf in items(tree)]


def paths(tree: Tree) -> list[str]:
    """List the names of the leaves in the order of `items`.

    Args:
        tree: of any leaves.
    Returns:
        The names, such as "a.b.0.c".
    """
    return [name for name, _ in items(tree)]


def unflatten(like: Tree, leaves: Iterable[Tree]) -> Tree:
    """Rebuild a tree from its leaves.

    Args:
        like: a tree of the structure that the result has.
        leaves: in the order of `items`.
    Returns:
        The tree.
    Raises:
        TypeError: leaves can't be gone through.
        ValueError: there are fewer or more leaves than `like` has.
    """
    check_type("leaves", leaves, Iterable, "a list of leaves")
    given = list(leaves)
    count = len(paths(like))
    if len(given) != count:
        raise ValueError(f"the tree has {count} leaves, got {len(given)}")
    return _build(like, iter(given))


def _build(node: Tree, leaves: Iterator[Any]) -> Tree:
    # Not a function inside unflatten: one that calls itself is a cycle, which keeps the leaves until it is collected.
    children = _children(node)
    if children is None:
        return next(leaves)
    return _rebuilt(node, [_build(child, leaves) for child in children.values()])


def rows(tree: Tree, *rest: Tree) -> Iterator[tuple[Tree, ...]]:
    """Yield (name, leaf, *leaves of the same name in `rest`) in the order of `items`.

    Dicts are matched by their keys, in whatever order these are.

    Args:
        tree: gives the structure and the order.
        rest: trees of the same structure.
    Yields:
        (name, leaf of tree, leaf of the first of rest, …).
    Raises:
        ValueError: the structures differ; the sentence names the first place where they do.
    """
    yield from _rows("", tree, rest, 0)


def _rows(path: str, node: Tree, rest: tuple[Tree, ...], level: int) -> Iterator[tuple[Any, ...]]:
    children = _children(node, path, level)
    others = [_matched(path, node, children, other) for other in rest]
    if children is None:
        yield (path, node, *rest)
        return
    for name, child in children.items():
        yield from _rows(_joined(path, name), child, tuple(other[name] for other in others), level + 1)


def map(f: Callable[..., Tree], tree: Tree, *rest: Tree) -> Tree:
    """Apply f to each leaf, with the leaves of the same name in `rest` as further arguments.

    Args:
        f: (leaf, *leaves of rest) → leaf.
        tree: gives the structure and the order of the result.
        rest: trees of the same structure, as in `rows`.
    Returns:
        The tree of what f returns.
    Raises:
        TypeError: f isn't a function of so many values.
        ValueError: the structures differ; the sentence names the first place where they do.
    Example:
        >>> px.tree.map(lambda a, b: a + b, {"x": 1, "y": [2, 3]}, {"y": [20, 30], "x": 10})
        {'x': 11, 'y': [22, 33]}
    """
    check_function("f", f, ", ".join(["leaf", *(f"leaf {i + 2}" for i in range(len(rest)))]))
    return map_with_path(lambda _, *row: f(*row), tree, *rest)


def map_with_path(f: Callable[..., Tree], tree: Tree, *rest: Tree) -> Tree:
    """Apply f to each leaf with its name, as `map` does without it.

    Args:
        f: (name, leaf, *leaves of rest) → leaf; a name is such as "transformer_blocks.0.attn1.to_q.weight".
        tree: gives the structure and the order of the result.
        rest: trees of the same structure, as in `rows`.
    Returns:
        The tree of what f returns.
    Raises:
        TypeError: f isn't a function of so many values.
        ValueError: the structures differ; the sentence names the first place where they do.
    Example:
        >>> px.tree.map_with_path(lambda name, leaf: name, {"x": 1, "y": [2, 3]})
        {'x': 'x', 'y': ['y.0', 'y.1']}
    """
    check_function("f", f, ", ".join(["name, leaf", *(f"leaf {i + 2}" for i in range(len(rest)))]))
    return unflatten(tree, [f(*row) for row in rows(tree, *rest)])


def reduce(f: Callable[[T, Tree], T], tree: Tree, initial: T) -> T:
    """Fold the leaves in the order of `items`: f(… f(f(initial, first), second) …, last).

    Args:
        f: (what was folded so far, leaf) → the same with the leaf.
        tree: of any leaves.
        initial: what f starts from.
    Returns:
        What f returned last; `initial` where there is no leaf.
    Raises:
        TypeError: f isn't a function of two values.
    Example:
        >>> px.tree.reduce(lambda total, leaf: total + leaf, {"x": 1, "y": [2, 3]}, 0)
        6
    """
    check_function("f", f, "folded, leaf")
    for leaf in leaves(tree):
        initial = f(initial, leaf)
    return initial


def nest(flat: Mapping[str, Tree]) -> Tree:
    """Turn {"a.0.b": leaf} into {"a": [{"b": leaf}]}: the inverse of `dict(items(tree))` for dicts and lists.

    A dict whose keys are 0 … n-1 becomes a list.

    Args:
        flat: leaves by their names.
    Returns:
        Nested dicts and lists.
    Raises:
        TypeError: flat isn't a dict.
        ValueError: one name is both a leaf and the beginning of another, or has more than DEEPEST parts.
    """
    check_type("flat", flat, Mapping, "a dict of leaves by their names")
    root = _Node()
    for name, leaf in flat.items():
        *path, last = str(name).split(".")
        if len(path) > DEEPEST:
            raise ValueError(f"a name in flat must have at most {DEEPEST} parts, got {len(path) + 1}")
        node = root
        for part in path:
            node = node.setdefault(part, _Node())
            if not isinstance(node, _Node):
                raise ValueError(f"{name!r} begins with the name of a leaf")
        if last in node:
            raise ValueError(f"{name!r} is the beginning of another name")
        node[last] = leaf
    return _listed(root)


def size(tree: Tree) -> int:
    """Count the numbers in the leaves.

    Args:
        tree: of arrays or Tensors.
    Returns:
        How many there are.
    """
    return sum(math.prod(getattr(leaf, "shape", ())) for leaf in leaves(tree))


class _Node(dict[str, Any]):
    """A dict that `nest` makes, as opposed to one that is a leaf of its argument."""


def _listed(node: Any) -> Any:
    if not isinstance(node, _Node):
        return node
    if node and set(node) == {str(i) for i in range(len(node))}:
        return Layers(_listed(node[str(i)]) for i in range(len(node)))
    return Weights((name, _listed(child)) for name, child in node.items())


def _children(node: Tree, path: str = "", level: int = 0) -> dict[str, Any] | None:
    """The children by name, or None for a leaf."""
    if level > DEEPEST:
        raise ValueError(f"a tree must have at most {DEEPEST} levels; this one goes on, or holds itself")
    if isinstance(node, dict):
        children = {str(name): child for name, child in node.items()}
        if len(children) != len(node) or "" in children or "." in "".join(children):
            keys = first_few([repr(name) for name in node])
            raise ValueError(f"the keys at {path or 'the root'} must be different names without a dot, got {keys}")
        return children
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if isinstance(node, (list, tuple)):
        return {str(i): child for i, child in enumerate(node)}
    if node is None:
        return {}
    names = getattr(type(node), "TREES", None)
    return None if names is None else {name: getattr(node, name) for name in names}


def _rebuilt(node: Tree, children: list[Any]) -> Tree:
    """A node of the same kind with other children."""
    if isinstance(node, dict):
        return type(node)(zip(node, children, strict=True))
    if isinstance(node, tuple) and hasattr(node, "_make"):
        return node._make(children)
    if isinstance(node, (list, tuple)):
        return type(node)(children)
    return None if node is None else node.replace(**dict(zip(type(node).TREES, children, strict=True)))


def _matched(path: str, node: Tree, children: dict[str, Any] | None, other: Tree) -> dict[str, Any]:
    """The children of `other`, which has the structure of `node` there."""
    theirs = _children(other, path)
    if _kind(node) != _kind(other):
        raise ValueError(f"the trees differ at {path or 'the root'}: {_kind(node)} and {_kind(other)}")
    if children is None or theirs is None:
        return {}
    if alone := children.keys() ^ theirs.keys():
        first = next(name for name in (*children, *theirs) if name in alone)
        where = "first" if first in children else "other"
        raise ValueError(f"the trees differ: {_joined(path, first)!r} is in the {where} tree alone")
    return theirs


def _kind(node: Tree) -> str:
    if isinstance(node, dict):
        return "a dict"
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return f"a {type(node).__name__}"
    if isinstance(node, (list, tuple)):
        return "a list"
    if node is None:
        return "None"
    return f"a {type(node).__name__}" if hasattr(type(node), "TREES") else "a leaf"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _summary(node: Any) -> str:
    if isinstance(node, list):
        return f"{len(node)} layers"
    if isinstance(node, dict):
        return f"{{{first_few(list(node), 6)}}}"
    return f"{str(getattr(node, 'dtype', type(node).__name__)).lower()} {tuple(getattr(node, 'shape', ()))}"


def check_names(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Make sure that a file or a tree holds the leaves that a configuration asks for.

    Args:
        found: shapes by name.
        expected: shapes by name.
        where: what the sentence calls the file or the tree.
    Raises:
        ValueError: leaves are missing, unexpected or of another shape; the sentence names them.
    """
    wrong = [
        f"{key} {found[key]} instead of {shape}" for key, shape in expected.items() if found.get(key, shape) != shape
    ]
    kinds = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": wrong,
    }
    problems = [f"{len(names)} {kind}: {first_few(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise ValueError(f"{where} doesn't hold the tensors of its configuration; {'; '.join(problems)}")
