"""Write the golden of a ControlNet: python -m tests.reference.make_controlnet, with torch and diffusers installed.

The formula is restated from the authors' ControlPixArtHalf over diffusers' blocks.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from .case import Case, save
from .make_forward import case
from .make_gradients import gradients
from .make_models import arrays, normal, prefix_mask, randomise, transformer, weights_of

SEED = 32_000


class ControlNet(nn.Module):
    """The first blocks of a transformer, copied, with a projection after each and one before the first."""

    def __init__(self, model: PixArtTransformer2DModel, blocks: int) -> None:
        super().__init__()
        width = model.config.cross_attention_dim
        self.controlnet_blocks = nn.ModuleList()
        for i in range(blocks):
            one = nn.Module()
            if i == 0:
                one.before_proj = nn.Linear(width, width)
            one.transformer_block = copy.deepcopy(model.transformer_blocks[i])
            one.after_proj = nn.Linear(width, width)
            self.controlnet_blocks.append(one)


def evaluate(model: PixArtTransformer2DModel, net: ControlNet, x: Tensor, control: Tensor, **given: Tensor) -> Tensor:
    """Before block i stands a hook: c becomes copy(x + before(c)) or copy(c), and x + after(c) goes into the block."""
    state: dict[str, Tensor] = {}

    def before(i: int) -> Any:
        def hook(module: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
            (x,), one = inputs, net.controlnet_blocks[i - 1]
            c = model.pos_embed(control) if i == 1 else state["c"]
            c = x + one.before_proj(c) if i == 1 else c
            state["c"] = one.transformer_block(c, **named)
            return (x + one.after_proj(state["c"]),), named

        return hook

    handles = [
        model.transformer_blocks[i].register_forward_pre_hook(before(i), with_kwargs=True)
        for i in range(1, len(net.controlnet_blocks) + 1)
    ]
    added = {"resolution": given.get("resolution"), "aspect_ratio": given.get("aspect_ratio")}
    mask = given["mask"]
    out = model(x, given["text"], given["t"], added_cond_kwargs=added, encoder_attention_mask=mask, return_dict=False)
    for handle in handles:
        handle.remove()
    return out[0]


def pair(seed: int, blocks: int, **overrides: Any) -> tuple[PixArtTransformer2DModel, ControlNet]:
    fields = {"num_attention_heads": 2, "attention_head_dim": 6, "num_layers": 4, "caption_channels": 12, **overrides}
    model = transformer(seed, **fields)
    net = ControlNet(model, blocks).eval()
    randomise(net, seed + 1)
    return model, net


def make_controlnet(seed: int, **overrides: Any) -> Case:
    """The gradients are those of the ControlNet and of the control; the transformer's weights are "base.…"."""
    model, net = pair(seed, 2, **overrides)
    t, mask = torch.tensor([700, 20]), prefix_mask([7, 3], 7)
    given = {"text": normal(seed + 2, 2, 7, 12), "t": t, "mask": mask}
    if model.use_additional_conditions:
        given |= {"resolution": torch.tensor([[512.0, 768.0], [300.0, 200.0]])}
        given |= {"aspect_ratio": torch.tensor([[0.67], [1.5]])}
    x, control = normal(seed + 3, 2, 4, 8, 6), normal(seed + 4, 2, 4, 8, 6)
    values = gradients(net, lambda control: evaluate(model, net, x, control, **given), seed + 5, {"control": control})
    with torch.no_grad():
        values |= arrays(x=x, **given, out=evaluate(model, net, x, control, **given))
    made = case(model, apply=values)
    weights: dict[str, np.ndarray] = {f"base.{name}": value for name, value in made.weights.items()}
    return made._replace(weights={**weights, **weights_of(net)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    save(make_controlnet(SEED), "controlnet")
