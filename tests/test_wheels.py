"""Where MindSpore isn't installed, schedules and solvers work, and all else says in one sentence what to install."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pixart_fn.backend import private, wheels

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = """
import sys
sys.modules["mindspore"] = None  # its import is a ModuleNotFoundError, as where it isn't installed
import numpy as np
import pixart_fn as px
schedule = px.schedule.from_betas(px.schedule.linear())
grid = px.schedule.grid(schedule, px.schedule.timesteps(schedule, 10))
print(px.sample(px.key(0), lambda x, t: 0.5 * np.ones_like(x), px.solvers.heun(), grid, np.zeros((1, 2))).mean())
for use in (lambda: px.load, lambda: px.t5, lambda: px.edit.invert, lambda: px.train.init, lambda: px.generate):
    try:
        use()
    except ModuleNotFoundError as error:
        print(error.name, error)
"""


def missing(name: str = "mindspore") -> str | None:
    return wheels.not_installed(ModuleNotFoundError(f"No module named {name!r}", name=name))


def test_what_needs_no_mindspore_works_and_the_rest_is_a_sentence():
    run = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=True)
    mean, *said = run.stdout.splitlines()
    assert float(mean) == pytest.approx(0.5)
    assert said == [f"mindspore {missing()}"] * 5
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("version", "system", "machine", "advice"),
    [
        ((3, 11, 2), "Linux", "x86_64", "pip install 'mindspore==2.10.*' installs it"),
        ((3, 10, 0), "Linux", "aarch64", "pip install"),
        ((3, 12, 9), "Darwin", "arm64", "pip install"),
        ((3, 12, 0), "Windows", "AMD64", "pip install"),
        ((3, 13, 0), "Linux", "x86_64", "schedules, solvers and guidance"),
        ((3, 9, 0), "Linux", "x86_64", "schedules, solvers and guidance"),
        ((3, 11, 0), "Windows", "ARM64", "schedules, solvers and guidance"),
        ((3, 11, 0), "Linux", "riscv64", "schedules, solvers and guidance"),
        ((3, 11, 0), "FreeBSD", "amd64", "schedules, solvers and guidance"),
    ],
)
def test_the_sentence_names_this_platform_and_what_can_be_done(version, system, machine, advice, monkeypatch):
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    said = missing("mindspore.ops")
    assert f"and this is Python {version[0]}.{version[1]} on {system} {machine}; {advice}" in said
    assert "wheels for Python 3.10 to 3.12 on Linux and macOS (x86-64 and ARM) and on Windows (x86-64)" in said


def test_another_missing_module_is_not_blamed_on_mindspore():
    assert missing("mindspores") is None and missing("matplotlib") is None
    assert wheels.not_installed(ModuleNotFoundError("without a name")) is None


def test_it_names_what_the_package_requires():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert wheels.WANTED == private.VERSION and f'"mindspore>={wheels.WANTED},<' in project
    (first, last) = wheels.PYTHONS
    assert f'requires-python = ">={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}"' in project
