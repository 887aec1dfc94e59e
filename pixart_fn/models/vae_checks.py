"""What a VAE is checked for before it computes."""

from __future__ import annotations

from ..backend.arrays import check_weights
from ..types import Tree
from .vae_config import EitherConfig, shapes


def check_half(p: Tree, config: EitherConfig, parts: tuple[str, ...]) -> None:
    """Raise where the half of a VAE's tree that is used isn't what its configuration says; the other may be left out.

    Args:
        p: the VAE's tree.
        config: its configuration.
        parts: what the names of the half begin with, such as "decoder.".
    Raises:
        TypeError: a leaf isn't a Tensor.
        ValueError: tensors are missing, unexpected or of another shape.
    """
    used = {name: p[name] for name in p if f"{name}.".startswith(parts)} if isinstance(p, dict) else p
    check_weights(used, {name: shape for name, shape in shapes(config).items() if name.startswith(parts)}, "p")
