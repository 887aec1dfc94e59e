"""What is known of this machine and of what is installed, and what would be slow here."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

from ..backend import cuda, device
from ..backend.precision import precision
from ..process import cpus, limits

INSTALLED = ("mindspore", "numpy", "pillow", "safetensors", "sentencepiece", "huggingface_hub", "click")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")
"""What a CPU may have that makes products of matrices faster, as Linux calls it."""
GIB = 2**30
WHOLE = 21
"""GiB that a released model takes in float32 with its text encoder."""


def versions() -> dict[str, str | None]:
    """Return the versions of Python, of this package and of what it needs; None for what isn't installed."""
    found: dict[str, str | None] = {"pixart_fn": sys.modules["pixart_fn"].__version__}
    found["python"] = platform.python_version()
    for name in INSTALLED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def facts() -> dict[str, Any]:
    """Return what is known of the machine, by name; MindSpore must be imported, and have computed already."""
    from huggingface_hub import constants

    name, flags = device.cpu()
    allowed, memory = cpus.allowed(), limits.free()
    return {
        "platform": platform.platform(),
        "device": device.in_use(),
        "cpu": name or platform.processor() or platform.machine(),
        "flags": [each for each in FLAGS if each in flags],
        "cpus": os.cpu_count(),
        "cpus_allowed": None if allowed is None else len(allowed),
        "threads": len(cpus.workers()),
        "pinning": cpus.mode() if allowed is not None else "none",
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "memory_free": memory,
        "memory_limit": limits.limit(),
        "card_free": device.card_memory(),
        "nvidia": nvidia(),
        "precision": precision(),
        "cache": constants.HF_HUB_CACHE,
        "cache_exists": os.path.isdir(constants.HF_HUB_CACHE),
    }


def nvidia() -> dict[str, Any]:
    """Return what is known of NVIDIA's driver, cards and libraries, and what a GPU's use lacks here, if anything."""
    driver, places = cuda.driver(), cuda.libraries()
    return {
        "driver": None if driver is None else f"{driver.version // 1000}.{driver.version % 1000 // 10}",
        "cards": [] if driver is None else [card._asdict() for card in driver.cards],
        "libraries": {name: None if place is None else str(place) for name, place in places.items()},
        "lacks": cuda.missing(),
    }


def slow(found: dict[str, Any]) -> list[str]:
    """Say what would be slow on a machine, and why.

    Args:
        found: from `facts`.
    Returns:
        One sentence for each.
    """
    said = []
    on_cpu, flags = found["device"] == "CPU", found["flags"]
    if on_cpu:
        said.append("a released model takes minutes for a picture of 512 pixels on a few CPUs")
    if on_cpu and found["nvidia"]["lacks"] is None:
        said.append("an NVIDIA GPU is there and isn't used: px.device('GPU'), or --device gpu, computes on it")
    if on_cpu and "avx512f" not in flags and platform.machine() in ("x86_64", "AMD64"):
        said.append("products of matrices are slower on this CPU, since it lacks AVX-512")
    if on_cpu and "amx_bf16" not in flags:
        said.append("px.precision('bf16-math') isn't there to make products faster, since this CPU lacks AMX")
    if on_cpu and found["cpus_allowed"] is not None and found["cpus_allowed"] < (found["cpus"] or 1):
        few = f"{found['cpus_allowed']} of {found['cpus']} CPUs"
        said.append(f"this process may use {few} alone, as taskset or a container says")
    if on_cpu and found["pinning"] != "shared":
        said.append("threads aren't kept on CPUs of their own, so each operation may wait for a late one")
    if on_cpu and found["load"] is not None and found["load"] > (found["cpus_allowed"] or found["cpus"] or 1) + 1:
        said.append(f"other processes compute too (a load of {found['load']}), which takes CPUs from this one")
    free = found["memory_free"]
    if on_cpu and free is not None and free < WHOLE * GIB:
        said.append(
            f"a released model takes about {WHOLE} GiB with its text encoder in float32, and {_gib(free)} are free; "
            "so px.load leaves the encoder in its file, unless stream=False is given, and reads it for each prompt"
        )
    return said


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a person reads of `facts`: a heading and a text for each line."""
    some = "" if found["cpus_allowed"] is None else f"{found['cpus_allowed']} of "
    cache = found["cache"] + ("" if found["cache_exists"] else " (not there yet)")
    card = [] if found["card_free"] is None else [("card", f"{_gib(found['card_free'])} free")]
    return [
        ("platform", found["platform"]),
        ("device", found["device"]),
        *card,
        *_nvidia_lines(found["nvidia"]),
        ("CPU", f"{found['cpu']}, {some}{found['cpus']} CPUs, load {found['load']}"),
        ("flags", ", ".join(found["flags"]) or "none of those that matter"),
        ("threads", f"{found['threads']} of MindSpore's, pinning: {found['pinning']}"),
        ("memory", f"{_gib(found['memory_free'])} free, limit {_gib(found['memory_limit'])}"),
        ("precision", found["precision"]),
        ("cache", cache),
    ]


def _nvidia_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    held, wanted = sum(place is not None for place in found["libraries"].values()), len(found["libraries"])
    cards = [f"{each['name']}, {_gib(each['memory'])}, {each['major']}.{each['minor']}" for each in found["cards"]]
    driver = f"driver for CUDA {found['driver']}; {'; '.join(cards) or 'no card'}"
    rows = [("NVIDIA", driver)] if found["driver"] else []
    rows += [("CUDA 11", f"{held} of {wanted} libraries from wheels")] if rows or held else []
    lacks = found["lacks"]
    return [*rows, ("GPU", f"can't be used: {lacks}" if lacks else "can be used")]


def _gib(number: int | None) -> str:
    return "unknown" if number is None else f"{number / GIB:.1f} GiB"
