"""What to say where MindSpore isn't installed: for which Pythons and platforms it has wheels."""

from __future__ import annotations

import platform
import sys

WANTED = "2.10"
"""The MindSpore that this package computes with."""
PYTHONS = ((3, 10), (3, 12))
"""The first and the last Python that it has wheels for."""
PLATFORMS = {
    "Linux": ("x86_64", "aarch64"),
    "Darwin": ("x86_64", "arm64"),
    "Windows": ("AMD64",),
}
"""The machines that it has wheels for, by the system's name, both as the module `platform` names them."""


def not_installed(error: ModuleNotFoundError) -> str | None:
    """Say what is missing and who has wheels of it, or None where what is missing isn't MindSpore."""
    if (error.name or "").partition(".")[0] != "mindspore":
        return None
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    here = platform.system(), platform.machine()
    fits = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1] and here[1] in PLATFORMS.get(here[0], ())
    advice = (
        f"pip install 'mindspore=={WANTED}.*' installs it"
        if fits
        else "schedules, solvers and guidance of functions of your own work without it"
    )
    return (
        f"MindSpore isn't installed, and models compute with it; MindSpore {WANTED} has wheels for Python {first} to "
        f"{last} on Linux and macOS (x86-64 and ARM) and on Windows (x86-64), and this is Python "
        f"{sys.version_info[0]}.{sys.version_info[1]} on {here[0]} {here[1]}; {advice}"
    )
