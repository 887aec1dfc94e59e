"""Goldens through the branches for Ascend, in a process of its own: `python tests/on_ascend.py DTYPE NAME …`.

They are chosen before anything is compiled. The one operation that the CPU lacks is replaced by what its documentation
says of it; convolution is MindSpore's own, which is slow on the CPU, and right. Everything runs twice: as Python, where
it can be seen which branches are taken, and compiled.
"""

from __future__ import annotations

import json
import os
import sys

from helpers import compare
from reference.case import Case, load

from pixart_fn.backend import convolution, heads, nn

import mindspore as ms  # isort: skip - after pixart_fn, which silences it
from mindspore import ops


def flash_attention_score(query, key, value, head_num, attn_mask=None, input_layout="BSH"):
    """Softmax(q kᵀ but where attn_mask is True) v, in layout BNSD, of halves whose width divides by 16."""
    B, heads, L, K = query.shape
    assert input_layout == "BNSD" and head_num == heads and K % 16 == 0
    assert query.dtype == ms.float16 and key.dtype == ms.float16 and value.dtype == ms.float16
    scores = ops.matmul(query.float(), ops.transpose(key.float(), (0, 1, 3, 2)))
    if attn_mask is not None:
        assert attn_mask.dtype == ms.bool_ and attn_mask.shape == (B, 1, L, key.shape[2])
        scores = ops.masked_fill(scores, attn_mask, -1e30)
    return ops.matmul(ops.softmax(scores, -1), value.float()).astype(query.dtype)


def errors(case: Case, name: str) -> dict[str, float]:
    scenarios = [scenario for scenario in case.values if scenario != "sampling"]
    return {f"{s} {key}": error for s in scenarios for key, error in compare.forward_errors(name, case, s).items()}


def main(dtype: str, *names: str) -> None:
    nn.ASCEND = True
    ops.flash_attention_score = flash_attention_score
    if dtype == "float16":
        compare.tensors = compare.halves
    cases = {name: load(name) for name in names}

    used = set()
    native, flash = convolution._native, heads.mix_flash
    convolution._native = lambda *inputs: used.add("convolution") or native(*inputs)
    heads.mix_flash = lambda *inputs: used.add("flash") or flash(*inputs)
    os.environ["MS_JIT"] = "0"  # as Python
    seen = {f"{name} as Python": errors(case, name) for name, case in cases.items()}
    convolution._native, heads.mix_flash = native, flash
    os.environ["MS_JIT"] = "1"
    compiled = {name: errors(case, name) for name, case in cases.items()}
    print(json.dumps({"errors": {**seen, **compiled}, "used": sorted(used)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
