"""Forward passes of the reference models: named intermediates by hooks, outputs, and a whole sampling run."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel
from torch import Tensor, nn
from transformers import T5EncoderModel

from .case import SCHEDULER, Case
from .make_models import arrays, config_of, normal, prefix_mask, t5, transformer, vae, weights_of


@contextmanager
def record(blocks: Iterable[nn.Module]):
    """Collect {"block.0": output, …} of the modules while they run."""
    seen: dict[str, Tensor] = {}

    def hook(name: str):
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [block.register_forward_hook(hook(f"block.{i}")) for i, block in enumerate(blocks)]
    yield seen
    for handle in handles:
        handle.remove()


def run_t5(model: T5EncoderModel, ids: Tensor, mask: Tensor) -> dict:
    with record(model.encoder.block) as blocks:
        states = model(ids, attention_mask=mask).last_hidden_state
    return arrays(ids=ids, mask=mask, states=states, **blocks)


def run_transformer(model: PixArtTransformer2DModel, **inputs: Tensor) -> dict:
    """Inputs by the names of our own `transformer.apply`."""
    with record(model.transformer_blocks) as blocks:
        out = apply_transformer(model, **inputs)
    return arrays(**inputs, out=out, **blocks)


def apply_transformer(
    model: PixArtTransformer2DModel,
    x: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    resolution: Tensor | None = None,
    aspect_ratio: Tensor | None = None,
) -> Tensor:
    added = {"resolution": resolution, "aspect_ratio": aspect_ratio}
    return model(x, text, t, added_cond_kwargs=added, encoder_attention_mask=mask, return_dict=False)[0]


def case(model: nn.Module, **values: dict) -> Case:
    return Case(config_of(model), weights_of(model), values)


@torch.no_grad()
def make_t5(seed: int) -> Case:
    """The released bucket numbers, so that a distance of 16, 32, 64 falls on the edge of a bucket."""
    model = t5(seed)
    ids = torch.randint(0, 100, (5, 20), generator=torch.Generator().manual_seed(seed + 1))
    mask = prefix_mask([20, 13, 5, 1, 20], 20)
    mask[4, 7:11] = 0
    long = torch.randint(0, 100, (1, 140), generator=torch.Generator().manual_seed(seed + 2))
    return case(model, short=run_t5(model, ids, mask), long=run_t5(model, long, prefix_mask([140], 140)))


@torch.no_grad()
def make_t5_narrow(seed: int) -> Case:
    """Heads narrower than the model, and a length beyond the maximal distance of the buckets."""
    fields = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
    model = t5(seed, d_model=40, d_kv=8, num_heads=3, d_ff=72, num_layers=2, **fields)
    ids = torch.randint(0, 100, (2, 40), generator=torch.Generator().manual_seed(seed + 1))
    return case(model, beyond=run_t5(model, ids, prefix_mask([40, 27], 40)))


@torch.no_grad()
def make_transformer(seed: int) -> Case:
    model = transformer(seed, interpolation_scale=1)
    text, mask = normal(seed + 1, 3, 12, 48), prefix_mask([12, 5, 1], 12)
    t = torch.tensor([999, 450, 0])
    square = run_transformer(model, x=normal(seed + 2, 3, 4, 8, 8), t=t, text=text, mask=mask)
    oblong = run_transformer(model, x=normal(seed + 3, 3, 4, 6, 14), t=t, text=text, mask=mask)
    return case(model, square=square, oblong=oblong, sampling=run_sampling(model, seed + 4))


@torch.no_grad()
def make_transformer_micro(seed: int) -> Case:
    fields: dict[str, Any] = {"num_attention_heads": 3, "num_layers": 2, "sample_size": 16, "interpolation_scale": 2}
    model = transformer(seed, use_additional_conditions=True, **fields)
    text, mask = normal(seed + 1, 2, 12, 48), prefix_mask([4, 12], 12)
    more = {"t": torch.tensor([749, 30]), "text": text, "mask": mask}
    square = {"resolution": torch.tensor([[1024.0, 1024.0], [512.0, 512.0]]), "aspect_ratio": torch.ones(2, 1)}
    oblong = {"resolution": torch.tensor([[640.0, 1600.0], [512.0, 2048.0]])}
    oblong["aspect_ratio"] = oblong["resolution"][:, :1] / oblong["resolution"][:, 1:]
    return case(
        model,
        square=run_transformer(model, x=normal(seed + 2, 2, 4, 16, 16), **more, **square),
        oblong=run_transformer(model, x=normal(seed + 3, 2, 4, 8, 20), **more, **oblong),
    )


@torch.no_grad()
def make_transformer_plain(seed: int) -> Case:
    """No learned variance, and no micro-conditions although sample_size is 128."""
    fields: dict[str, Any] = {"num_attention_heads": 2, "num_layers": 1, "out_channels": 4, "sample_size": 128}
    model = transformer(seed, use_additional_conditions=False, interpolation_scale=0.5, **fields)
    text, mask = normal(seed + 1, 1, 7, 48), prefix_mask([6], 7)
    return case(
        model,
        square=run_transformer(model, x=normal(seed + 2, 1, 4, 8, 8), t=torch.tensor([500]), text=text, mask=mask),
    )


@torch.no_grad()
def make_vae(seed: int) -> Case:
    model = vae(seed)
    return case(model, square=run_vae(model, seed + 1, 32, 32), oblong=run_vae(model, seed + 2, 24, 40))


@torch.no_grad()
def make_vae_deep(seed: int) -> Case:
    model = vae(seed, block_out_channels=(8, 16, 16), layers_per_block=2)
    return case(model, oblong=run_vae(model, seed + 1, 16, 40))


def run_vae(model: nn.Module, seed: int, H: int, W: int) -> dict:
    x = normal(seed, 2, 3, H, W).tanh()
    moments = model.encode(x).latent_dist
    z = normal(seed + 100, *moments.mean.shape)
    return arrays(x=x, mean=moments.mean, logvar=moments.logvar, z=z, decoded=model.decode(z).sample)


def solve(model: PixArtTransformer2DModel, steps: int, x: Tensor, text: Tensor, mask: Tensor, scale: float) -> Tensor:
    """The pipeline's loop: null branch first in `text`, `mask`; learned variance dropped → (S + 1, B, C, h, w)."""
    scheduler = DPMSolverMultistepScheduler.from_config(SCHEDULER)
    scheduler.set_timesteps(steps)
    path = [x]
    for t in scheduler.timesteps:
        null, real = apply_transformer(model, torch.cat([x, x]), t.expand(2 * len(x)), text, mask).chunk(2)
        eps = (null + scale * (real - null))[:, : x.shape[1]]
        x = scheduler.step(eps, t, x, return_dict=False)[0]
        path.append(x)
    return torch.stack(path)


def run_sampling(model: PixArtTransformer2DModel, seed: int) -> dict:
    text, mask = normal(seed, 2, 12, 48), prefix_mask([9, 4], 12)
    null, null_mask = normal(seed + 1, 1, 12, 48).expand(2, -1, -1), prefix_mask([1, 1], 12)
    path = solve(
        model, 20, normal(seed + 2, 2, 4, 8, 8), torch.cat([null, text]), torch.cat([null_mask, mask]), scale=4.5
    )
    return arrays(text=text, mask=mask, null=null, null_mask=null_mask, path=path)
