"""The stages text → latents → picture, each a pure function of (params, inputs, key), and picture → latents.

B pictures, L tokens, C latent channels, h/w latent and H/W pixel size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mindspore import Tensor, ops
from tqdm.auto import tqdm

from . import guidance, rng
from .backend import autodiff
from .backend.arrays import as_float, check_finite, clamp
from .checks import check_switch, check_whole
from .denoiser import guided_denoiser
from .models import sizes, t5, vae
from .models import tokenizer as tokenizer_
from .params import Params
from .public import public
from .request import (
    Guide,
    Picture,
    Request,
    as_text,
    check_on_step,
    check_params,
    is_one,
    latent_shape,
    picture_keys,
    picture_size,
    pixels,
    request,
    texts,
    vae_config,
)
from .sample import iterate
from .types import Array, Grid, Key, Solver, StepInfo, Text

TEXT_LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}


@public
def encode_prompt(
    params: Params, prompts: str | Sequence[str], *, clean: bool = True, tokens: int = 1, check: bool = True
) -> Text:
    """Text states of prompts, as short as the longest of them allows.

    Padding changes nothing (T5 and the transformer mask it), so L is cut to the next of 16, 32, 64 … rather than
    always 120 (α) or 300 (Σ) tokens, past which a prompt is cut with a warning.

    Args:
        params: from `load`, with a text encoder.
        prompts: one or several.
        clean: whether to clean captions as the released models' training did; without, they are lower-cased and
            stripped, as in diffusers.
        tokens: encode at least so many, padding included, at most the pipeline's 120 or 300.
        check: whether to raise where a state isn't finite.
    Returns: Text(states (B, L, C) float32, mask (B, L) int32).
    Raises:
        ValueError, TypeError: an argument isn't as above, or the states aren't finite.
    """
    check_params(params)
    check_switch("clean", clean)
    check_switch("check", check)
    length = TEXT_LENGTHS[params.config.pipeline]
    check_whole("tokens", tokens, 1, length)
    config = params.config.text_encoder
    if params.text_encoder is None or params.tokenizer is None or config is None:
        raise ValueError("these params have no text encoder; load them with text_encoder=True, or pass a Text on")
    prepared = [tokenizer_.prepare(prompt, clean) for prompt in texts("prompt", prompts)]
    ids, mask = tokenizer_.encode(params.tokenizer, prepared, length)
    L = _bucket(max(int(mask.sum(1).max()), tokens), length)
    ids, mask = Tensor.from_numpy(ids[:, :L].copy()), Tensor.from_numpy(mask[:, :L].copy())
    states = t5.encode(params.text_encoder, config, ids, mask)
    if check:
        check_finite(states, "the text states of encode_prompt")
    return Text(states, mask)


@public
def sample_latents(
    params: Params,
    text: Text,
    key: Key,
    *,
    negative: Text | None = None,
    steps: int = 20,
    guidance_scale: guidance.Scale = 4.5,
    height: int | None = None,
    width: int | None = None,
    solver: Solver | str | None = None,
    grid: Grid | None = None,
    latents: Array | None = None,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    pag_scale: guidance.Scale = 0.0,
    pag_layers: Sequence[int] | None = None,
    compat: str = "diffusers",
    check: bool = True,
    on_step: Callable[[StepInfo], object] | None = None,
    progress: bool = False,
) -> Tensor:
    """Latents of encoded prompts, one a row of `text`.

    Args:
        params: from `load`.
        text, negative: from `encode_prompt`, or made by hand: states (B, L, C) of any float dtype, mask (B, L) of
            numbers or truth values, arrays or Tensors. `negative` has B rows or one for all; None is the empty prompt.
        key, steps, guidance_scale, solver, grid, latents, check, on_step, progress: as in `generate`.
        height, width: in pixels, multiples of the patch; there is no binning.
        interval, rescale, pag_scale, pag_layers, compat: of guidance, as in `text_denoiser`.
    Returns: scaled latents, float32 (B, C, h, w).
    Raises:
        ValueError, TypeError: as `generate`.
    """
    check_params(params)
    check_on_step(on_step)
    check_switch("check", check)
    check_switch("progress", progress)
    text = as_text(params, "text", text)
    B = len(text.mask)
    negative = None if negative is None else as_text(params, "negative", negative, B)
    guide = Guide(guidance_scale, interval, rescale, pag_scale, pag_layers, compat)
    asking = request(
        params, B, key, picture_size(params, height, width), guide,
        steps=steps, solver=solver, grid=grid, latents=latents,
    )  # fmt: skip
    if negative is None and not is_one(guide):
        if params.text_encoder is None:
            raise ValueError("without a text encoder, give negative=, a Text of the empty prompt, or guidance_scale=1")
        negative = encode_prompt(params, "", tokens=text.mask.shape[1] if compat == "original" else 1)
    return run(params, asking, text, negative, check, on_step, progress)


@public
def decode_latents(
    params: Params,
    latents: Array,
    *,
    tile: int | None = None,
    size: tuple[int, int] | None = None,
    check: bool = True,
) -> Tensor:
    """Pictures of scaled latents, one at a time, so that memory and result don't depend on the batch.

    Args:
        params: from `load`, with a VAE.
        latents: (B, C, h, w), as `sample_latents` gives them; a NumPy array will do.
        tile: in pixels; decode in overlapping squares of this size instead of in one piece (`vae.decode_tiled`).
        size: (height, width) in pixels to resize and crop the pictures to before values are clamped, as `generate` does
            where it draws at the nearest bin; None leaves them as they are. It has no gradient.
        check: whether to raise where a pixel isn't finite.
    Returns: float32 (B, H, W, 3) in [0, 1].
    Raises:
        ValueError, TypeError: an argument isn't as above, or a pixel isn't finite.
    """
    check_params(params)
    check_switch("check", check)
    config = vae_config(params)
    if tile is not None:
        vae.check_tile(config, tile)
    if size is not None:
        autodiff.refuse_recording("resizing", "decode without size=")
        if not (isinstance(size, (tuple, list)) and len(size) == 2):
            raise TypeError(f"size must be (height, width) in pixels, got {size!r}")
        sizes.check(size[0], size[1], 1)
    z = as_float(latents, "latents")
    vae.check_latents(config, z)
    return decode(params, z, tile, size, check)


@public
def encode_image(
    params: Params,
    pictures: Picture | Array | Sequence[Picture | Array],
    *,
    key: Key | None = None,
    check: bool = True,
) -> Tensor:
    """Scaled latents of pictures: the inverse of `decode_latents` as far as the VAE goes.

    Args:
        params: from `load`, with a VAE.
        pictures: a PIL picture (RGB or grey), an array (H, W, 3) or (B, H, W, 3), uint8 or floats in [0, 1], or a list
            of pictures of one size; or what `decode_latents` gives. H and W are multiples of the VAE's factor.
        key: draws from the posterior, one key or (B, 2) with one a picture; None takes its mean.
        check: whether to raise where a latent isn't finite.
    Returns: float32 (B, C, h, w), as `sample_latents` gives them.
    Raises:
        ValueError, TypeError: an argument isn't as above, or a latent isn't finite.
    """
    check_params(params)
    check_switch("check", check)
    config = vae_config(params)
    x = pixels(pictures)
    sizes.check(x.shape[1], x.shape[2], vae.factor(config))
    keys = None if key is None else picture_keys(key, len(x))
    moments = vae.encode(params.vae, config, (x * 2.0 - 1.0).transpose(0, 3, 1, 2))
    z = (moments.mean if keys is None else vae.sample(keys, moments)) * config.scaling_factor
    if check:
        check_finite(z, "the latents of encode_image")
    return z


@public
def noise(params: Params, key: Key, n: int = 1, height: int | None = None, width: int | None = None) -> Tensor:
    """The noise that `generate` and `sample_latents` start from where they are given no latents.

    Args:
        params: from `load`.
        key: one key, or (n, 2) with one a picture.
        n: how many pictures.
        height, width: in pixels, multiples of the patch; None takes the model's own size.
    Returns: standard normal float32 (n, C, h, w).
    Raises:
        ValueError, TypeError: an argument isn't as above.
    """
    check_params(params)
    check_whole("n", n, 1)
    shape = latent_shape(params, n, picture_size(params, height, width))
    return Tensor.from_numpy(rng.normal(picture_keys(key, n), shape))


def run(
    params: Params,
    asking: Request,
    text: Text,
    negative: Text | None,
    check: bool,
    on_step: Callable[[StepInfo], object] | None,
    progress: bool,
) -> Tensor:
    """What `sample_latents` returns, of a request that is checked."""
    denoise = guided_denoiser(
        params, text, negative, asking.guide, asking.size, asking.schedule, asking.solver.learned_variance
    )
    x, S, done = asking.x, len(asking.grid.t) - 1, 0

    def watched(x: Array, t: float) -> Array:
        x0 = denoise(x, t)
        check_finite(x0, f"x0 in step {done + 1} of {S} (t = {t:g}) of sample_latents")
        return x0

    asked = watched if check else denoise
    run: Iterable[StepInfo] = iterate(asking.keys, asked, asking.solver, asking.grid, x)
    for info in tqdm(run, total=S, unit="step", disable=not progress):
        x, done = info.x, done + 1
        if check:
            check_finite(x, f"x after step {done} of {S} (t = {info.t:g}) of sample_latents")
        if on_step is not None:
            on_step(info)
    return x


def decode(params: Params, z: Tensor, tile: int | None, size: tuple[int, int] | None, check: bool) -> Tensor:
    """What `decode_latents` returns, of arguments that are checked."""
    config = vae_config(params)

    def one(z: Tensor) -> Tensor:
        if tile is None:
            return vae.decode(params.vae, config, z)
        return vae.decode_tiled(params.vae, config, z, tile)

    pictures = [one(row.expand_dims(0) / config.scaling_factor) for row in z]
    x = ops.cat(pictures, 0).transpose(0, 2, 3, 1)
    if check:
        check_finite(x, "the picture of decode_latents")
    if size is not None:  # before the clamp, so that what lies beyond [-1, 1] is averaged as it is
        x = Tensor.from_numpy(sizes.resize_and_crop(x.asnumpy(), *size))
    return clamp(x * 0.5 + 0.5, 0.0, 1.0)


def _bucket(n: int, length: int) -> int:
    size = 16
    while size < n:
        size *= 2
    return min(size, length)
