"""The wheel and the source distribution: what they hold, and that both work away from the working tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import setuptools.build_meta as b; print(b.build_sdist('dist'), b.build_wheel('dist'))"
DRAW = """
import numpy as np, pixart_fn as px
image = px.generate(px.load(), "a cute cat", px.key(0), steps=1, output="numpy", progress=False)
print(px.__file__, image.shape, np.isfinite(image).all())
"""


def files(root: Path, folder: str = "", pattern: str = "*") -> set[str]:
    """The files under a folder, but for caches."""
    found = (path for path in (root / folder).rglob(pattern) if path.is_file())
    return {path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts}


def test_the_manifest_names_what_there_is():
    lines = (ROOT / "MANIFEST.in").read_text("utf-8").splitlines()
    named = [name for line in lines if line.split()[0] in ("graft", "include") for name in line.split()[1:]]
    assert {"tests", "notebooks", "weights"} <= {*named}
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with both, built from a copy of the tree, so that nothing is left in it."""
    pytest.importorskip("setuptools", minversion="77", reason="the build backend isn't installed")
    copy = tmp_path_factory.mktemp("tree") / "copy"
    out = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
    )
    shutil.copytree(ROOT, copy, ignore=out)
    (copy / "dist").mkdir()
    run = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return copy / "dist"


def run(folder: Path, path: Path, *arguments: str) -> str:
    """Run Python in a folder, where a path comes before the installed package."""
    environment = {**os.environ, "PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_weights_and_draws_offline(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "site")
    weights = {f"pixart_fn/_{name}" for name in files(built.parent, "weights") if not name.endswith((".png", ".webp"))}
    assert names == files(built.parent, "pixart_fn", "*.py") | files(built.parent, "pixart_fn", "*.toml") | weights | {
        "pixart_fn/py.typed"
    }
    (tmp_path / "elsewhere").mkdir()
    printed = run(tmp_path / "elsewhere", tmp_path / "site", "-c", DRAW)
    assert printed.strip().endswith(f"{tmp_path}/site/pixart_fn/__init__.py (1, 128, 128, 3) True")


@pytest.mark.slow
def test_the_source_distribution_holds_all_that_its_tests_read_and_they_run(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    tree = {name for each in ("pixart_fn", "tests", "notebooks", "weights") for name in files(built.parent, each)}
    assert tree | {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "pyproject.toml"} <= files(folder)
    some = ("test_architecture", "test_cleaning", "test_t5", "test_checkpoint", "test_bench", "test_tokenizer")
    printed = run(folder, folder, "-m", "pytest", *(f"tests/{name}.py" for name in some))
    assert "failed" not in printed
