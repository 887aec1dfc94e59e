"""Distil a pipeline for four steps without guidance: `python -m twin.lcm --help`, in tests/reference.

The teacher, with guidance, draws `captions` in eight steps, and an adapter learns to see the end of a drawing from each
of the eight noisy latents on its way: f(x_t, t) = x_0 (arXiv:2303.01469, with the whole way where LCM has one step).
Drawing and learning alternate, each chunk and each step a function of its number, so that --out can be gone on from.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pixart_fn as px
from pixart_fn.train.emoji import captions, data, shapes

from .export import to_tree
from .models import PixArt
from .train import TRANSFORMER

RANK = 16
TARGETS = ("to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_out", "linear")
"""Keys are left out, since the queries that they are multiplied with are adapted."""
TIMES = (999, 879, 759, 629, 499, 379, 259, 129)
"""Every other one is a time of `SCHEDULER` in four steps, and is drawn twice as often."""
SCALE = 4.5
HUBER = 1e-3
CHUNK = 64
PAIR = 0.15
SHAPES = 0.15
SCHEDULER = {
    "_class_name": "LCMScheduler",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "prediction_type": "sample",
    "clip_sample": False,
    "timestep_scaling": 10.0,
}


class Adapted(nn.Module):
    """A linear map that stays, and the product that is added to it."""

    def __init__(self, linear: nn.Linear, generator: torch.Generator) -> None:
        super().__init__()
        O, I = linear.weight.shape
        self.linear = linear
        self.A = nn.Parameter((2 * torch.rand(RANK, I, generator=generator) - 1) * I**-0.5)
        self.B = nn.Parameter(torch.zeros(O, RANK))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + (x @ self.A.T) @ self.B.T


def adapt(model: PixArt) -> dict[str, Adapted]:
    """Put an adapter that changes nothing yet on every target of a frozen model."""
    model.requires_grad_(False)
    generator, found = torch.Generator().manual_seed(0), {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and any(name == t or name.endswith(f".{t}") for t in TARGETS):
            parent, _, last = name.rpartition(".")
            found[name] = Adapted(module, generator)
            setattr(model.get_submodule(parent), last, found[name])
    return found


def prompts(i: int, glyphs: data.Glyphs, n: int) -> list[str]:
    """Captions as the checkpoint learned them: glyphs in all styles and on all colours, pairs of them, and shapes."""
    generator = np.random.default_rng((5, i))
    return [prompt(generator, glyphs) for _ in range(n)]


def prompt(generator: np.random.Generator, glyphs: data.Glyphs) -> str:
    kind = generator.random()
    if kind < SHAPES:
        return shapes.caption(shapes.draw_scene(generator))
    rows = [data.choose(generator, glyphs.pools["primary"]) for _ in range(2)]
    concepts = [glyphs.concepts[glyphs.concept[row]] for row in rows]
    if kind < SHAPES + PAIR:
        return " and ".join(captions.with_article(captions.noun(generator, each)) for each in concepts)
    style = str(generator.choice(sorted(set(glyphs.styles)))) if generator.random() < 0.4 else None
    ground = str(generator.choice(list(captions.COLOURS))) if generator.random() < 0.35 else "white"
    return captions.draw(generator, concepts[0], style, ground)


class Texts:
    """The states of captions, and of the empty one in the last row."""

    def __init__(self, params: px.Params) -> None:
        self.params = params

    def __call__(self, said: list[str]) -> tuple[Tensor, Tensor]:
        text = px.encode_prompt(self.params, [*said, ""])
        return torch.from_numpy(text.states.asnumpy()), torch.from_numpy(text.mask.asnumpy()).long()


def schedule() -> tuple[Tensor, Tensor]:
    """α and σ at TIMES, and at the end."""
    bar = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))[list(TIMES)]
    alpha, sigma = np.append(np.sqrt(bar), 1.0), np.append(np.sqrt(1 - bar), 0.0)
    return torch.from_numpy(alpha).float(), torch.from_numpy(sigma).float()


@torch.no_grad()
def draw(model: PixArt, states: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy latents at TIMES and the teacher's x0 there, (8, n, C, h, w), by DPM-Solver++ 2M; the last x0 ends it."""
    n = len(states) - 1
    x = torch.randn(n, TRANSFORMER["channels"], 16, 16, generator=generator)
    both, masks = torch.cat([states[:n], states[n:].expand(n, -1, -1)]), torch.cat([mask[:n], mask[n:].expand(n, -1)])
    alpha, sigma = schedule()
    seen, found, before = [], [], None
    for i, t in enumerate(TIMES):
        predicted = model(torch.cat([x, x]), torch.full((2 * n,), float(t)), both, masks).float()
        x0 = predicted[n:] + SCALE * (predicted[:n] - predicted[n:])
        seen.append(x)
        found.append(x0)
        if i == len(TIMES) - 1:
            break
        lam = (alpha[i - 1 : i + 2] / sigma[i - 1 : i + 2]).log() if i else None
        mixed = x0 if lam is None else x0 + (lam[2] - lam[1]) / (lam[1] - lam[0]) / 2 * (x0 - before)
        ratio = sigma[i + 1] / sigma[i]
        x, before = ratio * x + (alpha[i + 1] - ratio * alpha[i]) * mixed, x0
    return torch.stack(seen), torch.stack(found)


class Pool:
    """What the teacher has drawn, in files of one chunk each."""

    def __init__(self, teacher: PixArt, texts: Texts, glyphs: data.Glyphs, out: Path) -> None:
        self.teacher, self.texts, self.glyphs, self.out = teacher, texts, glyphs, out
        self.chunks: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def grow(self) -> None:
        i = len(self.chunks)
        file = self.out / f"drawn.{i:03d}.npz"
        states, mask = self.texts(prompts(i, self.glyphs, CHUNK))
        if not file.exists():
            generator = torch.Generator().manual_seed(1000 + i)
            with torch.autocast("cpu", torch.bfloat16):
                x, x0 = draw(self.teacher, states, mask, generator)
            np.savez(file.with_suffix(".part.npz"), x=x.half().numpy(), x0=x0.half().numpy())
            file.with_suffix(".part.npz").rename(file)
        stored = np.load(file)
        self.chunks.append((torch.from_numpy(stored["x"]), torch.from_numpy(stored["x0"]), states, mask))

    def batch(self, step: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x_t, t, states, mask, x_0 of one chunk."""
        g = torch.Generator().manual_seed(step)
        x, x0, states, mask = self.chunks[int(torch.randint(len(self.chunks), (), generator=g))]
        rows = torch.randperm(CHUNK, generator=g)[:n]
        weights = torch.tensor([2.0, 1.0] * (len(TIMES) // 2))
        at = torch.multinomial(weights, n, replacement=True, generator=g)
        return x[at, rows].float(), torch.tensor(TIMES).float()[at], states[rows], mask[rows], x0[-1, rows].float()


class Run:
    """The adapter, its moving average, and Adam; resumable."""

    def __init__(self, model: PixArt, out: Path, lr: float, steps: int) -> None:
        self.model, self.file, self.lr, self.steps, self.step = model, out / "lcm.pt", lr, steps, 0
        self.adapted = adapt(model)
        self.live = [p for module in self.adapted.values() for p in (module.A, module.B)]
        self.mean = [p.detach().clone() for p in self.live]
        self.adam = torch.optim.Adam(self.live, lr, (0.9, 0.99))
        if self.file.exists():
            state = torch.load(self.file)
            self.step = state["step"]
            self.adam.load_state_dict(state["adam"])
            for p, mean, a, b in zip(self.live, self.mean, state["live"], state["mean"], strict=True):
                p.data.copy_(a)
                mean.copy_(b)

    def save(self) -> None:
        state = {"step": self.step, "adam": self.adam.state_dict(), "live": self.live, "mean": self.mean}
        torch.save(state, self.file.with_suffix(".part"))
        self.file.with_suffix(".part").rename(self.file)

    def update(self, batch: tuple[Tensor, ...]) -> float:
        x, t, states, mask, x0 = batch
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.model(x, t, states, mask)
        loss = ((predicted.float() - x0).square() + HUBER**2).sqrt().mean() - HUBER
        rate = self.lr * min(1.0, (self.step + 1) / 30) * min(1.0, max(0.02, 2 * (1 - self.step / self.steps)))
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.live, 1.0)
        self.adam.step()
        keep = min(0.98, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - keep)
        self.step += 1
        return float(loss.detach())


def export(run: Run, folder: Path) -> None:
    """Write the averaged adapter in halves, as diffusers names it, and the scheduler."""
    names = [f"{name}.lora_{part}.weight" for name in run.adapted for part in "AB"]
    weights = to_tree(dict(zip(names, run.mean, strict=True)))
    px.lora.save(px.lora.Adapter(weights, px.lora.Config(RANK, float(RANK), TARGETS)), folder, layout="diffusers")
    file = folder / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
    save_file({name: leaf.half() for name, leaf in load_file(file).items()}, file, metadata)
    (folder / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")


def teacher_of(params: px.Params) -> PixArt:
    model = PixArt(**TRANSFORMER)
    model.load_state_dict({name: torch.from_numpy(leaf.asnumpy()) for name, leaf in px.tree.items(params.transformer)})
    for module in model.transformer_blocks.modules():
        if isinstance(module, nn.Linear):
            module.bfloat16()  # autocast would do so again at each call
    return model.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", required=True, help="what pixart_fn.train.emoji.render wrote; only its names are read"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the resumable state is kept")
    parser.add_argument("--save", type=Path, help="the folder to write the adapter and the scheduler to")
    parser.add_argument("--steps", type=int, default=420)
    parser.add_argument("--chunks", type=int, default=24, help=f"of {CHUNK} drawings")
    parser.add_argument("--every", type=int, default=48, help="steps after which there is one more chunk")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--until", help="hour at which to stop, such as 21:10")
    a = parser.parse_args()
    torch.set_num_threads(1)
    a.out.mkdir(parents=True, exist_ok=True)
    params = px.load(vae=None)
    pool = Pool(teacher_of(params), Texts(params), data.load(a.data), a.out)
    run, began = Run(teacher_of(params), a.out, a.lr, a.steps), time.time()
    while run.step < a.steps and (a.until is None or time.strftime("%H:%M") < a.until):
        while len(pool.chunks) < min(a.chunks, 2 + run.step // a.every):
            pool.grow()
        loss = run.update(pool.batch(run.step, a.batch))
        if run.step % 10 == 0:
            print(f"[{time.time() - began:6.0f}] step {run.step} loss {loss:.4f} chunks {len(pool.chunks)}", flush=True)
        if run.step % 50 == 0:
            run.save()
    run.save()
    if a.save:
        export(run, a.save)


if __name__ == "__main__":
    main()
