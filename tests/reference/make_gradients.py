"""Gradients of f = Σ output·w by torch autograd, with respect to the inputs and every parameter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .case import Case
from .make_forward import apply_transformer, case, solve
from .make_models import arrays, normal, prefix_mask, t5, transformer, vae


def gradients(
    model: nn.Module, f: Callable[..., Tensor], seed: int, inputs: dict[str, Tensor]
) -> dict[str, np.ndarray]:
    """w, the value of Σ f(inputs)·w, and its gradients "grad/<input>" and "grad/params.<leaf>" where there is one."""
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    model.zero_grad()
    out = f(**leaves)
    w = normal(seed, *out.shape)
    value = (out * w).sum()
    value.backward()
    leaves |= {f"params.{name}": parameter for name, parameter in model.named_parameters()}
    grads = {f"grad/{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return arrays(w=w, value=value, **inputs, **grads)


def make_gradients_t5(seed: int) -> Case:
    model = t5(seed, d_model=32, d_kv=8, d_ff=48, num_layers=2, vocab_size=40)
    ids = torch.randint(0, 40, (3, 10), generator=torch.Generator().manual_seed(seed + 1))
    mask = prefix_mask([10, 6, 1], 10)
    out = gradients(model, lambda: model(ids, attention_mask=mask).last_hidden_state, seed + 2, {})
    return case(model, encode=out | arrays(ids=ids, mask=mask))


def make_gradients_transformer(seed: int) -> Case:
    """Once through the network, and through three guided steps of DPM-Solver++."""
    model = transformer(seed, attention_head_dim=8, num_layers=2, caption_channels=24, interpolation_scale=1)
    t, mask = torch.tensor([700, 20]), prefix_mask([7, 3], 7)
    inputs = {"x": normal(seed + 1, 2, 4, 8, 6), "text": normal(seed + 2, 2, 7, 24)}
    apply = gradients(model, lambda x, text: apply_transformer(model, x, t, text, mask), seed + 3, inputs)

    both = prefix_mask([1, 1, 7, 3], 7)
    inputs |= {"null": normal(seed + 4, 2, 7, 24)}

    def three_steps(x: Tensor, text: Tensor, null: Tensor) -> Tensor:
        return solve(model, 3, x, torch.cat([null, text]), both, scale=4.5)[-1]

    steps = gradients(model, three_steps, seed + 5, inputs) | arrays(mask=mask, null_mask=both[:2])
    return case(model, apply=apply | arrays(t=t, mask=mask), three_steps=steps)


def make_gradients_transformer_micro(seed: int) -> Case:
    """The micro-conditions' embedders, which the released 512 px models don't have."""
    model = transformer(
        seed,
        num_attention_heads=3,
        attention_head_dim=8,
        num_layers=1,
        caption_channels=24,
        use_additional_conditions=True,
    )
    more = {"t": torch.tensor([700, 20]), "mask": prefix_mask([7, 3], 7)}
    more |= {
        "resolution": torch.tensor([[512.0, 768.0], [300.0, 200.0]]),
        "aspect_ratio": torch.tensor([[0.67], [1.5]]),
    }
    inputs = {"x": normal(seed + 1, 2, 4, 4, 6), "text": normal(seed + 2, 2, 7, 24)}
    out = gradients(model, lambda x, text: apply_transformer(model, x=x, text=text, **more), seed + 3, inputs)
    return case(model, apply=out | arrays(**more))


def make_gradients_vae(seed: int) -> Case:
    model = vae(seed, block_out_channels=(8, 16), norm_num_groups=4)
    x, z = normal(seed + 1, 1, 3, 12, 16).tanh(), normal(seed + 2, 1, 4, 6, 8)
    decode = gradients(model, lambda z: model.decode(z).sample, seed + 3, {"z": z})

    def moments(x: Tensor) -> Tensor:
        posterior = model.encode(x).latent_dist
        return torch.stack([posterior.mean, posterior.logvar])

    return case(model, decode=decode, encode=gradients(model, moments, seed + 4, {"x": x}))
