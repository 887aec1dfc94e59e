"""The notebooks run from top to bottom, use the public interface alone, and give the numbers that are stored in them.

Each is stored with the outputs of one whole run. The tests run it with the short setting that stands in SHORT in the
place of its cell tagged "parameters". What a cell tagged "deterministic" prints doesn't depend on that setting and must
be what is stored.
"""

from __future__ import annotations

import ast
import base64
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

import pixart_fn as px

ROOT = Path(px.__file__).parent.parent
NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
ALLOWED = {
    "dataclasses",
    "hypothesis",
    "json",
    "matplotlib",
    "mindspore",
    "numpy",
    "pathlib",
    "PIL",
    "subprocess",
    "sys",
    "tempfile",
}
SHORT = {
    "01_first_picture": "steps = 4",
    "02_solvers": "finest, counts = 20, (3, 6)",
    "03_train": "drawings, steps, adapter_steps, solver_steps = 8, 2, 2, 2",
    "04_steer": "steps = 6",
    "05_guidance": "steps = 2",
    "06_differentiate": "steps, ascents, last_steps = 2, 1, 2",
    "07_look_inside": "steps = 5",
    "08_released_checkpoint": "layers = 1",
    "09_property_based_tests": "steps, points, many = 2, 200, 4",
}
"""What stands in the place of the cell that is tagged "parameters"."""
PICTURE, NOTEBOOK = 60_000, 500_000
"""The most bytes of a stored picture and of a notebook's file."""
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


def pictures(cells: list) -> list[bytes]:
    """The PNGs in the outputs of cells."""
    data = (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    return [base64.b64decode(each["image/png"]) for each in data if "image/png" in each]


def printed(cell: object) -> str:
    """What a cell prints, and its value as text where that is no picture."""
    texts = []
    for output in cell.outputs:
        data = output.get("data", {})
        texts.append(output.get("text", "") + ("" if "image/png" in data else data.get("text/plain", "")))
    return "".join(texts)  # a kernel that is slow sends what a cell prints in parts


def complaints(cell: object) -> list:
    """What a cell shows in red: an error, which an import may show without raising it, or a line on stderr."""
    return [each for each in cell.outputs if each.output_type == "error" or each.get("name") == "stderr"]


def same(stored: str, seen: str) -> bool:
    """Whether two texts differ in nothing but numbers: by 1e-3 of their size, or by one in the last digit."""
    if NUMBER.sub("#", stored) != NUMBER.sub("#", seen):
        return False
    for a, b in zip(NUMBER.findall(stored), NUMBER.findall(seen), strict=True):
        digits, _, exponent = a.partition("e")
        last = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2])) if "." in digits or exponent else 0
        if abs(float(a) - float(b)) > max(1.001 * last, 1e-3 * abs(float(a))):
            return False
    return True


def test_numbers_are_compared():
    assert same("a cat: 1.2345 of 17", "a cat: 1.2346 of 17")
    assert same("2.0e-05", "2.1e-05") and same("1234567", "1234568")
    assert not same("a cat: 1.2345", "a dog: 1.2345")
    assert not same("1.2345", "1.2365") and not same("2.0e-05", "2.2e-05") and not same("17", "18")
    assert not same("1.0 2.0", "1.0")


@notebooks
def test_it_is_stored_with_the_outputs_of_one_run(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert complaints(cell) == []
        for output in cell.outputs:
            texts = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"/tmp|/home|/root| at 0x|Warning|it/s", texts)


@notebooks
def test_its_pictures_are_small_and_begin_early(path):
    cells = code_cells(path)
    assert pictures(cells[:5]) and len(pictures(cells)) >= 3
    assert max(map(len, pictures(cells))) <= PICTURE
    assert path.stat().st_size <= NOTEBOOK


@notebooks
def test_a_cell_of_parameters_is_there_where_a_short_setting_is(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", ())]
    assert len(tagged) == (path.stem in SHORT)
    if tagged:
        assigned = (node for node in ast.walk(ast.parse(tagged[0].source)) if isinstance(node, ast.Assign))
        names = {name.id for node in assigned for name in ast.walk(node) if isinstance(name, ast.Name)}
        short = {name.id for name in ast.walk(ast.parse(SHORT[path.stem])) if isinstance(name, ast.Name)}
        assert names == short


@notebooks
def test_it_uses_the_public_interface_alone(path):
    for node in ast.walk(ast.parse("\n".join(cell.source for cell in code_cells(path)))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert (alias.name, alias.asname) == ("pixart_fn", "px") or alias.name.split(".")[0] in ALLOWED
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in ALLOWED
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")
            if isinstance(node.value, ast.Name) and node.value.id == "px":
                assert node.attr in px.__all__


def test_the_tests_that_a_page_names_are_there():
    here = Path(__file__).parent
    sources = "".join(file.read_text("utf-8") for file in here.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+(?:\.py)?)`", (NOTEBOOKS[0].parent / "training_compared.md").read_text("utf-8")))
    assert len(named) > 30
    assert [name for name in named if not (here / name).exists() and f"def {name}(" not in sources] == []


@pytest.mark.slow
@notebooks
def test_it_runs_and_gives_the_stored_numbers(path, tmp_path, monkeypatch):
    # The interpreter and the package of the other tests, whatever kernels the machine has.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = SHORT[path.stem]
    client = NotebookClient(notebook, km=kernel, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(cleanup_kc=True)  # or each kernel would stay, with its memory, until the tests end
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert pictures(cells[:5])
    assert [each for cell in cells for each in complaints(cell)] == []
    for stored, cell in zip(code_cells(path), cells, strict=True):
        if "deterministic" in cell.metadata.get("tags", ()):
            assert same(printed(stored), printed(cell)), f"stored: {printed(stored)}\nnow: {printed(cell)}"
