"""How MindSpore's runtime is set up: its environment variables, its device, its threads and launches, in this file."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from ..checks import kind
from ..process import cpus
from ..process.signals import deferred, prepare
from ..public import public
from . import cuda, numpy2
from . import device as devices

CHOICE = "PIXART_FN_DEVICE"
"""The environment variable that names the device, in place of a call of `device`."""
_BLOCKING = "MS_DEV_HOST_BLOCKING_RUN"


class _State:
    """Whether _BLOCKING is ours, the device that was chosen here, and why the environment's choice can't be used."""

    blocking = False
    chosen: str | None = None
    refused: str | None = None


_STATE = _State()


def set_environment() -> None:
    """Set what MindSpore reads when it is first imported, where the user hasn't."""
    os.environ.setdefault("GLOG_v", "3")  # its log speaks of internals at level 2
    if not devices.has_ascend() and _BLOCKING not in os.environ:
        os.environ[_BLOCKING], _STATE.blocking = "1", True  # a thread that spins while it waits takes a CPU from work
    # where it writes what a failed compilation looked like, which otherwise is rank_0/ in the working directory
    user = f"-{os.getuid()}" if os.name == "posix" else ""  # elsewhere each user has a temporary folder
    os.environ.setdefault("MS_OM_PATH", str(Path(tempfile.gettempdir(), f"mindspore{user}")))
    if devices.named(os.environ.get(CHOICE, "")) == "GPU" and "mindspore" not in sys.modules:
        _STATE.refused = _prepare_gpu()  # `ready` says it, since doctor and others need no device


@public
def device(name: str | None = None) -> str:
    """Choose the device that this process computes on, before MindSpore is first imported.

    "CPU" launches each operation from the thread that calls it. "GPU" needs Linux on x86-64, an NVIDIA driver of
    version 450.80 or newer, and the libraries of the extra `gpu`, which this call loads. It sets CUDA_HOME in this
    process, unless the user's own holds CUDA 11. "Ascend" needs the driver of an Ascend NPU. The environment variable
    PIXART_FN_DEVICE does the same as this call when pixart_fn is imported. If the user has called
    mindspore.set_device, that choice is kept.

    Args:
        name: "CPU", "GPU" or "Ascend", in capitals or not; None to only ask.
    Returns:
        The name of the device in use.
    Raises:
        TypeError: name isn't a text.
        ValueError: name is none of these.
        RuntimeError: something is missing for that device, or MindSpore has been imported or has computed already. The
            sentence says what is missing and what to install.
    """
    if name is None:
        ready()
        return devices.in_use()
    if not isinstance(name, str):
        raise TypeError(f"name must be one of {_names()}, got {kind(name)}")
    chosen = devices.named(name)
    if chosen is None:
        raise ValueError(f"name must be one of {_names()}, got {name!r:.60}")
    _choose(chosen)
    return devices.in_use()


def settle_on_cpu() -> None:
    """Compute on the CPU, as `device` says, unless another device was chosen or an Ascend NPU is there.

    MindSpore takes a device and how it launches operations only before the first operation of the process.
    """
    ready()
    if _STATE.chosen is None and not devices.has_ascend():
        _choose("CPU")


def choose_later(name: str) -> None:
    """Have this process, once it needs MindSpore, and those that it starts compute on a device.

    Args:
        name: of device.NAMES.
    Raises:
        RuntimeError: something is missing for that device, which is known without importing MindSpore, or this process
            has chosen another device already.
    """
    if lack := devices.lacks(name):
        raise RuntimeError(_lacking(name, lack))
    os.environ[CHOICE] = name
    if "mindspore" in sys.modules:
        _choose(name)


def ready() -> None:
    """Have the environment's choice of a device hold, and what follows from the device; it is called again freely.

    Raises:
        RuntimeError: the device that the environment names can't be used; the sentence says why.
        ValueError: the environment names no device.
    """
    wanted = _wanted()
    if wanted and _STATE.chosen is None:
        if _STATE.refused:
            raise RuntimeError(f"{CHOICE}={os.environ[CHOICE]} can't be used here: {_STATE.refused}")
        _choose(wanted)
    if devices.in_use() != "CPU":
        os.environ.setdefault(cpus.SWITCH, "free")  # the threads that launch on a device have no CPU of their own
    if devices.in_use() == "GPU" and not _conv_configured():
        allow_tf32(False)


def allow_tf32(allowed: bool) -> None:
    """Have a GPU round the factors of float32 products and convolutions to TF32, with 10 bits of mantissa, or not.

    MindSpore's own default rounds those of convolutions only.
    """
    from mindspore.device_context.gpu import op_precision

    op_precision.matmul_allow_tf32(allowed)
    op_precision.conv_allow_tf32(allowed)


def _wanted() -> str | None:
    """The device that the environment names."""
    text = os.environ.get(CHOICE)
    if not text:
        return None
    wanted = devices.named(text)
    if wanted is None:
        raise ValueError(f"the environment variable {CHOICE} must be one of {_names()}, got {text!r:.60}")
    return wanted


def _names() -> str:
    return ", ".join(repr(name) for name in devices.NAMES)


def _choose(name: str) -> None:
    imported = "mindspore" in sys.modules
    if name == "GPU" and not imported and (lack := _prepare_gpu()):
        raise RuntimeError(_lacking(name, lack))
    if name == "Ascend" and (lack := devices.lacks(name)):
        raise RuntimeError(_lacking(name, lack))
    prepare()
    quiet = numpy2.without(b"need by mindspore-gpu") if name == "GPU" else contextlib.nullcontext()
    with quiet, deferred():  # an interrupted import would abort
        import mindspore as ms

        if imported and devices.in_use() != name and "pixart_fn.backend.nn" in sys.modules:
            raise RuntimeError(_too_late(name, "a model of pixart_fn is loaded"))
        try:
            ms.set_device(name)
            if name == "CPU":
                ms.runtime.launch_blocking()
        except (RuntimeError, ValueError) as error:
            if not (imported and devices.in_use() == name):  # it may have computed there already
                own = f"MindSpore refuses the device {name}: {str(error).partition(chr(10))[0]}"
                raise RuntimeError(_too_late(name, "MindSpore is imported") if imported else own) from error
    if devices.in_use() != name:
        raise RuntimeError(f"MindSpore computes on {devices.in_use()}, although {name} was asked for")
    _STATE.chosen = name
    if name != "CPU":
        ready()


def _lacking(name: str, lack: str) -> str:
    return f"the device can't be {name!r} here: {lack}"


def _too_late(name: str, what: str) -> str:
    return (
        f"the device must be chosen before {what}, and this process computes on {devices.in_use()}: call "
        f"px.device({name!r}) right after import pixart_fn as px, or set {CHOICE}={name}"
    )


def _prepare_gpu() -> str | None:
    """Have the process ready for MindSpore's plug-in for GPUs, or say what is missing."""
    if lack := devices.lacks("GPU"):
        return lack
    try:
        cuda.prepare(os.environ)
    except OSError as error:
        return str(error)
    if _STATE.blocking:  # there the thread that waits is the one that launches the next operation
        os.environ.pop(_BLOCKING, None)
    return None


def _conv_configured() -> bool:
    from mindspore.device_context.gpu import op_precision

    return bool(op_precision.function_status["conv_allow_tf32"])
