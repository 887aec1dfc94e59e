"""MindSpore's private names are there, and where one isn't the import says which MindSpore has it."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from pixart_fn.backend import private

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

NAMES = ("Function", "compile_cache", "executor", "no_grad")


def imported() -> dict[str, object]:
    """The module's content, imported anew."""
    return runpy.run_path(private.__file__)


def test_every_name_is_what_it_is_used_as():
    found = imported()
    assert {name: found[name] for name in NAMES} == {name: getattr(private, name) for name in NAMES}
    assert found["executor"].grad_flag() is False
    assert all(isinstance(phase, str) for phase in found["compile_cache"])
    with found["no_grad"]():
        pass
    assert isinstance(found["Function"], type)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("mindspore.graph.api", "_pynative_executor"),
        ("mindspore.graph.api", "_pynative_executor.grad_jit"),
        ("mindspore.graph.api", "_no_grad"),
        ("mindspore.graph.api", "ms_compile_cache"),
        ("mindspore.common._grad_function", "_Function"),
    ],
)
def test_a_missing_name_is_a_sentence_with_the_version(module, name, monkeypatch):
    *path, last = f"{module}.{name}".split(".")
    owner = ms
    for part in path[1:]:
        owner = getattr(owner, part)
    monkeypatch.setattr(ms, "__version__", "3.0.0")
    monkeypatch.delattr(owner if last in vars(owner) else type(owner), last)
    sentence = f"pixart_fn needs MindSpore 2.10, got 3.0.0, which has no {module}.{name}; pip install"
    with pytest.raises(ImportError, match=re.escape(sentence)):
        imported()


def test_a_missing_module_is_the_same_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "mindspore.common._grad_function", None)
    with pytest.raises(ImportError, match=r"which has no mindspore\.common\._grad_function\._Function"):
        imported()


def test_the_version_is_the_one_that_the_package_requires():
    dependencies = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"mindspore>={private.VERSION},<' in dependencies
