"""Goldens through the branches for another device, on the CPU: `python tests/on_device.py Ascend|GPU DTYPE NAME …`.

It is a process of its own, since the device is chosen before anything is imported that asks for it. The operations that
the CPU lacks are replaced by what their documentation says of them; convolution is MindSpore's own, which is slow on
the CPU, and right. Everything but gradients runs twice: as Python, where it can be seen which branches are taken, and
compiled.
"""

from __future__ import annotations

import json
import os
import sys

from pixart_fn.backend import device

device.in_use = lambda: sys.argv[1]

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


def channels_last(x, weight, pad, stride):
    """A convolution of (B, H, W, C) with (O, 3, 3, C), padded above, below, left and right."""
    conv = ops.Conv2D(weight.shape[0], 3, pad_mode="pad", pad=pad, stride=stride)
    y = conv(ops.transpose(x, (0, 3, 1, 2)), ops.transpose(weight, (0, 3, 1, 2)))
    return ops.transpose(y, (0, 2, 3, 1))


def errors(case: Case, name: str) -> dict[str, float]:
    if name.startswith("gradients_"):
        every = {s: compare.gradient_errors(name, case, s) for s in case.values if s != "three_steps"}
        return {f"{s} {key}": error for s, found in every.items() for key, error in found.items()}
    scenarios = [scenario for scenario in case.values if scenario != "sampling"]
    return {f"{s} {key}": error for s in scenarios for key, error in compare.forward_errors(name, case, s).items()}


def watched(used: set[str], place: object, name: str, what: str) -> None:
    """Note in `used` that a function was called."""
    function = getattr(place, name)
    setattr(place, name, lambda *inputs: used.add(what) or function(*inputs))


def main(chosen: str, dtype: str, *names: str) -> None:
    ops.flash_attention_score = flash_attention_score
    convolution._channels_last = channels_last
    if dtype == "float16":
        compare.tensors = compare.halves
    cases = {name: load(name) for name in names}

    used: set[str] = set()
    places = [(convolution, "_native", "convolution"), (heads, "mix_flash", "flash")]
    places += [(ops, "LayerNorm", "layer norm"), (ops, "GeLU", "GELU")] if nn.DEVICE.fused else []
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    for place in places:
        watched(used, *place)
    os.environ["MS_JIT"] = "0"  # as Python
    forward = {name: case for name, case in cases.items() if not name.startswith("gradients_")}
    seen = {f"{name} as Python": errors(case, name) for name, case in forward.items()}
    for place, name, function in before:
        setattr(place, name, function)
    os.environ["MS_JIT"] = "1"
    compiled = {name: errors(case, name) for name, case in cases.items()}
    print(json.dumps({"errors": {**seen, **compiled}, "used": sorted(used), "device": nn.DEVICE.name}))


if __name__ == "__main__":
    main(*sys.argv[1:])
