"""A released-size transformer and VAE that diffusers made and saved: loaded by us, one forward pass each."""

from __future__ import annotations

import gc
import json
import shutil
import sys

import compare
import pytest
from reference.case import SCHEDULER

from pixart_fn import checkpoint, transformer, vae

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


@pytest.fixture
def torch():
    for library in ("diffusers", "transformers"):
        pytest.importorskip(library)
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.no_grad():
        yield torch
    torch.set_num_threads(before)


def save_transformer(folder):
    """In shards, as the large files on the hub; → the inputs and the output."""
    from reference import make_forward as forward
    from reference import make_models as models

    model = models.transformer(0, **XL)
    inputs = {"x": models.normal(1, 1, 4, 64, 64), "t": forward.torch.tensor([666])}
    inputs |= {"text": models.normal(2, 1, 120, 4096), "mask": models.prefix_mask([17], 120)}
    values = models.arrays(**inputs, out=forward.apply_transformer(model, **inputs))
    model.save_pretrained(folder, max_shard_size="1GB")
    return values


def save_vae(folder):
    from reference import make_forward as forward
    from reference import make_models as models

    model = models.vae(0, **SD)
    model.save_pretrained(folder)
    return forward.run_vae(model, 1, 256, 256)


def test_released_sizes_load_and_agree(torch, tmp_path):
    values = {"transformer": save_transformer(tmp_path / "transformer")}
    gc.collect()
    values["vae"] = save_vae(tmp_path / "vae")
    gc.collect()
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "PixArtAlphaPipeline"}))
    params = checkpoint.load(tmp_path, text_encoder=None)
    for module, name in ((transformer, "transformer"), (vae, "vae")):
        outputs = compare.run(module, getattr(params, name), getattr(params.config, name), values[name])
        errors = {key: compare.rel(out, values[name][key]) for key, out in outputs.items() if key in values[name]}
        assert not compare.too_far(errors, TOLERANCE), name
    shutil.rmtree(tmp_path)  # three gigabytes that pytest would keep
    assert peak_gib() < 12


def peak_gib() -> float:
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
