"""HED, a network that finds edges (arXiv:1504.06375), in the form that PixArt's ControlNet was trained with.

B pictures, H/W pixel size, O channels. Five stages of 3×3 convolutions with ReLU, each after the first on pictures of
half the size; each gives a map of edges of its own. Names of weights are those of ControlNetHED.pth.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, ops

from ..types import Tree
from . import vae_layers

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""The channels and the convolutions of each stage of the released network."""


def shapes(stages: Sequence[tuple[int, int]] = STAGES) -> dict[str, tuple[int, ...]]:
    """List the tensors of a network.

    Args:
        stages: the channels and the convolutions of each stage.
    Returns:
        Each tensor's name and shape.
    """
    out: dict[str, tuple[int, ...]] = {"norm": (1, 3, 1, 1)}
    before = 3
    for i, (width, layers) in enumerate(stages, 1):
        for k in range(layers):
            home = f"block{i}.convs.{k}"
            out |= {f"{home}.weight": (width, before, 3, 3), f"{home}.bias": (width,)}
            before = width
        out |= {f"block{i}.projection.weight": (1, width, 1, 1), f"block{i}.projection.bias": (1,)}
    return out


def apply(p: Tree, x: Tensor) -> list[Tensor]:
    """Find edges at each of the sizes.

    Args:
        p: the tree, of float32 Tensors.
        x: (B, 3, H, W) float32 in [0, 255], H and W at least 16.
    Returns:
        A map (B, H // 2^i, W // 2^i) for each stage i from 0, whose sigmoid is how surely there is an edge.
    """
    x, maps = x - p["norm"], []
    for i in range(1, len(p)):
        stage = p[f"block{i}"]
        picture = vae_layers.channels_last(x if i == 1 else _halved(x))
        convs = stage["convs"]
        for conv in convs if isinstance(convs, list) else convs.values():
            picture = [ops.relu(strip) for strip in vae_layers.conv(conv, picture)]
        x = vae_layers.channels_first(picture)
        weight, bias = stage["projection"]["weight"], stage["projection"]["bias"]
        maps.append((x * weight).sum(1) + bias)
    return maps


def _halved(x: Tensor) -> Tensor:
    """The largest of each 2 × 2 pixels; an odd last row or column is left out."""
    H, W = (side // 2 * 2 for side in x.shape[2:])
    top, bottom = x[:, :, 0:H:2], x[:, :, 1:H:2]
    rows = ops.maximum(top, bottom)
    return ops.maximum(rows[:, :, :, 0:W:2], rows[:, :, :, 1:W:2])
