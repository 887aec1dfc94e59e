"""The stages text → latents → picture, each a pure function of (params, inputs, key).

B pictures, L tokens, C latent channels, h/w latent and H/W pixel size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mindspore import Tensor, ops
from tqdm.auto import tqdm

from . import guidance as guidance_
from . import rng, tree
from .backend import autodiff
from .backend.arrays import as_float, check_finite, clamp
from .checks import check_whole
from .control import Control
from .denoiser import guided_denoiser
from .encoding import encode_image as encode_image
from .estimate import check_decoding, check_texts, pictures_at_once, slices
from .guidance import Guidance, Scale
from .models import sizes, t5, t5_numpy, vae
from .models import tokenizer as tokenizer_
from .params import Params
from .process.lock import exclusive, lock
from .public import public
from .request import (
    Request,
    Sampling,
    as_text,
    check_params,
    check_switches,
    latent_shape,
    picture_keys,
    picture_size,
    request,
    text_length,
    texts,
    vae_config,
)
from .sample import iterate
from .types import Array, Grid, Key, Solver, StepInfo, Text, VarianceSolver


@public
@exclusive
def encode_prompt(
    params: Params,
    prompt: str | Sequence[str],
    *,
    clean: bool = True,
    tokens: int | None = None,
    pad_to: int = 1,
    check: bool = True,
    memory: float | None = None,
) -> Text:
    """Encode prompts as text states.

    L is the number of tokens of the longest prompt, rounded up to 16, 32, 64 …, and at most `tokens`; a longer prompt
    is cut with a warning. Padding changes nothing, since T5 and the transformer mask it.

    Args:
        params: from `load`, with a text encoder.
        prompt: one prompt or several; an empty one is allowed.
        clean: whether to clean captions as the released models' training did; False lower-cases and strips them, as
            diffusers does.
        tokens: the most tokens of a prompt; None takes what the checkpoint was trained with, 120 for PixArt-α and 300
            for PixArt-Σ.
        pad_to: the least L, padding included, from 1 to `tokens`.
        check: whether to raise an error where a state isn't finite.
        memory: the most bytes that this process may take, as in `generate`.
    Returns:
        Text(states (B, L, C) float32, mask (B, L) int32).
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or the states aren't finite.
        MemoryError: the prompts don't fit into memory together.
    Example:
        >>> px.encode_prompt(px.load(), ["a cat", "a red circle"])
        Text(states=float32 (2, 16, 256), mask=int32 (2, 16))
    """
    check_params(params)
    check_switches(clean=clean, check=check)
    length = text_length(params, tokens)
    check_whole("pad_to", pad_to, 1, length)
    config = params.config.text_encoder
    if params.text_encoder is None or params.tokenizer is None or config is None:
        raise ValueError("these params have no text encoder; load them with text_encoder=True, or give an encoded Text")
    prepared = [tokenizer_.prepare(each, clean) for each in texts("prompt", prompt)]
    ids, mask = tokenizer_.encode(params.tokenizer, prepared, length)
    L = _bucket(max(int(mask.sum(1).max()), pad_to), length)
    ids, mask = Tensor.from_numpy(ids[:, :L].copy()), Tensor.from_numpy(mask[:, :L].copy())
    check_texts(params, len(ids), L, memory)
    if t5_numpy.fits(params.text_encoder, config):
        states = t5_numpy.encode(params.text_encoder, config, ids.asnumpy(), mask.asnumpy())
    else:
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
    steps: int | None = None,
    guidance: Guidance | Scale | None = None,
    height: int | None = None,
    width: int | None = None,
    solver: Solver | str | None = None,
    grid: Grid | None = None,
    latents: Array | None = None,
    check: bool = True,
    memory: float | None = None,
    controls: Control | Sequence[Control] | None = None,
    on_step: Callable[[StepInfo], object] | None = None,
    progress: bool = True,
) -> Tensor:
    """Sample latents of encoded prompts, one picture for each row of `text`.

    Args:
        params: from `load`.
        text: from `encode_prompt`, or made by hand: states (B, L, C) of any float dtype, mask (B, L) of numbers or
            truth values, arrays or Tensors.
        key: one key (2,), which is split for several pictures, or (B, 2) with one key per picture.
        negative: what to steer away from, B rows or one row for all; None encodes the empty prompt.
        steps: the number of steps of the solver, at least 1; None takes the checkpoint's own.
        guidance: a `px.Guidance`, or its scale alone, as in `generate`.
        height: the picture's height in pixels, a multiple of the patch; None takes the model's own.
        width: the picture's width in pixels, likewise.
        solver: a Solver or the name of one, in place of the checkpoint's solver together with its clipping; None takes
            the checkpoint's.
        grid: the nodes to visit, in place of `steps` of the checkpoint's spacing.
        latents: the noise to start from, float32 (B, C, h, w), in place of the key's.
        check: whether to raise an error where a result isn't finite.
        memory: the most bytes that this process may take, as in `generate`.
        controls: as in `generate`.
        on_step: a function that is called with the StepInfo of each step, as in `generate`.
        progress: whether to show a bar.
    Returns:
        Scaled latents, float32 (B, C, h, w).
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or a result isn't finite; the sentence names the step and t.
        MemoryError: one picture doesn't fit into memory.
    Example:
        >>> params = px.load()
        >>> text = px.encode_prompt(params, "a cat")
        >>> px.sample_latents(params, text, px.key(0), steps=2).shape
        (1, 16, 16, 16)
    """
    check_params(params)
    with lock():
        text = as_text(params, "text", text)
        B = len(text.mask)
        negative = None if negative is None else as_text(params, "negative", negative, B)
    given = Sampling(steps, guidance, solver, grid, latents, check, on_step, progress, controls)
    plan = request(params, B, key, picture_size(params, height, width), given)
    at_once = pictures_at_once(params, B, plan.size, plan.branches, memory, tokens=text.mask.shape[1])
    if negative is None and plan.guidance.compares:
        if params.text_encoder is None:
            raise ValueError("without a text encoder, give negative= (a Text of the empty prompt) or guidance=1")
        L = text.mask.shape[1] if plan.guidance.compat == "original" else 1
        negative = encode_prompt(params, "", tokens=max(L, params.config.tokens), pad_to=L, memory=memory)
    parts = []
    for rows in slices(B, at_once):
        own = None if negative is None else _rows_of(negative, rows)
        parts.append(run(params, plan.part(rows), _rows_of(text, rows), own))
    with lock():
        return parts[0] if len(parts) == 1 else ops.cat(parts, 0)


@public
@exclusive
def decode_latents(
    params: Params,
    latents: Array,
    *,
    tile: int | None = None,
    size: tuple[int, int] | None = None,
    check: bool = True,
    memory: float | None = None,
) -> Tensor:
    """Decode scaled latents to pictures, one at a time, so that memory and result don't depend on the batch.

    Args:
        params: from `load`, with a VAE.
        latents: (B, C, h, w), as `sample_latents` gives them, a Tensor or a NumPy array.
        tile: the side, in pixels, of the overlapping squares to decode in (`vae.decode_tiled`); None decodes in one
            piece.
        size: (height, width) in pixels to which the pictures are resized and cropped before values are clamped, as
            `generate` does where it draws at the nearest bin; None leaves them as they are. Resizing has no gradient.
        check: whether to raise an error where a pixel isn't finite.
        memory: the most bytes that this process may take, as in `generate`.
    Returns:
        float32 (B, H, W, 3) in [0, 1].
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or a pixel isn't finite.
        MemoryError: the pictures don't fit into memory.
    Example:
        >>> params = px.load()
        >>> px.decode_latents(params, px.noise(params, px.key(0))).shape
        (1, 128, 128, 3)
    """
    check_params(params)
    check_switches(check=check)
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
    f = vae.factor(config)
    check_decoding(params, (z.shape[2] * f, z.shape[3] * f), len(z), tile, memory)
    return decode(params, z, tile, size, check)


@public
def noise(params: Params, key: Key, n: int = 1, height: int | None = None, width: int | None = None) -> Tensor:
    """Draw the noise that `generate` and `sample_latents` start from if they are given no latents.

    Args:
        params: from `load`.
        key: one key (2,), or (n, 2) with one key per picture.
        n: the number of pictures, at least 1.
        height: the picture's height in pixels, a multiple of the patch; None takes the model's own.
        width: the picture's width in pixels, likewise.
    Returns:
        Standard normal noise, float32 (n, C, h, w).
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above.
    Example:
        >>> px.noise(px.load(), px.key(0), 2).shape
        (2, 16, 16, 16)
    """
    check_params(params)
    check_whole("n", n, 1)
    shape = latent_shape(params, n, picture_size(params, height, width))
    return Tensor.from_numpy(rng.normal(picture_keys(key, n), shape))


def run(params: Params, plan: Request, text: Text, negative: Text | None) -> Tensor:
    """Sample the latents of a request, whose arguments are checked already."""
    learned = isinstance(plan.solver, VarianceSolver)
    make = guidance_.variance_denoiser if learned else guidance_.denoiser
    with lock():
        denoise = guided_denoiser(make, params, text, negative, plan.guidance, plan.size, plan.schedule, plan.controls)
    x, S, done = plan.start(), len(plan.grid.t) - 1, 0

    def finite(x: Array, t: float) -> Array:
        result = denoise(x, t)
        for part in tree.leaves(result):
            check_finite(part, f"x0 in step {done + 1} of {S} (t = {t:g}) of sample_latents")
        return result

    wrapped = plan.wrap(finite if plan.check else denoise)
    steps: Iterable[StepInfo] = iterate(plan.keys, wrapped, plan.solver, plan.grid, x)
    for info in tqdm(steps, total=S, unit="step", disable=not plan.progress):
        x, done = info.x, done + 1
        if plan.check:
            with lock():
                check_finite(x, f"x after step {done} of {S} (t = {info.t:g}) of sample_latents")
        if plan.on_step is not None:
            plan.on_step(info)
    return x


@exclusive
def _rows_of(text: Text, rows: slice) -> Text:
    """Return some rows of a Text; one row is for all pictures."""
    return text if len(text.mask) in (1, rows.stop - rows.start) else Text(*(part[rows] for part in text))


@exclusive
def decode(params: Params, z: Tensor, tile: int | None, size: tuple[int, int] | None, check: bool) -> Tensor:
    """Decode latents as `decode_latents` does, from arguments that are checked already."""
    config = vae_config(params)

    def one(z: Tensor) -> Tensor:
        if tile is not None:
            return vae.decode_tiled(params.vae, config, z, tile)
        return vae.decode(params.vae, config, z)

    pictures = [one(row.expand_dims(0) / config.scaling_factor) for row in z]
    x = ops.cat(pictures, 0).transpose(0, 2, 3, 1)
    if check:
        check_finite(x, "the picture of decode_latents")
    if size is not None:  # before the clamp, as values beyond [-1, 1] count in the average
        x = Tensor.from_numpy(sizes.resize_and_crop(x.asnumpy(), *size))
    return clamp(x * 0.5 + 0.5, 0.0, 1.0)


def _bucket(n: int, length: int) -> int:
    size = 16
    while size < n:
        size *= 2
    return min(size, length)
