"""How a transformer sees numbers and places. B batch, N patches, D width, h/w latent size."""

from __future__ import annotations

import functools

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from .transformer_config import FREQUENCIES, Config


def sinusoid(t: Tensor) -> Tensor:
    """Embed numbers as [cos(t ω), sin(t ω)] with 128 frequencies ω from 1 to nearly 1/10000 (arXiv:1706.03762, 3.5).

    Args:
        t: (B,), of any unit.
    Returns:
        (B, 256) float32.
    """
    angle = t.float().reshape(-1, 1) * Tensor.from_numpy(frequencies())  # (B, 128)
    return ops.cat([ops.cos(angle), ops.sin(angle)], 1)


def frequencies() -> NDArray[np.float32]:
    """The ω of `sinusoid`, (128,)."""
    half = FREQUENCIES // 2
    exponent = np.float32(-np.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(half)
    omega: NDArray[np.float32] = np.exp(exponent.astype(np.float64)).astype(np.float32)
    return omega  # NumPy's float32 exp is an ulp off torch's


@functools.lru_cache(maxsize=64)
def positions(config: Config, h: int, w: int) -> Tensor:
    """Embed the place of each patch as sines and cosines, x in the first half of the width and y in the second.

    The i-th of n patches along a side is at i / (n / base) / scale with base = sample_size / patch_size, so that a
    model sees the same range at every size.

    Args:
        config: the transformer's configuration.
        h: height of the latents, a multiple of the patch size.
        w: width of the latents, likewise.
    Returns:
        (1, N, D) float32.
    """
    base, p = config.sample_size // config.patch_size, config.patch_size

    def axis(n: int) -> NDArray[np.float32]:
        # float32 as in diffusers, where this is the only place that rounds
        at: NDArray[np.float32] = np.arange(n, dtype=np.float32) / np.float32(n / base) / np.float32(config.scale)
        return at

    quarter = config.width // 4
    omega = 1.0 / 10000 ** (np.arange(quarter, dtype=np.float64) / quarter)

    def embed(coordinate: NDArray[np.float32]) -> NDArray[np.float64]:
        angle = coordinate.reshape(-1, 1) * omega  # (N, D/4)
        return np.concatenate([np.sin(angle), np.cos(angle)], 1)

    x, y = np.meshgrid(axis(w // p), axis(h // p))  # (h/p, w/p) each
    return Tensor.from_numpy(np.concatenate([embed(x), embed(y)], 1)[None].astype(np.float32))
