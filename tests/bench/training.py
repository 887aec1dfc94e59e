"""One training step: MSE on ε, clipping, AdamW. `s2` has DiT-S/2's size, 12 layers of 384, and 256 tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pixart_fn.types import Text

BATCH, SIDE, TOKENS, WIDTH = 8, 32, 32, 512
S2: dict[str, Any] = {
    "num_attention_heads": 6,
    "attention_head_dim": 64,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 12,
    "cross_attention_dim": 384,
    "sample_size": SIDE,
    "patch_size": 2,
    "caption_channels": WIDTH,
    "use_additional_conditions": False,
}
LR, DECAY, CLIP = 1e-4, 0.01, 1.0


class Pictures(NamedTuple):
    """Latents and captions without padding."""

    x0: np.ndarray
    states: np.ndarray
    mask: np.ndarray


def pictures(batch: int, tokens: int, width: int) -> Pictures:
    draw = np.random.default_rng(0)
    x0, states = draw.standard_normal((batch, 4, SIDE, SIDE)), draw.standard_normal((batch, tokens, width))
    return Pictures(x0.astype(np.float32), states.astype(np.float32), np.ones((batch, tokens), np.int32))


def ours(config: dict[str, Any], given: Pictures, recompute: bool, averaged: bool = False):
    """A donated step, as `pixart-fn train` takes it."""
    from pixart_fn import rng, schedule, transformer
    from pixart_fn.backend.runtime import settle_on_cpu
    from pixart_fn.train import losses, objective, optim, state, step
    from pixart_fn.train.batch import Batch

    settle_on_cpu()
    own = transformer.Config(**config)
    loss = losses.diffusion(schedule.from_betas(schedule.linear()))
    optimiser = optim.chain(optim.clip_by_global_norm(CLIP), optim.adamw(LR, weight_decay=DECAY))
    average = optim.ema(0.9999) if averaged else None
    aim = objective.of_transformer(own, loss, recompute=recompute)
    one = step.make(aim, optimiser, ema=average)
    now = state.init(transformer.init(rng.key(0), own), optimiser, rng.key(1), ema=average)
    batch = Batch(given.x0, Text(given.states, given.mask))

    def run() -> float:
        nonlocal now
        now, metrics = one(now, batch, donate=True)
        return metrics["loss"]

    return run


def theirs(config: dict[str, Any], given: Pictures, recompute: bool):
    """The same as a plain loop of PyTorch's; `recompute` is its gradient checkpointing."""
    import torch
    from diffusers import PixArtTransformer2DModel

    with torch.inference_mode(False):
        model = PixArtTransformer2DModel(**config).train()
        if recompute:
            model.enable_gradient_checkpointing()
        optimiser = torch.optim.AdamW(model.parameters(), LR, weight_decay=DECAY)
        x0, states, mask = (torch.tensor(each) for each in given)
        total = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).reshape(-1, 1, 1, 1)
        mask = mask.float()

    @torch.inference_mode(False)
    def run() -> float:
        t, eps = torch.randint(0, 1000, (len(x0),)), torch.randn_like(x0)
        x = total[t].sqrt() * x0 + (1 - total[t]).sqrt() * eps
        sizes = {"resolution": None, "aspect_ratio": None}
        out = model(x, states, t, added_cond_kwargs=sizes, encoder_attention_mask=mask).sample
        loss = (out[:, :4] - eps).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return run
