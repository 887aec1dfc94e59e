"""A released-size transformer and VAE that diffusers made and saved: loaded by us, one forward pass each.

Theirs and ours run in processes of their own, so that the memory of each is its own.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.reference, pytest.mark.full_size]

TOLERANCE = 1e-4
"""28 layers of 1152 channels in float32: two hundred products deeper than the tiny models."""

XL = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "sample_size": 64,
    "caption_channels": 4096,
}
SD = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 512}


def theirs(folder: Path) -> None:
    """Save both models as diffusers does, the transformer in shards like the hub's large files, and their outputs."""
    from reference import make_forward as forward
    from reference import make_models as models
    from reference.case import SCHEDULER

    forward.torch.set_num_threads(2)
    with forward.torch.no_grad():
        model = models.transformer(0, **XL)
        inputs = {"x": models.normal(1, 1, 4, 64, 64), "t": forward.torch.tensor([666])}
        inputs |= {"text": models.normal(2, 1, 120, 4096), "mask": models.prefix_mask([17], 120)}
        values = models.arrays(**inputs, out=forward.apply_transformer(model, **inputs))
        np.savez(folder / "transformer.npz", **values)
        model.save_pretrained(folder / "transformer", max_shard_size="1GB")
        del model
        model = models.vae(0, **SD)
        model.save_pretrained(folder / "vae")
        np.savez(folder / "vae.npz", **forward.run_vae(model, 1, 256, 256))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PixArtAlphaPipeline"}))


def ours(folder: Path) -> None:
    """Load them, run each, and print the distances."""
    from helpers import compare

    from pixart_fn import checkpoint, transformer, vae

    params, errors = checkpoint.load(folder, text_encoder=None), {}
    for module, name in ((transformer, "transformer"), (vae, "vae")):
        values = dict(np.load(folder / f"{name}.npz"))
        outputs = compare.run(module, getattr(params, name), getattr(params.config, name), values)
        errors |= {f"{name} {key}": compare.rel(out, values[key]) for key, out in outputs.items() if key in values}
    print(json.dumps(errors))


def in_a_process(function: str, folder: Path) -> str:
    code = f"import pathlib, test_full_size; test_full_size.{function}(pathlib.Path({str(folder)!r}))"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True).stdout


def test_released_sizes_load_and_agree(tmp_path):
    for library in ("torch", "diffusers", "transformers"):
        pytest.importorskip(library)
    in_a_process("theirs", tmp_path)
    errors = json.loads(in_a_process("ours", tmp_path))
    shutil.rmtree(tmp_path)  # three gigabytes that pytest would keep
    assert len(errors) == 4 and max(errors.values()) <= TOLERANCE, errors
    assert peak_gib() < 12


def peak_gib() -> float:
    """Of the largest of this process and those that it waited for."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(peaks) * unit / 2**30
