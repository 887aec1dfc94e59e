"""Latents of painted scenes on the device, and noise."""

from __future__ import annotations

import torch
from torch import Tensor

from .autoencoder import AutoencoderKL
from .pack import Pack, paint
from .say import captions
from .scenes import Scenes, draw

CHUNK, AT_ONCE = 4096, 512


def schedule(steps: int = 1000) -> tuple[Tensor, Tensor]:
    """alpha and sigma of the linear schedule, β from 1e-4 to 0.02: float32 (steps,)."""
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, steps, dtype=torch.float64), 0)
    return bar.sqrt().float(), (1 - bar).sqrt().float()


class Pool:
    """The latents of n scenes, of which the oldest are replaced as training goes on."""

    def __init__(self, vae: AutoencoderKL, pack: Pack, generator: torch.Generator, n: int) -> None:
        self.vae, self.pack, self.generator, self.oldest = vae, pack, generator, 0
        self.chunk = min(CHUNK, n)
        parts = [self.encode() for _ in range(n // self.chunk)]
        self.z = torch.cat([z for z, _ in parts])
        self.scenes = Scenes(*(torch.cat(x) for x in zip(*(scenes for _, scenes in parts), strict=True)))

    @torch.no_grad()
    def encode(self) -> tuple[Tensor, Scenes]:
        """Draw a chunk of scenes and encode them."""
        scenes, device = draw(self.generator, self.pack, self.chunk), self.generator.device.type
        means = []
        for i in range(0, self.chunk, AT_ONCE):
            x = paint(self.pack, scenes.take(slice(i, i + AT_ONCE))).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
                means.append(self.vae.encode(x)[0])
        return torch.cat(means).to(torch.float32 if device == "cpu" else torch.bfloat16), scenes

    def refresh(self) -> None:
        z, scenes = self.encode()
        part = slice(self.oldest, self.oldest + self.chunk)
        for mine, new in ((self.z, z), *zip(self.scenes, scenes, strict=True)):
            mine[part] = new
        self.oldest = (self.oldest + self.chunk) % len(self.z)

    @torch.no_grad()
    def batch(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """n latents x0 with new captions: x0 (n, C, 16, 16), ids and mask (n, L)."""
        rows = torch.randint(len(self.z), (n,), generator=self.generator, device=self.z.device)
        return self.z[rows].float(), *captions(self.generator, self.pack, self.scenes.take(rows))

    @torch.no_grad()
    def noisy(self, x0: Tensor, alphas: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and t = 1000 √u, with one u in each n-th of [0, 1), as `text_to_image.draw`."""
        n, g, device = len(x0), self.generator, x0.device
        u = (torch.randperm(n, generator=g, device=device) + torch.rand(n, generator=g, device=device)) / n
        t = (1000 * u.sqrt()).floor().clamp(max=999).long()
        eps = torch.randn(x0.shape, generator=g, device=device)
        return alphas[t, None, None, None] * x0 + sigmas[t, None, None, None] * eps, t
