"""The text encoder and the transformer in PyTorch, with the names that transformers and diffusers give their weights.

B batch, L text tokens, N patches, D width, A heads, K head width, C channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class T5Block(nn.Module):
    """Self-attention without scale and the gated feed-forward part, each on a normalised input and added."""

    def __init__(self, width: int, head: int, heads: int, inner: int, first: bool) -> None:
        super().__init__()
        self.heads = heads
        attention = nn.Module()
        for name in ("q", "k", "v"):
            setattr(attention, name, nn.Linear(width, heads * head, bias=False))
        attention.o = nn.Linear(heads * head, width, bias=False)
        if first:
            attention.relative_attention_bias = nn.Embedding(32, heads)
        dense = nn.Module()
        dense.wi_0, dense.wi_1 = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        dense.wo = nn.Linear(inner, width, bias=False)
        self.layer = nn.ModuleList([nn.Module(), nn.Module()])
        self.layer[0].SelfAttention, self.layer[0].layer_norm = attention, RMSNorm(width)
        self.layer[1].DenseReluDense, self.layer[1].layer_norm = dense, RMSNorm(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        B, L, _ = x.shape
        p = self.layer[0].SelfAttention
        y = self.layer[0].layer_norm(x)
        q, k, v = (f(y).view(B, L, self.heads, -1).transpose(1, 2) for f in (p.q, p.k, p.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        x = x + p.o(y.transpose(1, 2).reshape(B, L, -1))
        d = self.layer[1].DenseReluDense
        y = self.layer[1].layer_norm(x)
        return x + d.wo(F.gelu(d.wi_0(y), approximate="tanh") * d.wi_1(y))


def buckets(L: int) -> Tensor:
    """T5's bucket of each (query, key): (L, L)."""
    position = torch.arange(L)
    relative = position[None] - position[:, None]
    distance = relative.abs()
    large = 8 + (torch.log(distance.clamp(min=1) / 8) / math.log(128 / 8) * 8).long()
    return torch.where(distance < 8, distance, large.clamp(max=15)) + 16 * (relative > 0)


class T5(nn.Module):
    """ids, mask (B, L) → (B, L, D)."""

    def __init__(self, vocabulary: int, width: int, head: int, heads: int, inner: int, layers: int) -> None:
        super().__init__()
        self.shared = nn.Embedding(vocabulary, width)
        self.encoder = nn.Module()
        self.encoder.block = nn.ModuleList(T5Block(width, head, heads, inner, i == 0) for i in range(layers))
        self.encoder.final_layer_norm = RMSNorm(width)

    def init(self) -> T5:
        for name, p in self.named_parameters():
            if "layer_norm" in name:
                nn.init.ones_(p)
                continue
            scale = 1.0 if name == "shared.weight" else p.shape[1] ** -0.5
            if "relative_attention_bias" in name:
                scale = self.shared.weight.shape[1] ** -0.5
            if name.endswith(".q.weight"):
                scale *= (p.shape[0] // self.encoder.block[0].heads) ** -0.5
            nn.init.normal_(p, std=scale)
        return self

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = table(buckets(ids.shape[1]).to(ids.device)).permute(2, 0, 1)[None]
        bias = bias + (1 - mask[:, None, None].float()) * -1e9
        x = self.shared(ids)
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, text: Tensor, bias: Tensor | None) -> Tensor:
        B, N, D = x.shape
        q, k, v = (f(y).view(B, y.shape[1], self.heads, -1).transpose(1, 2)
                   for f, y in ((self.to_q, x), (self.to_k, text), (self.to_v, text)))  # fmt: skip
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        return self.to_out[0](y.transpose(1, 2).reshape(B, N, D))


class GELU(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GELU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class Block(nn.Module):
    """One PixArt block: modulated self-attention, cross-attention, modulated feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.empty(6, width))
        self.attn1, self.attn2, self.ff = Attention(width, heads), Attention(width, heads), FeedForward(width)

    def forward(self, x: Tensor, text: Tensor, bias: Tensor, modulation: Tensor) -> Tensor:
        D = x.shape[-1]
        a, b, gate, c, d, gate_ff = (self.scale_shift_table + modulation).unbind(1)
        y = F.layer_norm(x, (D,), eps=1e-6) * (1 + b[:, None]) + a[:, None]
        x = x + gate[:, None] * self.attn1(y, y, None)
        x = x + self.attn2(x, text, bias)
        y = F.layer_norm(x, (D,), eps=1e-6) * (1 + d[:, None]) + c[:, None]
        return x + gate_ff[:, None] * self.ff(y)


class Embedder(nn.Module):
    """Two linear maps with a nonlinearity between."""

    def __init__(self, n: int, width: int, act: nn.Module) -> None:
        super().__init__()
        self.linear_1, self.linear_2, self.act = nn.Linear(n, width), nn.Linear(width, width), act

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


def sinusoid(t: Tensor) -> Tensor:
    """(B,) → (B, 256), cosines first."""
    angle = t[:, None].float() * torch.exp(torch.arange(128, device=t.device) * (-math.log(10000) / 128))
    return torch.cat([angle.cos(), angle.sin()], -1)


def positions(width: int, n: int, base: int) -> Tensor:
    """(n², D): x in the first half of the channels, y in the second, each [sin, cos] of i / (n / base)."""
    at = torch.arange(n, dtype=torch.float64) / (n / base)
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    one = torch.cat([(at[:, None] * omega).sin(), (at[:, None] * omega).cos()], -1)
    x, y = one[None].expand(n, n, -1), one[:, None].expand(n, n, -1)
    return torch.cat([x, y], -1).reshape(n * n, width).float()


class PixArt(nn.Module):
    """x_t (B, C, H, W), t (B,), text (B, L, Dt), mask (B, L) → x0 (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, head: int, layers: int, text: int, sample_size: int) -> None:
        super().__init__()
        D, patch = heads * head, 2
        self.width, self.patch, self.base = D, patch, sample_size // patch
        self.pos_embed = nn.Module()
        self.pos_embed.proj = nn.Conv2d(channels, D, patch, patch)
        self.adaln_single = nn.Module()
        self.adaln_single.emb = nn.Module()
        self.adaln_single.emb.timestep_embedder = Embedder(256, D, nn.SiLU())
        self.adaln_single.linear = nn.Linear(D, 6 * D)
        self.caption_projection = Embedder(text, D, nn.GELU("tanh"))
        self.transformer_blocks = nn.ModuleList(Block(D, heads) for _ in range(layers))
        self.scale_shift_table = nn.Parameter(torch.empty(2, D))
        self.proj_out = nn.Linear(D, patch * patch * channels)

    def init(self) -> PixArt:
        """As `text_to_image.init`: Xavier linears, tables / √D, a text that is heard from the first step."""
        for name, p in self.named_parameters():
            if name.endswith("bias") or name.startswith("proj_out"):
                nn.init.zeros_(p)
            elif name.endswith("table"):
                nn.init.normal_(p, std=self.width**-0.5)
            elif name.startswith("adaln_single.linear"):
                nn.init.normal_(p, std=0.02)
            elif "embedder" in name or name.startswith("caption_projection") or "attn2.to_out" in name:
                nn.init.normal_(p, std=p.shape[1] ** -0.5 * (2.5 if "caption_projection.linear_2" in name else 1))
            else:
                nn.init.normal_(p, std=(2 / (p.shape[0] + p[0].numel())) ** 0.5)
        return self

    def forward(self, x: Tensor, t: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        B, C, H, W = x.shape
        p, n = self.patch, H // self.patch
        place = positions(self.width, n, self.base).to(x.device)
        h = self.pos_embed.proj(x).flatten(2).transpose(1, 2) + place
        emb = self.adaln_single.emb.timestep_embedder(sinusoid(t))
        modulation = self.adaln_single.linear(F.silu(emb)).view(B, 6, self.width)
        text = self.caption_projection(text)
        bias = (1 - mask[:, None, None].to(text.dtype)) * -10000.0
        bias = bias.expand(B, 1, n * n, -1)
        for block in self.transformer_blocks:
            h = block(h, text, bias, modulation)
        shift, scale = (self.scale_shift_table + emb[:, None]).unbind(1)
        h = F.layer_norm(h, (self.width,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
        h = self.proj_out(h).view(B, n, n, p, p, C)
        return h.permute(0, 5, 1, 3, 2, 4).reshape(B, C, H, W)
