"""Which device this machine computes on, which no other file asks. Importing this file imports no MindSpore."""

from __future__ import annotations

from pathlib import Path


def has_ascend() -> bool:
    """Whether an Ascend NPU's driver is there, which can be known before MindSpore is imported."""
    return Path("/dev/davinci_manager").exists()


def is_ascend() -> bool:
    """Whether MindSpore's operations run on an Ascend NPU."""
    import mindspore as ms

    return bool(ms.get_context("device_target") == "Ascend")


def is_cpu() -> bool:
    """Whether MindSpore's operations run on the CPU, where a Tensor's memory is the host's."""
    import mindspore as ms

    return bool(ms.get_context("device_target") == "CPU")


def has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 matrices."""
    cpus = Path("/proc/cpuinfo")
    return cpus.is_file() and "amx_bf16" in cpus.read_text().split()
