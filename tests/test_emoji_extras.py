"""What lies beside the embedded checkpoint: a decoder for previews and an adapter for four steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import compare
from helpers.tolerances import assert_close

import pixart_fn as px
from pixart_fn.files.safetensors import array as stored_array
from pixart_fn.files.safetensors import open_file
from pixart_fn.train.emoji import shapes

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

FOLDER = Path(__file__).parents[1] / "weights" / "emoji"
PREVIEW, LCM = FOLDER / "preview", FOLDER / "lcm_lora"
SCENE = shapes.Scene((shapes.Shape("circle", "red"),))


def picture() -> np.ndarray:
    """A red circle on white, uint8 (128, 128, 3)."""
    return shapes.paint(np.random.default_rng(0), SCENE, 128)


def tensor(uint8: np.ndarray) -> ms.Tensor:
    return ms.Tensor(uint8[None].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def array(x: ms.Tensor) -> np.ndarray:
    """(1, 3, H, W) in [-1, 1] → (H, W, 3) in [0, 1]."""
    return (x.asnumpy()[0].transpose(1, 2, 0).clip(-1, 1) + 1) / 2


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(one - other).mean()))


@pytest.fixture(scope="module")
def loaded() -> px.Params:
    return px.load(text_encoder=None, vae=PREVIEW, scheduler=LCM)


def decode(p: px.Params, z: ms.Tensor) -> np.ndarray:
    return array(px.vae.decode(p.vae, p.config.vae, z))


@pytest.mark.parametrize(
    ("file", "most"),
    [
        (PREVIEW / "diffusion_pytorch_model.safetensors", 400_000),
        (LCM / "pytorch_lora_weights.safetensors", 2_000_000),
    ],
)
def test_the_files_are_small_and_in_halves(file, most):
    stored = open_file(file)
    assert {leaf.dtype for leaf in stored.values()} == {"F16"}
    assert file.stat().st_size < most


@pytest.mark.slow
def test_the_preview_resembles_what_the_vae_gives(loaded):
    assert isinstance(loaded.config.vae, px.vae.TinyConfig)
    full = px.load(text_encoder=None)
    z = px.vae.encode(loaded.vae, loaded.config.vae, tensor(picture())).mean
    shown = decode(full, z)
    assert psnr(decode(loaded, z), shown) > 25
    assert psnr(shown, picture() / 255) > 18  # the small encoder's latents are about the VAE's


@pytest.mark.reference
def test_the_preview_is_diffusers_too(loaded):
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderTiny

    theirs = AutoencoderTiny.from_pretrained(PREVIEW, torch_dtype=torch.float32)
    z = np.random.default_rng(0).standard_normal((1, 16, 4, 4), np.float32)
    with torch.no_grad():
        wanted = theirs.decode(torch.from_numpy(z)).sample.numpy()
    assert_close(px.vae.decode(loaded.vae, loaded.config.vae, ms.Tensor(z)).asnumpy(), wanted, compare.MODULE)


def test_the_adapter_is_added_to_the_weights_that_it_names(loaded):
    merged = px.lora.merge(loaded.transformer, px.lora.load(LCM))
    before, after = (dict(px.tree.items(t)) for t in (loaded.transformer, merged))
    leaves = open_file(LCM / "pytorch_lora_weights.safetensors")
    stored = {name.removeprefix("transformer."): stored_array(leaf) for name, leaf in leaves.items()}
    changed = {name for name in after if after[name] is not before[name]}
    assert changed == {name.replace("lora_A.", "") for name in stored if "lora_A" in name}
    name = "transformer_blocks.3.ff.net.2"
    A, B = (stored[f"{name}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    wanted = before[f"{name}.weight"].asnumpy() + B @ A
    assert_close(after[f"{name}.weight"].asnumpy(), wanted.astype(np.float32))
    assert np.abs(B @ A).max() > 1e-3


def test_its_scheduler_draws_in_four_steps_without_guidance(loaded):
    assert loaded.config.call[:2] == (4, 1.0)
    assert loaded.config.scheduler == json.loads((LCM / "scheduler_config.json").read_text())


@pytest.mark.slow
def test_four_steps_draw_what_is_asked_for():
    p = px.load(vae=PREVIEW, scheduler=LCM)
    p = px.lora.merge(p, px.lora.load(LCM))
    drawn = px.generate(p, "a red circle", px.key(0), output="numpy", progress=False)
    (seen,) = shapes.see(np.round(drawn[0] * 255).astype(np.uint8))
    assert (seen.kind, seen.colour) == ("circle", "red")


@pytest.mark.reference
def test_the_teacher_draws_as_the_solver_does():
    torch = pytest.importorskip("torch")
    from reference.twin import lcm

    states = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 16, 256), np.float32))

    def see(x, t, text):
        """No network, but curved."""
        return 0.1 * x + np.cos(t / 300) * text

    def model(x, t, text, mask):
        return see(x, float(t[0]), text.view(x.shape))

    seen, found = lcm.draw(model, states, torch.ones(3, 1), torch.Generator().manual_seed(0))
    text, null = (part.view(-1, 16, 16, 16).numpy() for part in (states[:2], states[2:]))

    def guided(x, t):
        return see(x, t, null) + lcm.SCALE * (see(x, t, text) - see(x, t, null))

    grid = px.schedule.grid(px.schedule.from_betas(px.schedule.linear()), lcm.TIMES)
    wanted = px.sample(px.key(0), guided, px.solvers.dpmpp_2m(), grid, seen[0].numpy())
    assert_close(found[-1].numpy(), wanted, 1e-5)  # the twin's coefficients are of float32
