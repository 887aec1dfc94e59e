"""Write the files of torch.save that tests/test_pth.py reads: python -m tests.reference.make_pth, with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent / "pth"
DTYPES = "float32 float16 bfloat16 float64 int64 int32 int16 int8 uint8"


def content() -> dict[str, Any]:
    """Tensors of every type whose numbers are 0, 1, 2, …, and what else a file of a training holds."""
    count = torch.arange(24.0)
    shared = count.reshape(4, 6)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + 10 * i)
    views = {
        "whole": shared, "turned": shared.T, "row": shared[2], "column": shared[:, 1],
        "every second": shared[::2, 1::2], "none": torch.zeros(0, 3), "one": torch.tensor(5.0),
    }  # fmt: skip
    others = {
        "epoch": 3, "step": 2**40, "loss": 0.25, "name": "PixArt-Σ", "lambdas": [None, True, (1, "a")],
        "size": torch.Size([2, 3]), "dtype": torch.float16, "device": torch.device("cuda", 0),
    }  # fmt: skip
    return {
        "types": {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in DTYPES.split()},
        "bool": torch.tensor([True, False, True]),
        **views,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "state_dict": module.state_dict(),
        **others,
    }


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for protocol in (2, 4):
        torch.save(content(), HERE / f"protocol{protocol}.pth", pickle_protocol=protocol)
    torch.save({"a": torch.ones(2)}, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.Linear(1, 1)).save(HERE / "script.pth")


if __name__ == "__main__":
    main()
