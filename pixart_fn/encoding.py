"""The stage picture → latents, a pure function of (params, pictures, key), and the control of a picture.

B pictures, C latent channels, h/w latent and H/W pixel size.
"""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, ops

from .backend.arrays import check_finite
from .checks import check_number
from .control import Control, Net, check_net
from .estimate import check_encoding
from .guidance.value import LARGEST, as_interval
from .models import controlnet, sizes, vae
from .params import Params
from .process.lock import exclusive
from .public import public
from .request import Picture, check_params, check_switches, picture_keys, pixels, vae_config
from .types import Array, Key, Moments


@public
@exclusive
def encode_image(
    params: Params,
    pictures: Picture | Array | Sequence[Picture | Array],
    *,
    key: Key | None = None,
    check: bool = True,
    memory: float | None = None,
) -> Tensor:
    """Encode pictures as scaled latents, one at a time, which `decode_latents` decodes to nearly the same pictures.

    Args:
        params: from `load`, with a VAE.
        pictures: a PIL picture (RGB or grey); an array (H, W, 3) or (B, H, W, 3) of uint8 or of floats in [0, 1]; a
            list of these, all of one size; or what `decode_latents` gives. H and W are multiples of the VAE's factor.
        key: one key (2,), or (B, 2) with one key per picture, for a sample of the VAE's posterior; None takes the
            posterior's mean.
        check: whether to raise an error where a latent isn't finite.
        memory: the most bytes that this process may take, as in `generate`.
    Returns:
        float32 (B, C, h, w), as `sample_latents` gives them.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or a latent isn't finite.
        MemoryError: a picture doesn't fit into memory.
    Example:
        >>> from PIL import Image
        >>> px.encode_image(px.load(), Image.new("RGB", (128, 128), "navy")).shape
        (1, 16, 16, 16)
    """
    check_params(params)
    check_switches(check=check)
    config = vae_config(params)
    x = pixels(pictures)
    sizes.check(x.shape[1], x.shape[2], vae.factor(config))
    keys = None if key is None else picture_keys(key, len(x))
    check_encoding(params, (x.shape[1], x.shape[2]), len(x), memory)
    each = [vae.encode(params.vae, config, part) for part in ops.split((x * 2.0 - 1.0).transpose(0, 3, 1, 2), 1)]
    moments = each[0] if len(each) == 1 else Moments(*(ops.cat(parts, 0) for parts in zip(*each, strict=True)))
    z = (moments.mean if keys is None else vae.sample(keys, moments)) * config.scaling_factor
    if check:
        check_finite(z, "the latents of encode_image")
    return z


@public
@exclusive
def control(
    params: Params,
    net: Net,
    pictures: Picture | Array | Sequence[Picture | Array],
    *,
    scale: float = 1.0,
    interval: tuple[float, float] | None = None,
) -> Control:
    """Encode pictures once, for a ControlNet to follow.

    Args:
        params: from `px.load`, with a VAE.
        net: the ControlNet, from `load`.
        pictures: one edge map for all pictures that are drawn, or a list of one for each, as `px.encode_image` takes
            them; `px.edges.canny(picture)` makes one. Height and width are those of what is drawn.
        scale: what its effect is multiplied by, within ±1e6.
        interval: (low, high) in training-time units, outside of which it isn't evaluated; None is all times.
    Returns:
        The Control, for `controls=` of `px.generate`, `px.sample_latents` and `px.text_denoiser`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or the ControlNet is for another transformer.
        MemoryError: a picture doesn't fit into memory.
    """
    check_params(params)
    check_net(net)
    controlnet.check_base(net[1], params.config.transformer)
    check_number("scale", scale, -LARGEST, LARGEST)
    if interval is not None:
        as_interval(interval)
    return Control(net, encode_image(params, pictures), scale, interval)
