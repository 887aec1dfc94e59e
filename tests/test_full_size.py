"""Models of released sizes that diffusers made and saved, loaded by us: one evaluation each, and whole pipelines.

Theirs and ours run in processes of their own, so that the memory of each is its own, and one model at a time is on the
disk. Run by name: `pytest -m full_size tests/test_full_size.py -k alpha-256`.
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
from reference import make_released as released

pytestmark = [pytest.mark.reference, pytest.mark.full_size]

TOLERANCE = 1e-4
"""28 layers of 1152 channels in float32: two hundred products deeper than the tiny models; or four guided steps."""
GIB = 12.0
"""Of a process at most."""

LATENTS = {
    **{"alpha-256": (32, 32), "alpha-512": (64, 64), "alpha-1024": (128, 128)},
    **{"sigma-256": (32, 32), "sigma-512": (64, 64), "sigma-1024": (128, 128)},
    **{"sigma-2k": (32, 48), "sigma-900m": (32, 32)},
}
"""Sides of the latents on which each transformer is evaluated: of its own pictures, but small for the last two."""
PIPELINES = {"alpha-256": 4.5, "sigma-256": 4.5, "lcm-1024": 1.0}
"""Of each, the guidance of a call; they have few layers, and draw 256 × 256 pixels in four steps."""
STEPS, SIDE, PROMPT = 4, 256, "A cute cat, 4k"
LCM = {"_class_name": "LCMScheduler", "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


def tokens(name: str) -> int:
    return 300 if released.family(name) == "sigma" else 120


def fields(name: str) -> dict:
    """Of a transformer's config.json."""
    side, scale, conditions, layers = released.TRANSFORMERS[name]
    shape = {"sample_size": side, "interpolation_scale": scale, "num_layers": layers}
    model = {key: value for key, value in released.XL.items() if key != "cross_attention_dim"}
    return {**model, **shape, "use_additional_conditions": conditions}


def save(folder: Path, name: str, scheduler: dict, **models: object) -> None:
    """Save models as diffusers does, the large ones in shards like the hub's."""
    for part, model in models.items():
        model.save_pretrained(folder / part, max_shard_size="1GB")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    kind = "Sigma" if released.family(name) == "sigma" else "Alpha"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": f"PixArt{kind}Pipeline"}))


# --- what the processes run -------------------------------------------------------------------------------------------


def their_transformer(folder: Path, name: str) -> None:
    from reference import make_forward as forward
    from reference import make_models as models
    from reference.case import SCHEDULER

    torch = forward.torch
    torch.set_num_threads(2)
    h, w = LATENTS[name]
    with torch.no_grad():
        model = models.transformer(0, **fields(name))
        inputs = {"x": models.normal(1, 1, 4, h, w), "t": torch.tensor([666])}
        inputs |= {"text": models.normal(2, 1, tokens(name), 4096), "mask": models.prefix_mask([17], tokens(name))}
        if model.config.use_additional_conditions:
            inputs |= {"resolution": torch.tensor([[8.0 * h, 8.0 * w]]), "aspect_ratio": torch.tensor([[h / w]])}
        values = models.arrays(**inputs, out=forward.apply_transformer(model, **inputs))
    np.savez(folder / "transformer.npz", **values)
    save(folder, name, SCHEDULER, transformer=model)


def our_transformer(folder: Path, name: str) -> None:
    from helpers import compare

    from pixart_fn import checkpoint, transformer

    params, values = checkpoint.load(folder, text_encoder=None, vae=None), dict(np.load(folder / "transformer.npz"))
    out = compare.run(transformer, params.transformer, params.config.transformer, values)["out"]
    print(json.dumps({"out": compare.rel(out, values["out"])}))


def their_vae(folder: Path, name: str) -> None:
    from reference import make_forward as forward
    from reference import make_models as models
    from reference.case import SCHEDULER

    forward.torch.set_num_threads(2)
    with forward.torch.no_grad():
        model = vae_of(name)
        np.savez(folder / "vae.npz", **forward.run_vae(model, 1, SIDE, SIDE))
    save(folder, name, SCHEDULER, vae=model, transformer=models.transformer(0))


def vae_of(name: str):
    from reference import make_models as models

    own = {key: value for key, value in released.VAE.items() if not key.endswith("block_types")}
    return models.vae(0, norm_num_groups=32, **own, **released.VAES[released.family(name)])


def our_vae(folder: Path, name: str) -> None:
    from helpers import compare

    from pixart_fn import checkpoint, vae

    params, values = checkpoint.load(folder, text_encoder=None), dict(np.load(folder / "vae.npz"))
    outputs = compare.run(vae, params.vae, params.config.vae, values)
    print(json.dumps({key: compare.rel(out, values[key]) for key, out in outputs.items()}))


def their_pipeline(folder: Path, name: str) -> None:
    """Two layers of T5 and of the transformer at full width, a whole VAE, and four steps of diffusers' pipeline."""
    from unittest import mock

    import diffusers
    import torch
    from reference import make_models as models
    from reference import make_tokenizer
    from reference.case import SCHEDULER

    from pixart_fn import rng

    torch.set_num_threads(2)
    spiece = Path(__file__).parent / "reference" / "spiece.model"
    config = LCM if name.startswith("lcm") else SCHEDULER
    scheduler = getattr(diffusers, config["_class_name"])
    shape = (1, 4, SIDE // 8, SIDE // 8)
    t5 = {key: value for key, value in released.T5.items() if key != "feed_forward_proj"}
    made = {
        "text_encoder": models.t5(1, **{**t5, "num_layers": 2}),
        "transformer": models.transformer(0, **{**fields(name), "num_layers": 2}),
        "vae": vae_of(name),
    }
    words = make_tokenizer.t5_tokenizer(spiece.read_bytes())
    kind = diffusers.PixArtSigmaPipeline if tokens(name) == 300 else diffusers.PixArtAlphaPipeline
    pipeline = kind(tokenizer=words, scheduler=scheduler.from_config(config), **made)
    pipeline.set_progress_bar_config(disable=True)
    noise = iter(rng.normal(rng.fold_in(rng.key(0), i), shape) for i in range(STEPS))
    draw = mock.patch(
        "diffusers.schedulers.scheduling_lcm.randn_tensor",
        lambda shape, **_: torch.from_numpy(next(noise).reshape(shape)),
    )
    start = rng.normal(rng.key(1), shape)
    options = {"guidance_scale": PIPELINES[name], "num_inference_steps": STEPS, "height": SIDE, "width": SIDE}
    options |= {"use_resolution_binning": False, "clean_caption": False, "output_type": "latent"}
    with draw, torch.no_grad():
        z = pipeline(PROMPT, latents=torch.from_numpy(start.copy()), **options).images
        picture = pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample
    np.savez(folder / "pipeline.npz", start=start, latents=z.numpy(), picture=picture.numpy())
    save(folder, name, config, **made)
    (folder / "tokenizer").mkdir()
    shutil.copy(spiece, folder / "tokenizer" / "spiece.model")


def our_pipeline(folder: Path, name: str) -> None:
    from helpers import compare

    import pixart_fn as px

    params, values = px.load(folder), dict(np.load(folder / "pipeline.npz"))
    options = {"guidance": PIPELINES[name], "steps": STEPS, "height": SIDE, "width": SIDE, "binning": False}
    options |= {"clean": False, "progress": False, "output": "latents"}
    z = px.generate(params, PROMPT, px.key(0), latents=values["start"], **options)
    picture = px.vae.decode(params.vae, params.config.vae, z / params.config.vae.scaling_factor)
    found = {"latents": z, "picture": picture}
    print(json.dumps({key: compare.rel(each, values[key]) for key, each in found.items()}))


# --- the tests --------------------------------------------------------------------------------------------------------


def in_a_process(function: str, folder: Path, name: str) -> str:
    code = f"import pathlib, test_full_size; test_full_size.{function}(pathlib.Path({str(folder)!r}), {name!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def errors(folder: Path, what: str, name: str) -> dict[str, float]:
    """Let diffusers make and save what it is about, load and run it, and return the distances."""
    for library in ("torch", "diffusers", "transformers"):
        pytest.importorskip(library)
    try:
        in_a_process(f"their_{what}", folder, name)
        found = json.loads(in_a_process(f"our_{what}", folder, name).splitlines()[-1])
    finally:
        shutil.rmtree(folder)  # gigabytes that pytest would keep
    print(name, what, found, f"{peak_gib():.1f} GiB")
    return found


def peak_gib() -> float:
    """Of the largest of this process and those that it waited for."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(peaks) * unit / 2**30


@pytest.mark.parametrize("name", LATENTS)
def test_a_transformer_agrees(tmp_path, name):
    found = errors(tmp_path, "transformer", name)
    assert len(found) == 1 and max(found.values()) <= TOLERANCE, found
    assert peak_gib() < GIB


@pytest.mark.parametrize("name", ["alpha-512", "sigma-1024"])
def test_a_vae_agrees(tmp_path, name):
    found = errors(tmp_path, "vae", name)
    assert len(found) == 3 and max(found.values()) <= TOLERANCE, found
    assert peak_gib() < GIB


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_of_few_layers_agrees(tmp_path, name):
    found = errors(tmp_path, "pipeline", name)
    assert len(found) == 2 and max(found.values()) <= TOLERANCE, found
    assert peak_gib() < GIB
