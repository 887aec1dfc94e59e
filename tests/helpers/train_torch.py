"""The training of `train_tiny` as a plain loop of PyTorch's with diffusers' transformer: nothing of ours but the data.

It imports torch, so it is imported within a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor

BETA = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
TOTAL = torch.cumprod(1 - BETA, 0)
BEFORE = torch.cat([torch.ones(1).double(), TOTAL[:-1]])
POSTERIOR = BETA * (1 - BEFORE) / (1 - TOTAL)
POSTERIOR[0] = POSTERIOR[1]


class Example(NamedTuple):
    """What a step of both loops sees: latents, caption and mask, times and noise."""

    x0: np.ndarray
    states: np.ndarray
    mask: np.ndarray
    t: np.ndarray
    eps: np.ndarray


def at(table: Tensor, t: Tensor) -> Tensor:
    return table[t].reshape(-1, 1, 1, 1).float()


def loss(model: PixArtTransformer2DModel, each: Example) -> Tensor:
    """MSE on ε, and the variance bound with the mean held fixed, in bits, as in the authors' gaussian_diffusion.py."""
    x0, states, mask, t, eps = map(torch.from_numpy, each)
    x = at(TOTAL.sqrt(), t) * x0 + at((1 - TOTAL).sqrt(), t) * eps
    conditions = {"resolution": None, "aspect_ratio": None}
    out = model(x, states, t, added_cond_kwargs=conditions, encoder_attention_mask=mask.float()).sample
    guess, variance = out.chunk(2, 1)
    fixed, share = guess.detach(), (variance + 1) / 2
    log_variance = share * at(BETA.log(), t) + (1 - share) * at(POSTERIOR.log(), t)
    x0_guess = at(TOTAL.rsqrt(), t) * x - at((1 / TOTAL - 1).sqrt(), t) * fixed
    off = at(BETA * BEFORE.sqrt() / (1 - TOTAL), t) * (x0 - x0_guess)
    true = at(POSTERIOR.log(), t)
    kl = 0.5 * (log_variance - true - 1 + torch.exp(true - log_variance) + off**2 * torch.exp(-log_variance))
    assert t.all()  # the bound at t = 0 is another one, which the losses' own tests compare
    return (guess - eps).square().mean() + kl.mean() / math.log(2)


def train(
    weights: dict[str, np.ndarray], config: dict, examples: list[Example], lr: float, decay: float, clip: float
) -> Iterator[tuple[float, float, dict[str, Tensor], dict[str, Tensor]]]:
    """Yield the loss, the gradient's norm, the weights and their moving average after each step."""
    model = PixArtTransformer2DModel(**config).train()
    model.load_state_dict({name: torch.from_numpy(leaf.copy()) for name, leaf in weights.items()}, strict=True)
    every = dict(model.named_parameters())
    groups = [
        {"params": [p for p in every.values() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in every.values() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr)
    average = {name: p.detach().clone() for name, p in every.items()}
    for step, each in enumerate(examples):
        optimiser.zero_grad()
        value = loss(model, each)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        d = min(0.99, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, p in every.items():
                average[name].mul_(d).add_(p, alpha=1 - d)
        yield value.item(), norm.item(), every, average
