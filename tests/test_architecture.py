"""Imports point one way, and what needs no MindSpore doesn't import it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pixart_fn"

# a module imports from the lines above its own, and from its own line where that makes no circle
LAYERS = (
    "types public tree rng config numpy2 checks safetensors_file hub arithmetic added_tokens",
    "arrays schedule jit nn stream tiles text_file",
    "convolution",
    "strips",
    "solvers guidance t5 transformer vae",
    "sample sizes tokenizer layout",
    "checkpoint",
    "request",
    "denoiser",
    "stages",
    "pipeline",
    "picture",
    "cli train plots",
    "__init__ __main__",
)
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names.split()}
APART = {"t5", "transformer", "vae"}
WITHOUT_MINDSPORE = {
    name
    for names in (LAYERS[0], "guidance sample plots schedule solvers sizes tokenizer picture cli __init__")
    for name in names.split()
}

FILES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """The name in LAYERS that a file belongs to: its own, or its subpackage's."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def statements(node: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import, or without `lazy` those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif lazy:
            yield from statements(child, lazy)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from (each for other in child.orelse for each in statements(other, lazy))
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from statements(child, lazy)


def imported(path: Path, lazy: bool) -> Iterator[str]:
    """Absolute dotted names of what a file imports: pixart_fn.tree, mindspore, …"""
    here = ["pixart_fn", *path.relative_to(PACKAGE).parent.parts]
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), lazy):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        base = here[: len(here) - node.level + 1] if node.level else []
        base = [*base, *(node.module.split(".") if node.module else [])]
        yield from (".".join([*base, alias.name]) for alias in node.names)


def units(path: Path, lazy: bool = True) -> set[str]:
    """The parts of the package that a file imports, but its own."""
    names = {name.split(".")[1] for name in imported(path, lazy) if name.startswith("pixart_fn.")}
    return {name if name in LAYER else "__init__" for name in names} - {unit(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = unit(path)
    assert own in LAYER, f"{own} has no place in LAYERS"
    for other in units(path):
        assert LAYER[other] <= LAYER[own], f"{own} imports {other}, which lies above it"
        assert not {own, other} <= APART, f"{own} imports {other}; the models stay apart"


def test_imports_make_no_circle():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(unit(path), set()).update(units(path))
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "path", [path for path in FILES if unit(path) in WITHOUT_MINDSPORE], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_needs_no_mindspore_to_be_imported(path):
    assert not [name for name in imported(path, lazy=False) if name.split(".")[0] == "mindspore"]
    assert units(path, lazy=False) <= WITHOUT_MINDSPORE
