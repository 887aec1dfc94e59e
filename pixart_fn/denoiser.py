"""From params, text and guidance to a denoiser, the function that a solver calls at every step.

B pictures, L tokens, C latent channels, h/w latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from . import control as control_
from . import guidance as guidance_
from . import solvers, tree
from .backend import numpy_nn
from .backend.arrays import as_float, as_numpy
from .backend.autodiff import recording
from .checks import kind
from .control import Control, Steering, as_controls
from .guidance import Blur, Guidance, Pair, Result, Scale, Skip, Weaker
from .models import transformer, transformer_numpy
from .params import Params
from .process.lock import exclusive
from .public import public
from .request import as_text, check_guidance, check_params, check_variance, latent_shape, picture_size
from .schedule import Schedule
from .types import Array, Denoiser, Text, Tree, VarianceDenoiser

Maker: TypeAlias = Callable[[Callable[[Array, float], Array], Schedule], Callable[[Array, float], Result]]
"""`guidance.denoiser` or `guidance.variance_denoiser`: from a model's raw output to x0, or to (x0, variance)."""


@public
@exclusive
def text_denoiser(
    params: Params,
    text: Text,
    negative: Text | None = None,
    guidance: Guidance | Scale | None = None,
    *,
    height: int | None = None,
    width: int | None = None,
    schedule: Schedule | None = None,
    controls: Control | Sequence[Control] | None = None,
) -> Denoiser:
    """Make the denoiser that a solver calls: (x_t (B, C, h, w), t) → x0, guided by text.

    The prompts and the negative prompts are evaluated in one batch. x_t may be a Tensor or a NumPy array, and x0 is of
    the same kind. A denoiser keeps what it makes of the weights: one that is changed in place needs another denoiser.

    Args:
        params: from `load`.
        text: the prompts, B rows, from `encode_prompt`.
        negative: what to steer away from, B rows or one row for all; it may be None where the scale of guidance is 1.
        guidance: a `px.Guidance`, or its scale alone: a number, one number per picture, or a function of t that gives
            either; None takes the checkpoint's own; a scale alone as in `generate`. With compat="original" the negative
            text must hold as many tokens as the text (`encode_prompt(…, pad_to=L)`).
        height: the picture's height in pixels, which some models take as a condition; None takes the model's own.
        width: the picture's width in pixels, likewise.
        schedule: the noise schedule; None takes the checkpoint's.
        controls: one ControlNet's control or several, from `px.controlnet.control`, which all branches of guidance see.
    Returns:
        (x_t, t) → x0, of the shape of x_t.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or x_t has another shape when the denoiser is called.
    Example:
        >>> params = px.load()
        >>> text, negative = px.encode_prompt(params, "a cat"), px.encode_prompt(params, "")
        >>> denoise = px.text_denoiser(params, text, negative, guidance=4.5)
        >>> denoise(px.noise(params, px.key(0)), 999.0).shape
        (1, 16, 16, 16)
    """
    size = height, width
    return _text_denoiser(guidance_.denoiser, params, text, negative, guidance, size, schedule, controls)


@public
@exclusive
def text_variance_denoiser(
    params: Params,
    text: Text,
    negative: Text | None = None,
    guidance: Guidance | Scale | None = None,
    *,
    height: int | None = None,
    width: int | None = None,
    schedule: Schedule | None = None,
    controls: Control | Sequence[Control] | None = None,
) -> VarianceDenoiser:
    """Make the denoiser that `solvers.ddpm("learned_range")` calls: (x_t (B, C, h, w), t) → (x0, variance).

    The arguments are those of `text_denoiser`. The variance is the one predicted with the prompt; guidance doesn't
    change it.

    Args:
        params: from `load`, with a model that predicts a variance, as the released PixArt-α models do.
        text: the prompts, B rows.
        negative: what to steer away from, B rows or one row for all.
        guidance: a `px.Guidance`, or its scale alone.
        height: the picture's height in pixels; None takes the model's own.
        width: the picture's width in pixels; None takes the model's own.
        schedule: the noise schedule; None takes the checkpoint's.
        controls: as in `text_denoiser`.
    Returns:
        (x_t, t) → (x0, variance), both of the shape of x_t.
    Raises:
        TypeError: as `text_denoiser`.
        ValueError: as `text_denoiser`, or the model predicts no variance.
    Example:
        >>> params = px.load("PixArt-alpha/PixArt-XL-2-512x512")  # doctest: +SKIP
        >>> text, negative = px.encode_prompt(params, "a cat"), px.encode_prompt(params, "")  # doctest: +SKIP
        >>> x0, variance = px.text_variance_denoiser(params, text, negative)(x, 999.0)  # doctest: +SKIP
    """
    check_params(params)
    check_variance(params, "text_variance_denoiser")
    size = height, width
    return _text_denoiser(guidance_.variance_denoiser, params, text, negative, guidance, size, schedule, controls)


def _text_denoiser(
    make: Maker[Result],
    params: Params,
    text: Text,
    negative: Text | None,
    guidance: Guidance | Scale | None,
    size: tuple[int | None, int | None],
    schedule: Schedule | None,
    controls: Control | Sequence[Control] | None,
) -> Callable[[Array, float], Result]:
    check_params(params)
    if not (schedule is None or isinstance(schedule, Schedule)):
        raise TypeError(f"schedule must be a Schedule, as px.schedule.from_betas makes, got {kind(schedule)}")
    text = as_text(params, "text", text)
    guidance = check_guidance(params, guidance, len(text.mask))
    negative = None if negative is None else as_text(params, "negative", negative, len(text.mask))
    schedule = schedule or solvers.from_config(params.config.scheduler).schedule
    drawn = picture_size(params, *size)
    given = as_controls(params.config.transformer, controls, latent_shape(params, len(text.mask), drawn))
    return guided_denoiser(make, params, text, negative, guidance, drawn, schedule, given)


def guided_denoiser(
    make: Maker[Result],
    params: Params,
    text: Text,
    negative: Text | None,
    guidance: Guidance,
    size: tuple[int, int],
    schedule: Schedule,
    controls: Sequence[Control] = (),
) -> Callable[[Array, float], Result]:
    """Make the denoiser of `text_denoiser` or of `text_variance_denoiser` from checked arguments."""
    B, pair, worse, small = len(text.mask), None, None, _small(params)
    if guidance.compares:
        texts = _seen(params, small, _stack(text, _negative(text, negative, guidance)), controls)
        pair = _rows(make(_model(params, texts, size), schedule), B)
    seen = _seen(params, small, text, controls)
    conditional = make(_model(params, seen, size), schedule)
    if guidance.branch is not None:
        ways = _worse(guidance.branch, params.config.transformer.num_layers)
        worse = guidance_.denoiser(_model(params, seen, size, ways), schedule)
    return _checked(guidance_.guided(guidance, conditional, pair, worse, schedule=schedule), params, B, controls)


class _Seen(NamedTuple):
    """What the transformer and the ControlNets see of a text, at every step."""

    context: transformer.Captions
    steering: tuple[Steering, ...]
    small: transformer_numpy.Small | None
    """The transformer with this text for NumPy, where it's one for NumPy."""


def _model(
    params: Params, seen: _Seen, size: tuple[int, int], ways: transformer.Ways = transformer.USUAL
) -> Callable[[Array, float], Array]:
    """Make (x_t, t) → the transformer's output for a text and a size, in some way of evaluating its blocks."""
    conditions, weights, config = _conditions(params, *size), params.transformer, params.config.transformer
    small = seen.small if ways == transformer.USUAL else None

    def model(x: Array, t: float) -> Array:
        rows = len(x)
        times = Tensor.from_numpy(np.full(rows, t, np.float32))
        given = {name: Tensor(np.repeat(row, rows, 0)) for name, row in conditions.items()}
        added = control_.residuals(seen.steering, params, x, t, seen.context, *given.values())
        if small is not None and transformer_numpy.takes(config, x):
            return transformer_numpy.evaluate(small, config, x, times, added)
        how = ways._replace(residuals=added)
        return transformer.evaluate(weights, config, x, times, seen.context, **given, ways=how)

    return model


def _worse(branch: Weaker, blocks: int) -> transformer.Ways:
    """Return how the blocks are evaluated for the worse branch of a guidance."""
    layers = getattr(branch, "layers", None) or (blocks // 2,)
    if isinstance(branch, Blur):
        return transformer.Ways(blurred=layers, blur_sigma=branch.sigma)
    return transformer.Ways(skipped=layers) if isinstance(branch, Skip) else transformer.Ways(perturbed=layers)


def _rows(together: Callable[[Array, float], Result], B: int) -> Pair[Result]:
    """Make a Pair from the denoiser of 2B rows, of which the first B have the text and the others the negative text."""

    def pair(x: Array, t: float) -> tuple[Result, Array]:
        result = together(ops.cat((x, x), 0), t)
        x0 = result[0] if isinstance(result, tuple) else result
        return tree.map(lambda part: part[:B], result), x0[B:]

    return pair


def _checked(
    denoise: Callable[[Array, float], Result], params: Params, rows: int, controls: Sequence[Control]
) -> Callable[[Array, float], Result]:
    """Make a denoiser that also takes NumPy arrays, and refuses an x_t that fits no text, model or control."""
    config = params.config.transformer

    @exclusive
    def checked(x: Array, t: float) -> Result:
        transformer.check_latents(config, x)
        if x.shape[0] != rows:
            raise ValueError(f"x_t has {x.shape[0]} rows and the text has {rows}; they must be equal")
        for each in controls:
            control_.check_shape(each, x.shape)
        if isinstance(x, np.ndarray):
            result: Result = tree.map(lambda part: as_numpy(part).astype(x.dtype), denoise(as_float(x, "x_t"), t))
            return result
        return denoise(x, t)

    return checked


def repeat(text: Text, n: int) -> Text:
    """Repeat each row of a Text n times, one after the other."""
    return text if n == 1 else Text(*(ops.repeat_interleave(part, n, 0) for part in text))


def _small(params: Params) -> Tree | None:
    """Return the transformer's weights for NumPy, or None where it isn't one for NumPy."""
    weights = params.transformer
    fits = not recording() and transformer_numpy.fits(weights, params.config.transformer)
    return numpy_nn.arrays(weights) if fits else None


def _seen(params: Params, weights: Tree | None, text: Text, controls: Sequence[Control]) -> _Seen:
    """Return what is seen of a text; the weights are what `_small` gives."""
    config, small = params.config.transformer, None
    if weights is None:
        context = transformer.captions(params.transformer, config, *text)
    else:
        context = transformer_numpy.captions(weights, config, *text)
        small = transformer_numpy.prepare(weights, config, context)
    return _Seen(context, control_.prepare(params, controls, text), small)


def _negative(text: Text, negative: Text | None, guidance: Guidance) -> Text:
    """Return one row of negative text for each row of text."""
    B, L = text.mask.shape
    if negative is None:
        raise ValueError(f"{guidance!r} needs a negative text; encode_prompt(params, '') makes one")
    negative = repeat(negative, B) if len(negative.mask) == 1 else negative
    if guidance.compat != "original":
        return negative
    if negative.mask.shape[1] < L:
        raise ValueError(
            f"compat='original' reads the negative text under the prompt's mask, so it needs {L} tokens, "
            f"got {negative.mask.shape[1]}; encode_prompt(params, '', pad_to={L}) gives them"
        )
    return Text(negative.states[:, :L], text.mask)


def _conditions(params: Params, height: int, width: int) -> dict[str, NDArray[np.float32]]:
    """Return one row of each condition on the size; the dict is empty where the model has none."""
    if not params.config.transformer.conditions:
        return {}
    size = np.array([[height, width]], np.float32)
    return {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}


def _stack(first: Text, second: Text) -> Text:
    """Return the rows of both, padded to the longer."""
    L = max(first.mask.shape[1], second.mask.shape[1])

    def pad(part: Tensor) -> Tensor:
        missing = L - part.shape[1]
        if not missing:
            return part
        return ops.cat((part, ops.zeros((part.shape[0], missing, *part.shape[2:]), part.dtype)), 1)

    return Text(*(ops.cat((pad(a), pad(b)), 0) for a, b in zip(first, second, strict=True)))
