"""Imports point one way, what needs no MindSpore doesn't import it, and files and functions stay short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pixart_fn"

# a module imports from the lines above its own, and from its own line where that makes no circle
LAYERS = (
    "types checks public tree rng config",
    "process",
    "schedule guidance solvers sample",
    "files",
    "backend",
    "models",
    "params control request denoiser footprint estimate encoding",
    "checkpoint",
    "stages pipeline",
    "plots settings picture sheets edges testing",
    "edit prompts",
    "train",
    "cli app",
    "__init__ __main__",
)
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names.split()}
APART = {"models.t5", "models.transformer", "models.vae"}
WITHOUT_MINDSPORE = re.compile(
    r"(types|checks|public|tree|rng|config|sample|plots|settings|picture|sheets|edges|__init__"
    r"|(process|schedule|guidance|solvers|files|cli|testing)\.\w+"
    r"|backend\.(__init__|cuda|device|runtime|precision|numpy2|wheels|workers)"
    r"|models\.(__init__|tokenizer|tokenizer_json|added_tokens|cleaning|sizes))"
)

LINES_OF_A_FILE = 350
LINES_OF_A_FUNCTION = 40
"""Without its docstring, which is as long as its arguments are many."""
ARGUMENTS = 8
"""Of a private function."""
TABLES = {"models.vae_config.shapes"}
"""Functions that are tables of names, which may be longer."""


def module(path: Path) -> str:
    """A file's dotted name within the package: "models.vae", "models.__init__"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


FILES = {module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def statements(node: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import but those for the type checker, or without `lazy` those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from (each for other in child.orelse for each in statements(other, lazy))
        elif lazy or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
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


def modules(path: Path, lazy: bool = True) -> set[str]:
    """The modules of the package that a file imports."""
    return {place(name) for name in imported(path, lazy) if name.split(".")[0] == "pixart_fn"}


def place(name: str) -> str:
    """The module in which an imported name is found."""
    parts = name.split(".")[1:]
    for n in range(len(parts), -1, -1):
        for found in (".".join(parts[:n]), ".".join([*parts[:n], "__init__"])):
            if found in FILES:
                return found
    raise AssertionError(name)


def unit(name: str) -> str:
    """The name in LAYERS that a module belongs to: its own, or its subpackage's."""
    return name.split(".")[0]


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function and method of a file, the inner ones too, with its dotted name in the package."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            inner = f"{name}.{child.name}" if isinstance(child, (ast.FunctionDef, ast.ClassDef)) else name
            if isinstance(child, ast.FunctionDef):
                yield inner, child
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), module(path))


def lines(function: ast.FunctionDef) -> int:
    """From `def` to the end, without the docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


@pytest.mark.parametrize("name", FILES)
def test_imports_point_one_way(name):
    assert unit(name) in LAYER, f"{name} has no place in LAYERS"
    for other in modules(FILES[name]):
        if (unit(name), other) != ("cli", "__init__"):  # for the version
            assert LAYER[unit(other)] <= LAYER[unit(name)], f"{name} imports {other}, which lies above it"
        assert not {name, other} <= APART, f"{name} imports {other}; the models stay apart"


def test_imports_make_no_circle():
    inner = {name: modules(path) - {"__init__"} for name, path in FILES.items()}
    outer: dict[str, set[str]] = {}
    for name, others in inner.items():
        outer.setdefault(unit(name), set()).update({unit(other) for other in others} - {unit(name)})
    for graph in (inner, outer):
        TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", [name for name in FILES if WITHOUT_MINDSPORE.fullmatch(name)])
def test_needs_no_mindspore_to_be_imported(name):
    assert not [each for each in imported(FILES[name], lazy=False) if each.split(".")[0] == "mindspore"]
    parts = name.split(".")[:-1]
    parents = {".".join([*parts[:n], "__init__"]) for n in range(len(parts) + 1)}
    needed = modules(FILES[name], lazy=False) | parents
    assert not [each for each in needed if not WITHOUT_MINDSPORE.fullmatch(each)]


@pytest.mark.parametrize(
    ("words", "home"),
    [
        (r"davinci|device_target|/proc/cpuinfo\"", "backend.device"),
        (r"set_device|launch_blocking", "backend.runtime"),
        (r"os\.environ", "backend.runtime backend.workers process.cpus"),  # workers: msrun says there who a process is
        (r"sched_", "process.cpus"),
        (r"mindspore\.common|mindspore\.graph|_pynative", "backend.private"),
    ],
)
def test_what_is_known_of_the_device_and_the_runtime_is_in_one_place(words, home):
    assert {name for name, path in FILES.items() if re.search(words, path.read_text("utf-8"))} == set(home.split())


def test_files_are_short():
    assert not [name for name, path in FILES.items() if len(path.read_text("utf-8").splitlines()) > LINES_OF_A_FILE]


def test_functions_are_short():
    every = [each for path in FILES.values() for each in functions(path)]
    assert {name for name, function in every if lines(function) > LINES_OF_A_FUNCTION} == TABLES


def test_private_functions_take_few_arguments():
    found = set()
    for path in FILES.values():
        for name, function in functions(path):
            own = function.args
            count = len([*own.posonlyargs, *own.args, *own.kwonlyargs]) + bool(own.vararg) + bool(own.kwarg)
            if function.name.startswith("_") and count > ARGUMENTS:
                found.add(name)
    assert not found


def test_every_folder_is_in_the_wheel():
    listed = re.search(r"^packages = (\[.*?\])", (PACKAGE.parent / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    folders = {".".join(["pixart_fn", *name.split(".")[:-1]]) for name in FILES}
    assert set(ast.literal_eval(listed[1])) == {*folders, "pixart_fn._weights"}
