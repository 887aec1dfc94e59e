"""The arithmetic of matrix products, as one explicit choice for the process."""

from __future__ import annotations

import ctypes
from pathlib import Path

from ..checks import check_option
from ..process.lock import lock
from .device import has_amx, in_use
from .runtime import allow_tf32

PRECISIONS = {"float32": 0, "bf16-math": 1, "tf32": 0}
"""Names, and oneDNN's numbers for them (dnnl_fpmath_mode_strict, dnnl_fpmath_mode_bf16)."""

_chosen = "float32"


def precision(mode: str | None = None) -> str:
    """Choose how products of matrices are computed from here on, in the whole process.

    This and `device` are the only settings that aren't arguments.

    "float32" multiplies in float32. "bf16-math" needs a CPU with AMX: it rounds both factors to bfloat16 (8 bits of
    mantissa) and sums in float32, while tensors stay float32. Softmax, coefficients, the sampler and norms stay float32
    too, except the means of group norm, which are computed as products. "tf32" does the same on an NVIDIA GPU of the
    Ampere generation or newer, with factors of 10 bits, for products and for convolutions. Without it both are float32
    on a GPU, although MindSpore's own default for convolutions, like PyTorch's, is "tf32". Each mode compiles its own
    graphs.

    Args:
        mode: "float32", "bf16-math", "tf32", or None to only ask.
    Returns:
        The mode that holds now.
    Raises:
        ValueError: the mode is none of these, this machine has no AMX, where oneDNN would ignore "bf16-math", or
            "tf32" is asked for on another device than a GPU, or "bf16-math" on another than a CPU.
        RuntimeError: this MindSpore doesn't compute through oneDNN.
    """
    global _chosen
    if mode is None or mode == _chosen:
        return _chosen
    check_option("precision", mode, list(PRECISIONS))
    if mode == "bf16-math" and not has_amx():
        raise ValueError(
            "bf16-math needs a CPU with AMX (amx_bf16 among the flags in /proc/cpuinfo), which this machine hasn't; "
            "'float32' runs everywhere"
        )
    needed = {"bf16-math": "CPU", "tf32": "GPU"}.get(mode)
    if needed and needed != in_use():
        raise ValueError(f"{mode} is arithmetic of a {needed}, and this process computes on {in_use()}")
    with lock():  # not in the middle of another thread's stage
        if in_use() == "GPU":
            allow_tf32(mode == "tf32")
        elif (status := _onednn().dnnl_set_default_fpmath_mode(PRECISIONS[mode])) != 0:
            raise RuntimeError(f"oneDNN refused {mode} with status {status}")
        _chosen = mode
    return _chosen


def _onednn() -> ctypes.CDLL:
    """MindSpore's own oneDNN, which is the one that runs its products."""
    import mindspore

    library = Path(mindspore.__file__).parent / "lib" / "libdnnl.so.3"
    if not library.is_file():
        raise RuntimeError(f"{library} isn't there, so this MindSpore doesn't compute on a CPU through oneDNN")
    return ctypes.CDLL(str(library))
