"""What MindSpore's plug-in for NVIDIA GPUs asks for before MindSpore is imported: libraries of CUDA 11, and a version.

MindSpore's wheel for Linux on x86-64 carries a plug-in for CUDA 11.6. It is loaded where `$CUDA_HOME/bin/nvcc` says
that it is of CUDA 11, and where the libraries of CUDA 11 and cuDNN 8 are in the process or are found by the system. The
extra `gpu` installs these libraries as wheels of NVIDIA's, without nvcc: a script that says a version stands in for it.

Importing this file imports no MindSpore, and asking the driver starts CUDA in another process only: MindSpore forks
while it loads its plug-in, which a process that uses CUDA mustn't do.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

from ..files import atomic, reading

EXTRA = "pip install '.[gpu]' in a clone"
PLUGIN = "lib/plugin/libmindspore_gpu.so.11.6"
"""The plug-in within MindSpore's folder."""
LIBRARIES = (
    *("libcudart.so.11.0", "libcublasLt.so.11", "libcublas.so.11", "libcudnn.so.8", "libcudnn_ops_infer.so.8"),
    *("libcudnn_cnn_infer.so.8", "libcudnn_ops_train.so.8", "libcudnn_cnn_train.so.8", "libcurand.so.10"),
    *("libcufft.so.10", "libcusparse.so.11", "libcusolver.so.11", "libnvrtc.so.11.2"),
)
"""What the plug-in is linked to and what cuDNN opens by itself; each comes after those that it needs."""
OLDEST = 11000
"""The CUDA that a driver must be for, as it counts them: the libraries of 11.8 run with any driver for 11."""
VARIABLES = {
    "CUDA_MODULE_LOADING": "LAZY",  # or every kernel of the plug-in is compiled for a new card at the start
    "CUDA_CACHE_MAXSIZE": "4000000000",  # compiled kernels stay on disk between processes
}
NVCC = '#!/bin/sh\necho "Cuda compilation tools, release 11.6, V11.6.124"\n'
ASK = """
import ctypes, json
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    print(json.dumps({}))
    raise SystemExit
number, size, text = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
status = cuda.cuInit(0)
cuda.cuDriverGetVersion(ctypes.byref(number))
version, cards = number.value, []
status = status or cuda.cuDeviceGetCount(ctypes.byref(number))
for i in range(0 if status else number.value):
    device, power = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
    status = status or cuda.cuDeviceGet(ctypes.byref(device), i)
    cuda.cuDeviceGetName(text, 256, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    for each, attribute in zip(power, (75, 76)):
        cuda.cuDeviceGetAttribute(ctypes.byref(each), attribute, device)
    cards.append([text.value.decode(), size.value, power[0].value, power[1].value])
print(json.dumps({"status": status, "version": version, "cards": cards}))
"""


class Card(NamedTuple):
    """One GPU: its name, the bytes of its memory, and its compute capability, as in 8.6."""

    name: str
    memory: int
    major: int
    minor: int


class Driver(NamedTuple):
    """What NVIDIA's driver says: status 0 where it works, the CUDA that it is for (12040 for 12.4), and its cards."""

    status: int
    version: int
    cards: tuple[Card, ...]


# --- what is there ----------------------------------------------------------------------------------------------------


def driver() -> Driver | None:
    """Return what NVIDIA's driver says, or None where libcuda.so.1 can't be loaded."""
    command = [sys.executable, "-I", "-S", "-c", ASK]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    try:
        said = json.loads(run.stdout)
    except ValueError:  # the driver ended the process
        return Driver(run.returncode or 999, 0, ())
    return Driver(said["status"], said["version"], tuple(Card(*card) for card in said["cards"])) if said else None


def libraries() -> dict[str, Path | None]:
    """Return where the wheels have each of LIBRARIES, or None where no installed wheel has it."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    return {name: next((each for at in folders for each in at.glob(f"*/lib/{name}")), None) for name in LIBRARIES}


def plugin() -> Path | None:
    """Return where MindSpore's plug-in is, or None where this MindSpore has none or isn't installed."""
    spec = importlib.util.find_spec("mindspore")
    found = Path(spec.origin).parent / PLUGIN if spec and spec.origin else None
    return found if found and found.is_file() else None


def release(home: str | None) -> str | None:
    """Return what the nvcc in a CUDA_HOME says of its version, such as "11.6", or None where none runs."""
    nvcc = Path(home or "/nowhere", "bin", "nvcc")
    try:
        run = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"Cuda compilation tools, release ([\d.]+),", run.stdout)
    return found[1] if found else None


def missing() -> str | None:
    """Say in one sentence what a GPU's use lacks here and what to install, or return None where all is there."""
    here = platform.system(), platform.machine()
    if here != ("Linux", "x86_64"):
        return f"MindSpore computes on an NVIDIA GPU on Linux with x86-64 alone, and this is {here[0]} on {here[1]}"
    lacks = [part for part in (_no_plugin(), _no_libraries(), _no_card(driver())) if part]
    return "; and ".join(lacks) or None


def _no_plugin() -> str | None:
    if plugin():
        return None
    return f"MindSpore's plug-in for GPUs ({PLUGIN}) isn't there, which pip install 'mindspore==2.10.*' brings"


def _no_libraries() -> str | None:
    lacks = [name for name, place in libraries().items() if place is None and not _loads(name)]
    if not lacks:
        return None
    more = f" and {len(lacks) - 1} more" if len(lacks) > 1 else ""
    return f"the library {lacks[0]}{more} of CUDA 11 isn't there, which {EXTRA} brings"


def _no_card(driver: Driver | None) -> str | None:
    if driver is None:
        return "there is no NVIDIA driver (libcuda.so.1 can't be loaded): install one of version 450.80 or newer"
    if driver.version and driver.version < OLDEST:
        own = f"{driver.version // 1000}.{driver.version % 1000 // 10}"
        return f"the NVIDIA driver is for CUDA {own}: install one for CUDA 11 or newer, of version 450.80 or newer"
    if driver.status:
        return f"the NVIDIA driver can't be used: cuInit gives the error {driver.status}, where nvidia-smi may say more"
    if not driver.cards:
        return "the NVIDIA driver sees no card; CUDA_VISIBLE_DEVICES hides those that it doesn't name"
    return None


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


# --- and what is made of it -------------------------------------------------------------------------------------------


def prepare(environment: MutableMapping[str, str]) -> None:
    """Have all in this process that MindSpore looks for when it is imported and a GPU is to be used.

    Args:
        environment: the process's variables, where CUDA_HOME is set unless the user's own has an nvcc of CUDA 11, and
            VARIABLES unless the user has set them. With a CUDA 11 of the user's own, its libraries come first.
    Raises:
        OSError: a library can't be loaded, or the script that stands in for nvcc can't be written.
    """
    own = (release(environment.get("CUDA_HOME")) or "").startswith("11.")
    for name, value in VARIABLES.items():
        environment.setdefault(name, value)
    if not own:
        environment["CUDA_HOME"] = str(stand_in(environment))
    ctypes.CDLL("libcuda.so.1", ctypes.RTLD_GLOBAL)
    for name, place in libraries().items():
        if own and _loads(name):
            continue
        ctypes.CDLL(str(place or name), ctypes.RTLD_GLOBAL)


def stand_in(environment: Mapping[str, str]) -> Path:
    """Return a folder of this user's with bin/nvcc, a script that says that it is of CUDA 11.6.

    Args:
        environment: XDG_CACHE_HOME or HOME say where it is; where it can't run there, it is in a new temporary folder.
    """
    cache = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "/nowhere", ".cache"))
    for folder in (Path(cache, "pixart_fn", "cuda-11.6"), None):
        try:
            home = folder or Path(tempfile.mkdtemp(prefix="pixart_fn-cuda-"))
            _write(home / "bin" / "nvcc")
        except OSError:
            if folder is None:
                raise
            continue
        if release(str(home)) == "11.6":
            return home
    raise OSError(f"{home / 'bin' / 'nvcc'} can't be run, since no program may be run in folders of this user's")


def _write(script: Path) -> None:
    """Write the script, unless it is there already, so that nobody else can change it."""
    script.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (script.parent, script.parent.parent):
        if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
            raise OSError(f"{folder} can be changed by others")
    if script.is_file() and reading.content(script, len(NVCC)) == NVCC.encode():
        return

    def save(temporary: Path) -> None:
        temporary.write_text(NVCC, "utf-8")
        temporary.chmod(0o700)

    atomic.write(script, save)


def free_memory() -> int | None:
    """Return the bytes that are free on the card in use, once MindSpore computes on it; None where nobody says."""
    try:
        runtime = ctypes.CDLL("libcudart.so.11.0")
    except OSError:
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    status: int = runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    return None if status else free.value
