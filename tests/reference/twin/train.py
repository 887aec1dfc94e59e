"""Train on a GPU: `python -m twin.train vae --help`, `python -m twin.train model --help`, in tests/reference.

The autoencoder first, then the text encoder and the transformer together, on its latents. A run is as long as
`--seconds` says; the learning rate falls to nothing at its end. Weights are written in halves, in parts of 15 MiB.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import models
from .autoencoder import AutoencoderKL
from .latents import Pool, schedule
from .pack import COLOUR_SETS, Pack, paint
from .scenes import draw

VAE = {"widths": (32, 64, 128, 128), "layers": 1, "groups": 8, "latent": 16}
TEXT = {"width": 256, "head": 64, "heads": 4, "inner": 512, "layers": 3}
TRANSFORMER = {"channels": 16, "heads": 5, "head": 64, "layers": 8, "text": 256, "sample_size": 16}
BETAS, EPS, WEIGHT_DECAY, CLIP = (0.9, 0.99), 1e-8, 0.01, 1.0
EMBEDDING_RATE = 3.0
KL = 1e-3
SNR_MAX = 5.0
PART = 15 << 20
BEGAN = time.time()


def say(*words: object) -> None:
    print(f"[{time.time() - BEGAN:6.1f}]", *words, flush=True)


def half(device: str) -> torch.autocast:
    """Products in bfloat16 on a GPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu")


class Trainer:
    """AdamW, the weights' moving average, and a rate that rises over `warmup` steps and falls over the last `decay`."""

    def __init__(self, module: nn.Module, lr: float, seconds: float, average: float, warmup: int, decay: float) -> None:
        self.module, self.lr, self.seconds, self.warmup, self.decay = module, lr, seconds, warmup, decay
        named = list(module.named_parameters())
        groups = [
            {"params": [p for n, p in named if p.ndim > 1 and "shared" not in n], "rate": 1.0},
            {"params": [p for n, p in named if p.ndim <= 1], "rate": 1.0, "weight_decay": 0.0},
            {"params": [p for n, p in named if "shared" in n], "rate": EMBEDDING_RATE},
        ]
        groups = [group for group in groups if group["params"]]
        self.optimiser = torch.optim.AdamW(groups, lr, BETAS, EPS, WEIGHT_DECAY, fused=named[0][1].is_cuda)
        self.live = [p for _, p in named]
        self.mean = [p.detach().clone() for p in self.live]
        self.average, self.step, self.start, self.reported = average, 0, 0.0, 0.0

    def share(self) -> float:
        """How much of the time is over; it begins after the first step, which compiles."""
        return (time.time() - self.start) / self.seconds if self.start else 0.0

    def update(self, loss: Tensor, pictures: int) -> None:
        rate = self.lr * min(1.0, (self.step + 1) / self.warmup) * min(1.0, max(0.01, (1 - self.share()) / self.decay))
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.live, CLIP)
        self.optimiser.step()
        with torch.no_grad():
            keep = min(self.average, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - keep)
        self.step += 1
        if self.step == 1 or time.time() - self.reported > 5:
            self.reported = time.time()
            speed = pictures * self.step / (time.time() - self.start) if self.start else 0.0
            say(f"step {self.step} loss {float(loss.detach()):.4f} norm {float(norm):.2f} lr {rate:.1e} {speed:.0f}/s")
            self.start = self.start or time.time()

    @torch.no_grad()
    def use_average(self) -> None:
        for p, mean in zip(self.live, self.mean, strict=True):
            p.copy_(mean)


def edges(e: Tensor) -> Tensor:
    """Differences of neighbours."""
    return (e[:, :, 1:] - e[:, :, :-1]).abs().mean() + (e[:, :, :, 1:] - e[:, :, :, :-1]).abs().mean()


def reconstruction(e: Tensor) -> Tensor:
    """|e| + 2 e² + the same of neighbours at three scales."""
    e = e.float()
    loss = e.abs().mean() + 2 * e.square().mean()
    for _ in range(3):
        loss = loss + 0.35 * edges(e)
        e = F.avg_pool2d(e, 2)
    return loss


def vae_loss(vae: AutoencoderKL, x: Tensor, noise: Tensor) -> Tensor:
    """The round trip's error, the latents' KL, and for a quarter: averaged latents show it at half its size."""
    mean, logvar = (y.float() for y in vae.encode(x))
    z = mean + (0.5 * logvar).exp() * noise
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    part = len(x) // 4
    small = vae.decode(F.avg_pool2d(z[:part], 2)) - F.avg_pool2d(x[:part], 2)
    return reconstruction(vae.decode(z) - x) + KL * kl + 0.25 * reconstruction(small)


def train_vae(a: argparse.Namespace, pack: Pack, device: str) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(**VAE).init().to(device, memory_format=torch.channels_last)
    trainer = Trainer(vae, a.lr or 1.5e-3, a.seconds, average=0.998, warmup=100, decay=0.6)
    generator, loss_of, n = torch.Generator(device).manual_seed(0), vae_loss, a.batch or 96
    if device != "cpu":
        loss_of = torch.compile(vae_loss)
    while trainer.share() < 1:
        with torch.no_grad():
            if trainer.step % 4 == 0:
                pictures = paint(pack, draw(generator, pack, 4 * n, hold_out=True)).contiguous(
                    memory_format=torch.channels_last
                )
            x = pictures[trainer.step % 4 * n :][:n]
            noise = torch.randn(n, VAE["latent"], 16, 16, generator=generator, device=device)
        with half(device):
            loss = loss_of(vae, x, noise)
        trainer.update(loss, n)
    trainer.use_average()
    whiten(vae, pack, generator)
    judge_vae(vae, pack)
    save(vae, "vae", a.out)


@torch.no_grad()
def whiten(vae: AutoencoderKL, pack: Pack, generator: torch.Generator, batches: int = 32) -> None:
    """Latents of zero mean and unit variance per channel: the 1×1 convolutions on both sides absorb the change."""
    z = torch.cat([vae.encode(paint(pack, draw(generator, pack, 64)))[0] for _ in range(batches)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    C, before, after = len(mean), vae.quant_conv, vae.post_quant_conv
    before.weight /= torch.cat([std, torch.ones_like(std)])[:, None, None, None]
    before.bias.copy_(torch.cat([(before.bias[:C] - mean) / std, before.bias[C:] - 2 * std.log()]))
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[:, None, None]


@torch.no_grad()
def judge_vae(vae: AutoencoderKL, pack: Pack) -> None:
    """PSNR of the round trip on white, of concepts that training held out and of some others."""
    colour = torch.nonzero(pack.set < COLOUR_SETS)[:, 0]
    held_out = pack.held_out[pack.concept[colour]]
    for name, rows in (("held out", colour[held_out]), ("seen", colour[~held_out][::20])):
        errors = []
        for part in rows.split(64):
            glyph = pack.mips[0][part].float()
            x = 2 * (glyph[:, :3] + 1 - glyph[:, 3:]) - 1
            errors.append((vae.decode(vae.encode(x)[0]).clamp(-1, 1) - x).square().mean((1, 2, 3)) / 4)
        say(f"{name}: mean PSNR {float(-10 * torch.cat(errors).log10().mean()):.2f} dB of {len(rows)} glyphs")


class Model(nn.Module):
    """Text encoder and transformer: x_t, t, ids, mask → x0."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder = models.T5(vocabulary, **TEXT).init()
        self.transformer = models.PixArt(**TRANSFORMER).init()

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return self.transformer(x, t, self.text_encoder(ids, mask), mask)


def model_loss(x0: Tensor, predicted: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """mean w(t) (x̂0 - x0)² with w = min(SNR, 5) + 1, as `text_to_image.loss`."""
    weight = ((alpha / sigma) ** 2).clamp(max=SNR_MAX) + 1
    return ((predicted.float() - x0).square().flatten(1).mean(1) * weight).mean()


def train_model(a: argparse.Namespace, pack: Pack, device: str) -> None:
    torch.manual_seed(1)
    vae = load(AutoencoderKL(**VAE), "vae", a.out).to(device, memory_format=torch.channels_last).requires_grad_(False)
    model = Model(vocabulary_size(pack)).to(device)
    if a.start:
        for name, part in model.named_children():
            load(part, name, a.start)
    if device != "cpu":  # each size gets kernels of its own, and all blocks share them
        torch._dynamo.config.automatic_dynamic_shapes = False
        for block in (models.Block, models.T5Block):
            block.forward = torch.compile(block.forward)
        vae.encode = torch.compile(vae.encode)
    trainer = Trainer(model, a.lr or 1e-3, a.seconds, average=0.9995, warmup=300, decay=0.5)
    generator, n = torch.Generator(device).manual_seed(a.seed), a.batch or 1024
    alphas, sigmas = (x.to(device) for x in schedule())
    pool = Pool(vae, pack, generator, a.pool)
    saved = False
    while trainer.share() < 1:
        if trainer.step % a.every == 0:
            pool.refresh()
        x0, ids, mask = pool.batch(n)
        x, t = pool.noisy(x0, alphas, sigmas)
        with half(device):
            predicted = model(x, t, ids, mask)
        trainer.update(model_loss(x0, predicted, alphas[t], sigmas[t]), n)
        if not saved and trainer.share() > 0.75:  # a machine that is taken away leaves this
            save_all(model, a.out)
            saved = True
    trainer.use_average()
    save_all(model, a.out)
    say(f"{trainer.step} steps, {trainer.step * n} pictures")


def vocabulary_size(pack: Pack) -> int:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=pack.spiece).vocab_size()


def save_all(model: Model, out: Path) -> None:
    for name, part in model.named_children():
        save(part, name, out)


def save(module: nn.Module, name: str, out: Path) -> None:
    stream = io.BytesIO()
    torch.save({key: value.half().cpu() for key, value in module.state_dict().items()}, stream)
    blob = stream.getvalue()
    for i in range(0, len(blob), PART):
        (out / f"{name}.pt.{i // PART}").write_bytes(blob[i : i + PART])


def read(name: str, folder: Path) -> dict[str, Tensor]:
    """The weights that `save` wrote, as float32."""
    blob = b"".join(path.read_bytes() for path in sorted(folder.glob(f"{name}.pt.*")))
    return {key: value.float() for key, value in torch.load(io.BytesIO(blob), map_location="cpu").items()}


def load(module: nn.Module, name: str, folder: Path) -> nn.Module:
    module.load_state_dict(read(name, folder))
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("vae", "model"))
    parser.add_argument("--pack", required=True, help="what make_pack wrote")
    parser.add_argument("--out", type=Path, required=True, help="where the weights are written, and the vae's are read")
    parser.add_argument("--seconds", type=float, default=60, help="of training, without the first step's compilation")
    parser.add_argument("--batch", type=int, help="pictures in a step; 96 for the vae, 1024 for the model")
    parser.add_argument("--lr", type=float, help="peak learning rate; 1.5e-3 for the vae, 1e-3 for the model")
    parser.add_argument("--start", type=Path, help="a folder with weights of the model to go on from")
    parser.add_argument("--seed", type=int, default=2, help="of the model's pictures, captions and noise")
    parser.add_argument("--pool", type=int, default=131072, help="pictures whose latents are kept at a time")
    parser.add_argument("--every", type=int, default=48, help="steps after which 4096 of them are replaced")
    parser.add_argument("--limit", type=int, help="read only so many glyphs")
    a = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    a.out.mkdir(parents=True, exist_ok=True)
    pack = Pack(a.pack, device, a.limit)
    say(f"{pack.n} glyphs on {device}, PyTorch {torch.__version__}")
    (train_vae if a.what == "vae" else train_model)(a, pack, device)


if __name__ == "__main__":
    main()
