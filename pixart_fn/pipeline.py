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
from . import tokenizer as tokenizer_
from .checkpoint import Params
from .sample import iterate
from .schedule import Schedule, check_option
from .types import Array, Denoiser, Grid, Key, Solver, Text

TEXT_LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
OUTPUTS = ("pil", "numpy", "latents")
COMPATS = ("diffusers", "original")


def generate(
    params: Params,
    prompt: str | Sequence[str],
    key: Key,
    *,
    negative_prompt: str | Sequence[str] = "",
    steps: int = 20,
    guidance_scale: guidance.Scale = 4.5,
    height: int | None = None,
    width: int | None = None,
    solver: Solver | None = None,
    grid: Grid | None = None,
    images_per_prompt: int = 1,
    output: str = "pil",
    latents: Array | None = None,
    clean: bool = True,
    binning: bool = True,
    tile: int | None = None,
    progress: bool = True,
    **guide: Any,
) -> Any:
    """Draw pictures of what the prompts say.

    Args:
        params: from `load`.
        prompt: one prompt or several; an empty one is allowed.
        key: one key, or (B, 2) with one a picture. One key for several pictures stands for `split(key, B)`, so picture
            i of a batch is the picture that `split(key, B)[i]` gives alone.
        negative_prompt: what to steer away from, one for all or one a prompt.
        steps: of the solver, at least 1.
        guidance_scale: w of classifier-free guidance, a number, one a picture, or a function of t that gives either; 1
            evaluates no negative prompt.
        height, width: in pixels, multiples of the patch; None takes the model's own size.
        solver: None takes the checkpoint's scheduler.
        grid: nodes to visit instead of `steps` of the checkpoint's spacing, from `schedule.grid` or `sigma_grid`.
        images_per_prompt: pictures of each prompt, in a row.
        output: "pil", "numpy" (float32 (B, H, W, 3) in [0, 1]) or "latents" (Tensor (B, C, h, w)).
        latents: noise to start from, float32 (B, C, h, w), instead of the key's.
        clean: whether to clean captions as the released models' training did.
        binning: whether a released model draws at the nearest size that it was trained at, which is then resized and
            cropped to the one asked for; a model without such a table draws any size directly.
        tile: in pixels; decode in overlapping squares of this size, for pictures that memory is too small for.
        progress: whether to show a bar.
        **guide: interval, rescale, pag_scale, pag_layers and compat of `text_denoiser`.
    Returns: one PIL picture for one prompt and picture, a list of them otherwise; an array or Tensor for the others.
    Raises:
        ValueError, TypeError: an argument isn't as above; the sentence says what is valid.
    """
    jit.refuse_recording("generate", "differentiate encode_prompt, sample_latents and decode_latents instead")
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(map(repr, OUTPUTS))}, got {output!r}")
    if output == "latents" and tile is not None:
        raise ValueError(f"tile={tile} is about decoding pictures, and output='latents' asks for none; leave it out")
    if output != "latents":
        decoder = _decoder(params)
        if tile is not None:
            vae.check_tile(decoder, tile)  # now, since sampling takes a while
    prompts = _prompts("prompt", prompt)
    n = _count("images_per_prompt", images_per_prompt)
    negatives = _prompts("negative_prompt", negative_prompt)
    if len(negatives) not in (1, len(prompts)):
        raise ValueError(
            f"negative_prompt must be one, or one for each of {len(prompts)} prompts, got {len(negatives)}"
        )
    asked = _size(params, height, width)
    height, width = _binned(params, asked) if binning else asked
    text, negative = _encode_both(params, prompts, [] if _is_one(guidance_scale) else negatives, n, clean)
    z = sample_latents(
        params, text, key, negative=negative, steps=steps, guidance_scale=guidance_scale, height=height, width=width,
        solver=solver, grid=grid, latents=latents, progress=progress, **guide,
    )  # fmt: skip
    if output == "latents":
        return z
    pixels = decode_latents(params, z, tile=tile).asnumpy()
    if (height, width) != asked:
        pixels = sizes.resize_and_crop(pixels, *asked)
    if output == "numpy":
        return pixels
    pictures = [Image.fromarray((255 * picture).round().astype(np.uint8)) for picture in pixels]
    return pictures[0] if isinstance(prompt, str) and n == 1 else pictures


def encode_prompt(params: Params, prompts: str | Sequence[str], *, clean: bool = False, tokens: int = 1) -> Text:
    """Text states of prompts, as short as the longest of them allows.

    Padding changes nothing (T5 and the transformer mask it), so L is cut to the next of 16, 32, 64 … rather than
    always 120 (α) or 300 (Σ) tokens, past which a prompt is cut with a warning.

    Args:
        prompts: one or several. clean: whether to clean them as `generate` does.
        tokens: encode at least so many, padding included.
    Returns: Text(states (B, L, C) float32, mask (B, L) int32).
    """
    config = params.config.text_encoder
    if params.text_encoder is None or params.tokenizer is None or config is None:
        raise ValueError("these params have no text encoder; load them with text_encoder=True, or pass a Text on")
    prompts = [tokenizer_.clean(p) if clean else p for p in _prompts("prompt", prompts)]
    length = TEXT_LENGTHS[params.config.pipeline]
    ids, mask = tokenizer_.encode(params.tokenizer, prompts, length)
    L = _bucket(max(int(mask.sum(1).max()), tokens), length)
    ids, mask = Tensor.from_numpy(ids[:, :L].copy()), Tensor.from_numpy(mask[:, :L].copy())
    return Text(t5.encode(params.text_encoder, config, ids, mask), mask)


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
    solver: Solver | None = None,
    grid: Grid | None = None,
    latents: Array | None = None,
    progress: bool = False,
    **guide: Any,
) -> Tensor:
    """Latents of encoded prompts, one a row of `text`.

    Args:
        text, negative: from `encode_prompt`, B rows (or one negative for all); a negative of None is the empty prompt.
        key, steps, guidance_scale, height, width, solver, latents: as in `generate`, without binning.
        grid: nodes to visit instead of `steps` of the checkpoint's spacing.
        progress: whether to show a bar.
        **guide: interval, rescale, pag_scale, pag_layers and compat of `text_denoiser`.
    Returns: scaled latents, float32 (B, C, h, w).
    """
    B = len(text.mask)
    height, width = _size(params, height, width)
    schedule, make_grid, own_solver = solvers.from_config(params.config.scheduler)
    grid = make_grid(_count("steps", steps)) if grid is None else grid
    solver = own_solver if solver is None else solver
    if negative is None and not _is_one(guidance_scale):
        negative = encode_prompt(params, "", tokens=_tokens(text, guide))
    denoise = text_denoiser(
        params, text, negative, guidance_scale, height, width, schedule,
        learned_variance=solver.learned_variance, **guide,
    )  # fmt: skip
    keys = image_keys(key, B)
    shape = (B, params.config.transformer.in_channels, *_latent_size(params, height, width))
    x = Tensor.from_numpy(rng.normal(keys, shape)) if latents is None else _check_latents(latents, shape)
    run: Iterable = iterate(keys, denoise, solver, grid, x)
    for info in tqdm(run, total=len(grid.t) - 1, unit="step", disable=not progress):
        x = info.x
    return x


def text_denoiser(
    params: Params,
    text: Text,
    negative: Text | None = None,
    guidance_scale: guidance.Scale = 4.5,
    height: int | None = None,
    width: int | None = None,
    schedule: Schedule | None = None,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    pag_scale: guidance.Scale = 0.0,
    pag_layers: Sequence[int] | None = None,
    compat: str = "diffusers",
    learned_variance: bool = False,
) -> Denoiser:
    """What a solver asks: (x_t (B, C, h, w), t) → x0, guided by text; both branches are evaluated in one batch.

    Args:
        text: B rows. negative: B rows, or one for all; None where guidance_scale is 1.
        guidance_scale: w, a number, one a picture, or a function of t that gives either.
        height, width: what micro-conditions say, in pixels; models without them don't look at it.
        schedule: of the noise; None takes the checkpoint's.
        interval: (low, high) in training-time units: guide where low ≤ t ≤ high, and evaluate the prompt alone
            elsewhere.
        rescale: φ of `guidance.classifier_free`, in what the model predicts.
        pag_scale: of perturbed-attention guidance, which evaluates a third branch; 0 is none.
        pag_layers: the blocks that are perturbed; None takes the middle one.
        compat: "original" guides three of the four channels, as PixArt-α's own DDPM sampler does, and reads the
            negative text under the prompt's mask, for which it must hold as many tokens (`encode_prompt(…, tokens=L)`).
        learned_variance: whether to leave the model's variance after x0, for `solvers.ddpm("learned_range")`.
    """
    schedule = schedule or solvers.from_config(params.config.scheduler)[0]
    check_option("compat", compat, COMPATS)
    height, width = _size(params, height, width)
    B, conditions = len(text.mask), _conditions(params, height, width)

    def single(context: transformer.Captions, perturbed: Sequence[int] = ()) -> Denoiser:
        def model(x, t):
            rows = len(x)
            t = Tensor.from_numpy(np.full(rows, t, np.float32))
            sizes = {name: Tensor(np.repeat(row, rows, 0)) for name, row in conditions.items()}
            tree, config = params.transformer, params.config.transformer
            return transformer.evaluate(tree, config, x, t, context, **sizes, perturbed=perturbed)

        return guidance.denoiser(model, schedule, learned_variance=learned_variance)

    def captions(text: Text) -> transformer.Captions:
        return transformer.captions(params.transformer, params.config.transformer, *text)

    context = captions(text)
    alone, worse = single(context), None
    if callable(pag_scale) or np.any(pag_scale):
        layers = (params.config.transformer.num_layers // 2,) if pag_layers is None else tuple(pag_layers)
        worse = single(context, layers)
    elif pag_layers is not None:
        raise ValueError(f"pag_layers {tuple(pag_layers)} need a pag_scale, which is 0")
    if _is_one(guidance_scale):

        def pair(x, t):
            return (alone(x, t),) * 2
    else:
        together = single(captions(_stack(text, _negative(text, negative, guidance_scale, compat))))

        def pair(x, t):
            x0 = together(ops.cat((x, x), 0), t)
            return x0[:B], x0[B:]

    def guided(x, t):
        branches = pair(x, t)
        channels = 3 if compat == "original" else None
        guide = guidance.classifier_free(
            lambda *_: branches, guidance_scale, rescale=rescale, schedule=schedule, channels=channels
        )
        if worse is not None:
            guide = guidance.perturbed(guide, lambda x, t: (branches[0], worse(x, t)), pag_scale)
        return guide(x, t)

    if _is_one(guidance_scale) and worse is None:
        return alone
    return guided if interval is None else guidance.interval(guided, alone, *interval)


def decode_latents(params: Params, latents: Tensor, *, tile: int | None = None) -> Tensor:
    """Pictures of scaled latents, one at a time, so that memory and result don't depend on the batch.

    Args:
        latents: float32 (B, C, h, w), as `sample_latents` gives them.
        tile: in pixels; decode in overlapping squares of this size instead of in one piece (`vae.decode_tiled`).
    Returns: float32 (B, H, W, 3) in [0, 1].
    """
    config = _decoder(params)

    def decode(z: Tensor) -> Tensor:
        if tile is None:
            return vae.decode(params.vae, config, z)
        return vae.decode_tiled(params.vae, config, z, tile)

    pictures = [decode(z.expand_dims(0) / config.scaling_factor) for z in latents]
    return ops.clamp(ops.cat(pictures, 0) * 0.5 + 0.5, 0.0, 1.0).transpose(0, 2, 3, 1)


def _encode_both(
    params: Params, prompts: list[str], negatives: list[str], n: int, clean: bool
) -> tuple[Text, Text | None]:
    """Prompts, n times each, and a negative row for each or one for all, from one pass of the encoder."""
    both = encode_prompt(params, [*prompts, *negatives], clean=clean)
    text, negative = (Text(*rows) for rows in zip(*((x[: len(prompts)], x[len(prompts) :]) for x in both), strict=True))
    if not negatives:
        return repeat(text, n), None
    return repeat(text, n), repeat(negative, n if len(negatives) == len(prompts) else len(prompts) * n)


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


def _negative(text: Text, negative: Text | None, scale: guidance.Scale, compat: str) -> Text:
    """One row of negative text for each row of text."""
    B, L = text.mask.shape
    if negative is None:
        raise ValueError(f"guidance_scale {scale} needs a negative text; encode_prompt(params, '') makes one")
    if len(negative.mask) not in (1, B):
        raise ValueError(f"negative must have one row or {B}, as text has, got {len(negative.mask)}")
    negative = repeat(negative, B) if len(negative.mask) == 1 else negative
    if compat != "original":
        return negative
    if negative.mask.shape[1] < L:
        raise ValueError(
            f"compat='original' reads the negative text under the prompt's mask, so it needs {L} tokens, "
            f"got {negative.mask.shape[1]}; encode_prompt(params, '', tokens={L}) gives them"
        )
    return Text(negative.states[:, :L], text.mask)


def _tokens(text: Text, guide: dict[str, Any]) -> int:
    """How many tokens the negative text must hold."""
    return text.mask.shape[1] if guide.get("compat") == "original" else 1


def _conditions(params: Params, height: int, width: int) -> dict[str, np.ndarray]:
    """One row of micro-conditions, where the model has them."""
    if not params.config.transformer.conditions:
        return {}
    size = np.array([[height, width]], np.float32)
    return {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}


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


def _is_one(scale: guidance.Scale) -> bool:
    if callable(scale):
        return False
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
