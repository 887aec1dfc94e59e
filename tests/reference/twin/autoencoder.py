"""The autoencoder in PyTorch, with the names that diffusers gives its weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Resnet(nn.Module):
    def __init__(self, n: int, m: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, n, 1e-6), nn.Conv2d(n, m, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, m, 1e-6), nn.Conv2d(m, m, 3, padding=1)
        if n != m:
            self.conv_shortcut = nn.Conv2d(n, m, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + y


class Middle(nn.Module):
    def __init__(self, n: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(n, n, groups), Resnet(n, n, groups)])
        a = nn.Module()
        a.group_norm = nn.GroupNorm(groups, n, 1e-6)
        a.to_q, a.to_k, a.to_v = (nn.Linear(n, n) for _ in range(3))
        a.to_out = nn.ModuleList([nn.Linear(n, n)])
        self.attentions = nn.ModuleList([a])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        a = self.attentions[0]
        y = a.group_norm(x).flatten(2).transpose(1, 2)
        y = F.scaled_dot_product_attention(a.to_q(y)[:, None], a.to_k(y)[:, None], a.to_v(y)[:, None])[:, 0]
        x = x + a.to_out[0](y).transpose(1, 2).reshape(x.shape)
        return self.resnets[1](x)


class AutoencoderKL(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] ↔ latents (B, C, H/8, W/8)."""

    def __init__(self, widths: tuple[int, ...], layers: int, groups: int, latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        last, e, d = widths[-1], self.encoder, self.decoder
        e.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        e.down_blocks, n = nn.ModuleList(), widths[0]
        for i, m in enumerate(widths):
            b = nn.Module()
            b.resnets = nn.ModuleList(Resnet(n if j == 0 else m, m, groups) for j in range(layers))
            n = m
            if i < len(widths) - 1:
                s = nn.Module()
                s.conv = nn.Conv2d(m, m, 3, stride=2)
                b.downsamplers = nn.ModuleList([s])
            e.down_blocks.append(b)
        e.mid_block = Middle(last, groups)
        e.conv_norm_out, e.conv_out = nn.GroupNorm(groups, last, 1e-6), nn.Conv2d(last, 2 * latent, 3, padding=1)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)
        d.conv_in = nn.Conv2d(latent, last, 3, padding=1)
        d.mid_block = Middle(last, groups)
        d.up_blocks, n = nn.ModuleList(), last
        for i, m in enumerate(reversed(widths)):
            b = nn.Module()
            b.resnets = nn.ModuleList(Resnet(n if j == 0 else m, m, groups) for j in range(layers + 1))
            n = m
            if i < len(widths) - 1:
                s = nn.Module()
                s.conv = nn.Conv2d(m, m, 3, padding=1)
                b.upsamplers = nn.ModuleList([s])
            d.up_blocks.append(b)
        d.conv_norm_out, d.conv_out = nn.GroupNorm(groups, widths[0], 1e-6), nn.Conv2d(widths[0], 3, 3, padding=1)

    def init(self) -> AutoencoderKL:
        for name, p in self.named_parameters():
            if p.ndim == 1:
                nn.init.constant_(p, float("norm" in name and name.endswith("weight")))
            elif ".conv2." in name or ".to_out." in name:
                nn.init.zeros_(p)
            else:
                nn.init.normal_(p, std=p[0].numel() ** -0.5)
        return self

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        e = self.encoder
        x = e.conv_in(x)
        for b in e.down_blocks:
            for r in b.resnets:
                x = r(x)
            if hasattr(b, "downsamplers"):
                x = b.downsamplers[0].conv(F.pad(x, (0, 1, 0, 1)))
        x = e.conv_out(F.silu(e.conv_norm_out(e.mid_block(x))))
        mean, logvar = self.quant_conv(x).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        d = self.decoder
        x = d.mid_block(d.conv_in(self.post_quant_conv(z)))
        for b in d.up_blocks:
            for r in b.resnets:
                x = r(x)
            if hasattr(b, "upsamplers"):
                x = b.upsamplers[0].conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return d.conv_out(F.silu(d.conv_norm_out(x)))
