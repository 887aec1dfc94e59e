"""The private names of MindSpore that this package uses, all in this file: any release may change them."""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from typing import Any

import mindspore

VERSION = "2.10"
"""The MindSpore whose names these are."""


def _find(module: str, name: str, *attributes: str) -> Any:
    """A name of one of MindSpore's modules, which must have these attributes."""
    missing = f"{module}.{name}"
    try:
        found = attrgetter(name)(import_module(module))
        for attribute in attributes:
            missing = f"{module}.{name}.{attribute}"
            attrgetter(attribute)(found)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"pixart_fn needs MindSpore {VERSION}, got {mindspore.__version__}, which has no {missing}; "
            f"pip install 'mindspore=={VERSION}.*' installs it"
        ) from error
    return found


RECORDERS = ("mindspore.ops.composite.base", "mindspore.nn.cell", "mindspore.common.recompute")
"""The modules whose functions make the tape while they run."""
executor = _find(
    "mindspore.graph.api",
    "_pynative_executor",
    *("clear_res", "grad_flag", "grad_jit", "requires_grad", "set_jit_compile_phase"),
)
"""What runs eager operations, their tape, and compiled graphs by name."""
no_grad = _find("mindspore.graph.api", "_no_grad")
"""A context in which nothing is taped."""
compile_cache = _find("mindspore.graph.api", "ms_compile_cache")
"""The names of all graphs that the process has compiled: a set."""
Function = _find("mindspore.common._grad_function", "_Function", "apply")
"""A node of the tape with a backward of its own."""
SigmoidGrad = _find("mindspore.ops.operations._grad_ops", "SigmoidGrad")
"""(y, dy) → dy · y · (1 - y) in one operation."""
GeLUGrad = _find("mindspore.ops.operations._grad_ops", "GeLUGrad")
"""(dy, x, GELU of x) → dy times GELU's derivative at x in one operation."""
