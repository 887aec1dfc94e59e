"""The steps of on_gpu.py that compute with models of released size, ours and diffusers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from on_gpu_steps import CAPTION, REAL, TOKENS, Step, distance, timed


def weights(step: Step, kind: str) -> tuple[Any, dict[str, np.ndarray]]:
    """A configuration, and random weights by the checkpoint's own names."""
    from pixart_fn import transformer, tree, vae
    from tests.bench import weights as bench

    if kind == "dit":
        small = (
            {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "cross_attention_dim": 16}
            if step.rehearse
            else {}
        )
        config = transformer.Config(sample_size=64, interpolation_scale=1, **small)
        return config, dict(tree.items(bench.random_tree(transformer.shapes(config))))
    config = vae.Config(**({"block_out_channels": (32, 32, 32, 32)} if step.rehearse else {}))
    return config, dict(tree.items(bench.random_tree(vae.shapes(config))))


def inputs(kind: str, side: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype(np.float32)

    if kind == "decode":
        return {"z": normal(1, 4, side // 8, side // 8)}
    seen = (np.arange(TOKENS) < np.array([[REAL], [1]])).astype(np.int32)
    return {"x": normal(2, 4, side // 8, side // 8), "text": normal(2, TOKENS, CAPTION), "mask": seen}


def ours(step: Step, kind: str, side: int) -> None:
    """One guided evaluation of PixArt-XL/2, or SD's VAE decoding a picture."""
    px = step.device()
    import mindspore as ms

    side = side // 4 if step.rehearse else side
    config, flat = weights(step, kind)
    given = {name: ms.Tensor(value) for name, value in inputs(kind, side).items()}
    for dtype in ("float16", "float32"):

        def measure(dtype: str = dtype) -> dict[str, Any]:
            p = px.tree.nest({name: ms.Tensor(value).astype(getattr(ms, dtype)) for name, value in flat.items()})
            t = ms.Tensor(np.full(2, 500, np.float32))
            captions = kind != "decode" and px.transformer.captions(p, config, given["text"], given["mask"])

            def f() -> np.ndarray:
                if kind == "decode":
                    return px.vae.decode(p, config, given["z"]).asnumpy()
                return px.transformer.evaluate(p, config, given["x"], t, captions).asnumpy()

            result = timed(f)
            np.save(step.home / f"{step.name}-{dtype}.npy", f())
            memory = None if step.rehearse else ms.runtime.max_memory_allocated() / 2**30
            return {"work": f"{kind}-{side}", "dtype": dtype, "side": "ours", "gib": memory, **result}

        step.attempt(dtype, measure)


def theirs(step: Step, kind: str, side: int) -> None:
    """The same by diffusers, and how far the results are apart."""
    import torch
    from diffusers import AutoencoderKL, PixArtTransformer2DModel

    where = "cpu" if step.rehearse else "cuda"
    if not step.rehearse and not torch.cuda.is_available():
        step.say(skipped="PyTorch sees no card")
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # as ours
    side = side // 4 if step.rehearse else side
    config, flat = weights(step, kind)
    given = {name: torch.tensor(value, device=where) for name, value in inputs(kind, side).items()}
    for dtype in ("float16", "float32"):
        if step.rehearse and dtype == "float16":
            continue

        def measure(dtype: str = dtype) -> dict[str, Any]:
            model = _diffusers(kind, config, PixArtTransformer2DModel if kind == "dit" else AutoencoderKL)
            model.load_state_dict({name: torch.tensor(value) for name, value in flat.items()}, strict=False)
            model = model.eval().to(where, getattr(torch, dtype))
            cast = {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in given.items()}
            f = _call(kind, model, cast, torch)
            result = timed(lambda: f().float().cpu().numpy())
            apart = {}
            if (file := step.home / f"{kind}-{step.name.rpartition('-')[2]}-{dtype}.npy").is_file():
                apart = {"apart": distance(np.load(file), f().float().cpu().numpy())}
            memory = None if step.rehearse else torch.cuda.max_memory_allocated() / 2**30
            return {"work": f"{kind}-{side}", "dtype": dtype, "side": "theirs", "gib": memory, **apart, **result}

        step.attempt(dtype, measure)


def _diffusers(kind: str, config: Any, cls: Any) -> Any:
    if kind == "dit":
        names = (
            "num_attention_heads",
            "attention_head_dim",
            "num_layers",
            "sample_size",
            "interpolation_scale",
            "caption_channels",
            "use_additional_conditions",
        )
        own = {name: getattr(config, name) for name in names}
        return cls(**own, cross_attention_dim=config.num_attention_heads * config.attention_head_dim)
    blocks = len(config.block_out_channels)
    down, up = ["DownEncoderBlock2D"] * blocks, ["UpDecoderBlock2D"] * blocks
    return cls(block_out_channels=config.block_out_channels, layers_per_block=2, down_block_types=down,
               up_block_types=up, latent_channels=4)  # fmt: skip


def _call(kind: str, model: Any, given: dict[str, Any], torch: Any) -> Callable[[], Any]:
    @torch.inference_mode()
    def f() -> Any:
        if kind == "decode":
            return model.decode(given["z"]).sample
        sizes = {"resolution": None, "aspect_ratio": None}
        t = torch.full((2,), 500, device=given["x"].device)
        mask = given["mask"].to(given["x"].dtype)
        return model(given["x"], given["text"], t, sizes, encoder_attention_mask=mask).sample

    return f
