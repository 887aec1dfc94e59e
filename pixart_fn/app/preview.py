"""What a drawing looks like before it is done: x0 of a step as a small picture, without the VAE's whole decoder.

K pictures, C latent channels, h/w latent size.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import picture, rng
from ..checkpoint import load
from ..checkpoint.files import find_pipeline
from ..params import Params
from ..process.lock import exclusive
from ..request import factor
from ..stages import decode, encode_image
from ..types import Array, NumPyArray

LEARNED_AT = 4
"""The pictures from which the linear map is computed."""
SIDE = 256
"""The most pixels along their sides."""


class Preview(NamedTuple):
    """How latents are shown: as a linear map of each, or by a small decoder where one fits better.

    Args:
        weights: float64 (C + 1, 3), from a latent and 1 to red, green and blue in [0, 1].
        decoder: params with a VAE that decodes quickly, or None.
    """

    weights: NDArray[np.float64]
    decoder: Params | None = None

    def pixels(self, x0: Array) -> NDArray[np.float64]:
        """Return pictures (K, H, W, 3) in [0, 1] of latents (K, C, h, w); without a decoder H is h and W is w."""
        small = self.decoder
        if small is not None:
            shown = exclusive(lambda z: decode(small, z, None, None, False).asnumpy())(_tensor(x0))
            return np.nan_to_num(np.asarray(shown, np.float64))
        return np.asarray(np.nan_to_num(_mapped(self.weights, _array(x0))).clip(0, 1), np.float64)


def preview(params: Params) -> Preview:
    """Find out how to show latents.

    The linear map is the least squares from the latents of a few smooth pictures to these pictures. The decoder that
    lies beside the embedded checkpoint is taken where it comes nearer to the same pictures.

    Args:
        params: from `load`, with a VAE.
    Returns:
        The Preview.
    """
    f = factor(params)
    side = min(params.config.transformer.sample_size * f, SIDE) // f * f
    known = _smooth(side)
    z = exclusive(lambda: encode_image(params, known.astype(np.float32)).asnumpy())()
    small = known.reshape(LEARNED_AT, side // f, f, side // f, f, 3).mean((2, 4))
    weights = np.linalg.lstsq(_rows(z), small.reshape(-1, 3), rcond=None)[0]
    linear, tiny = Preview(weights), _tiny(params)
    if tiny is None:
        return linear
    wide = linear.pixels(z).repeat(f, 1).repeat(f, 2)
    decoder = Preview(weights, tiny)
    return decoder if _error(decoder.pixels(z), known) < _error(wide, known) else linear


def as_url(pictures: Sequence[Image.Image | NumPyArray]) -> str:
    """Return pictures, as `px.save_picture` takes them, side by side as the address of a JPEG that holds them."""
    together = picture.sheet(pictures)
    content = io.BytesIO()
    together.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _smooth(side: int) -> NDArray[np.float64]:
    """Return pictures of all colours that change slowly, (LEARNED_AT, side, side, 3)."""
    coarse = rng.normal(rng.key(18), (LEARNED_AT, 6, 6, 3)) * 0.35 + 0.5
    colours = [np.round(255 * each.clip(0, 1)).astype(np.uint8) for each in coarse]
    wide = [Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC) for each in colours]
    return np.asarray(np.stack([np.asarray(each) for each in wide]) / 255.0, np.float64)


def _tiny(params: Params) -> Params | None:
    """Return params with the small decoder beside the embedded checkpoint, if its latents have the same shape."""
    try:
        home = f"{find_pipeline(None, None)}/preview"
        found = load(text_encoder=None, vae=home)
    except FileNotFoundError:  # an installation may leave it out
        return None
    own = params.config.transformer.in_channels, factor(params)
    if own != (found.config.transformer.in_channels, factor(found)):
        return None
    return params.replace(vae=found.vae, config=dataclasses.replace(params.config, vae=found.config.vae))


def _rows(z: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turn latents (K, C, h, w) into rows (K h w, C + 1) that end in 1."""
    flat = z.transpose(0, 2, 3, 1).reshape(-1, z.shape[1]).astype(np.float64)
    return np.column_stack([flat, np.ones(len(flat))])


def _mapped(weights: NDArray[np.float64], z: NDArray[np.float32]) -> NDArray[np.float64]:
    mapped: NDArray[np.float64] = (_rows(z) @ weights).reshape(z.shape[0], *z.shape[2:], 3)
    return mapped


def _error(shown: NDArray[np.float64], known: NDArray[np.float64]) -> float:
    return float(np.square(shown - known).mean())


def _array(x: Array) -> NDArray[np.float32]:
    return np.asarray(x if isinstance(x, np.ndarray) else exclusive(lambda: x.asnumpy())(), np.float32)


def _tensor(x: Array) -> Array:
    from mindspore import Tensor

    return exclusive(lambda: Tensor.from_numpy(x))() if isinstance(x, np.ndarray) else x
