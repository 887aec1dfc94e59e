"""The same call gives the same bits: in another process, on fewer CPUs, and whatever the batch it is in."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import pixart_fn as px

SCRIPT = """
import hashlib, os, sys
if sys.argv[1] == "one CPU":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
import pixart_fn as px
from mindspore import Tensor

params = px.load()
picture = px.generate(params, ["a cat", "a dog"], px.key(0), steps=3, progress=False, output="numpy")
latents = px.encode_image(params, picture).asnumpy()
text, t = px.encode_prompt(params, "a cat"), Tensor(np.float32([500]))

def loss(p):
    return px.transformer.apply(p, params.config.transformer, Tensor(latents[:1]), t, *text).square().mean()

gradients = px.tree.leaves(px.grad(loss)(params.transformer))
for part in (picture, latents, np.concatenate([g.asnumpy().ravel() for g in gradients])):
    print(hashlib.sha256(np.ascontiguousarray(part)).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system doesn't let a process choose its CPUs")
def test_processes_agree_bit_for_bit_whatever_cpus_they_have():
    said = [
        subprocess.run([sys.executable, "-c", SCRIPT, cpus], capture_output=True, text=True, check=True).stdout
        for cpus in ("all", "one CPU")
    ]
    assert len(set(said)) == 1 and len(said[0].split()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [4.5, 1])
def test_a_picture_of_the_embedded_checkpoint_does_not_depend_on_its_batch(guidance):
    params, prompts = px.load(), ["a cat", "a dog", "a cow", "a red car", "a house", "a tree"]
    keys, options = px.split(px.key(0), 6), {"steps": 2, "progress": False, "output": "numpy", "guidance": guidance}
    whole = px.generate(params, prompts, keys, **options)
    for n in (1, 4):
        for i in range(0, 6, n):
            assert np.array_equal(px.generate(params, prompts[i : i + n], keys[i : i + n], **options), whole[i : i + n])
    again = px.encode_image(params, whole).asnumpy()
    for i, picture in enumerate(whole):
        assert np.array_equal(px.encode_image(params, picture).asnumpy(), again[i : i + 1])
