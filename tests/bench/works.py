"""What is measured: for each work, by us and by diffusers, a function that sets it up and returns one run of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pixart_fn.backend.device import has_amx

from . import training

Run = Callable[[], Any]
TOKENS = 120  # diffusers pads prompts to the model's length
REAL = 20  # tokens of the prompt; the negative one has one
PROMPT = "a photo of a small red house by a lake, with mountains behind it, in the evening sun"


class Work(NamedTuple):
    """Alternating runs of `ours(home)` and, where there is one, `theirs(home)` and `mindone(home)`; `flops` of one run.

    `rounds` come after a first one, which alone is measured, compilation included, where they are 0. `home` holds
    PixArt-XL-2-512x512 with `layers` of T5-XXL. The library of a side is imported within it: with MindSpore in the
    process, PyTorch would compute on one thread. `layers` is None where no weights are read, and `images` how many
    pictures one run trains on.
    """

    ours: Callable[[Path], Run]
    theirs: Callable[[Path], Run] | None
    rounds: int
    flops: float | None = None
    layers: int | None = 0
    images: int | None = None
    mindone: Callable[[Path], Run] | None = None


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def mask(tokens: int, branches: int) -> np.ndarray:
    real = np.array([REAL, 1] * branches)[: 2 * branches, None]
    return (np.arange(tokens) < real).astype(np.int32)


# --- one guided evaluation of PixArt-XL/2 -----------------------------------------------------------------------------


def dit(side: int, rounds: int, branches: int = 1, bf16: bool = False) -> Work:
    """Both branches of `branches` pictures in one batch. Ours has the captions' keys and values, as when sampling.

    bf16: ours computes in bf16-math, theirs in bfloat16.
    """

    def ours(home: Path) -> Run:
        import mindspore as ms

        import pixart_fn as px

        px.precision("bf16-math" if bf16 else "float32")
        params = px.load(home, text_encoder=None, vae=None)
        p, config = params.transformer, params.config.transformer
        B, L = 2 * branches, 32  # REAL tokens in the bucket that encode_prompt chooses
        text, seen = ms.Tensor(normal(B, L, 4096)), ms.Tensor(mask(L, branches))
        x, t = ms.Tensor(normal(B, 4, side // 8, side // 8)), ms.Tensor(np.full(B, 500, np.float32))
        captions = px.transformer.captions(p, config, text, seen)
        return lambda: px.transformer.evaluate(p, config, x, t, captions).asnumpy()

    def theirs(home: Path) -> Run:
        import torch
        from diffusers import PixArtTransformer2DModel

        model = PixArtTransformer2DModel.from_pretrained(home / "transformer").eval()
        tensors = {name: torch.tensor(value) for name, value in inputs().items()}
        if bf16:
            model = model.bfloat16()
            tensors = {name: x.bfloat16() if x.is_floating_point() else x for name, x in tensors.items()}
        return lambda: model(**tensors, added_cond_kwargs={"resolution": None, "aspect_ratio": None})

    def inputs() -> dict[str, np.ndarray]:
        B = 2 * branches
        return {
            "hidden_states": normal(B, 4, side // 8, side // 8),
            "encoder_hidden_states": normal(B, TOKENS, 4096),
            "encoder_attention_mask": mask(TOKENS, branches).astype(np.float32),
            "timestep": np.full(B, 500),
        }

    def mindone(home: Path) -> Run:
        from . import mindone

        return mindone.transformer(home, inputs())

    N, D = (side // 16) ** 2, 1152
    flops = 2 * branches * 28 * (28 * N * D * D + 4 * N * N * D + 4 * N * 32 * D)
    return Work(ours, theirs, rounds, flops, mindone=mindone if (side, branches, bf16) == (256, 1, False) else None)


# --- the VAE ----------------------------------------------------------------------------------------------------------


def vae(direction: str, side: int, rounds: int, tile: int | None = None, bf16: bool = False) -> Work:
    def ours(home: Path) -> Run:
        import mindspore as ms

        import pixart_fn as px

        px.precision("bf16-math" if bf16 else "float32")
        params = px.load(home, text_encoder=None)
        p, config = params.vae, params.config.vae
        if direction == "encode":
            x = ms.Tensor(np.tanh(normal(1, 3, side, side)))
            return lambda: px.vae.encode(p, config, x).mean.asnumpy()
        z = ms.Tensor(normal(1, 4, side // 8, side // 8))
        if tile:
            return lambda: px.vae.decode_tiled(p, config, z, tile).asnumpy()
        return lambda: px.vae.decode(p, config, z).asnumpy()

    def theirs(home: Path) -> Run:
        import torch
        from diffusers import AutoencoderKL

        model = AutoencoderKL.from_pretrained(home / "vae", torch_dtype=torch.bfloat16 if bf16 else None).eval()
        if direction == "encode":
            x = torch.tensor(np.tanh(normal(1, 3, side, side)), dtype=model.dtype)
            return lambda: model.encode(x)
        if tile:
            model.enable_tiling()
        z = torch.tensor(normal(1, 4, side // 8, side // 8), dtype=model.dtype)
        return lambda: model.decode(z)

    def mindone(home: Path) -> Run:
        from . import mindone

        return mindone.decoder(home, normal(1, 4, side // 8, side // 8))

    return Work(ours, theirs, rounds, mindone=mindone if (direction, side) == ("decode", 128) else None)


# --- T5-XXL and whole pipelines ---------------------------------------------------------------------------------------


def t5(layers: int, rounds: int, peer: bool) -> Work:
    """Two prompts, real and empty; ours streams the weights from the file, whose pages the system may have cached."""

    def ours(home: Path) -> Run:
        import pixart_fn as px

        params = px.load(home, vae=None, stream=True)
        return lambda: px.encode_prompt(params, [PROMPT, ""]).states.asnumpy()

    def theirs(home: Path) -> Run:
        import torch
        from transformers import T5EncoderModel

        model = T5EncoderModel.from_pretrained(home / "text_encoder").eval()
        ids = torch.ones(2, TOKENS, dtype=torch.int64)
        seen = torch.tensor(mask(TOKENS, 1))
        return lambda: model(ids, attention_mask=seen)

    return Work(ours, theirs if peer else None, rounds, 2 * 64 * layers * (4 * 4096**2 + 3 * 4096 * 10240), layers)


def pipeline(side: int, steps: int) -> Work:
    """Text to picture at full size, the T5-XXL of 19 GB streamed."""

    def ours(home: Path) -> Run:
        import pixart_fn as px

        params = px.load(home)
        return lambda: px.generate(params, PROMPT, px.key(0), steps=steps, height=side, width=side, progress=False)

    return Work(ours, None, 0, layers=24)


def embedded(rounds: int, everywhere: bool) -> Work:
    """The embedded checkpoint, 20 steps; diffusers runs the same files and guides at all times.

    everywhere: ours does so too; else it guides at the times that the checkpoint says, as by default.
    """

    def ours(home: Path) -> Run:
        import pixart_fn as px

        params = px.load()
        guidance = px.Guidance(4.5) if everywhere else None
        return lambda: px.generate(params, "a cute cat", px.key(0), guidance=guidance, progress=False)

    def theirs(home: Path) -> Run:
        import torch
        from diffusers import PixArtAlphaPipeline
        from transformers import T5Tokenizer

        own = Path(__file__).parents[2] / "weights" / "emoji"
        tokenizer = T5Tokenizer.from_pretrained(own / "tokenizer")
        pipe = PixArtAlphaPipeline.from_pretrained(own, tokenizer=tokenizer, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        options = {"height": 128, "width": 128, "use_resolution_binning": False, "clean_caption": False}
        return lambda: pipe("a cute cat", num_inference_steps=20, guidance_scale=4.5, **options)

    return Work(ours, theirs, rounds)


# --- training ---------------------------------------------------------------------------------------------------------


def train(recompute: bool) -> Work:
    """A step of a transformer of DiT-S/2's size on eight pictures; ours is donated."""

    def ours(home: Path) -> Run:
        return training.ours(training.S2, given(), recompute)

    def theirs(home: Path) -> Run:
        return training.theirs(training.S2, given(), recompute)

    def given() -> training.Pictures:
        return training.pictures(training.BATCH, training.TOKENS, training.WIDTH)

    return Work(ours, theirs, 5, layers=None, images=training.BATCH)


def train_xl() -> Work:
    """A donated step of PixArt-XL/2 at 256 px on one picture, with a moving average: what it takes is memory."""

    def ours(home: Path) -> Run:
        given = training.pictures(1, TOKENS, 4096)
        return training.ours({"sample_size": training.SIDE}, given, recompute=True, averaged=True)

    return Work(ours, None, 1, layers=None, images=1)


WORKS: dict[str, Work] = {
    "embedded": embedded(15, everywhere=True),
    "embedded-default": embedded(15, everywhere=False),
    **{f"dit-{side}": dit(side, rounds) for side, rounds in ((256, 5), (512, 3), (1024, 1))},
    **{f"decode-{side}": vae("decode", side, rounds) for side, rounds in ((128, 5), (256, 5), (512, 3), (1024, 1))},
    **{f"encode-{side}": vae("encode", side, rounds) for side, rounds in ((256, 5), (512, 3), (1024, 1))},
    "decode-2048-tiled": vae("decode", 2048, 0, tile=512)._replace(theirs=None),
    "t5-2": t5(2, 5, peer=True),
    "t5-24": t5(24, 2, peer=False),
    "pipeline-512": pipeline(512, 20),
    "train-s2": train(recompute=False),
    "train-s2-recompute": train(recompute=True),
    "train-xl2-256": train_xl(),
    **{f"dit-256-batch-{n}": dit(256, 1, n)._replace(theirs=None) for n in (2, 4, 8)},
    **(
        {"dit-256-bf16": dit(256, 5, bf16=True), "decode-512-bf16": vae("decode", 512, 3, bf16=True)}
        if has_amx()
        else {}
    ),
}
