"""Which device this machine computes on, and what is known of each: CPU, NVIDIA GPU and Ascend NPU.

No other file asks which device it is. Importing this file imports no MindSpore.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ..process import limits
from . import cuda

NAMES = ("CPU", "GPU", "Ascend")
"""What MindSpore calls the devices."""


@dataclass(frozen=True)
class Device:
    """What the layers do differently on a device.

    Args:
        name: of NAMES.
        convolution: "gathered" for products of gathered pixels, "NCHW" or "NHWC" for the device's own convolution.
        flash: whether attention in halves never holds its scores.
        fused: whether MindSpore's own layer norm and GELU are fast, and arithmetic with an axis of length 1 is too.
        bfloat16: whether there are products in bfloat16.
        strip: numbers of a picture that the VAE's layers take at a time.
        scores: numbers in the scores of a transformer's self-attention that are in memory at a time.
        vae_scores: numbers in the scores of the VAE's attention that are in memory at a time.
    """

    name: str
    convolution: str
    flash: bool
    fused: bool
    bfloat16: bool
    strip: int
    scores: int
    vae_scores: int


DEVICES = {
    "CPU": Device("CPU", "gathered", False, False, False, strip=2**20, scores=2**25, vae_scores=2**22),
    # MindSpore's kernels for GPUs take no bfloat16, and none is a flash attention; scores are 512 MiB in float32
    "GPU": Device("GPU", "NHWC", False, True, False, strip=2**28, scores=2**27, vae_scores=2**28),
    "Ascend": Device("Ascend", "NCHW", True, False, True, strip=2**28, scores=2**25, vae_scores=2**28),
}


def in_use() -> str:
    """Return the name of the device that MindSpore's operations run on."""
    import mindspore as ms

    return str(ms.get_context("device_target"))


def traits() -> Device:
    """Return what is known of the device in use."""
    return DEVICES[in_use()]


def named(name: str) -> str | None:
    """Return the name of NAMES that is written in capitals or not, or None where it is none of them."""
    return next((each for each in NAMES if each.lower() == name.strip().lower()), None)


def has_ascend() -> bool:
    """Whether an Ascend NPU's driver is there, which can be known before MindSpore is imported."""
    return Path("/dev/davinci_manager").exists()


def is_cpu() -> bool:
    """Whether MindSpore's operations run on the CPU, where a Tensor's memory is the host's."""
    return in_use() == "CPU"


def has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 matrices."""
    return "amx_bf16" in cpu()[1]


def cpu() -> tuple[str | None, frozenset[str]]:
    """Return the name of the CPU and the words that the system says of what it can do; None and nothing elsewhere."""
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return (names[0] if names else None), frozenset(text.split())


def lacks(name: str) -> str | None:
    """Say in one sentence what a device's use lacks here, or return None where nothing is known to be missing."""
    if name == "Ascend" and not has_ascend():
        return "there is no Ascend NPU, whose driver would be /dev/davinci_manager"
    return cuda.missing() if name == "GPU" else None


def card_memory() -> int | None:
    """Return the bytes that are free on the GPU in use, or None on another device or where nobody says."""
    return cuda.free_memory() if "mindspore" in sys.modules and in_use() == "GPU" else None


def free_memory() -> int | None:
    """Return the bytes of memory that computation may still take on the device in use; None where nobody says.

    On a GPU it is the card's memory, and elsewhere the host's.
    """
    card = card_memory()
    return limits.free() if card is None else card
