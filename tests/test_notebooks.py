"""The notebooks run from top to bottom and use the public interface alone.

They are stored without outputs, but for those that take minutes: these are stored with the outputs of a whole run,
and run here with fewer steps.
"""

from __future__ import annotations

import ast
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
ALLOWED = {"matplotlib", "numpy", "pathlib", "PIL", "tempfile"}
SHORT = {
    "02_solvers": "finest, counts = 60, (6, 12)",
    "03_train": "drawings, steps, adapter_steps, solver_steps = 8, 2, 2, 2",
    "04_steer": "steps = 6",
}
"""What stands here in the place of the cell that is tagged "parameters", by the notebooks that take minutes."""
STORED = [path for path in NOTEBOOKS if path.stem in ("03_train", "04_steer")]
"""Those that are stored with the outputs of a whole run."""

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", [each for each in NOTEBOOKS if each not in STORED], ids=lambda path: path.stem)
def test_it_is_stored_without_outputs(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in code_cells(path):
        assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_training_is_stored_with_the_outputs_of_one_run(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    for output in outputs:
        assert output.output_type != "error" and output.get("name") != "stderr"
        texts = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert "/tmp" not in texts and " at 0x" not in texts


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
def test_it_runs_and_shows_a_picture_within_five_cells(path, tmp_path, monkeypatch):
    # The interpreter and the package of the other tests, whatever kernels the machine has.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    notebook = nbformat.read(path, as_version=4)
    if path.stem in SHORT:
        (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
        parameters.source = SHORT[path.stem]
    NotebookClient(notebook, km=kernel, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells[:5] for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
