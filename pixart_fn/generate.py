"""Text → latents → picture: three public stages, each a pure function of (params, inputs, key), and their composition.

B pictures, L tokens, C latent channels, h/w latent and H/W pixel size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, ops
from PIL import Image
from tqdm import tqdm

from . import guidance, jit, rng, sizes, solvers, t5, transformer, vae
from . import sample as sample_
from . import tokenizer as tokenizer_
from .checkpoint import Params
from .types import Array, Denoiser, Grid, Key, Solver, Text

TEXT_LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
OUTPUTS = ("pil", "numpy", "latents")


def generate(
    params: Params,
    prompt: str | Sequence[str],
    key: Key,
    *,
    negative_prompt: str | Sequence[str] = "",
    steps: int = 20,
    guidance_scale: float | Sequence[float] = 4.5,
    height: int | None = None,
    width: int | None = None,
    solver: Solver | None = None,
    images_per_prompt: int = 1,
    output: str = "pil",
    latents: Array | None = None,
    clean: bool = True,
    binning: bool = True,
    progress: bool = True,
) -> Any:
    """Draw pictures of what the prompts say.

    Args:
        params: from `load`.
        prompt: one prompt or several; an empty one is allowed.
        key: one key, or (B, 2) with one a picture. One key for several pictures stands for `split(key, B)`, so picture
            i of a batch is the picture that `split(key, B)[i]` gives alone.
        negative_prompt: what to steer away from, one for all or one a prompt.
        steps: of the solver, at least 1.
        guidance_scale: w of classifier-free guidance, a number or one a picture; 1 evaluates no negative prompt.
        height, width: in pixels, multiples of the patch; None takes the model's own size.
        solver: None takes the checkpoint's scheduler.
        images_per_prompt: pictures of each prompt, in a row.
        output: "pil", "numpy" (float32 (B, H, W, 3) in [0, 1]) or "latents" (Tensor (B, C, h, w)).
        latents: noise to start from, float32 (B, C, h, w), instead of the key's.
        clean: whether to clean captions as the released models' training did.
        binning: whether a released model draws at the nearest size that it was trained at, which is then resized and
            cropped to the one asked for; a model without such a table draws any size directly.
        progress: whether to show a bar.
    Returns: one PIL picture for one prompt and picture, a list of them otherwise; an array or Tensor for the others.
    Raises:
        ValueError, TypeError: an argument isn't as above; the sentence says what is valid.
    """
    jit.refuse_recording("generate", "differentiate encode_prompt, sample_latents and decode_latents instead")
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(map(repr, OUTPUTS))}, got {output!r}")
    if output != "latents":
        _decoder(params)
    prompts = _prompts("prompt", prompt)
    n = _count("images_per_prompt", images_per_prompt)
    negatives = _prompts("negative_prompt", negative_prompt)
    if len(negatives) not in (1, len(prompts)):
        raise ValueError(
            f"negative_prompt must be one, or one for each of {len(prompts)} prompts, got {len(negatives)}"
        )
    asked = _size(params, height, width)
    height, width = _binned(params, asked) if binning else asked
    text = repeat(encode_prompt(params, prompts, clean=clean), n)
    negative = None
    if not _is_one(guidance_scale):
        negative = encode_prompt(params, negatives, clean=clean)
        negative = repeat(negative, n if len(negatives) == len(prompts) else len(prompts) * n)
    z = sample_latents(
        params, text, key, negative=negative, steps=steps, guidance_scale=guidance_scale, height=height, width=width,
        solver=solver, latents=latents, progress=progress,
    )  # fmt: skip
    if output == "latents":
        return z
    pixels = decode_latents(params, z).asnumpy()
    if (height, width) != asked:
        pixels = sizes.resize_and_crop(pixels, *asked)
    if output == "numpy":
        return pixels
    pictures = [Image.fromarray((255 * picture).round().astype(np.uint8)) for picture in pixels]
    return pictures[0] if isinstance(prompt, str) and n == 1 else pictures


def encode_prompt(params: Params, prompts: str | Sequence[str], *, clean: bool = False) -> Text:
    """Text states of prompts, as short as the longest of them allows.

    Padding changes nothing (T5 and the transformer mask it), so L is cut to the next of 16, 32, 64 … rather than
    always 120 (α) or 300 (Σ) tokens, past which a prompt is cut with a warning.

    Args:
        prompts: one or several. clean: whether to clean them as `generate` does.
    Returns: Text(states (B, L, C) float32, mask (B, L) int32).
    """
    config = params.config.text_encoder
    if params.text_encoder is None or params.tokenizer is None or config is None:
        raise ValueError("these params have no text encoder; load them with text_encoder=True, or pass a Text on")
    prompts = [tokenizer_.clean(p) if clean else p for p in _prompts("prompt", prompts)]
    length = TEXT_LENGTHS[params.config.pipeline]
    ids, mask = tokenizer_.encode(params.tokenizer, prompts, length)
    L = _bucket(int(mask.sum(1).max()), length)
    ids, mask = Tensor.from_numpy(ids[:, :L].copy()), Tensor.from_numpy(mask[:, :L].copy())
    return Text(t5.encode(params.text_encoder, config, ids, mask), mask)


def sample_latents(
    params: Params,
    text: Text,
    key: Key,
    *,
    negative: Text | None = None,
    steps: int = 20,
    guidance_scale: float | Sequence[float] = 4.5,
    height: int | None = None,
    width: int | None = None,
    solver: Solver | None = None,
    grid: Grid | None = None,
    latents: Array | None = None,
    progress: bool = False,
) -> Tensor:
    """Latents of encoded prompts, one a row of `text`.

    Args:
        text, negative: from `encode_prompt`, B rows (or one negative for all); a negative of None is the empty prompt.
        key, steps, guidance_scale, height, width, solver, latents: as in `generate`, without binning.
        grid: nodes to visit instead of `steps` of the checkpoint's spacing.
        progress: whether to show a bar.
    Returns: scaled latents, float32 (B, C, h, w).
    """
    B = len(text.mask)
    height, width = _size(params, height, width)
    schedule, make_grid, own_solver = solvers.from_config(params.config.scheduler)
    grid = make_grid(_count("steps", steps)) if grid is None else grid
    if negative is None and not _is_one(guidance_scale):
        negative = encode_prompt(params, "")
    denoise = text_denoiser(params, text, negative, guidance_scale, height, width, schedule)
    keys = image_keys(key, B)
    shape = (B, params.config.transformer.in_channels, *_latent_size(params, height, width))
    x = Tensor.from_numpy(rng.normal(keys, shape)) if latents is None else _check_latents(latents, shape)
    run: Iterable = sample_.iterate(keys, denoise, solver or own_solver, grid, x)
    for info in tqdm(run, total=len(grid.t) - 1, unit="step", disable=not progress):
        x = info.x
    return x


def text_denoiser(
    params: Params,
    text: Text,
    negative: Text | None = None,
    guidance_scale: float | Sequence[float] = 4.5,
    height: int | None = None,
    width: int | None = None,
    schedule=None,
) -> Denoiser:
    """What a solver asks: (x_t (B, C, h, w), t) → x0, guided by text; both branches are evaluated in one batch.

    Args:
        text: B rows. negative: B rows, or one for all; None where guidance_scale is 1.
        height, width: what micro-conditions say, in pixels; models without them don't look at it.
        schedule: of the noise; None takes the checkpoint's.
    """
    schedule = schedule or solvers.from_config(params.config.scheduler)[0]
    height, width = _size(params, height, width)
    B = len(text.mask)
    guided = not _is_one(guidance_scale)
    if guided:
        if negative is None:
            raise ValueError(
                f"guidance_scale {guidance_scale} needs a negative text; encode_prompt(params, '') makes one"
            )
        if len(negative.mask) not in (1, B):
            raise ValueError(f"negative must have one row or {B}, as text has, got {len(negative.mask)}")
        text = _stack(text, repeat(negative, B) if len(negative.mask) == 1 else negative)
    rows = len(text.mask)
    conditions = {}
    if params.config.transformer.conditions:
        size = np.array([[height, width]] * rows, np.float32)
        conditions = {"resolution": Tensor(size), "aspect_ratio": Tensor(size[:, :1] / size[:, 1:])}

    def model(x, t):
        t = Tensor.from_numpy(np.full(rows, t, np.float32))
        return transformer.apply(params.transformer, params.config.transformer, x, t, *text, **conditions)

    single = guidance.denoiser(model, schedule)
    if not guided:
        return single

    def pair(x, t):
        x0 = single(ops.cat((x, x), 0), t)
        return x0[:B], x0[B:]

    return guidance.classifier_free(pair, guidance_scale)


def decode_latents(params: Params, latents: Tensor) -> Tensor:
    """Pictures of scaled latents, one at a time, so that memory and result don't depend on the batch.

    Args:
        latents: float32 (B, C, h, w), as `sample_latents` gives them.
    Returns: float32 (B, H, W, 3) in [0, 1].
    """
    config = _decoder(params)
    pictures = [vae.decode(params.vae, config, z.expand_dims(0) / config.scaling_factor) for z in latents]
    return ops.clamp(ops.cat(pictures, 0) * 0.5 + 0.5, 0.0, 1.0).transpose(0, 2, 3, 1)


def _decoder(params: Params) -> vae.Config:
    if params.vae is None or params.config.vae is None:
        raise ValueError("these params have no VAE; load them with vae=True or a path, or ask for output='latents'")
    return params.config.vae


def image_keys(key: Key, n: int) -> Key:
    """One key a picture: (n, 2). Keys of that shape stay; one key is itself for n = 1 and is split for more."""
    if np.ndim(key) == 2:
        if len(key) != n:
            raise ValueError(f"key must be one key or one for each of {n} pictures, got {len(key)}")
        return key
    return np.asarray(key)[None] if n == 1 else rng.split(key, n)


def repeat(text: Text, n: int) -> Text:
    """Each row n times in a row."""
    return text if n == 1 else Text(*(ops.repeat_interleave(part, n, 0) for part in text))


def _stack(first: Text, second: Text) -> Text:
    """The rows of both, padded to the longer."""
    L = max(first.mask.shape[1], second.mask.shape[1])

    def pad(part):
        missing = L - part.shape[1]
        if not missing:
            return part
        return ops.cat((part, ops.zeros((part.shape[0], missing, *part.shape[2:]), part.dtype)), 1)

    return Text(*(ops.cat((pad(a), pad(b)), 0) for a, b in zip(first, second, strict=True)))


def _bucket(n: int, length: int) -> int:
    size = 16
    while size < n:
        size *= 2
    return min(size, length)


def _prompts(name: str, prompt: str | Sequence[str]) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, Iterable) else []
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise TypeError(f"{name} must be a string or a list of at least one string, got {prompt!r}")
    return prompts


def _count(name: str, n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {n!r}")
    if n < 1:
        raise ValueError(f"{name} must be at least 1, got {n}")
    return int(n)


def _is_one(scale: float | Sequence[float]) -> bool:
    w = np.asarray(scale.asnumpy() if isinstance(scale, Tensor) else scale, float)
    if not np.isfinite(w).all():
        raise ValueError(f"guidance_scale must be finite, got {w}")
    return bool(np.all(w == 1))


def _multiple(params: Params) -> int:
    """Pixels per patch along a side."""
    return _factor(params) * params.config.transformer.patch_size


def _factor(params: Params) -> int:
    return 8 if params.config.vae is None else vae.factor(params.config.vae)


def _size(params: Params, height: int | None, width: int | None) -> tuple[int, int]:
    own = params.config.transformer.sample_size * _factor(params)
    height, width = own if height is None else height, own if width is None else width
    sizes.check(height, width, _multiple(params))
    return height, width


def _binned(params: Params, size: tuple[int, int]) -> tuple[int, int]:
    table = sizes.bin_for(params.config.transformer.sample_size, _factor(params))
    return sizes.nearest_bin(*size, table) if table else size


def _latent_size(params: Params, height: int, width: int) -> tuple[int, int]:
    return height // _factor(params), width // _factor(params)


def _check_latents(latents: Array, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(latents, (Tensor, np.ndarray)):
        raise TypeError(f"latents must be a Tensor or an array, got {type(latents).__name__}")
    dtype = str(latents.dtype).lower().rsplit(".", 1)[-1]
    if tuple(latents.shape) != shape or dtype != "float32":
        raise ValueError(f"latents must be float32 of shape {shape}, got {dtype} of shape {tuple(latents.shape)}")
    if not np.isfinite(latents.asnumpy() if isinstance(latents, Tensor) else latents).all():
        raise ValueError("latents must be finite, got NaN or infinity among them")
    return latents if isinstance(latents, Tensor) else Tensor.from_numpy(np.ascontiguousarray(latents))
